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
  /// The machine's disks with the formats that were found.
  private(set) var blockSpecs: [BlockSpec] = []
  private(set) var characters: [Handoff.Character] = []
  private(set) var networks: [NetworkPlan] = []
  /// Ends of the frame sockets of user networks, for their processes.
  private var userNetworks: [UserNetworkEnd] = []
  /// What connects lost peers of networks again.
  private(set) var connectors: [PeerConnector] = []
  private(set) var files: [String] = []
  private(set) var boot: Handoff.Boot?
  /// The kernel or a ramdisk comes on standard input, which is then no serial port's.
  private let readsStandardInput: Bool
  /// To be closed should the device process not come to it.
  private(set) var images: UnclosedImages
  /// The write end of the serial port's input, where one is connected to standard input.
  private(set) var input: CInt?
  /// Lines for the user, such as a pseudoterminal's path.
  private(set) var notices: [String] = []
  /// Socket files to remove at the end.
  private(set) var temporaryPaths: [String] = []

  init(_ spec: MachineSpec, registry: Registry) throws {
    images = UnclosedImages(sandbox: spec.sandbox)
    readsStandardInput = spec.boot?.readsStandardInput ?? false
    for block in spec.blocks { try open(block) }
    for character in spec.characters { try open(character) }
    for network in spec.networks { try open(network) }
    if let vsock = spec.vsock {
      add(try listenAt(vsock.path, "--vsock"))
      temporaryPaths.append(vsock.path)
    }
    for (name, file) in try Recipe.requiredFiles(spec, registry: registry).sorted(by: { $0.key < $1.key }) {
      do throws(SystemError) {
        add(try Descriptor.open(file.path, .readOnly))
      } catch {
        throw LaunchError(cannotRead: file.path, error, package: file.package)
      }
      files.append(name)
    }
    if let boot = spec.boot { try open(boot, limit: spec.memory) }
  }

  deinit {
    for descriptor in descriptors + userNetworks.map(\.descriptor) { _ = Descriptor(owning: descriptor) }
  }

  /// A user network and its process's end of the socket for frames.
  struct UserNetworkEnd {
    let spec: NetworkSpec
    let descriptor: CInt
  }

  private mutating func add(_ descriptor: consuming Descriptor) { descriptors.append(descriptor.release()) }

  private mutating func open(_ spec: BootSpec, limit: UInt64) throws {
    let opened = try OpenedKernel(spec, limit: limit)
    boot = Handoff.Boot(hasKernel: spec.kernel != nil, names: opened.names, unpacks: true)
    descriptors += opened.takeDescriptors()
  }

  /// The guest's processor is as fast as the host's.
  mutating func leaveUnpackingToKernel() { boot?.unpacks = false }

  private mutating func open(_ spec: BlockSpec) throws {
    let opened = try OpenedImage.open(spec)
    var resolved = spec
    resolved.formatIsProbed = spec.format == .auto
    resolved.format = opened.format
    blockSpecs.append(resolved)
    let (geometry, backing) = (opened.geometry, opened.backing)
    try images.add(resolved, geometry, opened.image)
    let numbers = try opened.takeDescriptors()
    descriptors.append(numbers.image)
    if let overlay = numbers.overlay { descriptors.append(overlay) }
    descriptors += numbers.backing
    blocks.append(Handoff.Block(geometry: geometry, hasOverlay: numbers.overlay != nil, backing: backing))
  }

  private mutating func open(_ spec: CharacterSpec) throws {
    var opened = try openCharacter(spec)
    let kind = opened.kind
    if kind == .stdio, readsStandardInput {
      add(try StandardStream.output.duplicate())
      characters.append(Handoff.Character(kind: kind, hasInput: false, hasOutput: true))
      return
    }
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

  private mutating func open(_ spec: NetworkSpec) throws {
    var opened = try openNetwork(spec)
    let (parts, processEnd) = opened.take()
    descriptors += parts
    networks.append(opened.plan)
    if let processEnd { userNetworks.append(UserNetworkEnd(spec: spec, descriptor: processEnd)) }
    if let path = opened.temporaryPath { temporaryPaths.append(path) }
    if let connector = opened.connector { connectors.append(connector) }
  }

  /// Gives the user networks away.
  mutating func takeUserNetworks() -> [UserNetworkEnd] {
    defer { userNetworks = [] }
    return userNetworks
  }

  /// Gives the input pipe's write end away.
  mutating func takeInput() -> CInt? {
    defer { input = nil }
    return input
  }
}
