import Backends
import Buses
import DeviceKit
import GuestMemory
import MachineModel
import Synchronization

/// A card with a Realtek RTL8139C: Fast Ethernet on PCI.
///
/// The lock of `transmission` is taken before that of `state`, and alone while a frame goes to the backend.
// Safety: all that changes is in `state` and `transmission`; the base guards the configuration space.
final class RTL8139Device: PCIDevice, NetworkReceiver, @unchecked Sendable {
  private enum BAR {
    static let io = 0
    static let memory = 1
  }

  private static let size: UInt64 = 256

  private struct State {
    var chip: RTL8139
    var isBusMaster = false
    var timer: MachineTimer?
    var armed: UInt64?
    var line = false
    /// The backend keeps a frame for which there was no room.
    var hasRefused = false
  }

  /// A frame on its way from guest memory.
  private struct Transmission {
    var parts = FrameParts()
  }

  private let state: Mutex<State>
  private let transmission = Mutex(Transmission())
  /// Sends, so that no vCPU waits for the host; nil until the card is complete.
  private let worker = Mutex<DeviceWorker?>(nil)
  private let memory: GuestMemory
  private let clock: any MachineClock
  private let backend: (any NetworkBackend)?

  init(id: String, address: EthernetAddress, backend: (any NetworkBackend)?, board: Board) throws(DeviceError) {
    memory = board.memory
    clock = board.clock
    self.backend = backend
    state = Mutex(State(chip: RTL8139(address)))
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: 0x10EC, device: 0x8139, revision: 0x10, classCode: 0x020000, subsystemVendor: 0x10EC,
        subsystem: 0x8139))
    space.addBAR(BAR.io, .io, size: Self.size)
    space.addBAR(BAR.memory, .memory32, size: Self.size)
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
      try map(bar: BAR.io, in: board.ports)
      try map(bar: BAR.memory, in: board.mmio)
    } catch {
      throw DeviceError("\(error)")
    }
    connectInterrupt(board.interrupts.intx(slot: slot, pin: 1))
    backend?.setReceiveOffloads([])
    backend?.start(self)
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
  private func change(_ body: (inout State, UInt64) -> RTL8139.Effect) {
    var effect: RTL8139.Effect = []
    state.withLock { state in
      let now = clock.now
      effect = body(&state, now)
      state.chip.advance(now: now)
      if state.chip.isInterrupting != state.line {
        state.line = state.chip.isInterrupting
        setInterrupt(state.line)
      }
      if let next = state.chip.nextDeadline, next < state.armed ?? .max {
        state.armed = next
        state.timer?.arm(at: next)
      }
      if effect.contains(.receive) {
        if state.hasRefused { state.hasRefused = false } else { effect.remove(.receive) }
      }
    }
    if effect.contains(.receive) { backend?.resume() }
    if effect.contains(.transmit) { wake() }
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
      var effect: RTL8139.Effect = []
      writeBytes(offset, width, value) { register, byte in
        effect.formUnion(state.chip.write(Int(truncatingIfNeeded: register), byte, now: now))
      }
      return mayTransmit ? effect : effect.subtracting(.transmit)
    }
  }

  // MARK: Transmission

  private func wake() { worker.withLock { $0 }?.wake() }

  /// Sends what the descriptors hold.
  private func transmit() -> WorkerState {
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

  func sendable() { wake() }

  // MARK: Reception

  func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool {
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

  func linkChanged() {
    let isUp = hasCable
    change { state, now in
      state.chip.setCable(isUp, now: now)
      return []
    }
  }
}

extension RTL8139Device {
  static let model = DeviceModel(
    name: "rtl8139", summary: "Realtek RTL8139C network card", bus: .pci,
    options: [
      OptionSpec("netdev", .network, "the network behind the card; none: the cable is out"),
      OptionSpec("mac", .macAddress, "the card's address; the default is that of the network"),
      OptionSpec("addr", .pciAddress, "PCI slot and function; the default is the first free slot"),
    ]
  ) { id, properties, board throws(DeviceError) in
    let place = try board.networkCardSlot(properties)
    let device = try RTL8139Device(
      id: id, address: properties.cardAddress, backend: try board.network("netdev", properties), board: board)
    try device.plug(slot: place.slot, function: place.function, into: board)
    return device
  }
}
