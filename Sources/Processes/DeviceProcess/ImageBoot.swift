import Backends
import Boards
import BootImage
import LinuxSystem
import MachineModel

/// A kernel that the first disk's boot configuration names. It is read anew at each start, as a boot loader would.
struct ImageBoot: Sendable {
  private let spec: MachineSpec
  private let disk: BlockDisk
  private let unpacks: Bool

  init(_ spec: MachineSpec, disk: any BlockBackend, unpacks: Bool) {
    self.spec = spec
    self.disk = BlockDisk(disk)
    self.unpacks = unpacks
  }

  /// Finds the entry and what it loads. The files are read when the loader puts them into guest memory.
  func loader() throws -> KernelLoader {
    let name = spec.blocks.first?.path ?? "the disk"
    do throws(BootImageError) {
      let image = try BootImage(disk)
      let configuration = try image.configuration()
      for remark in configuration.remarks { StandardStream.report("vmrun: \(name): \(printable(remark))") }
      let entry = try configuration.entry(named: spec.boot?.entry)
      let opened = try image.open(entry)
      let files = zip(opened.ramdisks, entry.ramdisks).map { KernelFile($0, name: "\(name): \(printable($1.path))") }
      let added = [opened.arguments, spec.boot?.arguments ?? ""].filter { !$0.isEmpty }.joined(separator: " ")
      return try loader(
        KernelFile(opened.kernel, name: "\(name): \(printable(entry.kernel?.path ?? ""))"), files,
        argumentsWithConsole(added, consoles: Recipe.consoles(spec)))
    } catch {
      throw LaunchError("\(name): \(printable(error.description))")
    }
  }

  private func loader(
    _ kernel: KernelFile, _ ramdisks: [KernelFile], _ arguments: String
  ) throws(BootImageError) -> KernelLoader {
    do {
      let machine = try Recipe.bootMachine(spec, arguments: arguments)
      return KernelLoader(kernel: kernel, ramdisks: ramdisks, machine: machine, unpacks: unpacks)
    } catch { throw BootImageError(.unsupported, "\(error)") }
  }
}

extension KernelFile {
  /// A file inside a disk image.
  init(_ file: StoredFile, name: String) {
    self.init(name: name, count: file.count) { (offset, buffer) throws(BootError) in
      do throws(BootImageError) {
        try file.read(at: offset, into: buffer)
      } catch {
        throw BootError(error.description)
      }
    }
  }
}

/// Text of an image without what would control the user's terminal.
func printable(_ text: String, keeping kept: Set<Unicode.Scalar> = []) -> String {
  var result = String.UnicodeScalarView()
  for scalar in text.unicodeScalars {
    let isControl = scalar.value < 0x20 || 0x7F...0x9F ~= scalar.value
    result.append(isControl && !kept.contains(scalar) ? "?" : scalar)
  }
  return String(result)
}
