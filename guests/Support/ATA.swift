import CPU

/// One drive of the PIIX3's IDE function, by its legacy ports.
struct ATADrive {
  /// The primary channel's device 0 is `ATADrive(channel: 0, unit: 0)`.
  var channel: UInt16
  var unit: UInt8

  static let controller = PCIFunction(device: 1, function: 1)
  /// Where `startController` puts the bus-master registers.
  static let busMaster: UInt16 = 0xC000

  var command: UInt16 { channel == 0 ? 0x1F0 : 0x170 }
  var control: UInt16 { channel == 0 ? 0x3F6 : 0x376 }
  var busMaster: UInt16 { Self.busMaster + 8 * channel }
  var irq: UInt8 { channel == 0 ? 14 : 15 }

  static let error: UInt8 = 0x01
  static let dataRequest: UInt8 = 0x08
  static let deviceFault: UInt8 = 0x20
  static let ready: UInt8 = 0x40
  static let busy: UInt8 = 0x80
  /// The error register's ABRT and IDNF.
  static let aborted: UInt8 = 0x04
  static let idNotFound: UInt8 = 0x10

  /// What firmware would have done (82371SB, 2.3): decode both channels, place BAR 4, allow I/O and bus mastering.
  static func startController() {
    controller.write16(0x40, 0x8000)
    controller.write16(0x42, 0x8000)
    controller.write32(0x20, UInt32(busMaster))
    controller.enable(0x5)
  }

  var status: UInt8 { inb(command + 7) }
  var errorRegister: UInt8 { inb(command + 1) }

  /// Waits for BSY to clear; nil when it does not.
  func settled() -> UInt8? {
    var status: UInt8 = 0xFF
    let done = eventually {
      status = inb(control)
      return status & Self.busy == 0
    }
    return done ? status : nil
  }

  /// Selects the drive with bits 27:24 of the address (or with none, and LBA set).
  func select(_ high: UInt8 = 0) {
    outb(command + 6, 0xE0 | unit << 4 | high & 0x0F)
    for _ in 0..<4 { _ = inb(control) }
  }

  /// nIEN: whether INTRQ is held back.
  func disableInterrupt(_ disabled: Bool) { outb(control, disabled ? 0x0A : 0x08) }

  /// SRST. Interrupts are disabled afterwards.
  func softwareReset() {
    outb(control, 0x0E)
    sleep(milliseconds: 1)
    outb(control, 0x0A)
    _ = settled()
  }

  /// Issues a 28-bit command.
  func issue(_ code: UInt8, lba: UInt32 = 0, count: UInt8 = 0) {
    select(UInt8(truncatingIfNeeded: lba >> 24))
    outb(command + 2, count)
    outb(command + 3, UInt8(truncatingIfNeeded: lba))
    outb(command + 4, UInt8(truncatingIfNeeded: lba >> 8))
    outb(command + 5, UInt8(truncatingIfNeeded: lba >> 16))
    outb(command + 7, code)
  }

  /// Issues a 48-bit command (ATA-6): each register takes the high byte first.
  func issueExtended(_ code: UInt8, lba: UInt64, count: UInt16) {
    select()
    for shift in stride(from: UInt64(24), through: 0, by: -24) {
      outb(command + 2, UInt8(truncatingIfNeeded: shift == 0 ? count : count >> 8))
      outb(command + 3, UInt8(truncatingIfNeeded: lba >> shift))
      outb(command + 4, UInt8(truncatingIfNeeded: lba >> (shift + 8)))
      outb(command + 5, UInt8(truncatingIfNeeded: lba >> (shift + 16)))
    }
    outb(command + 7, code)
  }

  /// Takes the block that the drive offers; false when it offers none.
  @discardableResult
  func takeBlock(to address: UInt64, bytes: UInt64 = 512) -> Bool {
    guard let status = settled(), status & (Self.dataRequest | Self.error) == Self.dataRequest else { return false }
    insw(command, address, bytes / 2)
    return true
  }

  /// Gives the drive the block that it asks for; false when it does not.
  @discardableResult
  func giveBlock(from address: UInt64, bytes: UInt64 = 512) -> Bool {
    guard let status = settled(), status & (Self.dataRequest | Self.error) == Self.dataRequest else { return false }
    outsw(command, address, bytes / 2)
    return true
  }

  /// Whether the command has ended without an error.
  func succeeded() -> Bool {
    guard let status = settled() else { return false }
    return status & (Self.error | Self.deviceFault | Self.dataRequest) == 0 && status & Self.ready != 0
  }

  func read(lba: UInt32, count: UInt8 = 1, to address: UInt64) -> Bool {
    issue(0x20, lba: lba, count: count)
    for block in 0..<UInt64(count) where !takeBlock(to: address + 512 * block) { return false }
    return succeeded()
  }

  func write(lba: UInt32, count: UInt8 = 1, from address: UInt64) -> Bool {
    issue(0x30, lba: lba, count: count)
    for block in 0..<UInt64(count) where !giveBlock(from: address + 512 * block) { return false }
    return succeeded()
  }

  /// FLUSH CACHE.
  func flush() -> Bool {
    issue(0xE7)
    return succeeded()
  }

  /// IDENTIFY DEVICE.
  func identify(to address: UInt64) -> Bool {
    issue(0xEC)
    return takeBlock(to: address) && succeeded()
  }
}

/// Memory that the tests may use: nothing of a guest's image is there.
enum Memory {
  static let a: UInt64 = 0x20_0000
  static let b: UInt64 = 0x28_0000
  static let c: UInt64 = 0x30_0000

  /// A pattern that differs in every double word and from seed to seed.
  static func fill(_ address: UInt64, bytes: UInt64, seed: UInt32) {
    var value = seed
    for offset in stride(from: 0, to: bytes, by: 4) {
      store32(address + offset, value)
      value = value &* 1_664_525 &+ 1_013_904_223
    }
  }

  static func clear(_ address: UInt64, bytes: UInt64) {
    for offset in stride(from: 0, to: bytes, by: 4) { store32(address + offset, 0) }
  }

  static func equal(_ a: UInt64, _ b: UInt64, bytes: UInt64) -> Bool {
    for offset in stride(from: 0, to: bytes, by: 4) where load32(a + offset) != load32(b + offset) { return false }
    return true
  }

  /// The decimal number that the text at `address` starts with, as the sectors of the test disk do.
  static func number(at address: UInt64) -> UInt32? {
    var value: UInt32 = 0
    var digits: UInt64 = 0
    while digits < 9, case let byte = load8(address + digits), byte >= 0x30, byte <= 0x39 {
      value = value * 10 + UInt32(byte - 0x30)
      digits += 1
    }
    return digits > 0 ? value : nil
  }
}
