import CPU

/// The disk is the test disk: its sectors start with their number. Sectors 4096 and up are written to.
@main enum IDEPIO: Guest {
  static let name: StaticString = "ide-pio"
  static let disk = ATADrive(channel: 0, unit: 0)

  static func run() {
    ATADrive.startController()
    disk.softwareReset()
    disk.select()
    // ATA-4, 9.12: the signature of a device that is not a packet device.
    check(inb(disk.command + 2) == 1 && inb(disk.command + 3) == 1, "the signature says disk after a reset")
    check(inb(disk.command + 4) == 0 && inb(disk.command + 5) == 0, "cylinder low and high are 0 after a reset")

    guard check(disk.identify(to: Memory.a), "IDENTIFY DEVICE") else { return }
    let capabilities = load16(Memory.a + 2 * 49)
    let sectors = load32(Memory.a + 2 * 60)
    let commandSets = load16(Memory.a + 2 * 83)
    say("sectors \(sectors), command sets \(hex: commandSets)")
    check(load16(Memory.a) & 0x8000 == 0, "word 0 says ATA device")
    check(capabilities & 0x300 == 0x300, "word 49 says LBA and DMA")
    guard check(sectors >= 8192, "word 60 says 8192 sectors or more") else { return }

    var ordered = disk.read(lba: 0, count: 8, to: Memory.a)
    for lba in 0..<UInt64(8) { ordered = ordered && Memory.number(at: Memory.a + 512 * lba) == UInt32(lba) }
    check(ordered, "READ SECTORS reads sectors 0 to 7")
    check(disk.read(lba: 4095, to: Memory.a) && Memory.number(at: Memory.a) == 4095, "READ SECTORS reads sector 4095")

    // A count of 0 is 256 sectors.
    disk.issue(0x20, lba: 100, count: 0)
    var blocks: UInt64 = 0
    while blocks < 256, disk.takeBlock(to: Memory.a + 512 * blocks) { blocks += 1 }
    check(
      blocks == 256 && disk.succeeded() && Memory.number(at: Memory.a + 255 * 512) == 355,
      "READ SECTORS with count 0 reads 256 sectors")

    Memory.fill(Memory.a, bytes: 4 * 512, seed: 0x1D3)
    check(disk.write(lba: 4100, count: 4, from: Memory.a), "WRITE SECTORS")
    check(disk.flush(), "FLUSH CACHE")
    check(
      disk.read(lba: 4100, count: 4, to: Memory.b) && Memory.equal(Memory.a, Memory.b, bytes: 4 * 512),
      "what was written is read back")
    check(
      disk.read(lba: 4104, to: Memory.b) && Memory.number(at: Memory.b) == 4104, "the sector behind it is untouched")

    multiple()
    if commandSets & 0x400 != 0 { extended() }
    wrong(sectors: sectors)
    interrupt()
  }

  static func multiple() {
    disk.issue(0xC6, count: 4)
    guard check(disk.succeeded(), "SET MULTIPLE MODE to 4") else { return }
    disk.issue(0xC4, lba: 20, count: 6)
    let both = disk.takeBlock(to: Memory.b, bytes: 2048) && disk.takeBlock(to: Memory.b + 2048, bytes: 1024)
    check(
      both && disk.succeeded() && Memory.number(at: Memory.b + 5 * 512) == 25, "READ MULTIPLE gives 4 sectors, then 2")
    disk.issue(0xC5, lba: 4200, count: 6)
    let given = disk.giveBlock(from: Memory.a, bytes: 2048) && disk.giveBlock(from: Memory.a + 2048, bytes: 1024)
    check(given && disk.succeeded(), "WRITE MULTIPLE takes 4 sectors, then 2")
    check(
      disk.read(lba: 4200, count: 4, to: Memory.b) && Memory.equal(Memory.a, Memory.b, bytes: 2048), "and wrote them")
  }

  static func extended() {
    disk.issueExtended(0x24, lba: 4099, count: 1)
    let taken = disk.takeBlock(to: Memory.b)
    check(taken && disk.succeeded() && Memory.number(at: Memory.b) == 4099, "READ SECTORS EXT reads sector 4099")
    disk.issueExtended(0x34, lba: 4300, count: 1)
    let given = disk.giveBlock(from: Memory.a)
    check(given && disk.succeeded(), "WRITE SECTORS EXT")
    disk.issue(0xEA)
    check(disk.succeeded(), "FLUSH CACHE EXT")
    check(disk.read(lba: 4300, to: Memory.b) && Memory.equal(Memory.a, Memory.b, bytes: 512), "and it is there")
  }

  static func wrong(sectors: UInt32) {
    check(disk.read(lba: sectors - 1, to: Memory.b), "the last sector is read")
    disk.issue(0x20, lba: sectors, count: 1)
    let status = disk.settled() ?? 0
    let error = disk.errorRegister
    check(status & ATADrive.error != 0 && status & ATADrive.dataRequest == 0, "a read behind the end sets ERR, not DRQ")
    check(error & (ATADrive.idNotFound | ATADrive.aborted) != 0, "and IDNF or ABRT: \(hex: error)")
    disk.issue(0xFF)
    check(
      (disk.settled() ?? 0) & ATADrive.error != 0 && disk.errorRegister & ATADrive.aborted != 0,
      "an unknown command aborts")
    check(disk.read(lba: 1, to: Memory.b) && Memory.number(at: Memory.b) == 1, "the next command works")
  }

  static func interrupt() {
    let vector = PIC.vector(irq: disk.irq)
    _ = disk.status
    PIC.unmask(irq: disk.irq)
    disk.disableInterrupt(false)
    check(Interrupts.wait(for: vector, after: { disk.issue(0x20, lba: 2, count: 1) }), "IRQ 14 says that data is there")
    disk.takeBlock(to: Memory.b)
    check(disk.succeeded() && Memory.number(at: Memory.b) == 2, "and it is sector 2")
    disk.disableInterrupt(true)
    let before = Interrupts.count(vector)
    sti()
    _ = disk.read(lba: 3, to: Memory.b)
    sleep(milliseconds: 5)
    cli()
    check(Interrupts.count(vector) == before, "nIEN holds IRQ 14 back")
  }
}
