import Backends
import Buses
import DeviceKit
import GuestMemory
import MachineModel
import Synchronization

/// What a change of a network card's registers means outside of them.
struct NetworkChipEffect: OptionSet, Sendable {
  let rawValue: UInt8
  /// There may be something to send.
  static let transmit = NetworkChipEffect(rawValue: 1 << 0)
  /// There may be room for a frame that was refused.
  static let receive = NetworkChipEffect(rawValue: 1 << 1)
}

/// The registers of a network card as its board part sees them. Times are nanoseconds of the guest.
protocol NetworkChip: Sendable {
  /// Does what is due by now.
  mutating func advance(now: UInt64)
  /// When `advance` has something to do; nil: not before the next access.
  var nextDeadline: UInt64? { get }
  /// The level of the interrupt pin.
  var isInterrupting: Bool { get }
  /// Rises of the pin, modulo 2^32, where it may have fallen in between without a call.
  var interruptRises: UInt32 { get }
  mutating func setCable(_ isConnected: Bool, now: UInt64)
}

extension NetworkChip {
  var interruptRises: UInt32 { 0 }
}

/// A network card on PCI: a chip whose registers are in a memory and an I/O BAR, an interrupt pin, a network, and a
/// thread that sends, so that no vCPU waits for the host, and does what is due.
// Safety: all that changes is in `state` and `worker`; the base guards the configuration space.
class NetworkCardDevice<Chip: NetworkChip>: PCIDevice, NetworkReceiver, @unchecked Sendable {
  struct BAR {
    let number: Int
    let size: UInt64
  }

  struct State {
    var chip: Chip
    var isBusMaster = false
    var armed: UInt64?
    var line = false
    var rises: UInt32 = 0
    /// The backend keeps a frame for which there was no room.
    var hasRefused = false
  }

  let state: Mutex<State>
  let memory: GuestMemory
  let clock: any MachineClock
  let backend: (any NetworkBackend)?
  private let memoryBAR: Int
  private let ioBAR: Int
  /// Registers in the memory BAR that processors access themselves.
  private let registers: SharedRegisters?
  /// nil until the card is complete.
  private let worker = Mutex<DeviceWorker?>(nil)

  init(
    id: String, _ identity: PCIIdentity, memoryBAR: BAR, ioBAR: BAR, chip: Chip, registers: SharedRegisters? = nil,
    backend: (any NetworkBackend)?, board: Board
  ) throws(DeviceError) {
    memory = board.memory
    clock = board.clock
    self.backend = backend
    self.memoryBAR = memoryBAR.number
    self.ioBAR = ioBAR.number
    self.registers = registers
    state = Mutex(State(chip: chip))
    var space = PCIConfiguration(identity)
    space.addBAR(memoryBAR.number, .memory32, size: memoryBAR.size)
    space.addBAR(ioBAR.number, .io, size: ioBAR.size)
    space.setInterruptPin(1)
    super.init(id: id, configuration: space)
    let worker = try board.workers.worker(id) { [unowned self] _ in work() }
    if let index = registers?.index { worker.doorbell().place(at: .sharedRegisters(index)) }
    self.worker.withLock { $0 = worker }
  }

  /// Plugs the card in.
  final func plug(slot: Int, function: Int, into board: Board) throws(DeviceError) {
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: slot, function: function)
    } catch {
      throw DeviceError("PCI \(String(slot, radix: 16)).\(function) is already taken")
    }
    do throws(BusConflict) {
      try map(bar: memoryBAR, in: board.mmio, isPosted: true, registers: registers)
      // What is written there may change shared registers, which wait only for writes to the memory BAR.
      try map(bar: ioBAR, in: board.ports, isPosted: registers == nil)
    } catch {
      throw DeviceError("\(error)")
    }
    connectInterrupt(board.interrupts.intx(slot: slot, pin: 1, registers: registers))
    backend?.setReceiveOffloads([])
  }

  override func start() { backend?.start(self) }

  override func drain() { backend?.drain() }

  override func configurationChanged(_ register: Int, _ width: AccessWidth) {
    let enabled = isBusMaster
    change { state, _ in
      guard state.isBusMaster != enabled else { return [] }
      state.isBusMaster = enabled
      return enabled ? [.transmit, .receive] : []
    }
  }

  final var hasCable: Bool { backend?.isLinkUp ?? false }

  /// Changes the chip at the present guest time, brings pin and timer up to date, and does what follows from it.
  final func change(_ body: (inout State, UInt64) -> NetworkChipEffect) {
    var effect: NetworkChipEffect = []
    state.withLock { state in
      let now = clock.now
      effect = body(&state, now)
      state.chip.advance(now: now)
      let isInterrupting = state.chip.isInterrupting
      if state.line, !isInterrupting || state.chip.interruptRises != state.rises {
        state.line = false
        setInterrupt(false)
      }
      state.rises = state.chip.interruptRises
      if isInterrupting, !state.line {
        state.line = true
        setInterrupt(true)
      }
      // A thread that wakes too early finds nothing to do and is told anew.
      if let next = state.chip.nextDeadline, next < state.armed ?? .max {
        state.armed = next
        worker.withLock { $0 }?.wake(at: next)
      }
      if effect.contains(.receive) {
        if state.hasRefused { state.hasRefused = false } else { effect.remove(.receive) }
      }
    }
    if effect.contains(.receive) { backend?.resume() }
    if effect.contains(.transmit) { wake() }
  }

  private func wake() { worker.withLock { $0 }?.wake() }

  private func work() -> WorkerState {
    // It is time for something, or what processors have done to shared registers lets the pin rise or frames in.
    change { state, _ in
      state.armed = nil
      return .receive
    }
    return transmit()
  }

  /// The status register shows what the pin does.
  override func readConfiguration(_ register: Int, _ width: AccessWidth) -> UInt32 {
    if registers != nil { change { _, _ in [] } }
    return super.readConfiguration(register, width)
  }

  /// Sends some of what the driver has given; on the card's thread.
  func transmit() -> WorkerState { .idle }

  // MARK: From the network

  final func sendable() { wake() }

  func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool { true }

  final func linkChanged() {
    let isUp = hasCable
    change { state, now in
      state.chip.setCable(isUp, now: now)
      return []
    }
  }
}

extension DeviceModel {
  /// The model of a card with these options: its network, its address and its place.
  static func networkCard<Chip: NetworkChip>(
    _ name: String, _ summary: String,
    _ make:
      @escaping @Sendable (_ id: String, EthernetAddress, (any NetworkBackend)?, Board) throws(DeviceError) ->
      NetworkCardDevice<Chip>
  ) -> DeviceModel {
    DeviceModel(
      name: name, summary: summary, bus: .pci,
      options: [
        OptionSpec("netdev", .network, "the network behind the card; none: the cable is out"),
        OptionSpec("mac", .macAddress, "the card's address; the default is that of the network"),
        OptionSpec("addr", .pciAddress, "PCI slot and function; the default is the first free slot"),
      ]
    ) { id, properties, board throws(DeviceError) in
      let place = try board.networkCardSlot(properties)
      let card = try make(id, properties.cardAddress, try board.network("netdev", properties), board)
      try card.plug(slot: place.slot, function: place.function, into: board)
      return card
    }
  }
}
