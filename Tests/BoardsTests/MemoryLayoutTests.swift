import Testing

@testable import Boards

@Suite struct MemoryLayoutTests {
  private static let mebibyte: UInt64 = 1 << 20
  private static let gibibyte: UInt64 = 1 << 30

  @Test(
    arguments: [
      (512 * mebibyte, 512 * mebibyte, 0), (3 * gibibyte, 3 * gibibyte, 0),
      (3 * gibibyte + mebibyte, 3 * gibibyte, mebibyte),
      (5 * gibibyte, 3 * gibibyte, 2 * gibibyte), (1024 * gibibyte, 3 * gibibyte, 1021 * gibibyte),
    ] as [(UInt64, UInt64, UInt64)])
  func splitsRAMAroundTheHole(memory: UInt64, low: UInt64, high: UInt64) throws {
    let layout = try PCMemoryLayout(memory: memory)
    #expect(layout.lowMemory == low)
    #expect(layout.highMemory == high)
    #expect(layout.totalMemory == memory)
    #expect(layout.ram.map(\.guestAddress) == (high == 0 ? [0] : [0, 4 * Self.gibibyte]))
    #expect(layout.ram.map(\.fileOffset) == (high == 0 ? [0] : [0, low]))
    #expect(layout.pciHole == low..<0xFEC0_0000)
  }

  @Test(arguments: [0, 1 * mebibyte, 2 * mebibyte - 1, 512 * mebibyte + 1, 1024 * gibibyte + mebibyte, .max])
  func refusesSizesThatAreNotWholeOrTooBig(memory: UInt64) {
    #expect(throws: MemoryLayoutError.memory(memory)) { try PCMemoryLayout(memory: memory) }
  }

  @Test(
    arguments: [
      (512 * mebibyte, [(0, 512 * mebibyte)]), (3 * gibibyte, [(0, 3 * gibibyte)]),
      (5 * gibibyte, [(0, 3 * gibibyte), (4 * gibibyte, 2 * gibibyte)]),
    ] as [(UInt64, [(UInt64, UInt64)])])
  func e820HoldsAllRAMAndTheEnginesPages(memory: UInt64, ram: [(UInt64, UInt64)]) throws {
    let entries = try PCMemoryLayout(memory: memory).e820
    #expect(entries.filter { $0.kind == .ram }.map { [$0.base, $0.size] } == ram.map { [$0.0, $0.1] })
    #expect(entries.filter { $0.kind == .reserved }.map { [$0.base, $0.size] } == [[0xFEFF_C000, 0x4000]])
    #expect(entries.map(\.base) == entries.map(\.base).sorted())
  }

  @Test(
    arguments: [
      (0x1_0000, 0xFFFF_0000, 0xF_0000, 0), (0x2_0000, 0xFFFE_0000, 0xE_0000, 0),
      (0x4_0000, 0xFFFC_0000, 0xE_0000, 0x2_0000),
      (0x100_0000, 0xFF00_0000, 0xE_0000, 0xFE_0000),
    ] as [(UInt64, UInt64, UInt64, UInt64)])
  func firmwareEndsAt4GiBAndAgainAt1MiB(size: UInt64, base: UInt64, lowBase: UInt64, lowOffset: UInt64) throws {
    let placement = try FirmwarePlacement(size: size)
    #expect([placement.base, placement.lowBase, placement.lowOffset] == [base, lowBase, lowOffset])
    #expect(placement.base >= PCMemoryLayout.engineReserved.upperBound)
  }

  @Test(arguments: [0, 0x8000, 0x1_8000, 0x101_0000, .max] as [UInt64])
  func refusesFirmwareOfOddSizes(size: UInt64) {
    #expect(throws: MemoryLayoutError.firmware(size)) { try FirmwarePlacement(size: size) }
  }
}
