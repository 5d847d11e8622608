/// The timer of the local APIC (SDM vol. 3 §11.5.4). Its clock before the divider is 1 GHz, as KVM's is: one count of
/// divisor 1 is a nanosecond of guest time.
struct LocalAPICTimer: Sendable {
  /// LVT timer bits 18:17.
  enum Mode: UInt32, Sendable { case oneShot, periodic, tscDeadline, reserved }

  /// Nanoseconds between two interrupts of the periodic mode at least; shorter periods coalesce.
  static let minimumPeriod: UInt64 = 200_000

  private(set) var mode = Mode.oneShot
  private(set) var initialCount: UInt32 = 0
  /// Divide configuration register: bits 0, 1 and 3.
  private(set) var divideConfiguration: UInt32 = 0
  /// IA32_TSC_DEADLINE, 0 while disarmed.
  private(set) var tscDeadline: UInt64 = 0
  /// When the count reaches zero; nil while it does not run.
  private(set) var deadline: UInt64?

  /// The divisor of a divide configuration (§11.5.4 figure 11-10).
  static func divisor(_ configuration: UInt32) -> UInt64 {
    let code = configuration & 3 | configuration >> 1 & 4
    return code == 7 ? 1 : 2 << UInt64(code)
  }

  private var divisor: UInt64 { Self.divisor(divideConfiguration) }
  /// At most 2^32 × 128 ns.
  private var period: UInt64 { UInt64(initialCount) * divisor }

  /// Whether the count reached zero since the last call. Periods that passed unseen count as one.
  mutating func takeExpiry(now: UInt64) -> Bool {
    guard let due = deadline, due <= now else { return false }
    if mode == .periodic, period > 0 {
      deadline = due &+ ((now - due) / period + 1) &* period
    } else {
      deadline = nil
      tscDeadline = 0
    }
    return true
  }

  /// When the next interrupt is due, `last` being when the one before came.
  func nextInterrupt(after last: UInt64) -> UInt64? {
    guard let deadline else { return nil }
    return mode == .periodic ? max(deadline, last &+ min(Self.minimumPeriod, .max - last)) : deadline
  }

  /// The current count, after `takeExpiry`.
  func currentCount(now: UInt64) -> UInt32 {
    guard mode != .tscDeadline, let deadline, deadline > now else { return 0 }
    // Rounded up: a count lasts for its whole clock.
    return UInt32(clamping: (deadline - now - 1) / divisor + 1)
  }

  mutating func setInitialCount(_ value: UInt32, now: UInt64) {
    guard mode != .tscDeadline else { return }
    initialCount = value
    start(count: value, now: now)
  }

  /// The running count goes on with the new divisor.
  mutating func setDivideConfiguration(_ value: UInt32, now: UInt64) {
    let rest = currentCount(now: now)
    divideConfiguration = value & 0xB
    if mode != .tscDeadline { start(count: rest, now: now) }
  }

  private mutating func start(count: UInt32, now: UInt64) {
    let (due, overflow) = now.addingReportingOverflow(UInt64(count) * divisor)
    deadline = count == 0 || overflow ? nil : due
  }

  /// Changing to or from TSC-deadline mode disarms the timer.
  mutating func setMode(_ new: Mode) {
    defer { mode = new }
    guard (new == .tscDeadline) != (mode == .tscDeadline) else { return }
    deadline = nil
    tscDeadline = 0
    initialCount = 0
  }

  /// IA32_TSC_DEADLINE; ignored in the other modes. `due` is the guest time of the deadline.
  mutating func setTSCDeadline(_ value: UInt64, due: UInt64?) {
    guard mode == .tscDeadline else { return }
    tscDeadline = value
    deadline = value == 0 ? nil : due
  }

  /// INIT and power-on.
  mutating func reset() { self = LocalAPICTimer() }
}
