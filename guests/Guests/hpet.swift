import CPU

/// IA-PC HPET 1.0a, 2.3.
@main enum HPET: Guest {
  static let name: StaticString = "hpet"
  static let base: UInt64 = 0xFED0_0000
  static let vector: UInt8 = 0x30

  static func run() {
    let capabilities = load64(base)
    let period = capabilities >> 32
    say("period \(period) fs, \((capabilities >> 8 & 0x1F) + 1) timers")
    guard check(period > 0 && period <= 0x05F5_E100, "the period is 100 ns or less") else { return }
    check(capabilities >> 16 & 0xFFFF == 0x8086, "the vendor is 8086")
    check(capabilities >> 8 & 0x1F >= 2, "there are 3 timers or more")

    store64(base + 0x10, 0)
    store64(base + 0xF0, 0x1000)
    check(load64(base + 0xF0) == 0x1000, "a stopped counter can be written")
    sleep(milliseconds: 5)
    check(load64(base + 0xF0) == 0x1000, "and stands still")
    store64(base + 0x10, 1)
    // Two stopwatches: a host may stand still between one clock's reading and the other's.
    var outer = Stopwatch()
    let start = load64(base + 0xF0)
    var inner = Stopwatch()
    sleep(milliseconds: 50)
    let least = inner.microseconds()
    let elapsed = (load64(base + 0xF0) - start) * period / 1_000_000_000
    let most = outer.microseconds()
    check(
      elapsed > least * 9 / 10 - 1000 && elapsed < most * 11 / 10 + 1000,
      "enabled, it counts \(elapsed) us in \(least) to \(most)")
    let whole = load64(base + 0xF0)
    let half = load32(base + 0xF0)
    check(half &- UInt32(truncatingIfNeeded: whole) < 1 << 24, "a 32-bit read gives its low half")
    legacy(UInt32(truncatingIfNeeded: 10_000_000_000_000 / period))
    routed(UInt32(truncatingIfNeeded: 10_000_000_000_000 / period))
  }

  /// Timer 0 in place of the PIT: IRQ 0, IOAPIC pin 2.
  static func legacy(_ tenMilliseconds: UInt32) {
    IOAPIC.route(pin: 2, to: vector)
    outb(0x43, 0x34)
    outb(0x40, 0x9C)
    outb(0x40, 0x2E)
    check(Interrupts.wait(for: vector), "the PIT is at IOAPIC pin 2")
    store32(base + 0x10, 3)
    check(load32(base + 0x10) & 3 == 3, "legacy replacement can be enabled")
    // A loaded host may be late with what the PIT had under way.
    var quiet = false
    for _ in 0..<5 where !quiet { quiet = silent(milliseconds: 100) }
    check(quiet, "it takes IRQ 0 from the PIT")
    interrupts(tenMilliseconds, config: 0)
    store32(base + 0x10, 1)
    check(Interrupts.wait(for: vector), "without it the PIT is back")
    // Mode 0: the PIT ends.
    outb(0x43, 0x30)
    outb(0x40, 1)
    outb(0x40, 0)
    IOAPIC.route(pin: 2, to: nil)
  }

  /// Timer 0 at a pin of its own. QEMU with KVM's IOAPIC offers pin 2 but does not deliver it: another, or none.
  static func routed(_ tenMilliseconds: UInt32) {
    let allowed = load32(base + 0x104)
    guard check(allowed != 0, "timer 0 has routes: \(hex: allowed)") else { return }
    let pin = UInt32((allowed & ~0x4).trailingZeroBitCount)
    guard pin < 24 else { return say("none but pin 2") }
    IOAPIC.route(pin: pin, to: vector)
    interrupts(tenMilliseconds, config: pin << 9)
    IOAPIC.route(pin: pin, to: nil)
  }

  static func interrupts(_ tenMilliseconds: UInt32, config: UInt32) {
    // One shot: edge, enabled, 32-bit mode, in which the comparator is set by one write on every implementation.
    var watch = Stopwatch()
    check(
      Interrupts.wait(for: vector, after: { start(config | 0x104, in: tenMilliseconds, period: nil) }),
      "a one-shot interrupt")
    let microseconds = watch.microseconds()
    check(microseconds >= 9_900, "not before its time: \(microseconds) us")
    check(silent(), "and it comes once")

    guard load32(base + 0x100) & 0x10 != 0 else { return say("timer 0 is not periodic") }
    // Periodic: bit 3; bit 6 lets the next write set the accumulator.
    start(config | 0x14C, in: tenMilliseconds, period: tenMilliseconds)
    check(Interrupts.wait(for: vector, more: 5), "5 periodic interrupts")
    store32(base + 0x100, 0)
  }

  /// Configures timer 0 and sets its comparator `ticks` ahead; again where a loaded host let that time pass meanwhile, for
  /// the counter would have to go round.
  static func start(_ config: UInt32, in ticks: UInt32, period: UInt32?) {
    let count = Interrupts.count(vector)
    var isAhead = false
    while !isAhead, Interrupts.count(vector) == count {
      store32(base + 0x100, config)
      let comparator = load32(base + 0xF0) &+ ticks
      store32(base + 0x108, comparator)
      if let period { store32(base + 0x108, period) }
      isAhead = Int32(bitPattern: comparator &- load32(base + 0xF0)) > 0
    }
  }

  /// Whether no interrupt comes in the time.
  static func silent(milliseconds: UInt64 = 30) -> Bool {
    !Interrupts.wait(for: vector, milliseconds: milliseconds)
  }
}
