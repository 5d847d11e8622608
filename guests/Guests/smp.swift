import CPU

/// Starts every processor that fw_cfg counts, 64 at most, and sends each an interrupt.
@main enum SMP: Guest {
  static let name: StaticString = "smp"
  static let vector: UInt8 = 0x30
  /// What the processors share, in memory that the image does not use: a counter, then 64 words of APIC ID + 1.
  static let arrived = Memory.a
  static let ids = Memory.a + 64

  static func run() {
    let processors = FirmwareConfig.processors
    say("\(processors) processors")
    guard check(processors >= 1 && processors <= 64, "fw_cfg counts 1 to 64") else { return }
    Memory.clear(Memory.a, bytes: 1024)
    check(rdmsr(0x1B) & 0x100 != 0, "this is the bootstrap processor")
    startProcessors(processors - 1) { load32(arrived) }
    check(load32(arrived) == processors - 1, "\(load32(arrived)) others have started")
    check(processors_started() == processors - 1, "each of them once")
    guard processors > 1 else { return }

    var distinct = true
    let own = LocalAPIC[.id] >> 24
    for index in 0..<UInt64(processors - 1) {
      let id = load32(ids + 4 * index)
      distinct = distinct && id != 0 && id != own + 1
      for other in 0..<index where load32(ids + 4 * other) == id { distinct = false }
    }
    check(distinct, "their APIC IDs differ")

    var answered: UInt32 = 0
    for index in 0..<UInt64(processors - 1) {
      let before = Interrupts.count(vector)
      LocalAPIC.send(0x4000 | UInt32(vector), to: UInt8(truncatingIfNeeded: load32(ids + 4 * index) - 1))
      if eventually(patience, { Interrupts.count(vector) == before + 1 }) { answered += 1 }
    }
    check(answered == processors - 1, "\(answered) answer an interrupt of their own")

    let before = Interrupts.count(vector)
    LocalAPIC.send(0xC4000 | UInt32(vector))
    check(eventually { Interrupts.count(vector) == before + processors - 1 }, "all answer one to all but self")
  }
}

/// Where start.s leaves a processor: 64-bit mode, a stack of its own, interrupts off.
@c(ap_main)
func applicationProcessor(_ index: UInt32) {
  LocalAPIC.start()
  store32(SMP.ids + 4 * UInt64(index), (LocalAPIC[.id] >> 24) + 1)
  _ = atomic_increment(SMP.arrived)
  while true { sti_hlt() }
}
