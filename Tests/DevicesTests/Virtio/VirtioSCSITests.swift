import Backends
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

@Suite struct VirtioSCSITests {
  struct Result: Equatable {
    var response: UInt8
    var status: UInt8
    /// Key, code and qualifier.
    var sense: [UInt8]
    var residual: Int
    var data: [UInt8]
  }

  /// A controller with a disk at target 0 and a CD-ROM drive at target 5.
  final class Host {
    let disk: MemoryBlockBackend
    let disc: MemoryBlockBackend
    let card: VirtioDriver

    init(disk: MemoryBlockBackend = MemoryBlockBackend(sectors: 64), clearsAttention: Bool = true) throws {
      self.disk = disk
      disc = MemoryBlockBackend(sectors: 16, isReadOnly: true)
      let fake = FakeBoard(resources: FakeResources(blocks: ["disk0": disk, "cdrom0": disc]))
      let device = try SCSIDriveDevice.controller.pci.make(
        "scsi", Properties(["queues": .integer(2), "addr": .string("03.0")]), fake.board)
      _ = try SCSIDriveDevice.disk.make("hd", Properties(["drive": .string("disk0")]), fake.board)
      _ = try SCSIDriveDevice.cdrom.make(
        "cd", Properties(["drive": .string("cdrom0"), "scsi-id": .integer(5)]), fake.board)
      card = VirtioDriver(fake, device)
      card.start(1 << 2)
      guard clearsAttention else { return }
      for target in [UInt8(0), 5] { _ = try run([0, 0, 0, 0, 0, 0], target: target) }
    }

    func lun(_ target: UInt8, _ unit: UInt8 = 0) -> [UInt8] { [1, target, 0x40, unit, 0, 0, 0, 0] }

    struct Pending {
      let response: TestDescriptor
      let data: TestDescriptor?
    }

    func start(
      _ command: [UInt8], target: UInt8 = 0, unit: UInt8 = 0, out: [UInt8] = [], room: Int = 0, queue: Int = 2,
      identifier: UInt8 = 1
    ) throws -> Pending {
      let header = lun(target, unit) + [identifier, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
      let padded = command + [UInt8](repeating: 0, count: 32 - command.count)
      var parts = [try card.readable(header + padded)]
      if !out.isEmpty { parts.append(try card.readable(out)) }
      let response = card.writable(108)
      parts.append(response)
      let data = room > 0 ? card.writable(room) : nil
      if let data { parts.append(data) }
      card.add(queue, parts)
      return Pending(response: response, data: data)
    }

    func result(_ pending: Pending, written: Int) throws -> Result {
      let bytes = try card.bytes(pending.response)
      let data = try pending.data.map { try card.bytes($0, min(Int($0.length), max(written - 108, 0))) } ?? []
      let sense = bytes[0] > 0 ? [bytes[12 + 2], bytes[12 + 12], bytes[12 + 13]] : []
      return Result(
        response: bytes[11], status: bytes[10], sense: sense,
        residual: Int(bytes[4]) | Int(bytes[5]) << 8 | Int(bytes[6]) << 16, data: data)
    }

    func run(
      _ command: [UInt8], target: UInt8 = 0, unit: UInt8 = 0, out: [UInt8] = [], room: Int = 0, queue: Int = 2
    ) throws -> Result {
      let pending = try start(command, target: target, unit: unit, out: out, room: room, queue: queue)
      let used = try #require(card.takeUsed(queue).first)
      return try result(pending, written: Int(used.length))
    }

    func check(_ command: [UInt8], target: UInt8 = 0, out: [UInt8] = [], room: Int = 0) throws -> [UInt8] {
      let result = try run(command, target: target, out: out, room: room)
      #expect(result.response == 0)
      #expect((result.status == 2) == !result.sense.isEmpty)
      return result.sense
    }

    func manage(_ subtype: UInt8, target: UInt8 = 0, identifier: UInt8 = 1, unit: UInt8 = 0) throws -> TestDescriptor {
      let response = card.writable(1)
      let request: [UInt8] = [0, 0, 0, 0, subtype, 0, 0, 0] + lun(target, unit) + [identifier, 0, 0, 0, 0, 0, 0, 0]
      try card.add(0, [card.readable(request), response])
      return response
    }
  }

  private func block(_ value: UInt8, _ count: Int = 1) -> [UInt8] { [UInt8](repeating: value, count: 512 * count) }

  @Test func theFirstCommandHearsOfTheReset() throws {
    let host = try Host(clearsAttention: false)
    #expect(try host.run([0x12, 0, 0, 0, 36, 0], room: 36).data.count == 36)
    #expect(try host.check([0, 0, 0, 0, 0, 0]) == [6, 0x29, 0])
    #expect(try host.check([0, 0, 0, 0, 0, 0]) == [])
  }

  @Test func everyLengthOfReadAndWriteReachesTheDisk() throws {
    let host = try Host()
    #expect(try host.run([0x08, 0, 0, 3, 2, 0], room: 1024).data == block(3) + block(4))
    #expect(try host.run([0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0], room: 512, queue: 3).data == block(5))
    #expect(try host.run([0xA8, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0], room: 512).data == block(6))
    let read16: [UInt8] = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0]
    #expect(
      try host.run(read16, room: 600)
        == Result(response: 0, status: 0, sense: [], residual: 88, data: block(7)))
    #expect(try host.check([0x0A, 0, 0, 10, 1, 0], out: block(0xA)) == [])
    #expect(try host.check([0x2A, 0, 0, 0, 0, 11, 0, 0, 1, 0], out: block(0xB)) == [])
    #expect(try host.check([0xAA, 0, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0], out: block(0xC)) == [])
    #expect(host.disk.flushes == 0)
    #expect(try host.check([0x8A, 8, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 1, 0, 0], out: block(0xD)) == [])
    #expect(host.disk.flushes == 1)
    #expect(host.disk.bytes(10 * 512..<14 * 512) == block(0xA) + block(0xB) + block(0xC) + block(0xD))
    #expect(try host.check([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]) == [])
    #expect(host.disk.flushes == 2)
  }

  @Test func addressesBeyondTheDiskAreErrors() throws {
    let host = try Host()
    #expect(try host.check([0x28, 0, 0, 0, 0, 63, 0, 0, 2, 0], room: 1024) == [5, 0x21, 0])
    let far: [UInt8] = [0x88, 0] + [UInt8](repeating: 0xFF, count: 12) + [0, 0]
    #expect(try host.check(far, room: 1024) == [5, 0x21, 0])
    #expect(try host.check([0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], room: 512) == [5, 0x24, 0])
    #expect(try host.check([0xFF]) == [5, 0x20, 0])
    // No blocks at the very end are none.
    #expect(try host.check([0x28, 0, 0, 0, 0, 64, 0, 0, 0, 0]) == [])
  }

  @Test func aBufferThatIsTooShortIsAnOverrun() throws {
    let host = try Host()
    let short = try host.run([0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], room: 1000)
    #expect(short.response == 1 && short.residual == 1000)
    #expect(try host.run([0x2A, 0, 0, 0, 0, 0, 0, 0, 2, 0], out: block(1)).response == 1)
    #expect(host.disk.sector(0) == block(0))
    let inquiry = try host.run([0x12, 0, 0, 0, 36, 0], room: 8)
    #expect(inquiry.response == 1 && inquiry.data.count == 8)
  }

  @Test func capacityAndPagesDescribeTheDisk() throws {
    let host = try Host()
    #expect(try host.run([0x25], room: 8).data == [0, 0, 0, 63, 0, 0, 2, 0])
    let long = try host.run([0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], room: 32).data
    #expect(Array(long[..<12]) == [0, 0, 0, 0, 0, 0, 0, 63, 0, 0, 2, 0])
    #expect(long[14] == 0x80)
    for page: UInt8 in [0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2] {
      let data = try host.run([0x12, 1, page, 0, 255, 0], room: 255).data
      #expect(data[1] == page && data.count == 4 + Int(data[3]))
    }
    #expect(try host.run([0x12, 1, 0x80, 0, 255, 0], room: 255).data[4...].elementsEqual("hd".utf8))
    #expect(try host.check([0x12, 1, 0x99, 0, 255, 0], room: 255) == [5, 0x24, 0])
    #expect(try host.run([0x1A, 8, 0x08, 0, 255, 0], room: 255).data[6] & 0x04 != 0)
    #expect(try host.run([0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 255, 0], room: 255).data[7] == 8)
    #expect(try host.check([0x1A, 0, 0xC8, 0, 255, 0], room: 255) == [5, 0x39, 0])
  }

  @Test func unmapAndWriteSameReachTheDisk() throws {
    let host = try Host()
    let unmap: [UInt8] = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]
    let list: [UInt8] = [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0]
    #expect(try host.check(unmap, out: list) == [])
    #expect(host.disk.records.last?.operation == .discard)
    #expect(host.disk.bytes(3 * 512..<7 * 512) == block(3) + block(0, 2) + block(6))
    var beyond = list
    beyond[15] = 63
    #expect(try host.check(unmap, out: beyond) == [5, 0x21, 0])
    #expect(try host.check(unmap, out: [0, 0, 0]) == [5, 0x1A, 0])
    let same: [UInt8] = [0x93, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0]
    #expect(try host.check(same, out: block(0)) == [])
    #expect(host.disk.records.last?.operation == .writeZeroes(mayUnmap: true))
    #expect(host.disk.bytes(8 * 512..<11 * 512) == block(0, 3))
    #expect(try host.check(same, out: block(1)) == [5, 0x26, 0])
    var none = same
    none[13] = 0
    #expect(try host.check(none, out: block(0)) == [5, 0x24, 0])
  }

  @Test func aReadOnlyDiskRefusesWrites() throws {
    let host = try Host(disk: MemoryBlockBackend(sectors: 64, isReadOnly: true))
    #expect(try host.check([0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], out: block(1)) == [7, 0x27, 0])
    #expect(try host.run([0x1A, 8, 0x3F, 0, 255, 0], room: 255).data[2] & 0x80 != 0)
  }

  @Test func errorsOfTheHostBecomeSenseData() throws {
    let host = try Host()
    host.disk.fail(sectors: 5..<6, with: .host(errno: 5))
    #expect(try host.check([0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0], room: 512) == [3, 0x11, 0])
    #expect(try host.check([0x2A, 0, 0, 0, 0, 5, 0, 0, 1, 0], out: block(1)) == [3, 0x0C, 0])
    host.disk.clearFaults()
    host.disk.fail(sectors: 5..<6, with: .noSpace)
    #expect(try host.check([0x2A, 0, 0, 0, 0, 5, 0, 0, 1, 0], out: block(1)) == [7, 0x27, 7])
  }

  @Test func onlyTargetsThatAreThereAnswer() throws {
    let host = try Host()
    #expect(try host.run([0, 0, 0, 0, 0, 0], target: 1).response == 3)
    #expect(try host.run([0x12, 0, 0, 0, 36, 0], unit: 1, room: 36).data.first == 0x7F)
    #expect(try host.run([0, 0, 0, 0, 0, 0], unit: 1).sense == [5, 0x25, 0])
    let luns = try host.run([0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], room: 64).data
    #expect(luns == [0, 0, 0, 8] + [UInt8](repeating: 0, count: 12))
  }

  @Test func theCDROMIsADiscOfLargerBlocks() throws {
    let host = try Host()
    #expect(try host.run([0x12, 0, 0, 0, 36, 0], target: 5, room: 36).data[0...2] == [5, 0x80, 5])
    #expect(try host.run([0x25], target: 5, room: 8).data == [0, 0, 0, 3, 0, 0, 8, 0])
    let data = try host.run([0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0], target: 5, room: 2048).data
    #expect(data == block(4) + block(5) + block(6) + block(7))
    #expect(try host.run([0x1A, 0, 0x2A, 0, 255, 0], target: 5, room: 255).data[4] == 0x2A)
    #expect(try host.check([0x28, 0, 0, 0, 0, 4, 0, 0, 1, 0], target: 5, room: 2048) == [5, 0x21, 0])
  }

  @Test func anAbortIsCompleteWhenTheTaskHasEnded() throws {
    let host = try Host()
    host.disk.isManual = true
    let pending = try host.start([0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0], room: 512, identifier: 9)
    let other = try host.manage(0, identifier: 8)
    #expect(host.card.takeUsed(0).count == 1)
    #expect(try host.card.bytes(other) == [0])
    _ = try host.manage(0, identifier: 9)
    _ = try host.manage(5, identifier: 0)
    #expect(host.card.takeUsed(0).isEmpty)
    host.disk.drain()
    #expect(host.card.takeUsed(2).count == 1)
    #expect(try host.result(pending, written: 620).data == block(5))
    #expect(host.card.takeUsed(0).count == 2)
    // The reset of the unit is told to the next command.
    host.disk.isManual = false
    #expect(try host.check([0, 0, 0, 0, 0, 0]) == [6, 0x29, 0])
  }

  @Test func functionsForNobodyAreAnswered() throws {
    let host = try Host()
    let cases: [(UInt8, UInt8, UInt8, UInt8)] = [(0, 1, 0, 3), (5, 0, 1, 12), (99, 0, 0, 11), (6, 0, 0, 0)]
    for (subtype, target, unit, expected) in cases {
      let part = try host.manage(subtype, target: target, unit: unit)
      #expect(host.card.takeUsed(0).count == 1)
      #expect(try host.card.bytes(part) == [expected])
    }
    let answer = host.card.writable(5)
    try host.card.add(0, [host.card.readable([1, 0, 0, 0] + host.lun(0) + [0, 0, 0, 0]), answer])
    #expect(host.card.takeUsed(0) == [.init(id: 8, length: 5)])
  }

  @Test func aNewCapacityIsAnEventAndAUnitAttention() throws {
    let host = try Host()
    host.disk.resize(to: 100 * 512)
    let event = host.card.writable(16)
    host.card.add(1, [event])
    #expect(host.card.takeUsed(1).count == 1)
    #expect(try host.card.bytes(event) == [3, 0, 0, 0] + host.lun(0) + [0x2A, 0x09, 0, 0])
    #expect(try host.check([0, 0, 0, 0, 0, 0]) == [6, 0x2A, 9])
    #expect(try host.run([0x25], room: 8).data[3] == 99)
  }

  @Test(arguments: [0, 1, 2]) func aBrokenRequestBreaksTheDeviceUntilItIsReset(kind: Int) throws {
    let host = try Host()
    switch kind {
    case 0: try host.card.add(2, [host.card.readable([1, 2, 3]), host.card.writable(108)])
    case 1: try host.card.add(2, [host.card.readable([UInt8](repeating: 0, count: 51)), host.card.writable(107)])
    default: try host.card.add(0, [host.card.readable([9, 0, 0, 0]), host.card.writable(1)])
    }
    #expect(host.card.needsReset)
    host.card.start()
    #expect(try host.check([0, 0, 0, 0, 0, 0]) == [6, 0x29, 0])
  }

  @Test func commandsOfRandomBytesNeverStopTheDevice() throws {
    let host = try Host()
    var random = SystemRandomNumberGenerator()
    for round in 0..<4000 {
      var command = (0..<32).map { _ in UInt8.random(in: 0...255, using: &random) }
      if round % 2 == 0 { for index in 2..<8 { command[index] = 0 } }
      _ = try host.run(
        command, target: round % 3 == 0 ? 5 : 0, out: round % 5 == 0 ? block(0) : [], room: 64, queue: 2 + round % 2)
      if round % 100 == 0 { host.card.start() }
    }
    #expect(!host.card.needsReset)
  }
}
