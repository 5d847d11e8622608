import CPU

/// PIT by way of the PIC and of the IOAPIC, the local APIC's timer, and the TSC.
@main enum InterruptsGuest: Guest {
  static let name: StaticString = "interrupts"
  static let timer: UInt8 = 0x30
  static let ioapicTimer: UInt8 = 0x31

  static func run() {
    clocks()
    pit()
    pic()
    ioapic()
    localTimer()
  }

  static func clocks() {
    let first = tscFrequency()
    let second = tscFrequency()
    say("TSC \(first / 1000) kHz")
    check(first > 100_000_000 && first < 10_000_000_000, "the TSC runs at 0.1 to 10 GHz")
    check(first < second * 5 / 4 && second < first * 5 / 4, "and evenly: \(second / 1000) kHz")
    var last = rdtsc()
    var monotonic = true
    for _ in 0..<1000 {
      let now = rdtsc()
      monotonic = monotonic && now >= last
      last = now
    }
    check(monotonic, "it never goes back")
  }

  /// Channel 0, mode 2.
  static func startPIT(_ divisor: UInt16) {
    outb(0x43, 0x34)
    outb(0x40, UInt8(truncatingIfNeeded: divisor))
    outb(0x40, UInt8(truncatingIfNeeded: divisor >> 8))
  }

  static func pit() {
    startPIT(11932)
    outb(0x43, 0xE2)
    let status = inb(0x40)
    check(status & 0x3F == 0x34, "read-back gives the mode: \(hex: status)")
    var seen: UInt16 = 0
    var within = true
    for _ in 0..<100 {
      outb(0x43, 0x00)
      let count = UInt16(inb(0x40)) | UInt16(inb(0x40)) << 8
      within = within && count <= 11932
      seen |= count
    }
    check(within && seen != 0, "channel 0 counts down from its divisor")

    // Channel 2, mode 0, gate and output at port 61.
    outb(0x61, inb(0x61) & 0xFC | 1)
    outb(0x43, 0xB0)
    outb(0x42, 0xFF)
    var watch = Stopwatch()
    outb(0x42, 0x2F)
    check(inb(0x61) & 0x20 == 0, "channel 2 starts with its output low")
    check(eventually { inb(0x61) & 0x20 != 0 }, "and raises it at the end")
    let microseconds = watch.microseconds()
    check(microseconds > 9_000, "not too early: \(microseconds) us for 10298")
    outb(0x61, inb(0x61) & 0xFC)
  }

  static func pic() {
    let vector = PIC.vector(irq: 0)
    outb(0x21, 0xA5)
    check(inb(0x21) == 0xA5, "the PIC's mask can be read")
    PIC.maskAll()
    check(Interrupts.none(for: vector, milliseconds: 30), "a masked IRQ 0 stays away")
    PIC.unmask(irq: 0)
    var watch = Stopwatch()
    check(Interrupts.wait(for: vector, more: 10), "10 times IRQ 0 through the PIC")
    let microseconds = watch.microseconds()
    check(microseconds > 60_000, "at 100 Hz: \(microseconds) us")

    let start = Interrupts.count(vector)
    for _ in 0..<3 { sti_hlt() }
    cli()
    check(Interrupts.count(vector) >= start + 3, "HLT wakes for each")
    PIC.maskAll()
  }

  static func ioapic() {
    let version = IOAPIC[1]
    let pins = version >> 16 & 0xFF
    say("IOAPIC version \(hex: version & 0xFF), last pin \(pins)")
    check(pins >= 23, "the IOAPIC has 24 pins")
    check(IOAPIC[0x10] & 0x1_0000 != 0, "they are masked")
    // IRQ 0 arrives at pin 2.
    IOAPIC.route(pin: 2, to: ioapicTimer)
    check(Interrupts.wait(for: ioapicTimer, more: 10), "10 times IRQ 0 through the IOAPIC")
    IOAPIC.route(pin: 2, to: nil)
    check(Interrupts.none(for: ioapicTimer, milliseconds: 30), "none once the pin is masked")
  }

  static func localTimer() {
    check(LocalAPIC[.version] & 0xF0 == 0x10, "the local APIC is integrated")
    LocalAPIC[.divide] = 0x3
    LocalAPIC[.timer] = UInt32(timer)
    check(
      Interrupts.wait(for: timer, after: { LocalAPIC[.initialCount] = 1_000_000 }), "a one-shot timer interrupt")
    check(LocalAPIC[.currentCount] == 0, "the count ends at 0")
    let before = Interrupts.count(timer)
    sti()
    sleep(milliseconds: 20)
    cli()
    check(Interrupts.count(timer) == before, "and it comes once")
    LocalAPIC[.timer] = 0x2_0000 | UInt32(timer)
    check(
      Interrupts.wait(for: timer, more: 5, after: { LocalAPIC[.initialCount] = 500_000 }), "5 periodic interrupts")
    LocalAPIC[.initialCount] = 0
    LocalAPIC[.timer] = 0x1_0000

    guard cpuid(1, 0).ecx & (1 << 24) != 0 else { return say("no TSC-deadline timer") }
    LocalAPIC[.timer] = 0x4_0000 | UInt32(timer)
    let deadline = rdtsc() + 10_000_000
    check(Interrupts.wait(for: timer, after: { wrmsr(0x6E0, deadline) }), "a TSC-deadline interrupt")
    check(rdtsc() >= deadline && rdmsr(0x6E0) == 0, "not before its time")
    LocalAPIC[.timer] = 0x1_0000
  }
}
