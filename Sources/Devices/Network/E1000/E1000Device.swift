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
// Safety: all that changes is in `state` and `transmitter`; the base guards the configuration space.
final class E1000Device: PCIDevice, NetworkReceiver, @unchecked Sendable {
  private enum BAR {
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

  private struct State {
    var chip: E1000
    var isBusMaster = false
    /// IOADDR.
    var ioAddress: UInt32 = 0
    var timer: MachineTimer?
    var armed: UInt64?
    var line = false
    /// The backend keeps a frame for which there was no room.
    var hasRefused = false

    var canTransmit: Bool { isBusMaster && chip.isTransmitting }
  }

  private let state: Mutex<State>
  private let transmitter = Mutex(E1000Transmitter())
  /// Sends, so that no vCPU waits for the host; nil until the card is complete.
  private let worker = Mutex<DeviceWorker?>(nil)
  private let memory: GuestMemory
  private let clock: any MachineClock
  private let backend: (any NetworkBackend)?
  private let offloads: NetworkOffloads

  init(id: String, address: EthernetAddress, backend: (any NetworkBackend)?, board: Board) throws(DeviceError) {
    memory = board.memory
    clock = board.clock
    self.backend = backend
    offloads = backend?.offloads ?? []
    state = Mutex(State(chip: E1000(address)))
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: 0x8086, device: 0x100E, revision: 3, classCode: 0x020000, subsystemVendor: 0x8086, subsystem: 0x001E))
    space.addBAR(BAR.memory, .memory32, size: Self.memorySize)
    space.addBAR(BAR.io, .io, size: Self.ioSize)
    space.setInterruptPin(1)
    super.init(id: id, configuration: space)
    let timer = board.timers.timer { [weak self] in
      self?.change { state, _ in
        state.armed = nil
        return []
      }
    }
    state.withLock { $0.timer = timer }
    let worker = try board.workers.worker(id) { [unowned self] _ in transmit() }
    self.worker.withLock { $0 = worker }
  }

  /// Plugs the card in; frames from the host arrive from now on.
  func plug(slot: Int, function: Int, into board: Board) throws(DeviceError) {
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: slot, function: function)
    } catch {
      throw DeviceError("PCI \(String(slot, radix: 16)).\(function) is already taken")
    }
    do throws(BusConflict) {
      try map(bar: BAR.memory, in: board.mmio)
      try map(bar: BAR.io, in: board.ports)
    } catch {
      throw DeviceError("\(error)")
    }
    connectInterrupt(board.interrupts.intx(slot: slot, pin: 1))
    backend?.setReceiveOffloads([])
    backend?.start(self)
  }

  override func reset() {
    super.reset()
    transmitter.withLock { transmitter in
      transmitter.reset()
      change { state, now in
        state.chip.reset(now: now)
        state.chip.setCable(hasCable, now: now)
        state.isBusMaster = false
        state.ioAddress = 0
        return .receive
      }
    }
  }

  override func drain() { backend?.drain() }

  override func configurationChanged(_ register: Int, _ width: AccessWidth) {
    let enabled = isBusMaster
    change { state, _ in
      guard state.isBusMaster != enabled else { return [] }
      state.isBusMaster = enabled
      return enabled ? [.transmit, .receive] : []
    }
  }

  private var hasCable: Bool { backend?.isLinkUp ?? false }

  /// Changes the chip at the present guest time, brings pin and timer up to date, and does what follows from it.
  private func change(_ body: (inout State, UInt64) -> E1000.Effect) {
    var effect: E1000.Effect = []
    state.withLock { state in
      let now = clock.now
      effect = body(&state, now)
      follow(&state, now)
      if effect.contains(.receive) {
        if state.hasRefused { state.hasRefused = false } else { effect.remove(.receive) }
      }
      if effect.contains(.transmit), !state.canTransmit { effect.remove(.transmit) }
    }
    if effect.contains(.receive) { backend?.resume() }
    if effect.contains(.transmit) { wake() }
  }

  /// Brings what follows from the chip's state up to date.
  private func follow(_ state: inout State, _ now: UInt64) {
    state.chip.advance(now: now)
    let asserted = state.chip.interrupts.isAsserted
    if asserted != state.line {
      state.line = asserted
      setInterrupt(asserted)
    }
    // A timer that fires too early finds nothing to do and is armed again.
    guard let next = state.chip.nextDeadline, next < state.armed ?? .max else { return }
    state.armed = next
    state.timer?.arm(at: next)
  }

  // MARK: Registers

  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    switch region {
    case BAR.memory:
      let low = UInt64(readRegister(offset & ~3))
      guard width == .qword else { return low >> ((offset & 3) * 8) }
      return low | UInt64(readRegister((offset & ~3) &+ 4)) << 32
    case BAR.io:
      switch offset & ~3 {
      case IOPort.address: return state.withLock { UInt64($0.ioAddress) } >> ((offset & 3) * 8)
      case IOPort.data: return UInt64(readRegister(state.withLock { UInt64($0.ioAddress) })) >> ((offset & 3) * 8)
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
    case BAR.memory:
      guard width == .dword || width == .qword else { return }
      writeRegister(offset, UInt32(truncatingIfNeeded: value))
      if width == .qword { writeRegister(offset &+ 4, UInt32(truncatingIfNeeded: value >> 32)) }
    case BAR.io:
      guard width == .dword else { return }
      if offset == IOPort.address {
        state.withLock { $0.ioAddress = UInt32(truncatingIfNeeded: value) }
      } else if offset == IOPort.data {
        writeRegister(state.withLock { UInt64($0.ioAddress) }, UInt32(truncatingIfNeeded: value))
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

  private func wake() { worker.withLock { $0 }?.wake() }

  /// Sends what the ring holds, a batch at a time.
  private func transmit() -> WorkerState {
    transmitter.withLock { transmitter in
      for _ in 0..<Self.batch {
        guard step(&transmitter) else { return .idle }
      }
      return .busy
    }
  }

  /// Takes the transmitter one frame or one stretch of descriptors further; false when there is nothing to do for now.
  private func step(_ transmitter: inout E1000Transmitter) -> Bool {
    guard let settings = state.withLock({ $0.canTransmit ? $0.chip.transmitSettings : nil }) else { return false }
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

  func sendable() { wake() }

  // MARK: Reception

  func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool {
    var isTaken = true
    change { state, now in
      guard state.isBusMaster, state.chip.isLinkUp, !state.chip.isLoopback else { return [] }
      isTaken = state.chip.receive(frame, memory: memory, now: now)
      state.hasRefused = !isTaken
      return []
    }
    return isTaken
  }

  func linkChanged() {
    let isUp = hasCable
    change { state, now in
      state.chip.setCable(isUp, now: now)
      return []
    }
  }
}

extension E1000Device {
  static let model = DeviceModel(
    name: "e1000", summary: "Intel PRO/1000 MT Desktop (82540EM) network card", bus: .pci,
    options: [
      OptionSpec("netdev", .network, "the network behind the card; none: the cable is out"),
      OptionSpec("mac", .macAddress, "the card's address; the default is that of the network"),
      OptionSpec("addr", .pciAddress, "PCI slot and function; the default is the first free slot"),
    ]
  ) { id, properties, board throws(DeviceError) in
    let place = try board.networkCardSlot(properties)
    let device = try E1000Device(
      id: id, address: properties.cardAddress, backend: try board.network("netdev", properties), board: board)
    try device.plug(slot: place.slot, function: place.function, into: board)
    return device
  }
}
