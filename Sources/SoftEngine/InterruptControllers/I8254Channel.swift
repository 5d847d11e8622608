/// One counter of the 8254 (Intel 231164-005), as a function of its clock: between two accesses the count and OUT
/// follow from when it was loaded.
struct I8254Channel: Sendable {
  /// "Mode Definitions"; 6 and 7 are 2 and 3.
  enum Mode: UInt8, Sendable {
    case interruptOnTerminalCount, oneShot, rateGenerator, squareWave, softwareStrobe, hardwareStrobe

    init(controlWord: UInt8) {
      let bits = controlWord >> 1 & 7
      self = Self(rawValue: bits > 5 ? bits & 3 : bits) ?? .interruptOnTerminalCount
    }

    var isPeriodic: Bool { self == .rateGenerator || self == .squareWave }
    /// A rising gate loads and starts the counting element; its level does not matter.
    var isTriggered: Bool { self == .oneShot || self == .hardwareStrobe }
  }

  /// RW1 and RW0 of the control word.
  enum Access: UInt8, Sendable { case latch, low, high, lowThenHigh }

  private var mode = Mode.squareWave
  private var isBCD = false
  private var access = Access.lowThenHigh
  private(set) var gate: Bool

  /// The clock at which the counting element holds `count`; nil while it waits for a count or a trigger.
  private var loadedAt: Int?
  /// What the counting element was loaded with, 1–65536.
  private var count = 0x10000
  /// Clocks counted when the gate stopped the count; nil while it counts.
  private var stoppedAfter: Int?
  /// The count register where the counting element has not taken it over.
  private var nextCount: Int?
  /// Whether a count was written since the control word.
  private var isArmed = false
  /// Whether mode 1 was triggered again while OUT was low, which then stays low until the reload.
  private var holdsLow = false
  /// The clock up to which rising edges were counted.
  private var clock = 0
  private var edges = 0

  private var writtenLow: UInt8?
  private var readsHigh = false
  private var latchedCount: UInt16?
  private var latchedStatus: UInt8?

  init(gate: Bool) { self.gate = gate }

  /// Clocks after which a counting element counts over again.
  private var modulus: Int { isBCD ? 10_000 : 0x10000 }

  // MARK: Waveform

  /// Clocks that OUT of mode 3 is high in each period.
  private static func highClocks(_ count: Int) -> Int { (count + 1) / 2 }

  private func elapsed(_ at: Int) -> Int? {
    guard let loadedAt else { return nil }
    return stoppedAfter ?? max(at - loadedAt, 0)
  }

  /// OUT at a clock not before the last access.
  func output(_ at: Int) -> Bool {
    guard let elapsed = elapsed(at) else { return mode != .interruptOnTerminalCount }
    // The clock that loads the counting element comes after the write or the trigger.
    let isLoaded = loadedAt.map { $0 <= at } ?? false
    switch mode {
    case .interruptOnTerminalCount: return elapsed >= count
    case .oneShot: return isLoaded ? elapsed >= count : !holdsLow
    case .rateGenerator: return stoppedAfter != nil || count < 2 || elapsed % count != count - 1
    case .squareWave: return stoppedAfter != nil || count < 2 || elapsed % count < Self.highClocks(count)
    case .softwareStrobe, .hardwareStrobe: return elapsed != count
    }
  }

  /// Rising edges of OUT after the clock of loading up to `elapsed` clocks later.
  private func rises(_ elapsed: Int) -> Int {
    switch mode {
    case .interruptOnTerminalCount, .oneShot: elapsed >= count ? 1 : 0
    // A count of one is illegal here and gives no edges.
    case .rateGenerator, .squareWave: count < 2 ? 0 : elapsed / count
    case .softwareStrobe, .hardwareStrobe: elapsed > count ? 1 : 0
    }
  }

  /// The clock of the next rising edge of OUT after `clock`; nil where none comes by itself.
  var nextRise: Int? {
    guard let loadedAt, stoppedAfter == nil else { return nil }
    let elapsed = max(clock - loadedAt, 0)
    switch mode {
    case .interruptOnTerminalCount, .oneShot: return elapsed < count ? loadedAt + count : nil
    case .rateGenerator, .squareWave:
      guard count > 1 else { return nil }
      if mode == .squareWave, let next = nextCount, elapsed % count < Self.highClocks(count) {
        return endOfPeriod(loadedAt) + next - Self.highClocks(next)
      }
      return loadedAt + (elapsed / count + 1) * count
    case .softwareStrobe, .hardwareStrobe: return elapsed <= count ? loadedAt + count + 1 : nil
    }
  }

  /// Counts on to `now`, taking over a new count at the end of the running period.
  mutating func advance(to now: Int) {
    let now = max(now, clock)
    defer { clock = now }
    guard let loadedAt, stoppedAfter == nil else { return }
    if mode.isPeriodic, let next = nextCount {
      let end = endOfPeriod(loadedAt)
      guard end <= now else {
        edges &+= rises(now - min(loadedAt, now)) - rises(max(clock - loadedAt, 0))
        return
      }
      edges &+= rises(end - loadedAt) - rises(max(clock - loadedAt, 0))
      // Mode 3 takes it over after the high half too: the low half of the new count begins.
      let isHalf = mode == .squareWave && (end - loadedAt) % count != 0
      self.loadedAt = isHalf ? end - Self.highClocks(next) : end
      count = next
      nextCount = nil
      clock = end
      return advance(to: now)
    }
    edges &+= rises(max(now - loadedAt, 0)) - rises(max(clock - loadedAt, 0))
    if loadedAt <= now, !mode.isPeriodic, !mode.isTriggered { nextCount = nil }
  }

  /// The end of the period, or half period of mode 3, that runs at `clock`.
  private func endOfPeriod(_ loadedAt: Int) -> Int {
    let elapsed = max(clock - loadedAt, 0)
    let begin = elapsed - elapsed % count
    if mode == .squareWave, elapsed % count < Self.highClocks(count), count > 1 {
      return loadedAt + begin + Self.highClocks(count)
    }
    return loadedAt + begin + count
  }

  /// Rising edges of OUT since the last call.
  mutating func takeEdges() -> Int {
    defer { edges = 0 }
    return edges
  }

  /// The counting element as software reads it.
  private func value(_ at: Int) -> Int {
    guard let elapsed = elapsed(at) else { return mode.isTriggered ? modulus - 1 : count % modulus }
    switch mode {
    case .rateGenerator: return (count - elapsed % count) % modulus
    case .squareWave:
      let phase = elapsed % count
      let high = Self.highClocks(count)
      // An odd count is loaded less one; the counter goes down by two.
      return ((count & ~1) - 2 * (phase < high ? phase : phase - high)) % modulus
    default:
      let value = (count - elapsed) % modulus
      return value < 0 ? value + modulus : value
    }
  }

  // MARK: Control

  /// Lets OUT change through an access, counting a rise that it makes.
  private mutating func change(_ now: Int, _ body: (inout Self) -> Void) {
    advance(to: now)
    let before = output(now)
    body(&self)
    if !before, output(now) { edges &+= 1 }
  }

  /// A control word with RW other than the counter latch command.
  mutating func setControl(_ word: UInt8, now: Int) {
    change(now) { channel in
      channel.access = Access(rawValue: word >> 4 & 3) ?? .lowThenHigh
      channel.mode = Mode(controlWord: word)
      channel.isBCD = word & 1 != 0
      channel.loadedAt = nil
      channel.stoppedAfter = nil
      channel.count = min(channel.count, channel.modulus)
      channel.nextCount = nil
      channel.isArmed = false
      channel.writtenLow = nil
      channel.readsHigh = false
      channel.latchedCount = nil
      channel.latchedStatus = nil
    }
  }

  mutating func setGate(_ level: Bool, now: Int) {
    guard level != gate else { return }
    change(now) { channel in
      channel.gate = level
      if level { channel.gateRose(now) } else { channel.gateFell(now) }
    }
  }

  private mutating func gateRose(_ now: Int) {
    if mode.isTriggered || (mode.isPeriodic && stoppedAfter != nil) {
      // Nothing to trigger before a count was written.
      guard isArmed else { return }
      holdsLow = !output(now)
      count = nextCount ?? count
      nextCount = nil
      loadedAt = now + 1
      stoppedAfter = nil
    } else if let stopped = stoppedAfter {
      loadedAt = now - stopped
      stoppedAfter = nil
    }
  }

  private mutating func gateFell(_ now: Int) {
    guard !mode.isTriggered, let loadedAt else { return }
    stoppedAfter = max(now - loadedAt, 0)
  }

  // MARK: Registers

  mutating func write(_ value: UInt8, now: Int) {
    switch access {
    case .latch: break
    case .low: load(UInt16(value), now: now)
    case .high: load(UInt16(value) << 8, now: now)
    case .lowThenHigh:
      if let low = writtenLow {
        writtenLow = nil
        load(UInt16(value) << 8 | UInt16(low), now: now)
      } else {
        writtenLow = value
        // The first of two bytes stops mode 0 (OUT goes low at once).
        if mode == .interruptOnTerminalCount {
          change(now) { channel in
            channel.loadedAt = nil
            channel.stoppedAfter = nil
          }
        }
      }
    }
  }

  private mutating func load(_ raw: UInt16, now: Int) {
    var new = Int(raw)
    if isBCD { new = (0..<4).reduce(0) { $0 * 10 + Int(raw >> UInt16(12 - 4 * $1) & 0xF) } % modulus }
    if new == 0 { new = modulus }
    change(now) { channel in
      channel.nextCount = new
      channel.isArmed = true
      let isRunning = channel.loadedAt != nil && channel.stoppedAfter == nil
      // Modes 1 and 5 wait for their trigger, running periods end first.
      guard !channel.mode.isTriggered, !(channel.mode.isPeriodic && isRunning) else { return }
      channel.count = new
      channel.loadedAt = now + 1
      channel.stoppedAfter = channel.gate ? nil : 0
    }
  }

  mutating func read(now: Int) -> UInt8 {
    advance(to: now)
    if let status = latchedStatus {
      latchedStatus = nil
      return status
    }
    let value = latchedCount ?? encoded(now)
    switch access {
    case .latch: return 0
    case .low:
      latchedCount = nil
      return UInt8(truncatingIfNeeded: value)
    case .high:
      latchedCount = nil
      return UInt8(truncatingIfNeeded: value >> 8)
    case .lowThenHigh:
      defer { readsHigh.toggle() }
      guard readsHigh else { return UInt8(truncatingIfNeeded: value) }
      latchedCount = nil
      return UInt8(truncatingIfNeeded: value >> 8)
    }
  }

  private func encoded(_ now: Int) -> UInt16 {
    let value = value(now)
    guard isBCD else { return UInt16(truncatingIfNeeded: value) }
    return [1000, 100, 10, 1].reduce(0) { $0 << 4 | UInt16(truncatingIfNeeded: value / $1 % 10) }
  }

  /// "Counter Latch Command": a count latched before stays.
  mutating func latchCount(now: Int) {
    advance(to: now)
    if latchedCount == nil { latchedCount = encoded(now) }
  }

  /// "Read-Back Command" with STATUS low.
  mutating func latchStatus(now: Int) {
    advance(to: now)
    guard latchedStatus == nil else { return }
    let isNull = !isArmed || nextCount != nil || loadedAt.map { $0 > now } ?? false
    latchedStatus =
      (output(now) ? 0x80 : 0) | (isNull ? 0x40 : 0) | access.rawValue << 4 | mode.rawValue << 1 | (isBCD ? 1 : 0)
  }
}
