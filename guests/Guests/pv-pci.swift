import CPU

/// The PCI bus that mode pv has with a PCI device: started by `--mode pv --net user,model=e1000`.
@main enum PVPCI: Guest {
  static let name: StaticString = "pv-pci"
  static let card = PCIFunction(device: 1)
  static let registers: UInt64 = 0xE000_0000
  static let vector: UInt8 = 0x30
  /// INTA# of slot 1.
  static let input: UInt32 = 20

  static let linkChanged: UInt32 = 4
  /// How often the interrupt had its cause.
  static var changes: UInt32 { load32(Memory.a) }

  /// 82540EM (8254x manual, 13.4).
  enum Register {
    static let status: UInt64 = 0x0008
    static let causeRead: UInt64 = 0x00C0
    static let causeSet: UInt64 = 0x00C8
    static let maskSet: UInt64 = 0x00D0
  }

  static func run() {
    check(PCIFunction(device: 0).id == 0x0008_1B36, "00.0 is the bridge")
    check(PCIFunction(device: 0).read16(0x0A) == 0x0600, "of the host")
    check(card.id == 0x100E_8086, "01.0 is the card")
    var others = 0
    for device in 2..<32 as Range<UInt8> where PCIFunction(device: device).id != 0xFFFF_FFFF { others += 1 }
    check(others == 0, "and there is nothing else")

    card.write32(0x10, UInt32(registers))
    check(load32(registers + Register.status) == 0xFFFF_FFFF, "its registers are not there")
    card.enable(2)
    check(load32(registers + Register.status) != 0xFFFF_FFFF, "until they are decoded")

    LocalAPIC.start()
    IOAPIC[0x11 + 2 * input] = LocalAPIC[.id]
    // Level-triggered, active low.
    IOAPIC[0x10 + 2 * input] = UInt32(vector) | 0xA000
    // Hosts that interpret ring 0 end an interrupt as they begin it, and so show it again.
    Interrupts.handler = { _ in
      guard load32(PVPCI.registers + Register.causeRead) & PVPCI.linkChanged != 0 else { return }
      store32(Memory.a, PVPCI.changes + 1)
    }
    store32(Memory.a, 0)
    store32(registers + Register.maskSet, linkChanged)
    sti()
    for round in 1...3 as ClosedRange<UInt32> {
      store32(registers + Register.causeSet, linkChanged)
      // There is no timer to wait by but the TSC, of 10 GHz at most; hosts that interpret ring 0 look at interrupts at an
      // exit.
      let latest = rdtsc() + patience * 10_000_000
      while changes < round, rdtsc() < latest { _ = card.id }
      check(changes == round, "interrupt \(round) of its pin")
    }
    cli()
  }
}
