import Backends
import Boards
import DeviceKit
import LinuxSystem
import MachineModel
import Synchronization

/// The backends and files that the launcher opened, as the devices ask for them.
final class DeviceResources: HostResources {
  private let blocks: [String: any BlockBackend]
  private let characters: [String: any CharacterBackend]
  private let networks: [String: any NetworkBackend]
  private let sockets: UnixVsockBackend?
  private let files: Mutex<[String: FileHandle]>
  /// The kernel, where one is given, and the ramdisks.
  let bootFiles: [KernelFile]
  /// The connection that is on the user's terminal, if one is.
  private let terminal: StreamCharacterBackend?

  private final class FileHandle: Sendable {
    let descriptor: Descriptor
    init(_ raw: CInt) { descriptor = Descriptor(owning: raw) }
  }

  /// Longest file that a device may ask for: the largest firmware.
  private static let fileLimit = 16 << 20

  /// An io_uring for each disk that has one, by its name; made before the sandbox closes, which has no leave to.
  static func rings(_ handoff: Handoff) -> [String: BlockRing] {
    var rings: [String: BlockRing] = [:]
    for (spec, block) in zip(handoff.spec.blocks, handoff.blocks) {
      // What goes through an overlay or at a limited rate gains nothing.
      if !block.hasOverlay, spec.cache != .writethrough { rings[spec.id] = try? BlockRing() }
    }
    return rings
  }

  /// Takes over the descriptors behind the fixed ones, in the order that `Handoff` gives.
  init(
    _ handoff: Handoff, _ descriptors: ArraySlice<CInt>, rings: [String: BlockRing], channel: Channel
  ) throws {
    var next = descriptors.makeIterator()
    func take() throws(SystemError) -> Descriptor {
      guard let raw = next.next() else {
        throw SystemError("recvmsg", "too few descriptors", errno: ErrorNumber.invalid)
      }
      return Descriptor(owning: raw)
    }
    let report: @Sendable (String) -> Void = { line in StandardStream.report("vmrun: \(line)") }
    var blocks: [String: any BlockBackend] = [:]
    for (spec, block) in zip(handoff.spec.blocks, handoff.blocks) {
      let image = try take()
      let overlay: Descriptor? = block.hasOverlay ? try take() : nil
      var backing: [(BackingFile, SharedDescriptor)] = []
      for file in block.backing { backing.append((file, SharedDescriptor(try take()))) }
      let backend = try FileBlockBackend(
        image: image, overlay: overlay, backing: backing, spec: spec, geometry: block.geometry,
        ring: rings[spec.id], report: report)
      blocks[spec.id] =
        spec.limits == BlockRateLimits()
        ? backend : try LimitedBlockBackend(backend, name: spec.id, limits: spec.limits)
    }
    var characters: [String: any CharacterBackend] = [:]
    var terminal: StreamCharacterBackend?
    for (spec, character) in zip(handoff.spec.characters, handoff.characters) {
      let input: Descriptor? = character.hasInput ? try take() : nil
      let output: Descriptor? = character.hasOutput ? try take() : nil
      if character.hasInput {
        let stream = try StreamCharacterBackend(input: input, output: output, report: report)
        characters[spec.id] = stream
        terminal = stream
      } else {
        characters[spec.id] = try makeCharacterBackend(
          character.kind, descriptor: output, report: report)
      }
    }
    var networks: [String: any NetworkBackend] = [:]
    for (spec, plan) in zip(handoff.spec.networks, handoff.networks) {
      networks[spec.id] = try makeNetworkBackend(spec.id, plan, report: report) { () throws(SystemError) in try take() }
    }
    if handoff.spec.vsock != nil {
      sockets = try UnixVsockBackend(listener: try take()) { request, port in
        // Where the launcher is gone, so is the guest.
        try? channel.send(.connectSocket, request.fourBytes + port.fourBytes)
      }
    } else {
      sockets = nil
    }
    var files: [String: FileHandle] = [:]
    for name in handoff.files { files[name] = FileHandle(try take().release()) }
    var bootFiles: [KernelFile] = []
    for name in handoff.boot?.names ?? [] { bootFiles.append(try KernelFile(try take(), name: name)) }
    self.bootFiles = bootFiles
    self.blocks = blocks
    self.characters = characters
    self.terminal = terminal
    self.networks = networks
    self.files = Mutex(files)
  }

  func block(_ id: String) -> (any BlockBackend)? { blocks[id] }
  func character(_ id: String) -> (any CharacterBackend)? { characters[id] }
  func network(_ id: String) -> (any NetworkBackend)? { networks[id] }
  func vsock() -> (any VsockBackend)? { sockets }
  func file(_ name: String) -> [UInt8]? {
    guard let file = files.withLock({ $0[name] }) else { return nil }
    return try? file.descriptor.contents(limit: Self.fileLimit)
  }

  func measureDisks() { for block in blocks.values { block.measure() } }

  /// The user's terminal has this size now.
  func resizeTerminal(columns: UInt16, rows: UInt16) { terminal?.resize(columns: columns, rows: rows) }

  /// The launcher's answer to a connection that the guest asked for.
  func connected(_ payload: [UInt8], _ descriptors: [CInt]) {
    var socket: Descriptor?
    if let raw = descriptors.first { socket = Descriptor(owning: raw) }
    guard payload.count == 4, let request = UInt32(fourBytes: payload[...]) else { return }
    sockets?.answered(request: request, socket.take())
  }

  /// The devices are made and have read what they need.
  func closeFiles() { files.withLock { $0 = [:] } }

  /// Finishes disk requests and gives the host what is still queued for it.
  func drain(nanoseconds: UInt64) {
    for block in blocks.values { block.drain() }
    for network in networks.values { network.drain() }
    for character in characters.values { character.drain(nanoseconds: nanoseconds) }
  }
}
