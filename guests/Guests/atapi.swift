import CPU

/// A CD-ROM as the secondary channel's device 0 (SFF-8020i), with the test CD in it.
@main enum ATAPI: Guest {
  static let name: StaticString = "atapi"
  static let drive = ATADrive(channel: 1, unit: 0)

  static func run() {
    ATADrive.startController()
    drive.softwareReset()
    drive.select()
    check(inb(drive.command + 4) == 0x14 && inb(drive.command + 5) == 0xEB, "the signature says packet device")
    check(!drive.identify(to: Memory.a) && drive.errorRegister & ATADrive.aborted != 0, "IDENTIFY DEVICE aborts")
    drive.issue(0xA1)
    guard check(drive.takeBlock(to: Memory.a), "IDENTIFY PACKET DEVICE") else { return }
    check(load16(Memory.a) & 0xDF00 == 0x8500, "word 0 says CD-ROM")

    // The first command after a reset or a change of medium may answer with UNIT ATTENTION.
    var ready = false
    for _ in 0..<3 where !ready { ready = packet(0x00, limit: 0) == 0 }
    guard check(ready, "TEST UNIT READY") else { return }

    let inquiry = packet(0x12, length: 36 << 8, limit: 36)
    check(inquiry == 36 && load8(Memory.a) & 0x1F == 5, "INQUIRY says CD-ROM in 36 bytes")
    let capacity = packet(0x25, limit: 8)
    check(capacity == 8, "READ CAPACITY gives 8 bytes")
    let last = bigEndian(Memory.a)
    say("last sector \(last)")
    check(last >= 16 && bigEndian(Memory.a + 4) == 2048, "of 2048 bytes, 17 sectors or more")
    let sector = packet(0x28, lba: 16, length: 1, limit: 2048)
    check(sector == 2048, "READ(10) of sector 16 gives 2048 bytes")
    check(load32(Memory.a + 1) == 0x3030_4443 && load8(Memory.a + 5) == 0x31, "and CD001")
    let two = packet(0x28, lba: 15, length: 2, limit: 2048)
    check(two == 4096 && load32(Memory.a + 2049) == 0x3030_4443, "READ(10) of two sectors gives both")

    check(packet(0x28, lba: last + 1, length: 1, limit: 2048) == nil, "READ(10) behind the end fails")
    let sense = packet(0x03, length: 18 << 8, limit: 18)
    check(sense == 18 && load8(Memory.a + 2) & 0xF == 5 && load8(Memory.a + 12) == 0x21, "REQUEST SENSE says 5/21")
  }

  /// How many bytes the device gave to `Memory.a`, in pieces of `limit` at most, nil when it ended with an error.
  static func packet(_ operation: UInt8, lba: UInt32 = 0, length: UInt16 = 0, limit: UInt16) -> UInt64? {
    drive.select()
    outb(drive.command + 1, 0)
    outb(drive.command + 4, UInt8(truncatingIfNeeded: limit))
    outb(drive.command + 5, UInt8(truncatingIfNeeded: limit >> 8))
    outb(drive.command + 7, 0xA0)

    Memory.clear(Memory.b, bytes: 12)
    store8(Memory.b, operation)
    for index in 0..<4 as Range<UInt32> {
      store8(Memory.b + 2 + UInt64(index), UInt8(truncatingIfNeeded: lba >> (24 - 8 * index)))
    }
    // INQUIRY and REQUEST SENSE have the length in byte 4, READ(10) in bytes 7 and 8.
    if operation == 0x28 {
      store8(Memory.b + 8, UInt8(truncatingIfNeeded: length))
    } else {
      store8(Memory.b + 4, UInt8(truncatingIfNeeded: length >> 8))
    }
    guard drive.giveBlock(from: Memory.b, bytes: 12) else { return nil }

    var total: UInt64 = 0
    while let status = drive.settled(), total < 65536 {
      if status & ATADrive.error != 0 { return nil }
      if status & ATADrive.dataRequest == 0 { return total }
      let bytes = UInt64(inb(drive.command + 4)) | UInt64(inb(drive.command + 5)) << 8
      // Interrupt reason: I/O set and C/D clear while data comes in.
      guard bytes > 0, bytes <= limit, inb(drive.command + 2) & 3 == 2 else { return nil }
      insw(drive.command, Memory.a + total, (bytes + 1) / 2)
      total += bytes
    }
    return nil
  }

  static func bigEndian(_ address: UInt64) -> UInt32 { load32(address).byteSwapped }
}
