import Testing

@testable import Devices

@Suite struct DisplayVGAMemoryTests {
  let display: DisplayBoard

  /// Planar mode with latches 0x0F 0xF0 0xFF 0x00 (planes 0–3), loaded from the window's first byte.
  init() throws {
    display = try DisplayBoard()
    display.set(.planar)
    for (plane, byte) in ([0x0F, 0xF0, 0xFF, 0x00] as [UInt8]).enumerated() {
      display.sequencer(2, 1 << UInt8(plane))
      display.poke(0xA0000, byte)
    }
    display.sequencer(2, 0x0F)
    _ = display.peek(0xA0000)
  }

  func planes(_ offset: UInt64) -> [UInt8] {
    (UInt8(0)..<4).map { plane in
      display.graphics(4, plane)
      return display.peek(0xA0000 + offset)
    }
  }

  @Test func writeModeZeroRotatesAndSetsResets() {
    display.graphics(3, 4)
    display.graphics(1, 0x0C)
    display.graphics(0, 0x04)
    display.poke(0xA0010, 0x1E)
    #expect(planes(0x10) == [0xE1, 0xE1, 0xFF, 0x00])
  }

  @Test(
    arguments: [
      (0x00, [0x3C, 0x3C, 0x3C, 0x3C]), (0x08, [0x0C, 0x30, 0x3C, 0x00]), (0x10, [0x3F, 0xFC, 0xFF, 0x3C]),
      (0x18, [0x33, 0xCC, 0xC3, 0x3C]),
    ] as [(UInt8, [UInt8])])
  func theFunctionCombinesDataAndLatches(function: UInt8, expected: [UInt8]) {
    display.graphics(3, function)
    display.poke(0xA0010, 0x3C)
    #expect(planes(0x10) == expected)
  }

  @Test func theBitMaskKeepsLatchedBits() {
    display.graphics(8, 0x81)
    display.poke(0xA0010, 0x7F)
    #expect(planes(0x10) == [0x0F, 0x71, 0x7F, 0x01])
  }

  @Test func writeModeOneCopiesTheLatches() {
    display.graphics(5, 0x01)
    display.poke(0xA0010, 0x55)
    #expect(planes(0x10) == [0x0F, 0xF0, 0xFF, 0x00])
  }

  @Test func writeModeTwoSpreadsAColor() {
    display.graphics(5, 0x02)
    display.graphics(8, 0x0F)
    display.poke(0xA0010, 0x0A)
    #expect(planes(0x10) == [0x00, 0xFF, 0xF0, 0x0F])
  }

  @Test func writeModeThreeMasksWithItsData() {
    display.graphics(5, 0x03)
    display.graphics(8, 0x3F)
    display.graphics(0, 0x01)
    display.poke(0xA0010, 0xF0)
    #expect(planes(0x10) == [0x3F, 0xC0, 0xCF, 0x00])
  }

  @Test func theMapMaskProtectsPlanes() {
    display.sequencer(2, 0x05)
    display.poke(0xA0010, 0xAA)
    #expect(planes(0x10) == [0xAA, 0x00, 0xAA, 0x00])
  }

  @Test func readModeOneComparesColors() {
    display.graphics(5, 0x08)
    display.graphics(2, 0x06)
    display.graphics(7, 0x0F)
    #expect(display.peek(0xA0000) == 0xF0)
    display.graphics(7, 0x04)
    #expect(display.peek(0xA0000) == 0xFF)
    display.graphics(7, 0x00)
    #expect(display.peek(0xA0010) == 0xFF)
  }

  @Test(arguments: [(0, 0xA0000, 0xBFFFF), (1, 0xA0000, 0xAFFFF), (2, 0xB0000, 0xB7FFF), (3, 0xB8000, 0xBFFFF)])
  func theMemoryMapSelectPlacesTheWindow(select: UInt8, first: UInt64, last: UInt64) {
    display.graphics(6, select << 2 | 1)
    display.graphics(4, 0)
    for address in [0xA0000, 0xAFFFF, 0xB0000, 0xB7FFF, 0xB8000, 0xBFFFF] as [UInt64] {
      display.poke(address, 0x5A)
      #expect(display.peek(address) == (first...last ~= address ? 0x5A : 0xFF))
    }
    display.outb(0x3C2, 0x61)
    #expect(display.peek(first) == 0xFF)
  }

  @Test func oddEvenModePutsCodesAndAttributesInTheirPlanes() {
    display.set(.text)
    display.poke(0xB8002, 0x41)
    display.poke(0xB8003, 0x1E)
    display.set(.planar)
    #expect(planes(1)[..<2] == [0x41, 0x1E])
  }

  @Test func chainedModeWritesTheAddressedPlaneOnly() {
    display.set(.chained)
    for offset in UInt64(0)..<4 { display.poke(0xA0010 + offset, UInt8(offset) + 1) }
    #expect(display.peek(0xA0012) == 3)
    display.set(.planar)
    #expect(planes(4) == [1, 2, 3, 4])
  }
}
