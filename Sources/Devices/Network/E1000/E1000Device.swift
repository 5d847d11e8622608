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
    let shared = board.mmio.makeRegisters(E1000.sharedRegisters)
    try super.init(
      id: id,
      PCIIdentity(
        vendor: 0x8086, device: 0x100E, revision: 3, classCode: 0x020000, subsystemVendor: 0x8086, subsystem: 0x001E),
      memoryBAR: BAR(number: Region.memory, size: Self.memorySize), ioBAR: BAR(number: Region.io, size: Self.ioSize),
      chip: E1000(address, shared: shared), registers: shared, backend: backend, board: board)
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

  /// What the transmitter has done that the registers do not show yet. They are locked once a frame, for frames that come
  /// in want them, too.
  private struct Report {
    var progress: E1000Transmitter.Progress?
    var sent: (destination: EthernetAddress, length: Int)?
    var finished: E1000Transmitter.Finished?

    /// Shows it in the registers.
    mutating func take(into chip: inout E1000, now: UInt64) {
      if let progress { chip.gathered(progress, now: now) }
      if let sent { chip.statistics.countSent(sent.destination, sent.length) }
      if let finished { chip.finished(finished, now: now) }
      self = Report()
    }
  }

  /// Sends what the ring holds, a batch at a time.
  override func transmit() -> WorkerState {
    transmitter.withLock { transmitter in
      var report = Report()
      for _ in 0..<Self.batch {
        guard let settings = begin(&report, hasPacket: transmitter.hasPacket) else { return .idle }
        guard step(&transmitter, settings, &report) else { return pause(&report) }
      }
      change { state, now in
        report.take(into: &state.chip, now: now)
        return []
      }
      return .busy
    }
  }

  /// What holds for the next step; nil where there is nothing to send, and then a write of the tail wakes the card.
  private func begin(_ report: inout Report, hasPacket: Bool) -> E1000TransmitSettings? {
    var settings: E1000TransmitSettings?
    change { state, now in
      report.take(into: &state.chip, now: now)
      var next = state.chip.takeTransmitSettings()
      if !hasPacket, next.ring.isEmpty, state.chip.setTransmitAwaited(true) {
        next = state.chip.takeTransmitSettings()
      }
      if state.isBusMaster, state.chip.isTransmitting, hasPacket || !next.ring.isEmpty {
        _ = state.chip.setTransmitAwaited(false)
        settings = next
      } else {
        _ = state.chip.setTransmitAwaited(true)
      }
      return []
    }
    return settings
  }

  /// The ring cannot be read, or the network takes nothing.
  private func pause(_ report: inout Report) -> WorkerState {
    var isIdle = true
    change { state, now in
      report.take(into: &state.chip, now: now)
      // A tail that was written before this wakes nobody.
      isIdle = !state.chip.setTransmitAwaited(true)
      return []
    }
    return isIdle ? .idle : .busy
  }

  /// Takes the transmitter one frame or one stretch of descriptors further; false when it cannot go on for now.
  private func step(
    _ transmitter: inout E1000Transmitter, _ settings: E1000TransmitSettings, _ report: inout Report
  ) -> Bool {
    if !transmitter.hasPacket {
      let progress = transmitter.gather(settings.ring, memory)
      report.progress = progress
      guard transmitter.hasPacket else { return !progress.isIdle }
    }
    guard transmitter.next(settings, offloads: offloads) else {
      report.finished = transmitter.finish(memory)
      return true
    }
    guard settings.isLoopback || send(transmitter) else { return false }
    transmitter.sent()
    report.sent = (transmitter.frameDestination, transmitter.frameLength + Ethernet.fcsSize)
    if settings.isLoopback {
      let frame = transmitter.contiguous()
      change { state, now in
        _ = state.chip.receive(frame, memory: memory, now: now)
        return []
      }
    }
    if transmitter.isSent { report.finished = transmitter.finish(memory) }
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
