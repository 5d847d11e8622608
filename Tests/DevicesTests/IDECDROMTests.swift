import Backends
import TestKit
import Testing

@testable import Devices

@Suite struct IDECDROMTests {
  /// 40 blocks of four sectors each, after the unit attention of power-on.
  private func ready(_ disc: MemoryBlockBackend? = MemoryBlockBackend(sectors: 160)) throws -> IDEBench {
    let bench = try IDEBench(disc: disc)
    bench.packet([0x00])
    _ = (bench.status, bench.pulses())
    return bench
  }
  private func block(_ number: Int) -> [UInt8] { (0..<4).flatMap { sector(number * 4 + $0) } }

  @Test func resetShowsThePacketSignature() throws {
    let bench = try IDEBench(disc: MemoryBlockBackend(sectors: 160))
    #expect((1...6).map { bench.read($0) } == [0x01, 0x01, 0x01, 0x14, 0xEB, 0xA0])
    #expect(bench.status == 0x00)
  }

  @Test(arguments: [0xEC, 0x20] as [UInt8])
  func ataCommandsAreAbortedWithTheSignature(_ code: UInt8) throws {
    let bench = try ready()
    bench.command(code)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
    #expect([bench.read(4), bench.read(5)] == [0x14, 0xEB])
  }

  @Test func identifyPacketDeviceSaysItIsACDROM() throws {
    let bench = try ready()
    bench.command(0xA1, device: 0xA0)
    #expect(bench.pulses() == 1)
    let bytes = bench.readData(512)
    #expect([bytes[0], bytes[1]] == [0xC0, 0x85])
    #expect(bytes.reduce(0, &+) == 0)
    #expect(String(decoding: [bytes[55], bytes[54], bytes[57], bytes[56]], as: UTF8.self) == "VMRU")
    #expect(bench.status == 0x50)
  }

  @Test func afterResetTheFirstCommandHearsOfIt() throws {
    let bench = try IDEBench(disc: MemoryBlockBackend(sectors: 160))
    bench.packet([0x12, 0, 0, 0, 36])
    #expect(bench.packetData().count == 36)
    bench.packet([0x00])
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x60)
    #expect(bench.sense() == [0x06, 0x29, 0x00])
    #expect(bench.sense() == [0x00, 0x00, 0x00])
    bench.packet([0x00])
    #expect(bench.status == 0x50)
    #expect(bench.read(2) & 0x03 == 0x03)
  }

  @Test func requestSenseTakesTheAttention() throws {
    let bench = try IDEBench(disc: MemoryBlockBackend(sectors: 160))
    #expect(bench.sense() == [0x06, 0x29, 0x00])
    bench.packet([0x00])
    #expect(bench.status == 0x50)
  }

  @Test func thePacketPhaseIsCommandToDevice() throws {
    let bench = try ready()
    bench.write(1, 0)
    bench.write(7, 0xA0)
    #expect(bench.alternateStatus & 0x88 == 0x08)
    #expect(bench.read(2) & 0x03 == 0x01)
    #expect(bench.pulses() == 0)
  }

  @Test func readCapacityIsTheLastBlock() throws {
    let bench = try ready()
    bench.packet([0x25])
    #expect(bench.pulses() == 1)
    #expect(bench.read(2) & 0x03 == 0x02)
    #expect(bench.status == 0x58)
    #expect(bench.packetData() == [0, 0, 0, 39, 0, 0, 8, 0])
    #expect(bench.pulses() == 1)
    #expect(bench.read(2) & 0x03 == 0x03)
    #expect(bench.status == 0x50)
  }

  @Test(arguments: [2048, 0xFFFE, 4096, 512, 100, 5000] as [UInt16])
  func readTenHoldsToTheByteCountLimit(_ limit: UInt16) throws {
    let bench = try ready()
    bench.packet([0x28, 0, 0, 0, 0, 2, 0, 0, 36], limit: limit)
    let first = Int(bench.read(4)) | Int(bench.read(5)) << 8
    #expect(first <= Int(limit))
    #expect(bench.packetData() == (2..<38).flatMap(block))
    #expect(bench.status == 0x50)
  }

  @Test(arguments: [[0xA8, 0, 0, 0, 0, 3, 0, 0, 0, 2], [0xBE, 0, 0, 0, 0, 3, 0, 0, 2, 0x10]] as [[UInt8]])
  func otherReadCommandsGiveTheSameBytes(_ packet: [UInt8]) throws {
    let bench = try ready()
    bench.packet(packet)
    #expect(bench.packetData() == block(3) + block(4))
  }

  @Test func readTenByDMAGoesStraightToMemory() throws {
    let disc = MemoryBlockBackend(sectors: 160)
    let bench = try ready(disc)
    try bench.setTable([
      .init(address: 0x10000, count: 2000), .init(address: 0x20000, count: 2096, last: true),
    ])
    bench.packet([0x28, 0, 0, 0, 0, 7, 0, 0, 2], dma: true)
    bench.startDMA(toMemory: true)
    #expect(bench.pulses() == 1)
    #expect(bench.busMasterStatus == 0x04)
    #expect(bench.status == 0x50)
    #expect(try bench.memory(0x10000, 2000) + bench.memory(0x20000, 2096) == block(7) + block(8))
    #expect(disc.records.last?.buffers == 2)
  }

  @Test func shortAnswersByDMALeaveTheTableActive() throws {
    let bench = try ready()
    try bench.setTable([.init(address: 0x10000, count: 256, last: true)])
    bench.packet([0x12, 0, 0, 0, 96], dma: true)
    bench.startDMA(toMemory: true)
    #expect(bench.busMasterStatus == 0x05)
    #expect(try bench.memory(0x10000, 2) == [0x05, 0x80])
    #expect(bench.status == 0x50)
  }

  @Test func aByteCountLimitOfZeroIsAbortedWhenThereIsData() throws {
    let bench = try ready()
    bench.packet([0x25], limit: 0)
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x04)
    bench.packet([0x00], limit: 0)
    #expect(bench.status == 0x50)
  }

  @Test(
    arguments: [
      ([0x28, 0, 0, 0, 0, 40, 0, 0, 1], [5, 0x21, 0]),
      ([0x28, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF], [5, 0x21, 0]),
      ([0xA8, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF], [5, 0x21, 0]), ([0x2A], [5, 0x20, 0]), ([0xFF], [5, 0x20, 0]),
      ([0x12, 1, 0x83, 0, 36], [5, 0x24, 0]), ([0x5A, 0, 0xFF, 0, 0, 0, 0, 0, 99], [5, 0x39, 0]),
      ([0x5A, 0, 0x3E, 0, 0, 0, 0, 0, 99], [5, 0x24, 0]), ([0xBE, 0, 0, 0, 0, 3, 0, 0, 2, 0xF8], [5, 0x24, 0]),
      ([0x43, 0, 0, 0, 0, 0, 9, 0, 99], [5, 0x24, 0]),
    ] as [([UInt8], [UInt8])])
  func badPacketsEndWithSense(_ packet: [UInt8], _ sense: [UInt8]) throws {
    let bench = try ready()
    bench.packet(packet)
    #expect(bench.status == 0x51)
    #expect(bench.error == sense[0] << 4 | 0x04)
    #expect(bench.sense() == sense)
  }

  @Test func aBadBlockIsAReadError() throws {
    let disc = MemoryBlockBackend(sectors: 160)
    let bench = try ready(disc)
    disc.fail(sectors: 20..<21, with: .host(errno: 5))
    bench.packet([0x28, 0, 0, 0, 0, 3, 0, 0, 4])
    #expect(bench.packetData() == block(3) + block(4))
    #expect(bench.status == 0x51)
    #expect(bench.error == 0x30)
    #expect(bench.sense() == [3, 0x11, 0])
  }

  @Test func anEmptyDriveHasNoMedium() throws {
    let bench = try ready(nil)
    for operation: UInt8 in [0x00, 0x25, 0x28, 0x43] {
      bench.packet([operation, 0, 0, 0, 0, 0, 0, 0, 1])
      #expect(bench.status == 0x51)
      #expect(bench.sense() == [2, 0x3A, 1])
    }
    bench.packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8])
    #expect(bench.packetData() == [0, 6, 4, 0x10, 0, 0, 0, 0])
  }

  @Test func ejectingTakesTheMediumAwayUnlessItIsLocked() throws {
    let bench = try ready()
    bench.packet([0x1E, 0, 0, 0, 1])
    bench.packet([0x1B, 0, 0, 0, 2])
    #expect(bench.sense() == [5, 0x53, 2])
    bench.packet([0x1E, 0, 0, 0, 0])
    bench.packet([0x1B, 0, 0, 0, 2])
    #expect(bench.status == 0x50)
    bench.packet([0x00])
    #expect(bench.sense() == [2, 0x3A, 2])
    bench.packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8])
    #expect(bench.packetData() == [0, 6, 4, 0x10, 3, 1, 0, 0])
    bench.packet([0x1B, 0, 0, 0, 3])
    bench.packet([0x00])
    #expect(bench.sense() == [6, 0x28, 0])
    bench.packet([0x00])
    #expect(bench.status == 0x50)
  }

  @Test func theTableOfContentsHasOneDataTrack() throws {
    let bench = try ready()
    bench.packet([0x43, 0, 0, 0, 0, 0, 0, 0, 99])
    #expect(bench.packetData() == [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 0, 40])
    bench.packet([0x43, 2, 0, 0, 0, 0, 0xAA, 0, 12])
    #expect(bench.packetData() == [0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 2, 40])
    bench.packet([0x43, 0, 1, 0, 0, 0, 0, 0, 12])
    #expect(bench.packetData() == [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0])
    bench.packet([0x43, 0, 2, 0, 0, 0, 0, 0, 200])
    #expect(bench.packetData().count == 48)
  }

  @Test func configurationAndModePagesAreWellFormed() throws {
    let bench = try ready()
    bench.packet([0x46, 0, 0, 0, 0, 0, 0, 1, 0])
    let configuration = bench.packetData()
    #expect(configuration.count == Int(configuration[3]) + 4)
    #expect([configuration[6], configuration[7]] == [0x00, 0x08])
    bench.packet([0x46, 2, 0, 3, 0, 0, 0, 1, 0])
    #expect(bench.packetData().count == 16)
    bench.packet([0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 200])
    let page = bench.packetData()
    #expect(page.count == 28 && page[1] == 26 && page[8] == 0x2A && page[9] == 18)
    bench.packet([0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 10])
    #expect(bench.packetData().count == 10)
    bench.packet([0x51, 0, 0, 0, 0, 0, 0, 0, 34])
    #expect(bench.packetData().count == 34)
    bench.packet([0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8])
    #expect(bench.packetData().count == 8)
  }

  @Test func deviceResetEndsAPacketCommandUnderWay() throws {
    let disc = MemoryBlockBackend(sectors: 160)
    let bench = try ready(disc)
    disc.isManual = true
    bench.packet([0x28, 0, 0, 0, 0, 0, 0, 0, 1])
    #expect(bench.alternateStatus & 0x80 != 0)
    bench.write(7, 0x08)
    #expect(bench.alternateStatus == 0x80)
    disc.completeNext()
    #expect(bench.alternateStatus == 0x00)
    #expect([bench.read(4), bench.read(5)] == [0x14, 0xEB])
    #expect(bench.pulses() == 0)
    bench.packet([0x00])
    #expect(bench.status == 0x50)
  }

  @Test func anOddAnswerIsPaddedToAWord() throws {
    let bench = try ready()
    bench.packet([0x12, 0, 0, 0, 5])
    #expect([bench.read(4), bench.read(5)] == [5, 0])
    #expect(bench.readData(6) == [0x05, 0x80, 0x00, 0x21, 31, 0])
    #expect(bench.status == 0x50)
  }
}
