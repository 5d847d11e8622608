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
    var watch = Stopwatch()
    let start = load64(base + 0xF0)
    sleep(milliseconds: 50)
    let elapsed = (load64(base + 0xF0) - start) * period / 1_000_000_000
    let microseconds = watch.microseconds()
    check(
      elapsed > microseconds * 9 / 10 - 1000 && elapsed < microseconds * 11 / 10 + 1000,
      "enabled, it counts \(elapsed) us in \(microseconds)")
    let whole = load64(base + 0xF0)
    let half = load32(base + 0xF0)
    check(half &- UInt32(truncatingIfNeeded: whole) < 1 << 24, "a 32-bit read gives its low half")
    timers(period)
  }

  static func timers(_ period: UInt64) {
    let allowed = UInt32(truncatingIfNeeded: load64(base + 0x100) >> 32)
    guard check(allowed != 0, "timer 0 has routes: \(hex: allowed)") else { return }
    let pin = UInt32(allowed.trailingZeroBitCount)
    // The PIT may be at the same pin, and runs after a reset: in mode 0 it ends.
    outb(0x43, 0x30)
    outb(0x40, 1)
    outb(0x40, 0)
    sleep(milliseconds: 1)
    IOAPIC.route(pin: pin, to: vector)
    // One shot: edge, enabled, 32-bit mode, in which the comparator is set by one write on every implementation.
    store32(base + 0x100, pin << 9 | 0x104)
    let tenMilliseconds = UInt32(truncatingIfNeeded: 10_000_000_000_000 / period)
    var watch = Stopwatch()
    check(
      Interrupts.wait(for: vector, after: { store32(base + 0x108, load32(base + 0xF0) &+ tenMilliseconds) }),
      "a one-shot interrupt at IOAPIC pin \(pin)")
    let microseconds = watch.microseconds()
    check(microseconds >= 9_900, "not before its time: \(microseconds) us")
    let before = Interrupts.count(vector)
    sti()
    sleep(milliseconds: 20)
    cli()
    check(Interrupts.count(vector) == before, "and it comes once")

    guard load64(base + 0x100) & 0x10 != 0 else { return say("timer 0 is not periodic") }
    // Periodic: bit 3; bit 6 lets the next write set the accumulator.
    store32(base + 0x100, pin << 9 | 0x14C)
    store32(base + 0x108, load32(base + 0xF0) &+ tenMilliseconds)
    store32(base + 0x108, tenMilliseconds)
    check(Interrupts.wait(for: vector, more: 5), "5 periodic interrupts")
    store32(base + 0x100, 0)
    IOAPIC.route(pin: pin, to: nil)
  }
}
