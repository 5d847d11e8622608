import Backends
import Buses
import DeviceKit
import GuestMemory
import MachineModel
import Synchronization

/// A card with a Realtek RTL8139C: Fast Ethernet on PCI.
///
/// The lock of `transmission` is taken before that of `state`, and alone while a frame goes to the backend.
// Safety: all that changes is in `transmission`; the base guards the rest.
final class RTL8139Device: NetworkCardDevice<RTL8139>, @unchecked Sendable {
  private static let size: UInt64 = 256

  /// A frame on its way from guest memory.
  private struct Transmission {
    var parts = FrameParts()
  }

  private let transmission = Mutex(Transmission())

  init(id: String, address: EthernetAddress, backend: (any NetworkBackend)?, board: Board) throws(DeviceError) {
    try super.init(
      id: id,
      PCIIdentity(
        vendor: 0x10EC, device: 0x8139, revision: 0x10, classCode: 0x020000, subsystemVendor: 0x10EC,
        subsystem: 0x8139),
      memoryBAR: BAR(number: 1, size: Self.size), ioBAR: BAR(number: 0, size: Self.size), chip: RTL8139(address),
      backend: backend, board: board)
  }

  override func reset() {
    super.reset()
    transmission.withLock { _ in
      change { state, now in
        state.chip.powerOn(now: now)
        state.chip.setCable(hasCable, now: now)
        state.isBusMaster = false
        return .receive
      }
    }
  }

  // MARK: Registers

  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    guard offset < Self.size else { return width.mask }
    var value: UInt64 = 0
    state.withLock { state in
      let now = clock.now
      state.chip.advance(now: now)
      value = readBytes(offset, width) { state.chip.read(Int(truncatingIfNeeded: $0), now: now) }
    }
    return value
  }

  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    guard offset < Self.size else { return }
    let register = Int(offset)
    let resets =
      register...register + width.bytes - 1 ~= RTL8139Register.command
      && value >> UInt64((RTL8139Register.command - register) * 8) & UInt64(RTL8139Command.reset) != 0
    guard resets else { return writeRegisters(offset, width, value) }
    // A frame under way is sent first: nothing is reported after the reset.
    transmission.withLock { _ in writeRegisters(offset, width, value, mayTransmit: false) }
  }

  private func writeRegisters(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64, mayTransmit: Bool = true) {
    change { state, now in
      var effect: NetworkChipEffect = []
      writeBytes(offset, width, value) { register, byte in
        effect.formUnion(state.chip.write(Int(truncatingIfNeeded: register), byte, now: now))
      }
      return mayTransmit ? effect : effect.subtracting(.transmit)
    }
  }

  // MARK: Transmission

  /// Sends what the descriptors hold.
  override func transmit() -> WorkerState {
    transmission.withLock { transmission in
      for _ in 0..<4 {
        guard let frame = state.withLock({ $0.isBusMaster ? $0.chip.nextTransmission : nil }) else { return .idle }
        guard let isAborted = send(frame, &transmission.parts) else { return .idle }
        change { state, _ in
          if isAborted { state.chip.systemFailed() }
          state.chip.transmitted(frame, isAborted: isAborted)
          return []
        }
      }
      return .busy
    }
  }

  /// Whether the frame could not be read; nil where the backend refuses it for now.
  private func send(_ frame: RTL8139.Transmission, _ parts: inout FrameParts) -> Bool? {
    parts.removeAll()
    var left = frame.count
    guard left <= RTL8139.longestFrame else { return true }
    while left > 0 {
      guard let run = memory.run(at: frame.address &+ UInt64(frame.count - left), upTo: left) else { return true }
      parts.append(UnsafeRawBufferPointer(run))
      left -= run.count
    }
    if frame.hasCRC { parts.removeLast(Ethernet.fcsSize) }
    guard parts.count >= Ethernet.headerSize else { return false }
    guard frame.isLoopback else {
      guard let backend else { return false }
      return parts.list.withUnsafeBufferPointer { backend.send($0, FrameHeader()) } ? false : nil
    }
    withUnsafeTemporaryAllocation(byteCount: RTL8139.longestFrame, alignment: 16) { buffer in
      var cursor = FrameParts.Cursor()
      let count = parts.copy(from: &cursor, into: buffer)
      change { state, _ in
        _ = state.chip.receive(UnsafeRawBufferPointer(rebasing: buffer[..<count]), memory: memory)
        return []
      }
    }
    return false
  }

  // MARK: Reception

  override func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool {
    var isTaken = true
    change { state, _ in
      guard state.chip.isLinkUp, !state.chip.isLoopback, state.chip.isReceiving else { return [] }
      guard state.isBusMaster else {
        state.chip.missedFrame()
        return []
      }
      isTaken = state.chip.receive(frame, memory: memory)
      state.hasRefused = !isTaken
      return []
    }
    return isTaken
  }
}

extension RTL8139Device {
  static let model = DeviceModel.networkCard("rtl8139", "Realtek RTL8139C network card") {
    (id, address, backend, board) throws(DeviceError) in
    try RTL8139Device(id: id, address: address, backend: backend, board: board)
  }
}
