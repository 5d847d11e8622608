import Backends
import DeviceKit
import TestKit
import Testing

@testable import Devices

@Suite struct IDEDiskTests {
  @Test func resetShowsTheDiskSignature() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    #expect(bench.status == 0x50)
    #expect((1...6).map { bench.read($0) } == [0x01, 0x01, 0x01, 0x00, 0x00, 0xA0])
    #expect(bench.pulses() == 0)
  }

  @Test func anAbsentDeviceReadsAsZero() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.write(6, 0xB0)
    bench.write(2, 0x55)
    #expect((1...7).map { bench.read($0) } == [0, 0, 0, 0, 0, 0, 0])
    bench.write(7, 0xEC)
    #expect(bench.alternateStatus == 0)
    bench.base = 0x170
    #expect(bench.status == 0)
  }

  @Test func identifyTellsCapacityGeometryAndNames() throws {
    let sectors = 16 * 63 * 3 + 5
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: sectors))
    bench.command(0xEC)
    #expect(bench.alternateStatus == 0x58)
    #expect(bench.pulses() == 1)
    let bytes = bench.readData(512)
    #expect(bench.status == 0x50)
    #expect(bench.pulses() == 0)
    func word(_ index: Int) -> Int { Int(bytes[index * 2]) | Int(bytes[index * 2 + 1]) << 8 }
    func text(_ words: Range<Int>) -> String {
      String(decoding: words.flatMap { [bytes[$0 * 2 + 1], bytes[$0 * 2]] }, as: UTF8.self)
    }
    #expect([word(1), word(3), word(6)] == [3, 16, 63])
    #expect(word(57) == 3 * 16 * 63)
    #expect(word(60) == sectors && word(61) == 0)
    #expect(word(100) == sectors && word(101) == 0)
    #expect(word(49) & 0x300 == 0x300)
    #expect(word(83) & 0x7400 == 0x7400)
    #expect(word(93) & 0xC000 == 0x4000)
    #expect(text(10..<20) == "SERIAL-1            ")
    #expect(text(27..<47).hasPrefix("VMRUN HARDDISK "))
    #expect(bytes[510] == 0xA5)
    #expect(bytes.reduce(0, &+) == 0)
  }

  @Test func readSectorsInterruptsOncePerSector() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(0x20, lba: 7, count: 3)
    for number in 7..<10 {
      #expect(bench.pulses() == 1)
      #expect(bench.status == 0x58)
      #expect(bench.readData(512) == sector(number))
    }
    #expect(bench.pulses() == 0)
    #expect(bench.status == 0x50)
  }

  @Test func aDwordReadOfTheDataPortMovesTwoWords() throws {
    var bytes = sector(0)
    bytes.replaceSubrange(0..<4, with: [1, 2, 3, 4])
    let bench = try IDEBench(disk: MemoryBlockBackend(bytes))
    bench.command(0x20)
    #expect(bench.fake.inl(bench.base) == 0x0403_0201)
    #expect(bench.fake.inw(bench.base) == 0)
    #expect(bench.readData(506).count == 506)
    #expect(bench.alternateStatus == 0x50)
  }

  @Test func aCountOfZeroIs256Sectors() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 300))
    bench.command(0x20, lba: 1, count: 0)
    for number in 1...256 { #expect(bench.readData(512) == sector(number)) }
    #expect(bench.status == 0x50)
  }

  @Test(arguments: [0x30, 0xC5] as [UInt8])
  func writtenSectorsReachTheMedium(_ code: UInt8) throws {
    let disk = MemoryBlockBackend(sectors: 300)
    let bench = try IDEBench(disk: disk)
    bench.command(0xC6, count: 4)
    _ = (bench.status, bench.pulses())
    bench.command(code, lba: 2, count: 150)
    #expect(bench.pulses() == 0)
    for number in 0..<150 { bench.writeData(sector(number &+ 100)) }
    #expect(bench.status == 0x50)
    for number in 0..<150 { #expect(disk.sector(number + 2) == sector(number &+ 100)) }
    #expect(disk.sector(1) == sector(1))
    #expect(disk.sector(152) == sector(152))
  }

  @Test func readMultipleInterruptsOncePerBlock() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(0xC6, count: 8)
    #expect(bench.status == 0x50)
    _ = bench.pulses()
    bench.command(0xC4, lba: 0, count: 10)
    #expect(bench.pulses() == 1)
    #expect(bench.status == 0x58)
    #expect(bench.readData(8 * 512) == (0..<8).flatMap(sector))
    #expect(bench.pulses() == 1)
    #expect(bench.status == 0x58)
    #expect(bench.readData(2 * 512) == (8..<10).flatMap(sector))
    #expect(bench.status == 0x50)
  }

  @Test(arguments: [3, 17, 32] as [UInt8])
  func setMultipleRefusesOtherCounts(_ count: UInt8) throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(0xC6, count: count)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
  }

  @Test func readMultipleIsAbortedWhileDisabled() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(0xC6, count: 0)
    bench.command(0xC4)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
  }

  @Test func cylinderHeadSectorAddressesFollowTheTranslation() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 2000))
    // Cylinder 1, head 2, sector 5 of 16 heads and 63 sectors.
    bench.command(0x20, lba: 0x0105, device: 0xA2)
    #expect(bench.readData(512) == sector((16 + 2) * 63 + 4))
    bench.command(0x91, count: 10, device: 0xA1)
    #expect(bench.status == 0x50)
    bench.command(0x20, lba: 0x0105, device: 0xA1)
    #expect(bench.readData(512) == sector((2 + 1) * 10 + 4))
    for address: UInt32 in [0x000B, 0x0000] {
      bench.command(0x20, lba: address, device: 0xA0)
      #expect(bench.status == 0x51)
      #expect(bench.error == 0x10)
    }
    bench.command(0x20, lba: 0x0001, device: 0xA2)
    #expect(bench.error == 0x10)
  }

  @Test(arguments: [0x20, 0x30, 0x40, 0xC8, 0xCA, 0xC4] as [UInt8])
  func anAddressBeyondTheEndIsNotFound(_ code: UInt8) throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    for (lba, count) in [(64, 1), (63, 2), (0x0FFF_FFFF, 0)] as [(UInt32, UInt8)] {
      bench.command(code, lba: lba, count: count)
      #expect(bench.alternateStatus == 0x51)
      #expect(bench.pulses() == 1)
      #expect(bench.status & 0x08 == 0)
      #expect(bench.error == 0x10)
    }
    #expect(disk.records.isEmpty)
  }

  @Test func extendedCommandsUseBothHalvesOfTheRegisters() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 400))
    bench.commandExt(0x24, lba: 300, count: 2)
    #expect(bench.readData(1024) == sector(300) + sector(301))
    bench.commandExt(0x24, lba: 1 << 24 | 5)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x10)
    bench.fake.outb(bench.control, 0x80)
    #expect(bench.read(3) == 0x01)
    #expect(bench.read(2) == 0x00)
    // Any write to the command block turns HOB off.
    bench.write(1, 0)
    #expect(bench.read(2) == 0x01)
    bench.commandExt(0x24, lba: 0, count: 0x0101)
    for number in 0..<257 { #expect(bench.readData(512) == sector(number)) }
    #expect(bench.status == 0x50)
  }

  @Test func nativeMaximumIsTheLastSector() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 0x345))
    bench.command(0xF8)
    #expect(bench.lba28 == 0x344)
    bench.commandExt(0x27, lba: 0)
    #expect([bench.read(3), bench.read(4), bench.read(5)] == [0x44, 0x03, 0x00])
  }

  @Test func verifyReadsWithoutData() throws {
    let disk = MemoryBlockBackend(sectors: 300)
    let bench = try IDEBench(disk: disk)
    bench.command(0x40, lba: 10, count: 200)
    #expect(bench.status == 0x50)
    #expect(disk.records.map(\.count).reduce(0, +) == 200 * 512)
    disk.fail(sectors: 77..<78, with: .host(errno: 5))
    bench.command(0x40, lba: 10, count: 200)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x40)
    #expect(bench.lba28 == 77)
  }

  @Test(arguments: [0xE7, 0xEA] as [UInt8])
  func flushEndsWhenTheBackendHasFlushed(_ code: UInt8) throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.isManual = true
    bench.command(code)
    #expect(bench.status & 0x80 != 0)
    #expect(bench.pulses() == 0)
    disk.completeNext()
    #expect(bench.pulses() == 1)
    #expect(bench.status == 0x50)
    #expect(disk.flushes == 1)
    disk.isManual = false
    disk.failFlush(with: .host(errno: 5))
    bench.command(code)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
  }

  @Test func withTheWriteCacheOffEveryWriteIsFlushed() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    bench.command(0xEF, features: 0x82)
    #expect(bench.status == 0x50)
    #expect(disk.flushes == 1)
    bench.command(0x30, count: 2)
    bench.writeData(sector(1) + sector(2))
    #expect(bench.status == 0x50)
    #expect(disk.flushes == 2)
    bench.command(0xEF, features: 0x02)
    bench.command(0x30, count: 1)
    bench.writeData(sector(1))
    #expect(disk.flushes == 2)
  }

  @Test func aBadSectorIsNamedAndThoseBeforeItAreRead() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.fail(sectors: 13..<14, with: .host(errno: 5))
    bench.command(0x20, lba: 10, count: 8)
    #expect(bench.readData(3 * 512) == sector(10) + sector(11) + sector(12))
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x40)
    #expect(bench.lba28 == 13)
    #expect(bench.read(2) == 5)
    disk.clearFaults()
    bench.command(0x20, lba: 13)
    #expect(bench.readData(512) == sector(13))
  }

  @Test func aFailedWriteIsAbortedAtItsSector() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.fail(sectors: 22..<23, with: .noSpace)
    bench.command(0x30, lba: 20, count: 4)
    for _ in 0..<4 { bench.writeData(sector(0xAA)) }
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
    #expect(bench.lba28 == 22)
    #expect(disk.sector(21) == sector(0xAA))
  }

  @Test(arguments: [0x30, 0xC5, 0xCA, 0x34, 0x35] as [UInt8])
  func aReadOnlyMediumIsWriteProtected(_ code: UInt8) throws {
    let disk = MemoryBlockBackend(sectors: 64, isReadOnly: true)
    let bench = try IDEBench(disk: disk)
    bench.command(code)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x40)
    #expect(disk.records.isEmpty)
    bench.command(0x20, lba: 9)
    #expect(bench.readData(512) == sector(9))
  }

  @Test(arguments: [0x00, 0x08, 0xA0, 0xA1, 0xB0, 0xF5, 0xFF, 0x06] as [UInt8])
  func unknownCommandsAreAborted(_ code: UInt8) throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(code)
    #expect(bench.pulses() == 1)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
  }

  @Test func powerModesAreReported() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(0xE5)
    #expect(bench.read(2) == 0xFF)
    bench.command(0xE0)
    bench.command(0xE5)
    #expect(bench.read(2) == 0x00)
    bench.command(0x40)
    bench.command(0xE5)
    #expect(bench.read(2) == 0xFF)
  }

  @Test func theChosenTransferModeShowsInIdentify() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(0xEF, count: 0x45, features: 0x03)
    #expect(bench.status == 0x50)
    bench.command(0xEC)
    let bytes = bench.readData(512)
    #expect(bytes[63 * 2 + 1] == 0 && bytes[88 * 2 + 1] == 0x20)
    for mode: UInt8 in [0x02, 0x0D, 0x23, 0x46, 0x80] {
      bench.command(0xEF, count: mode, features: 0x03)
      #expect(bench.status == 0x51)
    }
  }

  @Test func diagnosticsAnswerForBothDevices() throws {
    let bench = try IDEBench(["a": MemoryBlockBackend(sectors: 8), "b": MemoryBlockBackend(sectors: 16)])
    try bench.addDisk("a")
    try bench.addDisk("b", unit: 1)
    bench.start()
    bench.write(6, 0xB0)
    bench.write(7, 0x90)
    #expect(bench.pulses() == 1)
    #expect(bench.status == 0x50)
    #expect((1...6).map { bench.read($0) } == [0x01, 0x01, 0x01, 0x00, 0x00, 0xA0])
    bench.command(0x20, lba: 12, device: 0xF0)
    #expect(bench.readData(512) == sector(12))
    bench.command(0x20, lba: 12, device: 0xE0)
    #expect(bench.error == 0x10)
  }

  @Test func withInterruptsDisabledTheLineStaysLow() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.fake.outb(bench.control, 0x02)
    bench.command(0x20)
    #expect(bench.pulses() == 0)
    bench.fake.outb(bench.control, 0x00)
    #expect(bench.pulses() == 1)
    _ = bench.status
    #expect(bench.readData(512) == sector(0))
    #expect(bench.pulses() == 0)
  }

  @Test func alternateStatusKeepsTheInterrupt() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.command(0xEC)
    _ = bench.alternateStatus
    bench.fake.outb(bench.control, 0x02)
    bench.fake.outb(bench.control, 0x00)
    #expect(bench.pulses() == 2)
    _ = bench.status
    bench.fake.outb(bench.control, 0x02)
    bench.fake.outb(bench.control, 0x00)
    #expect(bench.pulses() == 0)
  }

  @Test func registersAreDeafWhileTheDriveIsBusy() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.isManual = true
    bench.command(0x20, lba: 5)
    #expect(bench.alternateStatus == 0x90)
    #expect(bench.read(3) == 0x90)
    bench.command(0x20, lba: 9)
    #expect(disk.records.count == 1)
    disk.completeNext()
    #expect(bench.status == 0x58)
    #expect(bench.lba28 == 5)
    #expect(bench.readData(512) == sector(5))
  }

  @Test func softwareResetEndsAPIOTransfer() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    bench.command(0x30, lba: 3, count: 2)
    bench.writeData(sector(0xEE))
    bench.fake.outb(bench.control, 0x04)
    #expect(bench.alternateStatus == 0x80)
    bench.fake.outb(bench.control, 0x00)
    #expect(bench.alternateStatus == 0x50)
    #expect([bench.read(2), bench.read(3), bench.read(4), bench.read(5)] == [1, 1, 0, 0])
    bench.writeData(sector(0xEE))
    #expect(disk.records.isEmpty)
  }

  @Test func softwareResetWaitsForTheRequestUnderWay() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.isManual = true
    bench.command(0x20, lba: 3)
    bench.fake.outb(bench.control, 0x04)
    bench.fake.outb(bench.control, 0x00)
    #expect(bench.alternateStatus == 0x80)
    bench.command(0xEC)
    disk.completeNext()
    #expect(bench.alternateStatus == 0x50)
    #expect(bench.pulses() == 0)
    #expect(bench.error == 0x01)
    disk.isManual = false
    bench.command(0x20, lba: 4)
    #expect(bench.readData(512) == sector(4))
  }

  @Test func machineResetForgetsTheRequestUnderWay() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.isManual = true
    bench.command(0x20, lba: 3)
    bench.start()
    #expect(disk.heldCount == 0)
    #expect(bench.alternateStatus == 0x50)
    #expect(bench.pulses() == 0)
  }

  @Test func afterDrainNothingIsSubmitted() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.isManual = true
    bench.command(0x30)
    bench.writeData(sector(0xEE))
    bench.controller.drain()
    #expect(disk.sector(0) == sector(0xEE))
    bench.command(0x20)
    #expect(disk.records.count == 1)
  }

  @Test func theFirmwareIsToldTheGeometry() {
    let firmware = FirmwareFiles()
    for (unit, sectors) in [(0, 2_000_000), (1, 16)] as [(Int, UInt64)] {
      let disk = ATADisk(capacity: sectors, isReadOnly: false, identity: DriveIdentity(serial: "", model: ""))
      DiskGeometryCMOS.add(disk.defaultGeometry, channel: 0, unit: unit, to: firmware)
    }
    let cmos = firmware.snapshot.cmos
    #expect(cmos[0x39] == 0x01)
    #expect(cmos[0x12] == 0xFF)
    #expect([cmos[0x1B], cmos[0x1C], cmos[0x1D]] == [0xC0, 0x07, 16])
    #expect(cmos[0x2C] == 63)
  }
}
