import Backends
import Buses
import DeviceKit
import GuestMemory
import MachineModel
import Synchronization

/// An Intel PRO/1000 MT Desktop Adapter: an 82540EM on PCI with a network behind it.
///
/// Transmission runs in batches under `transmitter`, which is taken before `state`; no lock of the registers is held
/// while a frame goes to the backend.
// Safety: all that changes is in `transmitter` and `ioAddress`; the base guards the rest.
final class E1000Device: NetworkCardDevice<E1000>, @unchecked Sendable {
  private enum Region {
    static let memory = 0
    static let io = 1
  }

  private static let memorySize: UInt64 = 128 << 10
  private static let ioSize: UInt64 = 64

  /// I/O ports that reach the registers (§13.2.2).
  private enum IOPort {
    static let address: UInt64 = 0
    static let data: UInt64 = 4
  }

  /// Steps taken before the transmitter lets others at the registers' reset and at its thread.
  private static let batch = 128

  private let transmitter = Mutex(E1000Transmitter())
  /// IOADDR (§13.2.2.1).
  private let ioAddress = Atomic<UInt32>(0)
  private let offloads: NetworkOffloads

  init(id: String, address: EthernetAddress, backend: (any NetworkBackend)?, board: Board) throws(DeviceError) {
    offloads = backend?.offloads ?? []
    try super.init(
      id: id,
      PCIIdentity(
        vendor: 0x8086, device: 0x100E, revision: 3, classCode: 0x020000, subsystemVendor: 0x8086, subsystem: 0x001E),
      memoryBAR: BAR(number: Region.memory, size: Self.memorySize), ioBAR: BAR(number: Region.io, size: Self.ioSize),
      chip: E1000(address), backend: backend, board: board)
  }

  override func reset() {
    super.reset()
    ioAddress.store(0, ordering: .relaxed)
    transmitter.withLock { transmitter in
      transmitter.reset()
      change { state, now in
        state.chip.reset(now: now)
        state.chip.setCable(hasCable, now: now)
        state.isBusMaster = false
        return .receive
      }
    }
  }

  // MARK: Registers

  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    switch region {
    case Region.memory:
      let low = UInt64(readRegister(offset & ~3))
      guard width == .qword else { return low >> ((offset & 3) * 8) }
      return low | UInt64(readRegister((offset & ~3) &+ 4)) << 32
    case Region.io:
      switch offset & ~3 {
      case IOPort.address: return UInt64(ioAddress.load(ordering: .relaxed)) >> ((offset & 3) * 8)
      case IOPort.data: return UInt64(readRegister(UInt64(ioAddress.load(ordering: .relaxed)))) >> ((offset & 3) * 8)
      default: return 0
      }
    default: return width.mask
    }
  }

  private func readRegister(_ offset: UInt64) -> UInt32 {
    guard offset < Self.memorySize, offset & 3 == 0 else { return 0 }
    var value: UInt32 = 0
    change { state, now in
      value = state.chip.read(Int(offset), now: now)
      return []
    }
    return value
  }

  /// Registers take whole, aligned 32-bit writes (§13.2.1).
  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    switch region {
    case Region.memory:
      guard width == .dword || width == .qword else { return }
      writeRegister(offset, UInt32(truncatingIfNeeded: value))
      if width == .qword { writeRegister(offset &+ 4, UInt32(truncatingIfNeeded: value >> 32)) }
    case Region.io:
      guard width == .dword else { return }
      if offset == IOPort.address {
        ioAddress.store(UInt32(truncatingIfNeeded: value), ordering: .relaxed)
      } else if offset == IOPort.data {
        writeRegister(UInt64(ioAddress.load(ordering: .relaxed)), UInt32(truncatingIfNeeded: value))
      }
    default: break
    }
  }

  private func writeRegister(_ offset: UInt64, _ value: UInt32) {
    guard offset < Self.memorySize, offset & 3 == 0 else { return }
    let register = Int(offset)
    guard E1000.abandonsTransmission(register, value) else {
      change { state, now in state.chip.write(register, value, now: now) }
      return
    }
    // A batch under way ends first: nothing is written back after the reset.
    transmitter.withLock { transmitter in
      change { state, now in state.chip.write(register, value, now: now) }
      transmitter.reset()
    }
  }

  // MARK: Transmission

  /// Sends what the ring holds, a batch at a time.
  override func transmit() -> WorkerState {
    transmitter.withLock { transmitter in
      for _ in 0..<Self.batch {
        guard step(&transmitter) else { return .idle }
      }
      return .busy
    }
  }

  /// Takes the transmitter one frame or one stretch of descriptors further; false when there is nothing to do for now.
  private func step(_ transmitter: inout E1000Transmitter) -> Bool {
    let settings = state.withLock { state in
      state.isBusMaster && state.chip.isTransmitting ? state.chip.transmitSettings : nil
    }
    guard let settings else { return false }
    if !transmitter.hasPacket {
      let progress = transmitter.gather(settings.ring, memory)
      guard transmitter.hasPacket else {
        change { state, now in
          state.chip.gathered(progress, now: now)
          return []
        }
        return !progress.isIdle
      }
      state.withLock { $0.chip.gathered(progress, now: clock.now) }
    }
    guard transmitter.next(settings, offloads: offloads) else {
      let finished = transmitter.finish(memory)
      change { state, now in
        state.chip.finished(finished, now: now)
        return []
      }
      return true
    }
    guard settings.isLoopback || send(transmitter) else { return false }
    transmitter.sent()
    let (destination, length) = (transmitter.frameDestination, transmitter.frameLength)
    state.withLock { $0.chip.statistics.countSent(destination, length + Ethernet.fcsSize) }
    guard settings.isLoopback else { return true }
    let frame = transmitter.contiguous()
    change { state, now in
      _ = state.chip.receive(frame, memory: memory, now: now)
      return []
    }
    return true
  }

  private func send(_ transmitter: borrowing E1000Transmitter) -> Bool {
    guard let backend else { return true }
    return transmitter.frameParts.withUnsafeBufferPointer { backend.send($0, transmitter.frameHeader) }
  }

  // MARK: Reception

  override func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool {
    var isTaken = true
    change { state, now in
      guard state.isBusMaster, state.chip.isLinkUp, !state.chip.isLoopback else { return [] }
      isTaken = state.chip.receive(frame, memory: memory, now: now)
      state.hasRefused = !isTaken
      return []
    }
    return isTaken
  }
}

extension E1000Device {
  static let model = DeviceModel.networkCard("e1000", "Intel PRO/1000 MT Desktop (82540EM) network card") {
    (id, address, backend, board) throws(DeviceError) in
    try E1000Device(id: id, address: address, backend: backend, board: board)
  }
}
