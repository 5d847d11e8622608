import DeviceKit
import GuestMemory
import LinuxSystem
import MachineModel
import TestKit
import Testing

@testable import Devices

@Suite struct VirtioBalloonTests {
  /// RAM in a file in memory, as machines have it.
  final class FileMemory {
    static let size = 4 << 20
    let file: Descriptor
    let mapping: Mapping
    init() throws {
      file = try Descriptor.memory(named: "test-ram", size: UInt64(Self.size))
      mapping = try Mapping(sharing: file, count: Self.size)
    }
    var memory: GuestMemory {
      GuestMemory([RAMRegion(guestAddress: 0, count: Self.size, fileOffset: 0, host: mapping.base)])
    }
  }

  struct Balloon {
    let ram = try? FileMemory()
    let card: VirtioDriver

    init(_ properties: [String: PropertyValue] = [:]) throws {
      let fake = FakeBoard(memory: ram?.memory)
      let values: [String: PropertyValue] = ["addr": .string("03.0"), "free-page-reporting": .boolean(true)]
      let device = try VirtioBalloon.model.pci.make(
        "balloon", Properties(values.merging(properties) { _, given in given }), fake.board)
      card = VirtioDriver(fake, device)
    }

    static let page: UInt64 = 0x20_0000

    /// Fills four pages and returns whether each has its content.
    func fill() throws { try card.fake.board.memory.write(Self.page, [UInt8](repeating: 0xAA, count: 4 * 4096)) }
    func kept() throws -> [Bool] {
      try (0..<4).map { page in
        let bytes = try card.fake.board.memory.bytes(Self.page + UInt64(page) * 4096, 4096)
        return bytes.allSatisfy { $0 == 0xAA }
      }
    }
    func isZero(_ page: UInt64) throws -> Bool {
      try card.fake.board.memory.bytes(Self.page + page * 4096, 4096).allSatisfy { $0 == 0 }
    }
  }

  private func numbers(_ pages: [UInt32]) -> [UInt8] {
    pages.flatMap { page in (0..<4).map { UInt8(truncatingIfNeeded: page >> ($0 * 8)) } }
  }

  private let reporting: UInt64 = 1 << 5

  @Test func pagesInTheBalloonGoBackToTheHost() throws {
    let balloon = try Balloon(["inflate": .integer(12 << 12)])
    #expect(balloon.card.pci.configuration(0, .dword) == 12)
    balloon.card.start()
    try balloon.fill()
    try balloon.card.add(0, [balloon.card.readable(numbers([0x201, 0x202, 0x200]))])
    #expect(balloon.card.takeUsed(0) == [.init(id: 0, length: 0)])
    #expect(try balloon.kept() == [false, false, false, true])
    #expect(try balloon.isZero(0) && balloon.isZero(1) && balloon.isZero(2))
    balloon.card.pci.setConfiguration(4, .dword, 3)
    #expect(balloon.card.pci.configuration(4, .dword) == 3)
    balloon.card.pci.setConfiguration(0, .dword, 99)
    #expect(balloon.card.pci.configuration(0, .dword) == 12)
    try balloon.card.add(1, [balloon.card.readable(numbers([0x200]))])
    #expect(balloon.card.takeUsed(1).count == 1)
  }

  @Test func freePagesThatTheGuestReportsGoBackWhole() throws {
    let balloon = try Balloon()
    balloon.card.start(reporting)
    try balloon.fill()
    // From the middle of the first page to the middle of the last.
    balloon.card.add(
      4, [.writable(Balloon.page + 2048, 3 * 4096)])
    #expect(balloon.card.takeUsed(4).count == 1)
    #expect(try balloon.kept() == [true, false, false, true])
  }

  @Test func pagesOfAPatternAreKept() throws {
    let balloon = try Balloon()
    balloon.card.start(reporting | 1 << 4)
    balloon.card.pci.setConfiguration(12, .dword, 0xAAAA_AAAA)
    try balloon.fill()
    balloon.card.add(4, [.writable(Balloon.page, 4 * 4096)])
    #expect(balloon.card.takeUsed(4).count == 1)
    #expect(try balloon.kept() == [true, true, true, true])
    balloon.card.pci.setConfiguration(12, .dword, 0)
    balloon.card.add(4, [.writable(Balloon.page, 4096)])
    #expect(try balloon.kept() == [false, true, true, true])
  }

  @Test func numbersOfNoPageAreNobodysLoss() throws {
    let balloon = try Balloon()
    balloon.card.start()
    try balloon.fill()
    try balloon.card.add(0, [balloon.card.readable(numbers([.max, 0, .max, 0x8000_0000, 0x201]) + [1, 2])])
    #expect(balloon.card.takeUsed(0).count == 1)
    #expect(try balloon.kept() == [true, false, true, true])
    #expect(!balloon.card.needsReset)
  }

  @Test func aBufferOfTooManyNumbersBreaksTheDevice() throws {
    let balloon = try Balloon()
    balloon.card.start()
    balloon.card.add(0, [.readable(0, 1 << 20)])
    #expect(balloon.card.needsReset)
    balloon.card.start()
    #expect(!balloon.card.needsReset)
  }

  @Test func theBufferOfStatisticsIsKept() throws {
    let balloon = try Balloon()
    balloon.card.start(1 << 1)
    try balloon.card.add(2, [balloon.card.readable([UInt8](repeating: 0, count: 100))])
    #expect(balloon.card.takeUsed(2).isEmpty)
  }
}
