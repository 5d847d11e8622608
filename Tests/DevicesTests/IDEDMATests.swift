import Backends
import MachineModel
import TestKit
import Testing

@testable import Devices

@Suite struct IDEDMATests {
  typealias PRD = IDEBench.PRD

  @Test func aReadIsScatteredOverTheTable() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    try bench.setTable([
      PRD(address: 0x10000, count: 100), PRD(address: 0x20002, count: 1024),
      PRD(address: 0x30000, count: 412, last: true),
    ])
    bench.command(0xC8, lba: 5, count: 3)
    #expect(bench.alternateStatus & 0x80 != 0)
    #expect(bench.pulses() == 0)
    bench.startDMA(toMemory: true)
    #expect(bench.pulses() == 1)
    #expect(bench.busMasterStatus == 0x04)
    #expect(bench.status == 0x50)
    let data = try bench.memory(0x10000, 100) + bench.memory(0x20002, 1024) + bench.memory(0x30000, 412)
    #expect(data == sector(5) + sector(6) + sector(7))
    #expect(try bench.memory(0x3019C, 4) == [0, 0, 0, 0])
    #expect(disk.records.count == 1)
    bench.fake.outb(bench.bm + 2, 0x04)
    #expect(bench.busMasterStatus == 0)
    bench.stopDMA()
  }

  @Test func aWriteIsGatheredFromTheTable() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    try bench.fake.board.memory.write(0x10000, [UInt8](repeating: 0xA1, count: 512))
    try bench.fake.board.memory.write(0x20000, [UInt8](repeating: 0xA2, count: 512))
    try bench.setTable([PRD(address: 0x10000, count: 512), PRD(address: 0x20000, count: 512, last: true)])
    bench.startDMA(toMemory: false)
    #expect(bench.busMasterStatus & 0x01 != 0)
    bench.command(0xCA, lba: 9, count: 2)
    #expect(bench.pulses() == 1)
    #expect(bench.status == 0x50)
    #expect(bench.busMasterStatus == 0x04)
    #expect(disk.sector(9) == sector(0xA1))
    #expect(disk.sector(10) == sector(0xA2))
  }

  @Test func aCountOfZeroIs64KiB() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 256))
    try bench.setTable([PRD(address: 0x10000, count: 0), PRD(address: 0x20000, count: 0, last: true)])
    bench.commandExt(0x25, lba: 0, count: 256)
    bench.startDMA(toMemory: true)
    #expect(bench.busMasterStatus == 0x04)
    #expect(try bench.memory(0x10000, 0x20000) == (0..<256).flatMap(sector))
  }

  @Test func bitZeroOfAddressAndCountIsNotWired() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    try bench.setTable([PRD(address: 0x10001, count: 513, last: true)])
    bench.command(0xC8, lba: 3)
    bench.startDMA(toMemory: true)
    #expect(bench.busMasterStatus == 0x04)
    #expect(try bench.memory(0x10000, 512) == sector(3))
  }

  @Test func aTableThatEndsEarlyStopsWithoutAnInterrupt() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    try bench.setTable([PRD(address: 0x10000, count: 700, last: true)])
    bench.command(0xC8, lba: 5, count: 4)
    bench.startDMA(toMemory: true)
    #expect(bench.pulses() == 0)
    #expect(bench.busMasterStatus == 0x00)
    #expect(bench.status == 0x50)
    #expect(try bench.memory(0x10000, 512) == sector(5))
    bench.stopDMA()
    try bench.setTable([PRD(address: 0x10000, count: 100, last: true)])
    bench.command(0xC8, lba: 5)
    bench.startDMA(toMemory: true)
    #expect(bench.busMasterStatus == 0x00)
    #expect(bench.status == 0x50)
    #expect(disk.records.count == 1)
  }

  @Test func aTableThatIsLongerThanTheDataStaysActive() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    try bench.setTable([PRD(address: 0x10000, count: 4096, last: true)])
    bench.command(0xC8)
    bench.startDMA(toMemory: true)
    #expect(bench.busMasterStatus == 0x05)
    bench.stopDMA()
    #expect(bench.busMasterStatus == 0x04)
  }

  @Test(arguments: [(0x1000, 0xFFFF_0000), (0x1000, 0x003F_FF00), (0xFFFF_FFF0, 0)] as [(UInt32, UInt32)])
  func whatIsNotRAMIsAnError(_ table: UInt32, _ address: UInt32) throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    try bench.setTable([PRD(address: address, count: 512, last: true)])
    bench.fake.outl(bench.bm + 4, table)
    bench.command(0xC8)
    bench.startDMA(toMemory: true)
    #expect(bench.busMasterStatus == 0x06)
    #expect(bench.pulses() == 1)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
    #expect(disk.records.isEmpty)
    bench.fake.outb(bench.bm + 2, 0x06)
    #expect(bench.busMasterStatus == 0)
  }

  @Test func aTableWithoutEndIsWalkedToItsBoundaryOnly() throws {
    let disk = MemoryBlockBackend(sectors: 65536)
    let bench = try IDEBench(disk: disk)
    // Every descriptor asks for two bytes and none is the last.
    for index in 0..<8192 {
      try bench.fake.board.memory.store(0x0000_0002_0001_0000 as UInt64, at: 0x40000 + UInt64(index * 8))
    }
    bench.fake.outl(bench.bm + 4, 0x40000)
    bench.commandExt(0x25, lba: 0, count: 0)
    bench.startDMA(toMemory: true)
    #expect(bench.busMasterStatus & 0x02 != 0)
    #expect(bench.status == 0x51)
  }

  @Test func nothingMovesWhileTheFunctionIsNotBusMaster() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    bench.setCommand(0x01)
    try bench.setTable([PRD(address: 0x10000, count: 512, last: true)])
    bench.command(0xC8, lba: 5)
    bench.startDMA(toMemory: true)
    #expect(disk.records.isEmpty)
    #expect(bench.busMasterStatus == 0x01)
    bench.setCommand(0x05)
    #expect(bench.busMasterStatus == 0x04)
    #expect(try bench.memory(0x10000, 512) == sector(5))
  }

  @Test func stoppingBeforeTheDriveIsReadyMovesNothing() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    try bench.setTable([PRD(address: 0x10000, count: 512, last: true)])
    bench.startDMA(toMemory: true)
    bench.stopDMA()
    #expect(bench.busMasterStatus == 0)
    bench.command(0xC8)
    #expect(disk.records.isEmpty)
    #expect(bench.alternateStatus & 0x80 != 0)
    bench.fake.outb(bench.control, 0x04)
    bench.fake.outb(bench.control, 0x00)
    #expect(bench.alternateStatus == 0x50)
  }

  @Test func stoppingDuringATransferLetsItEnd() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.isManual = true
    try bench.setTable([PRD(address: 0x10000, count: 512, last: true)])
    bench.command(0xC8)
    bench.startDMA(toMemory: true)
    bench.stopDMA()
    #expect(bench.busMasterStatus == 0)
    #expect(bench.alternateStatus & 0x80 != 0)
    disk.completeNext()
    #expect(bench.status == 0x50)
    #expect(bench.busMasterStatus == 0x04)
  }

  @Test func aResetDuringATransferIsOverWhenMemoryIsSafe() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.isManual = true
    try bench.setTable([PRD(address: 0x10000, count: 512, last: true)])
    bench.command(0xC8, lba: 5)
    bench.startDMA(toMemory: true)
    bench.fake.outb(bench.control, 0x04)
    bench.stopDMA()
    bench.fake.outb(bench.control, 0x00)
    #expect(bench.alternateStatus == 0x80)
    disk.completeNext()
    #expect(bench.alternateStatus == 0x50)
    #expect(bench.pulses() == 0)
    disk.isManual = false
    try bench.setTable([PRD(address: 0x20000, count: 512, last: true)])
    bench.command(0xC8, lba: 6)
    bench.startDMA(toMemory: true)
    #expect(try bench.memory(0x20000, 512) == sector(6))
    #expect(bench.busMasterStatus == 0x04)
  }

  @Test func aBadSectorIsNamedAndThoseBeforeItAreMoved() throws {
    let disk = MemoryBlockBackend(sectors: 64)
    let bench = try IDEBench(disk: disk)
    disk.fail(sectors: 13..<14, with: .host(errno: 5))
    try bench.setTable([PRD(address: 0x10000, count: 8 * 512, last: true)])
    bench.command(0xC8, lba: 10, count: 8)
    bench.startDMA(toMemory: true)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x40)
    #expect(bench.lba28 == 13)
    #expect(bench.busMasterStatus & 0x04 != 0)
    #expect(try bench.memory(0x10000, 3 * 512) == sector(10) + sector(11) + sector(12))
  }

  @Test func channelsHaveTheirOwnRegisters() throws {
    let bench = try IDEBench(disk: MemoryBlockBackend(sectors: 64))
    bench.fake.outl(IDEBench.busMaster + 4, 0x1234_5677)
    bench.fake.outl(IDEBench.busMaster + 12, 0x0BAD_F00D)
    bench.fake.outb(IDEBench.busMaster + 2, 0x60)
    #expect(bench.fake.inl(IDEBench.busMaster + 4) == 0x1234_5674)
    #expect(bench.fake.inl(IDEBench.busMaster + 12) == 0x0BAD_F00C)
    #expect(bench.fake.inb(IDEBench.busMaster + 2) == 0x60)
    #expect(bench.fake.inb(IDEBench.busMaster + 10) == 0x00)
    #expect(bench.fake.inw(IDEBench.busMaster) == 0x0000)
  }

  @Test func workersOfAFileMoveDataToo() throws {
    let file = try TemporaryFile((0..<64).flatMap(sector))
    let spec = BlockSpec(id: "disk0", path: file.path)
    let backend = try FileBlockBackend(try OpenedImage.open(spec), spec: spec)
    let bench = try IDEBench(disk: backend)
    for round in 0..<50 {
      try bench.setTable([PRD(address: 0x10000, count: 512), PRD(address: 0x20000, count: 512, last: true)])
      bench.command(0xC8, lba: UInt32(round), count: 2)
      bench.startDMA(toMemory: true)
      var polls = 0
      while bench.alternateStatus & 0x80 != 0, polls < 10_000_000 { polls += 1 }
      #expect(bench.status == 0x50)
      #expect(try bench.memory(0x10000, 512) == sector(round))
      #expect(try bench.memory(0x20000, 512) == sector(round + 1))
      bench.stopDMA()
    }
    bench.controller.drain()
  }
}
