import CPU

/// The test device: registers, edge- and level-triggered interrupts that cross from the device process, and a doorbell
/// that the vCPU does not wait for.
@main enum Doorbell: Guest {
  static let name: StaticString = "doorbell"

  private static let echo: UInt16 = 0xE0
  private static let pulse: UInt16 = 0xE4
  private static let level: UInt16 = 0xE8
  private static let bell: UInt16 = 0xEC
  private static let levelVector: UInt8 = 0x32
  private static let levelInput: UInt32 = 11

  static func run() {
    outl(echo, 0xDEAD_BEEF)
    check(inl(echo) == 0xDEAD_BEEF, "a register keeps 32 bits")
    check(inb(echo + 1) == 0xBE, "and gives a byte of them")

    PIC.start()
    LocalAPIC.start()
    PIC.unmask(irq: 5)
    edges()
    doorbells()
    PIC.maskAll()
    levels()
  }

  private static func edges() {
    let vector = PIC.vector(irq: 5)
    for _ in 0..<10 {
      guard check(Interrupts.wait(for: vector, after: { outl(pulse, 5) }), "a pulse of input 5") else { return }
    }
  }

  private static func doorbells() {
    let vector = PIC.vector(irq: 5)
    outl(echo, 5)
    for _ in 0..<10 {
      guard check(Interrupts.wait(for: vector, after: { outl(bell, 0) }), "the doorbell's interrupt") else { return }
    }
    check(Interrupts.wait(for: vector, after: { outb(bell, 0) }), "a byte rings it too")
  }

  private static func levels() {
    let vector = UInt32(levelVector)
    // Level-triggered, active high.
    IOAPIC[0x11 + 2 * levelInput] = LocalAPIC[.id]
    IOAPIC[0x10 + 2 * levelInput] = vector | 0x8000
    check(
      Interrupts.wait(for: levelVector, more: 3, after: { outl(level, 1 << levelInput) }),
      "a level that stays interrupts again and again")
    outl(level, 0)
    check(Interrupts.none(for: levelVector, milliseconds: 50), "a level that is gone does not")
    IOAPIC.route(pin: levelInput, to: nil)
  }
}
