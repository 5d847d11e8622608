import CPU

/// Bus-master DMA (82371SB, 2.7; "Programming Interface for Bus Master IDE Controller" 1.0) on the test disk.
@main enum IDEDMA: Guest {
  static let name: StaticString = "ide-dma"
  static let disk = ATADrive(channel: 0, unit: 0)
  /// The physical region descriptors.
  static let table: UInt64 = Memory.c

  static func run() {
    ATADrive.startController()
    disk.softwareReset()
    PIC.unmask(irq: disk.irq)
    check(ATADrive.controller.read32(0x20) == UInt32(ATADrive.busMaster) | 1, "BAR 4 is where it was put")
    outl(disk.busMaster + 4, UInt32(table) | 3)
    check(inl(disk.busMaster + 4) == UInt32(table), "the table's address is a multiple of 4")

    // Three pieces, none on a sector's boundary, and not in the order of the addresses.
    describe(0, Memory.a + 0x3000, 100)
    describe(1, Memory.a, 1000)
    describe(2, Memory.a + 0x2002, 2048 - 1100, last: true)
    check(transfer(0xC8, lba: 10, count: 4), "READ DMA of 4 sectors into three pieces ends with IRQ 14")
    check(Memory.number(at: Memory.a + 0x3000) == 10, "the first piece starts with sector 10")
    check(Memory.number(at: Memory.a + 412) == 11, "the second has the start of sector 11")
    check(Memory.number(at: Memory.a + 412 + 512) == 12, "and of sector 12")
    check(Memory.number(at: Memory.a + 0x2002 + 436) == 13, "the third has the start of sector 13")

    let pages: UInt64 = 16
    Memory.fill(Memory.a, bytes: pages * 4096, seed: 0xD3A)
    for page in 0..<pages { describe(page, Memory.a + 4096 * page, 4096, last: page == pages - 1) }
    check(transfer(0xCA, lba: 5000, count: 128), "WRITE DMA of 128 sectors from 16 pages")
    check(disk.flush(), "FLUSH CACHE")
    Memory.clear(Memory.b, bytes: 64)
    // A size of 0 is 64 KiB.
    describe(0, Memory.b, 0, last: true)
    check(transfer(0xC8, lba: 5000, count: 128), "READ DMA of 64 KiB into one piece")
    check(Memory.equal(Memory.a, Memory.b, bytes: pages * 4096), "what was written is read back")
    check(disk.read(lba: 5127, to: Memory.b) && Memory.equal(Memory.a + 127 * 512, Memory.b, bytes: 512), "by PIO too")

    describe(0, Memory.b, 512, last: true)
    let extended = transfer(0x25, count: 1) { disk.issueExtended(0x25, lba: 7, count: 1) }
    check(extended && Memory.number(at: Memory.b) == 7, "READ DMA EXT reads sector 7")

    wrong()
  }

  static func wrong() {
    _ = disk.identify(to: Memory.a)
    let sectors = load32(Memory.a + 2 * 60)
    Memory.clear(Memory.b, bytes: 512)
    describe(0, Memory.b, 512, last: true)
    check(!transfer(0xC8, lba: sectors, count: 1), "READ DMA behind the end fails")
    check(disk.errorRegister & (ATADrive.idNotFound | ATADrive.aborted) != 0, "with IDNF or ABRT")
    check(load32(Memory.b) == 0, "and moves nothing")
    describe(0, Memory.b, 512, last: true)
    check(transfer(0xC8, lba: 8, count: 1) && Memory.number(at: Memory.b) == 8, "the next transfer works")
  }

  static func describe(_ index: UInt64, _ address: UInt64, _ bytes: UInt64, last: Bool = false) {
    store32(table + 8 * index, UInt32(address))
    store32(table + 8 * index + 4, UInt32(bytes & 0xFFFF) | (last ? 0x8000_0000 : 0))
  }

  /// Whether the command ended with an interrupt, an idle bus master and no error. INTRQ is on for it alone: an
  /// interrupt of a command that was polled may come late.
  static func transfer(_ command: UInt8, lba: UInt32 = 0, count: UInt8, issue: (() -> Void)? = nil) -> Bool {
    let toMemory: UInt8 = command == 0xCA ? 0 : 8
    outb(disk.busMaster, toMemory)
    outb(disk.busMaster + 2, 0x06)
    outl(disk.busMaster + 4, UInt32(table))
    _ = disk.status
    disk.disableInterrupt(false)
    defer { disk.disableInterrupt(true) }
    let interrupted = Interrupts.wait(for: PIC.vector(irq: disk.irq)) {
      if let issue { issue() } else { disk.issue(command, lba: lba, count: count) }
      outb(disk.busMaster, toMemory | 1)
    }
    let status = inb(disk.busMaster + 2)
    outb(disk.busMaster, toMemory)
    outb(disk.busMaster + 2, 0x06)
    // Bit 0 active, 1 error, 2 interrupt.
    return interrupted && status & 0x07 == 0x04 && disk.succeeded()
  }
}
