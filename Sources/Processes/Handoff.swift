import Backends
import LinuxSystem
import MachineModel

/// What the launcher tells the device process at its start, besides descriptors.
struct Handoff: WireCodable, Sendable {
  /// The resolved machine.
  var spec: MachineSpec
  var sandbox: SandboxLevel
  /// TSC cycles a mailbox server spins, or a device's worker polls, before it sleeps.
  var spin: UInt64
  /// Bytes of memory that devices show to the guest.
  var deviceMemory: UInt64
  /// Disks in the order of `spec.blocks`: after its image comes the overlay, where there is one, and the files behind it.
  var blocks: [Block]
  /// Character connections in the order of `spec.characters`.
  var characters: [Character]
  /// How the descriptors of `spec.networks` are driven, in their order.
  var networks: [NetworkPlan]
  /// Host files by name, one descriptor each, in this order.
  var files: [String]
  /// What is started in place of firmware, or by it; nil: nothing. The kernel's descriptor, where one is given, and one
  /// for each ramdisk follow the files.
  var boot: Boot?
  /// When the launcher began, where each step is to be timed.
  var timing: UInt64?
  /// How to put the terminal back when the launcher was killed: its descriptor is the last.
  var terminal: [UInt8]?

  struct Block: WireCodable, Sendable {
    var geometry: ImageGeometry
    var hasOverlay: Bool
    var backing: [BackingFile] = []
  }

  struct Boot: WireCodable, Sendable {
    var hasKernel: Bool
    /// What messages call the kernel, where it is given, and the ramdisks.
    var names: [String]
    /// Whether a packed kernel is unpacked before it starts, and not by its own code.
    var unpacks: Bool
  }

  struct Character: WireCodable, Sendable {
    var kind: CharacterKind
    var hasInput: Bool
    var hasOutput: Bool
  }

  /// Descriptors 0–2: guest RAM, the machine page, device memory; then disks, character connections, networks, the
  /// socket of `spec.vsock`, files, the kernel, ramdisks and the terminal.
  static let fixedDescriptors = 3
}

extension Handoff {
  func write(to wire: inout WireWriter) {
    wire.put(spec, sandbox, spin, deviceMemory, blocks, characters, networks, files, boot, timing, terminal)
  }

  init(from wire: inout WireReader) throws(WireError) {
    self.init(
      spec: try wire.get(), sandbox: try wire.get(), spin: try wire.get(), deviceMemory: try wire.get(),
      blocks: try wire.get(), characters: try wire.get(), networks: try wire.get(), files: try wire.get(),
      boot: try wire.get(), timing: try wire.get(), terminal: try wire.get())
  }
}

extension Handoff.Block {
  func write(to wire: inout WireWriter) { wire.put(geometry, hasOverlay, backing) }
  init(from wire: inout WireReader) throws(WireError) {
    self.init(geometry: try wire.get(), hasOverlay: try wire.get(), backing: try wire.get())
  }
}

extension Handoff.Boot {
  func write(to wire: inout WireWriter) { wire.put(hasKernel, names, unpacks) }
  init(from wire: inout WireReader) throws(WireError) {
    self.init(hasKernel: try wire.get(), names: try wire.get(), unpacks: try wire.get())
  }
}

extension Handoff.Character {
  func write(to wire: inout WireWriter) { wire.put(kind, hasInput, hasOutput) }
  init(from wire: inout WireReader) throws(WireError) {
    self.init(kind: try wire.get(), hasInput: try wire.get(), hasOutput: try wire.get())
  }
}

/// Messages on the channel: a kind and its payload.
enum ChannelMessage: UInt8, Sendable {
  // Launcher to device process.
  case configure = 1
  case reset
  case finish
  /// In place of `configure`: only to close images that another process has left.
  case closeImages
  /// In place of `configure`: only to read a disk's boot configuration.
  case listEntries
  /// Columns and rows of the terminal that standard input is, two bytes each, low byte first.
  case windowSize
  /// The host's files and devices behind disks may have another size.
  case measureDisks
  /// The answer to `connectSocket`: its number, and the connected socket where somebody listens.
  case connectedSocket
  // Device process to launcher.
  case ready
  case failed
  /// Of a network process: a library that it needs is not installed.
  case unavailable
  /// A piece of the answer to `listEntries`, which `finished` ends.
  case entries
  case resetDone
  /// The answer to `finish` before anything is waited for: the process is alive.
  case finishing
  case finished
  /// Where the bootstrap processor begins, before `ready` and `resetDone`: `StartState.encoded`.
  case startState
  case powerOffEvent
  case resetEvent
  case exitEvent
  case panickedEvent
  case legacyReplacementEvent
  // For the launcher to connect to the engine: a byte with the interrupt input and an eventfd, ...
  case connectEdge
  // ... or a trigger and a resample eventfd; or the number of a message interrupt or a doorbell in the connection table,
  // low byte first, and its eventfd.
  case connectLevel
  case connectMessage
  case connectDoorbell
  /// The guest connects to a port of the host's: a number for the answer and the port, four bytes each, low byte first.
  case connectSocket

  /// Whether vCPUs wait until the launcher has acted on it.
  var isEvent: Bool {
    switch self {
    case .powerOffEvent, .resetEvent, .exitEvent, .panickedEvent, .legacyReplacementEvent: true
    case .configure, .reset, .finish, .closeImages, .listEntries, .entries, .windowSize, .measureDisks,
      .connectedSocket,
      .ready, .failed, .unavailable,
      .resetDone, .finishing, .finished, .startState, .connectEdge, .connectLevel, .connectMessage, .connectDoorbell,
      .connectSocket:
      false
    }
  }

  /// Longest message, the kind included.
  static let limit = 160 << 10
}

/// The launcher's and the device process's conversation.
final class Channel: Sendable {
  let socket: DatagramSocket

  init(owning descriptor: consuming Descriptor) { socket = DatagramSocket(owning: descriptor) }

  var raw: CInt { socket.descriptor.raw }

  func send(_ message: ChannelMessage, _ payload: [UInt8] = [], descriptors: [CInt] = [])
    throws(SystemError)
  {
    try socket.send([message.rawValue] + payload, descriptors: descriptors)
  }

  /// The next message and its payload; nil when the other process is gone or breaks the protocol. The descriptors are
  /// the caller's.
  func receive() -> (message: ChannelMessage, payload: [UInt8], descriptors: [CInt])? {
    guard let datagram = try? socket.receive(limit: ChannelMessage.limit), let first = datagram.bytes.first,
      let message = ChannelMessage(rawValue: first)
    else { return nil }
    return (message, Array(datagram.bytes.dropFirst()), datagram.descriptors)
  }
}
