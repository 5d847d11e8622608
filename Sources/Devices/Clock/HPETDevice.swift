import Buses
import DeviceKit
import Synchronization

/// High precision event timers of a PC at 0xFED00000.
// Safety: all that changes is in `state`.
public final class HPETDevice: Device, @unchecked Sendable {
  /// Where the ACPI HPET table says it is.
  public static let base: UInt64 = 0xFED0_0000
  /// Lower half of the capabilities register: event timer block ID of the ACPI HPET table.
  public static let eventTimerBlockID = UInt32(truncatingIfNeeded: HPET.capabilities)
  private static let size: UInt64 = 0x400
  /// A guest that asks for shorter periods is served at this distance.
  private static let shortestWait: UInt64 = 10_000

  private struct State {
    var chip = HPET()
    var timer: MachineTimer?
    /// The level-triggered input that each timer holds.
    var held = [Int?](repeating: nil, count: HPET.timerCount)
  }

  private let state = Mutex(State())
  private let edges: [InterruptLine]
  /// By timer and input: each timer holds a shared input on its own.
  private let levels: [[InterruptLine]]
  private let clock: any MachineClock
  private let events: any MachineEvents

  init(id: String, board: Board) throws(DeviceError) {
    edges = (0..<InterruptFabric.inputCount).map { board.interrupts.edge($0) }
    levels = (0..<HPET.timerCount).map { _ in
      (0..<InterruptFabric.inputCount).map { board.interrupts.level($0) }
    }
    clock = board.clock
    events = board.events
    super.init(id: id)
    try board.claim(memory: Self.base, Self.size, for: self)
    let timer = board.timers.timer { [weak self] in
      self?.change { chip, now in chip.advance(now: now) }
    }
    state.withLock { $0.timer = timer }
  }

  public override func reset() { change { chip, _ in chip = HPET() } }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    // Registers are read as a whole and then cut, so that the parts fit together.
    let value = change { chip, now in chip.read(offset & ~7, now: now) }
    return value >> ((offset & 7) * 8)
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    // Only aligned accesses of 32 and 64 bits are defined (§2.4.1).
    guard width == .dword || width == .qword, offset % UInt64(width.bytes) == 0 else { return }
    let shift = (offset & 7) * 8
    change { chip, now in chip.write(offset & ~7, value << shift, mask: width.mask << shift, now: now) }
  }

  /// Changes the chip at the present guest time and brings outputs and timer up to date with it.
  @discardableResult
  private func change<Value>(_ body: (inout HPET, UInt64) -> Value) -> Value {
    let (value, legacy) = state.withLock { state in
      let now = clock.now
      let wasLegacy = state.chip.isLegacyReplacement
      let value = body(&state.chip, now)
      state.chip.advance(now: now)
      drive(&state)
      if let next = state.chip.nextDeadline {
        state.timer?.arm(at: max(next, now &+ Self.shortestWait))
      } else {
        state.timer?.cancel()
      }
      let isLegacy = state.chip.isLegacyReplacement
      return (value, isLegacy == wasLegacy ? nil : isLegacy)
    }
    if let legacy { events.post(.legacyReplacement(legacy)) }
    return value
  }

  private func drive(_ state: inout State) {
    for timer in 0..<HPET.timerCount {
      let input = state.chip.input(of: timer)
      if state.chip.takeEdge(timer), let input { edges[input].pulse() }
      let wanted = state.chip.isAsserted(timer) ? input : nil
      guard wanted != state.held[timer] else { continue }
      if let held = state.held[timer] { levels[timer][held].set(false) }
      if let wanted { levels[timer][wanted].set(true) }
      state.held[timer] = wanted
    }
  }
}

extension HPETDevice {
  public static let model = DeviceModel(
    name: "hpet", summary: "high precision event timers", bus: .system
  ) { (id, _, board) throws(DeviceError) in
    try HPETDevice(id: id, board: board)
  }
}
