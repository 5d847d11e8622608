/// The interrupt controllers that all processors share: the 8259A pair, the 8254 and the I/O APIC, with the wires
/// between them.
struct LegacyControllers: Sendable {
  static let inputCount = 24
  /// Guest-made timer periods do not wake the host more often than this, in nanoseconds; their ticks are counted.
  static let minimumTickInterval: UInt64 = 200_000

  /// Inputs reach the 8259A pair too; without it nothing programs the 8254 either.
  let hasPICs: Bool
  var pics = I8259APair()
  var pit = I8254()
  var ioapic = IOAPIC()
  private(set) var ticks = TickQueue()
  /// Inputs that their source holds up, one bit each.
  private var held: UInt32 = 0
  /// Inputs that a trigger raised and an end of interrupt lowers.
  private var triggered: UInt32 = 0
  /// Whether the HPET drives input 0 in place of the 8254.
  private(set) var isLegacyReplacement = false
  private var lastTick: UInt64 = 0
  private var floatingPointError = FloatingPointError()

  init(hasPICs: Bool = true) { self.hasPICs = hasPICs }

  /// The I/O APIC pin of an input: IRQ 0 is on pin 2, where no other input is.
  static func pin(of input: Int) -> Int? { input == 2 ? nil : input == 0 ? 2 : input }
  static func input(of pin: Int) -> Int? { pin == 0 ? nil : pin == 2 ? 0 : pin }

  private static func bit(_ input: Int) -> UInt32 { 1 << UInt32(truncatingIfNeeded: input & 31) }

  // MARK: Inputs

  /// A source that tells each change of its level.
  mutating func hold(_ input: Int, _ level: Bool) -> IOAPIC.Request? {
    if level { held |= Self.bit(input) } else { held &= ~Self.bit(input) }
    return drive(input)
  }

  /// A source that is lowered by the end of interrupt.
  mutating func trigger(_ input: Int) -> IOAPIC.Request? {
    triggered |= Self.bit(input)
    return drive(input)
  }

  /// An edge.
  mutating func pulse(_ input: Int) -> IOAPIC.Request? {
    let request = drive(input, true)
    _ = drive(input)
    return request
  }

  private mutating func drive(_ input: Int) -> IOAPIC.Request? {
    drive(input, (held | triggered) & Self.bit(input) != 0)
  }

  private mutating func drive(_ input: Int, _ level: Bool) -> IOAPIC.Request? {
    if hasPICs, input < 16 { pics.setInput(input, level) }
    return Self.pin(of: input).flatMap { ioapic.setInput($0, level) }
  }

  /// The processor ended an interrupt of the input. True: a trigger's source is to be told.
  mutating func end(_ input: Int) -> Bool {
    if input == 0 { ticks.acknowledge() }
    guard triggered & Self.bit(input) != 0 else { return false }
    triggered &= ~Self.bit(input)
    _ = drive(input)
    return true
  }

  // MARK: x87 errors

  /// FERR# is asserted: IRQ 13 is requested, unless IGNNE# is asserted too.
  mutating func raiseFloatingPointError() -> (isIgnored: Bool, request: IOAPIC.Request?) {
    floatingPointError.isRaised = true
    if floatingPointError.isIgnored { return (true, nil) }
    return (false, hold(FloatingPointError.input, true))
  }

  mutating func lowerFloatingPointError() { floatingPointError = FloatingPointError() }

  /// Port F0h ends the request and asserts IGNNE# while FERR# is asserted (82371SB datasheet, coprocessor error register).
  private mutating func ignoreFloatingPointError() {
    floatingPointError.isIgnored = floatingPointError.isRaised
    _ = hold(FloatingPointError.input, false)
  }

  // MARK: Timer

  /// Counts the 8254's ticks until `now`.
  mutating func countTicks(now: UInt64) {
    let edges = pit.takeEdges(now: now)
    guard edges > 0, !isLegacyReplacement else { return }
    lastTick = now
    ticks.add(edges)
  }

  /// The next tick that may be injected, as its edge on input 0; nil while there is none.
  mutating func injectTick() -> (request: IOAPIC.Request?, isLatched: Bool)? {
    guard ticks.take() else { return nil }
    let request = pulse(0)
    return (request, !pics.isMasked(0))
  }

  /// Whether anything took the tick; otherwise no end of interrupt will come.
  mutating func tickWasTaken(_ isTaken: Bool) { if !isTaken { ticks.clear() } }

  /// The guest reprogrammed channel 0 or unmasked IRQ 0: what it missed before does not concern it.
  mutating func forgetTicks() { ticks.clear() }

  private var isTickMasked: Bool { pics.isMasked(0) && ioapic.isMasked(2) }

  /// When `countTicks` is to be called next; nil where nothing would see it.
  var nextDeadline: UInt64? {
    guard !isLegacyReplacement, !isTickMasked, let next = pit.nextDeadline else { return nil }
    guard let period = pit.period, period < Self.minimumTickInterval else { return next }
    return max(next, lastTick &+ min(Self.minimumTickInterval, .max - lastTick))
  }

  mutating func setLegacyReplacement(_ enabled: Bool) {
    isLegacyReplacement = enabled
    ticks.clear()
  }

  // MARK: Registers

  mutating func read(port: UInt16, now: UInt64) -> UInt8 {
    switch port {
    case 0x20, 0x21: pics.read(isSlave: false, data: port & 1 != 0)
    case 0xA0, 0xA1: pics.read(isSlave: true, data: port & 1 != 0)
    case 0x4D0, 0x4D1: pics[elcr: port & 1 != 0]
    case 0x40...0x43: pit.read(Int(port & 3), now: now)
    case 0x61: pit.readSystemControl(now: now)
    default: 0xFF
    }
  }

  mutating func write(port: UInt16, _ value: UInt8, now: UInt64) {
    let wasMasked = pics.isMasked(0)
    switch port {
    case 0x20, 0x21: pics.write(isSlave: false, data: port & 1 != 0, value)
    case 0xA0, 0xA1: pics.write(isSlave: true, data: port & 1 != 0, value)
    case 0x4D0, 0x4D1: pics[elcr: port & 1 != 0] = value
    case 0x40...0x43:
      pit.write(Int(port & 3), value, now: now)
      if port == 0x40 || port == 0x43 && value >> 6 == 0 && value & I8254.ControlWord.latchCommandMask != 0 {
        ticks.clear()
      }
    case 0x61: pit.writeSystemControl(value, now: now)
    case FloatingPointError.port: ignoreFloatingPointError()
    default: break
    }
    if wasMasked, !pics.isMasked(0) { ticks.clear() }
  }

  mutating func writeIOAPIC(_ offset: UInt64, _ value: UInt32) -> IOAPIC.Request? {
    let before = ioapic.entries[2]
    let request = ioapic.write(offset, value)
    // With another vector the end of a tick in service would not be known.
    let changed = before ^ ioapic.entries[2]
    if changed & (IOAPIC.Entry.mask | IOAPIC.Entry.vector) != 0 { ticks.clear() }
    return request
  }
}

/// The way of an x87 exception to a PC's handler where CR0.NE is clear.
struct FloatingPointError {
  static let port: UInt16 = 0xF0
  static let input = 13

  /// FERR#.
  var isRaised = false
  /// IGNNE#: the processor goes on nevertheless.
  var isIgnored = false
}

/// Ticks of the 8254 that the guest has not seen.
///
/// Systems that count ticks for their clock expect each one. A tick that comes before the one before was ended waits
/// for that end of interrupt; a thousand may wait, further ones are lost. A tick that nobody takes is lost, as on
/// hardware.
struct TickQueue: Sendable {
  static let capacity = 1000

  private(set) var waiting = 0
  private(set) var isInService = false

  mutating func add(_ count: Int) { waiting = min(waiting + min(count, Self.capacity), Self.capacity) }

  /// Takes a tick for injection.
  mutating func take() -> Bool {
    // An end of interrupt that has not come for so long never will.
    guard waiting > 0, !isInService || waiting == Self.capacity else { return false }
    waiting -= 1
    isInService = true
    return true
  }

  mutating func acknowledge() { isInService = false }
  mutating func clear() { self = TickQueue() }
}
