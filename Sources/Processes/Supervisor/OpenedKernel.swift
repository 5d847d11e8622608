import LinuxSystem
import MachineModel

/// The files of `--kernel` and `--initrd`, opened with the user's rights. Nothing of them is looked at here.
struct OpenedKernel: ~Copyable {
  /// The kernel's, where one is given, and the ramdisks' in their order; the caller's to close.
  private(set) var descriptors: [CInt] = []
  private(set) var names: [String] = []

  /// - Parameter limit: bytes that a file may have which cannot be read at any place, such as a pipe.
  init(_ spec: BootSpec, limit: UInt64) throws {
    do {
      if let kernel = spec.kernel { try open(kernel, "--kernel", limit) }
      for ramdisk in spec.ramdisks { try open(ramdisk, "--initrd", limit) }
    } catch {
      for descriptor in descriptors { _ = Descriptor(owning: descriptor) }
      descriptors = []
      throw error
    }
  }

  consuming func takeDescriptors() -> [CInt] { descriptors }

  private mutating func open(_ file: BootFile, _ flag: String, _ limit: UInt64) throws {
    let name = "\(flag) \(file)"
    do {
      let opened =
        switch file {
        case .path(let path): try Descriptor.open(path, .readOnly)
        case .standardInput: try Descriptor.duplicate(of: StandardStream.input.rawValue)
        case .descriptor(let number): try Descriptor.duplicate(of: number)
        }
      switch try opened.kind() {
      case .regular: descriptors.append(opened.release())
      case .directory: throw LaunchError("\(name): this is a directory; give a file")
      case .blockDevice: throw LaunchError("\(name): this is a block device; give a file, or the device as disk")
      case .other:
        guard !opened.isTerminal() else { throw LaunchError("\(name): this is a terminal; give a file or a pipe") }
        descriptors.append(try opened.spooled(limit: limit).release())
      }
      names.append(file == .standardInput ? "standard input" : file.description)
    } catch let error as SystemError {
      let isTooLong = error.errno == ErrorNumber.tooLarge
      throw LaunchError("\(name): " + (isTooLong ? "more than the guest's \(limit >> 20) MiB of memory" : error.reason))
    }
  }
}
