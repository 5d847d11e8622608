import Backends
import Boards
import DeviceKit
import LinuxSystem
import MachineModel

/// Why the launcher cannot start the machine: one line that says what failed, on what, and what to do.
struct LaunchError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }

  /// `package` is the one that installs files of the system's own.
  init(cannotRead path: String, _ error: SystemError, package: String) {
    let isMissing = error.errno == ErrorNumber.noSuchFile && path.hasPrefix("/usr/share/")
    description = "\(path): \(error.reason)" + (isMissing ? "; install it with: apt install \(package)" : "")
  }
}

/// What the machine uses of the host, opened with the user's rights: descriptors to be handed to the device process.
struct OpenedResources: ~Copyable {
  private(set) var descriptors: [CInt] = []
  private(set) var blocks: [Handoff.Block] = []
  private(set) var characters: [Handoff.Character] = []
  private(set) var files: [String] = []
  /// The write end of the serial port's input, where one is connected to standard input.
  private(set) var input: CInt?
  /// Lines for the user, such as a pseudoterminal's path.
  private(set) var notices: [String] = []
  /// Socket files to remove at the end.
  private(set) var temporaryPaths: [String] = []

  init(_ spec: MachineSpec, registry: Registry) throws {
    for block in spec.blocks { try open(block) }
    for character in spec.characters { try open(character) }
    if let vsock = spec.vsock {
      add(try listenAt(vsock.path, "--vsock"))
      temporaryPaths.append(vsock.path)
    }
    for (name, file) in try HVM.requiredFiles(spec, registry: registry).sorted(by: { $0.key < $1.key }) {
      do throws(SystemError) {
        add(try Descriptor.open(file.path, .readOnly))
      } catch {
        throw LaunchError(cannotRead: file.path, error, package: file.package)
      }
      files.append(name)
    }
  }

  deinit { for descriptor in descriptors { _ = Descriptor(owning: descriptor) } }

  private mutating func add(_ descriptor: consuming Descriptor) { descriptors.append(descriptor.release()) }

  private mutating func open(_ spec: BlockSpec) throws {
    let (image, overlay, geometry) = try OpenedImage.open(spec).takeApart()
    descriptors.append(image)
    if let overlay { descriptors.append(overlay) }
    blocks.append(Handoff.Block(geometry: geometry, hasOverlay: overlay != nil))
  }

  private mutating func open(_ spec: CharacterSpec) throws {
    var opened = try openCharacter(spec)
    let kind = opened.kind
    if kind == .stdio {
      let ends = try Pipe.make()
      descriptors.append(ends.read)
      input = ends.write
      add(try StandardStream.output.duplicate())
      characters.append(Handoff.Character(kind: kind, hasInput: true, hasOutput: true))
      return
    }
    if let path = opened.terminalPath { notices.append("\(spec.id) is \(path)") }
    if let path = opened.temporaryPath { temporaryPaths.append(path) }
    let descriptor = opened.descriptor.take()
    characters.append(Handoff.Character(kind: kind, hasInput: false, hasOutput: descriptor != nil))
    if let descriptor { add(descriptor) }
  }

  /// Gives the input pipe's write end away.
  mutating func takeInput() -> CInt? {
    defer { input = nil }
    return input
  }
}
