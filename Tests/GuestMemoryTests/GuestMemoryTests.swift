import GuestMemory
import Testing

/// Two adjacent regions and one apart: [0x1000, 0x2000), [0x2000, 0x3000), [0x10000, 0x11000).
// Safety: the buffers live as long as the fixture, which each test keeps.
private final class Fixture {
  let memory: GuestMemory
  private let buffers: [UnsafeMutableRawBufferPointer]

  init() {
    let starts: [UInt64] = [0x1_0000, 0x1000, 0x2000]
    buffers = starts.map { _ in
      let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 0x1000, alignment: 4096)
      buffer.initializeMemory(as: UInt8.self, repeating: 0)
      return buffer
    }
    memory = GuestMemory(
      zip(starts, buffers).map { start, buffer in
        RAMRegion(guestAddress: start, count: buffer.count, fileOffset: 0, host: buffer.baseAddress!)
      })
  }

  deinit { for buffer in buffers { buffer.deallocate() } }
}

@Suite struct GuestMemoryTests {
  @Test func regionsAreSortedAndCounted() {
    let fixture = Fixture()
    #expect(fixture.memory.regions.map(\.guestAddress) == [0x1000, 0x2000, 0x1_0000])
    #expect(fixture.memory.totalSize == 0x3000)
  }

  @Test func integersAreLittleEndian() throws {
    let fixture = Fixture()
    try fixture.memory.store(UInt32(0x1122_3344), at: 0x1FF0)
    #expect(try fixture.memory.bytes(0x1FF0, 4) == [0x44, 0x33, 0x22, 0x11])
    #expect(try fixture.memory.load(0x1FF1, as: UInt16.self) == 0x2233)
  }

  @Test(arguments: [UInt64(0x1FFC), 0x1FFD, 0x1FFE, 0x1FFF, 0x2000])
  func anAccessMayCrossAdjacentRegions(address: UInt64) throws {
    let fixture = Fixture()
    try fixture.memory.store(UInt64(0x0102_0304_0506_0708), at: address)
    #expect(try fixture.memory.load(address, as: UInt64.self) == 0x0102_0304_0506_0708)
    #expect(try fixture.memory.bytes(address, 8) == [8, 7, 6, 5, 4, 3, 2, 1])
  }

  static let outside: [(UInt64, Int)] = [
    (0, 1), (0xFFF, 2), (0x2FFF, 2), (0x3000, 1), (0xFFFF, 1), (0x1_1000, 1), (0x1_0FFF, 2), (.max, 1),
    (.max, .max), (0x1000, .max), (0x1000, -1), (.max - 3, 8),
  ]

  @Test(arguments: outside)
  func anAccessThatIsNotWhollyRAMFails(address: UInt64, count: Int) throws {
    let fixture = Fixture()
    let error = #expect(throws: GuestMemoryError.self) { try fixture.memory.segments(address, count) }
    #expect(error?.address == address)
    #expect(error?.count == count)
  }

  @Test func anEmptyAccessSucceedsAnywhere() throws {
    let fixture = Fixture()
    #expect(try fixture.memory.segments(0x5000, 0).isEmpty)
  }

  @Test func aWriteThatDoesNotFitChangesNothing() throws {
    let fixture = Fixture()
    #expect(throws: GuestMemoryError.self) { try fixture.memory.write(0x2FFE, [1, 2, 3]) }
    #expect(try fixture.memory.bytes(0x2FFE, 2) == [0, 0])
  }

  @Test func segmentsCoverTheRangeInOrder() throws {
    let fixture = Fixture()
    try fixture.memory.write(0x1FFE, [1, 2, 3, 4])
    let segments = try fixture.memory.segments(0x1FFE, 4)
    #expect(segments.map(\.count) == [2, 2])
    #expect(segments.flatMap { Array($0) } == [1, 2, 3, 4])
  }
}
