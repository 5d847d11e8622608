import CPU

@main enum CMOSGuest: Guest {
  static let name: StaticString = "cmos"
  static let vector = PIC.vector(irq: 8)

  static func run() {
    check(CMOS.read(0x0D) & 0x80 != 0, "register D says that the RAM and time are valid")
    CMOS.write(0x0A, 0x26)
    CMOS.write(0x0B, 0x02)
    time()
    ram()
    interrupts()
  }

  static func time() {
    check(eventually { CMOS.read(0x0A) & 0x80 == 0 }, "UIP is clear at some time")
    let (hours, minutes, seconds) = (CMOS.time(4), CMOS.time(2), CMOS.time(0))
    let (day, month, year) = (CMOS.time(7), CMOS.time(8), CMOS.time(9))
    say("\(year)-\(month)-\(day) \(hours):\(minutes):\(seconds)")
    check(hours < 24 && minutes < 60 && seconds < 60, "the time is one")
    check(day >= 1 && day <= 31 && month >= 1 && month <= 12 && year < 100, "the date is one")
    let century = CMOS.time(0x32)
    check(century == 20 || century == 21, "the century is \(century)")

    _ = eventually { CMOS.time(0) != seconds }
    var microseconds: UInt64 = 0
    // A busy host may be late with one.
    for _ in 0..<5 where microseconds < 700_000 || microseconds > 1_500_000 {
      let start = CMOS.time(0)
      var watch = Stopwatch()
      guard check(eventually { CMOS.time(0) != start }, "the seconds go on") else { return }
      microseconds = watch.microseconds()
    }
    check(microseconds > 700_000 && microseconds < 1_500_000, "a second is one: \(microseconds) us")
    // It is for 2.2 ms of each second, which a busy host may pass over.
    check(eventually { CMOS.read(0x0A) & 0x80 != 0 }, "UIP is set before an update")
    // 8.5: at least 244 us remain once UIP is seen clear; it is set for 2.2 ms at most.
    check(eventually { CMOS.read(0x0A) & 0x80 == 0 }, "and clear after it")
  }

  static func ram() {
    let old = CMOS.read(0x70)
    CMOS.write(0x70, 0x5A)
    CMOS.write(0x71, 0xA5)
    check(CMOS.read(0x70) == 0x5A && CMOS.read(0x71) == 0xA5, "RAM keeps what is written")
    CMOS.write(0x70, old)
    CMOS.write(0x71, 0)
  }

  static func interrupts() {
    PIC.unmask(irq: 8)
    _ = CMOS.read(0x0C)
    // Rate 6 is 1024 Hz. Each interrupt is acknowledged by reading register C.
    CMOS.write(0x0B, 0x42)
    var watch = Stopwatch()
    var taken = 0
    while taken < 64, Interrupts.wait(for: vector, after: { _ = CMOS.read(0x0C) }) { taken += 1 }
    let microseconds = watch.microseconds()
    check(taken == 64, "64 periodic interrupts on IRQ 8")
    check(microseconds > 50_000, "at 1024 Hz or less: \(microseconds) us")
    CMOS.write(0x0B, 0x02)
    _ = CMOS.read(0x0C)
    check(Interrupts.none(for: vector, milliseconds: 20), "none once PIE is clear")

    CMOS.write(0x0B, 0x12)
    check(Interrupts.wait(for: vector), "an update-ended interrupt")
    let flags = CMOS.read(0x0C)
    check(flags & 0x90 == 0x90, "register C says UF and IRQF: \(hex: flags)")
    // PF comes at the periodic rate whether PIE is set or not.
    check(CMOS.read(0x0C) & 0x90 == 0, "and neither when read again")

    // Alarm at any hour, minute and second: 0xC0 and up do not care (table 3 of the data sheet).
    CMOS.write(1, 0xC0)
    CMOS.write(3, 0xC0)
    CMOS.write(5, 0xC0)
    CMOS.write(0x0B, 0x22)
    check(Interrupts.wait(for: vector), "an alarm interrupt")
    check(CMOS.read(0x0C) & 0xA0 == 0xA0, "register C says AF and IRQF")
    CMOS.write(0x0B, 0x02)
  }
}
