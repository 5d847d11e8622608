/// The event timer block of the IA-PC HPET specification 1.0a as a value: a 64-bit counter of 100 MHz and three
/// comparators.
struct HPET: Sendable {
  /// Register offsets (§2.3.1).
  enum Register {
    static let capabilities: UInt64 = 0x000
    static let configuration: UInt64 = 0x010
    static let interruptStatus: UInt64 = 0x020
    static let mainCounter: UInt64 = 0x0F0
    static let firstTimer: UInt64 = 0x100
    static let timerStride: UInt64 = 0x20
    /// Within a timer.
    static let timerConfiguration: UInt64 = 0x00
    static let timerComparator: UInt64 = 0x08
  }

  /// General configuration (§2.3.5).
  enum Configuration {
    static let enable: UInt64 = 1 << 0
    static let legacyReplacement: UInt64 = 1 << 1
  }

  /// Timer n configuration and capabilities (§2.3.8).
  enum TimerConfiguration {
    static let levelTriggered: UInt64 = 1 << 1
    static let interruptEnable: UInt64 = 1 << 2
    static let periodic: UInt64 = 1 << 3
    static let periodicCapable: UInt64 = 1 << 4
    static let is64BitCapable: UInt64 = 1 << 5
    static let setValue: UInt64 = 1 << 6
    static let mode32Bit: UInt64 = 1 << 8
    static let route: UInt64 = 0x1F << 9
    static let writable = levelTriggered | interruptEnable | periodic | setValue | mode32Bit | route
  }

  static let timerCount = 3
  /// Nanoseconds of a tick.
  static let tick: UInt64 = 10
  /// COUNTER_CLK_PERIOD in femtoseconds, vendor Intel, legacy replacement, 64 bits, three timers, revision 1 (§2.3.4).
  static let capabilities: UInt64 =
    10_000_000 << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | UInt64(timerCount - 1) << 8 | 1
  /// I/O APIC pins that a timer may be routed to: 2, 8 and those that carry no ISA interrupt.
  static let routes: UInt64 = 0x00FF_0104

  private struct Timer {
    var configuration: UInt64 = 0
    var comparator: UInt64 = .max
    /// Ticks between two interrupts in periodic mode.
    var period: UInt64 = 0
    /// Nanoseconds of guest time when the counter reaches the comparator; nil where that is never.
    var deadline: UInt64?

    func has(_ bit: UInt64) -> Bool { configuration & bit != 0 }
    var mask: UInt64 { has(TimerConfiguration.mode32Bit) ? 0xFFFF_FFFF : .max }
  }

  private var configuration: UInt64 = 0
  private var status: UInt64 = 0
  /// The counter at `startedAt`, or for as long as it stands still.
  private var counterBase: UInt64 = 0
  private var startedAt: UInt64 = 0
  private var timers = [Timer](repeating: Timer(), count: HPET.timerCount)
  /// Timers whose edge was not yet taken.
  private var edges = [Bool](repeating: false, count: HPET.timerCount)

  // MARK: Pins

  var isEnabled: Bool { configuration & Configuration.enable != 0 }
  /// Timers 0 and 1 take the place of the 8254 and the RTC (§2.3.5).
  var isLegacyReplacement: Bool { configuration & Configuration.legacyReplacement != 0 }

  /// The ISA IRQ or I/O APIC pin that a timer drives, as an input of the board (IRQ0 is pin 2); nil for none.
  func input(of timer: Int) -> Int? {
    if isLegacyReplacement, timer < 2 { return timer == 0 ? 0 : 8 }
    let pin = Int(timers[timer].configuration & TimerConfiguration.route) >> 9
    guard Self.routes >> UInt64(pin) & 1 != 0 else { return nil }
    return pin == 2 ? 0 : pin
  }

  /// Whether a level-triggered timer asserts its output.
  func isAsserted(_ timer: Int) -> Bool {
    isEnabled && timers[timer].has(TimerConfiguration.levelTriggered)
      && timers[timer].has(TimerConfiguration.interruptEnable) && status >> UInt64(timer) & 1 != 0
  }

  /// Whether an edge-triggered timer fired since the last call.
  mutating func takeEdge(_ timer: Int) -> Bool {
    defer { edges[timer] = false }
    return edges[timer]
  }

  /// When the next enabled interrupt comes, in nanoseconds of guest time.
  var nextDeadline: UInt64? {
    timers.lazy.filter { $0.has(TimerConfiguration.interruptEnable) }.compactMap(\.deadline).min()
  }

  /// Brings comparators up to date with guest time. Periods that passed unseen count as one.
  mutating func advance(now: UInt64) {
    guard isEnabled else { return }
    for index in timers.indices {
      guard let deadline = timers[index].deadline, deadline <= now else { continue }
      if timers[index].has(TimerConfiguration.levelTriggered) {
        status |= 1 << UInt64(index)
      } else if timers[index].has(TimerConfiguration.interruptEnable) {
        edges[index] = true
      }
      moveOn(index, from: deadline, now: now)
    }
  }

  private mutating func moveOn(_ index: Int, from deadline: UInt64, now: UInt64) {
    let timer = timers[index]
    let isPeriodic = timer.has(TimerConfiguration.periodic)
    // A 32-bit comparator meets the counter again after it wraps.
    let ticks = isPeriodic ? timer.period & timer.mask : (timer.mask == .max ? 0 : 1 << 32)
    let (step, overflow) = ticks.multipliedReportingOverflow(by: Self.tick)
    guard ticks > 0, !overflow else {
      timers[index].deadline = nil
      return
    }
    let periods = (now &- deadline) / step + 1
    let (next, beyond) = deadline.addingReportingOverflow(periods &* step)
    timers[index].deadline = beyond ? nil : next
    if isPeriodic { timers[index].comparator = (timer.comparator &+ periods &* ticks) & timer.mask }
  }

  private func counter(_ now: UInt64) -> UInt64 {
    isEnabled ? counterBase &+ (now &- startedAt) / Self.tick : counterBase
  }

  /// Finds out when the counter reaches the comparator. One that is equal already fires at once.
  private mutating func schedule(_ index: Int, now: UInt64) {
    guard isEnabled else {
      timers[index].deadline = nil
      return
    }
    let counter = counter(now)
    let ticks = (timers[index].comparator &- counter) & timers[index].mask
    let tickStart = now &- (now &- startedAt) % Self.tick
    let (wait, overflow) = ticks.multipliedReportingOverflow(by: Self.tick)
    let (deadline, beyond) = tickStart.addingReportingOverflow(wait)
    timers[index].deadline = overflow || beyond ? nil : deadline
  }

  // MARK: Registers

  /// Reads the 64-bit register at `offset`, a multiple of 8.
  mutating func read(_ offset: UInt64, now: UInt64) -> UInt64 {
    advance(now: now)
    switch offset {
    case Register.capabilities: return Self.capabilities
    case Register.configuration: return configuration
    case Register.interruptStatus: return status
    case Register.mainCounter: return counter(now)
    default:
      guard let (index, register) = Self.timer(offset) else { return 0 }
      switch register {
      case Register.timerConfiguration:
        return timers[index].configuration | TimerConfiguration.periodicCapable | TimerConfiguration.is64BitCapable
          | Self.routes << 32
      case Register.timerComparator: return timers[index].comparator
      default: return 0
      }
    }
  }

  /// Writes the bits of `mask` in the 64-bit register at `offset`, a multiple of 8.
  mutating func write(_ offset: UInt64, _ value: UInt64, mask: UInt64, now: UInt64) {
    advance(now: now)
    func merged(_ old: UInt64) -> UInt64 { old & ~mask | value & mask }
    switch offset {
    case Register.configuration: setConfiguration(merged(configuration), now: now)
    // Status bits clear by writing one, and mean nothing for edges (§2.3.6).
    case Register.interruptStatus: status &= ~(value & mask)
    case Register.mainCounter:
      counterBase = merged(counter(now))
      startedAt = now
      for index in timers.indices { schedule(index, now: now) }
    default:
      guard let (index, register) = Self.timer(offset) else { return }
      switch register {
      case Register.timerConfiguration: setTimerConfiguration(index, merged(timers[index].configuration), now: now)
      case Register.timerComparator:
        if timers[index].has(TimerConfiguration.periodic) {
          // The value is the period; with VAL_SET it is the first comparator as well (§2.3.9.2.2).
          timers[index].period = merged(timers[index].period) & timers[index].mask
        }
        if !timers[index].has(TimerConfiguration.periodic) || timers[index].has(TimerConfiguration.setValue) {
          timers[index].comparator = merged(timers[index].comparator) & timers[index].mask
          timers[index].configuration &= ~TimerConfiguration.setValue
        }
        schedule(index, now: now)
      default: break
      }
    }
  }

  private mutating func setConfiguration(_ value: UInt64, now: UInt64) {
    let counter = counter(now)
    let wasEnabled = isEnabled
    configuration = value & (Configuration.enable | Configuration.legacyReplacement)
    guard isEnabled != wasEnabled else { return }
    counterBase = counter
    startedAt = now
    for index in timers.indices { schedule(index, now: now) }
  }

  private mutating func setTimerConfiguration(_ index: Int, _ value: UInt64, now: UInt64) {
    var kept = value & TimerConfiguration.writable
    // A route that the timer does not have is not taken over, which is how software finds out (§2.3.8).
    let pin = (kept & TimerConfiguration.route) >> 9
    if pin != 0, Self.routes >> pin & 1 == 0 {
      kept = kept & ~TimerConfiguration.route | timers[index].configuration & TimerConfiguration.route
    }
    timers[index].configuration = kept
    timers[index].comparator &= timers[index].mask
    timers[index].period &= timers[index].mask
    if kept & TimerConfiguration.levelTriggered == 0 { status &= ~(1 << UInt64(index)) }
    schedule(index, now: now)
  }

  private static func timer(_ offset: UInt64) -> (index: Int, register: UInt64)? {
    guard offset >= Register.firstTimer else { return nil }
    let index = (offset - Register.firstTimer) / Register.timerStride
    guard index < UInt64(timerCount) else { return nil }
    return (Int(index), (offset - Register.firstTimer) % Register.timerStride)
  }
}
