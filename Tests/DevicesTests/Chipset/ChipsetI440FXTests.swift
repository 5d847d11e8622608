import DeviceKit
import TestKit
import Testing

@testable import Devices

@Suite struct ChipsetI440FXTests {
  let chipset: ChipsetBoard
  var fake: FakeBoard { chipset.fake }
  init() throws { chipset = try ChipsetBoard() }

  @Test func identityIsThe82441FX() {
    #expect(chipset.readWide(0, 0x00) == 0x1237_8086)
    #expect(chipset.readWide(0, 0x04) == 0x0280_0006)
    #expect(chipset.readWide(0, 0x08) == 0x0600_0002)
    #expect(chipset.readWide(0, 0x2C) == 0x1100_1AF4)
    #expect(chipset.read(0, 0x72) == 0x02)
  }

  @Test func powerOnShowsTheEndOfTheFirmware() {
    #expect(chipset.map == [.firmware(0xE0000, 0x100000, offset: 0x20000)])
    #expect(fake.board.mmio.read(0xFFFF0, .byte) == 63)
    #expect(fake.board.mmio.read(0xE0000, .byte) == 32)
    #expect(fake.board.mmio.read(0xC0000, .dword) == 0xFFFF_FFFF)
  }

  @Test func aSmallFirmwareIsSeenInItsOwnSizeOnly() throws {
    let small = try ChipsetBoard(firmware: [UInt8](repeating: 7, count: 0x10000))
    #expect(small.map == [.firmware(0xF0000, 0x100000, offset: 0)])
    #expect(small.fake.board.mmio.read(0xEFFFF, .word) == 0x07FF)
    let tiny = try ChipsetBoard(firmware: [UInt8](repeating: 7, count: 0x3000))
    #expect(tiny.map == [.firmware(0xFD000, 0x100000, offset: 0)])
    #expect(try ChipsetBoard(firmware: nil).map.isEmpty)
    #expect(throws: DeviceError.self) { try ChipsetBoard(firmware: [1, 2, 3]) }
  }

  @Test func eachNibbleControlsItsSegment() {
    let segments: [(UInt32, UInt8, UInt64, UInt64)] = [
      (0x59, 4, 0xF0000, 0x100000), (0x5A, 0, 0xC0000, 0xC4000), (0x5A, 4, 0xC4000, 0xC8000),
      (0x5B, 0, 0xC8000, 0xCC000), (0x5B, 4, 0xCC000, 0xD0000), (0x5C, 0, 0xD0000, 0xD4000),
      (0x5C, 4, 0xD4000, 0xD8000), (0x5D, 0, 0xD8000, 0xDC000), (0x5D, 4, 0xDC000, 0xE0000),
      (0x5E, 0, 0xE0000, 0xE4000), (0x5E, 4, 0xE4000, 0xE8000), (0x5F, 0, 0xE8000, 0xEC000),
      (0x5F, 4, 0xEC000, 0xF0000),
    ]
    for (register, shift, base, end) in segments {
      chipset.write(0, register, 3 << shift)
      #expect(chipset.map.contains(.ram(base, end)), "PAM 0x\(String(register, radix: 16)) << \(shift)")
      chipset.write(0, register, 1 << shift)
      #expect(chipset.map.contains(.ram(base, end, readOnly: true)))
      chipset.write(0, register, 0)
      #expect(chipset.map == [.firmware(0xE0000, 0x100000, offset: 0x20000)])
    }
  }

  @Test func neighboursOfOneKindShareAMapping() {
    for register in UInt32(0x5A)...0x5F { chipset.write(0, register, 0x33) }
    #expect(chipset.map == [.ram(0xC0000, 0xF0000), .firmware(0xF0000, 0x100000, offset: 0x30000)])
    chipset.write(0, 0x59, 0x30)
    #expect(chipset.map == [.ram(0xC0000, 0x100000)])
    chipset.write(0, 0x5C, 0x13)
    #expect(
      chipset.map == [.ram(0xC0000, 0xD4000), .ram(0xD4000, 0xD8000, readOnly: true), .ram(0xD8000, 0x100000)])
  }

  @Test func aDwordWriteChangesFourRegistersAtOnce() {
    chipset.configurationAddress(0, 0x5C)
    fake.outl(0xCFC, 0x3333_3333)
    #expect(chipset.map == [.ram(0xD0000, 0xF0000), .firmware(0xF0000, 0x100000, offset: 0x30000)])
  }

  @Test func reservedBitsStayZero() {
    for register in UInt32(0x59)...0x5F { chipset.write(0, register, 0xFF) }
    #expect(chipset.read(0, 0x59) == 0x30)
    #expect(chipset.read(0, 0x5F) == 0x33)
  }

  @Test func writeOnlySegmentsReadFirmwareAndWriteRAM() throws {
    chipset.write(0, 0x59, 0x20)
    #expect(chipset.map == [.firmware(0xE0000, 0xF0000, offset: 0x20000)])
    for address in stride(from: UInt64(0xF0000), to: 0x100000, by: 0x1000) {
      fake.board.mmio.write(address, .dword, fake.board.mmio.read(address, .dword) ^ 0xFF)
    }
    #expect(fake.board.mmio.read(0xF1000, .byte) == 49)
    #expect(try fake.board.memory.load(0xF1000, as: UInt32.self) == 0x3131_31CE)
    chipset.write(0, 0x59, 0x10)
    fake.board.mmio.write(0xF1000, .dword, 0)
    #expect(try fake.board.memory.load(0xF1000, as: UInt32.self) == 0x3131_31CE)
    #expect(fake.board.mmio.read(0xF1000, .byte) == 0xCE)
  }

  @Test func wideAccessesSplitAtASegmentsEnd() throws {
    chipset.write(0, 0x5A, 0x02)
    fake.board.mmio.write(0xC3FFC, .qword, 0x1122_3344_5566_7788)
    #expect(try fake.board.memory.load(0xC3FFC, as: UInt64.self) == 0x5566_7788)
    fake.board.mmio.write(0xFFFFC, .qword, .max)
    #expect(fake.board.mmio.read(0xFFFFC, .qword) == 0xFFFF_FFFF_3F3F_3F3F)
  }

  @Test func openSMRAMShowsRAMInsteadOfVGA() {
    chipset.write(0, 0x72, 0x4A)
    #expect(chipset.map.first == .ram(0xA0000, 0xC0000))
    chipset.write(0, 0x72, 0x6A)
    #expect(chipset.map.first == .firmware(0xE0000, 0x100000, offset: 0x20000))
    chipset.write(0, 0x72, 0x0A)
    #expect(chipset.map.count == 1)
    #expect(chipset.read(0, 0x72) == 0x0A)
  }

  @Test func lockedSMRAMStaysClosedUntilReset() {
    chipset.write(0, 0x72, 0x5F)
    #expect(chipset.read(0, 0x72) == 0x1A)
    chipset.write(0, 0x72, 0x48)
    #expect(chipset.read(0, 0x72) == 0x1A)
    #expect(chipset.map.count == 1)
    chipset.write(0, 0x72, 0x60)
    #expect(chipset.read(0, 0x72) == 0x3A)
    chipset.bridge.reset()
    chipset.write(0, 0x72, 0x48)
    #expect(chipset.read(0, 0x72) == 0x4A)
  }

  @Test func resetShowsTheFirmwareAgain() {
    for register in UInt32(0x59)...0x5F { chipset.write(0, register, 0x33) }
    chipset.write(0, 0x72, 0x4A)
    chipset.bridge.reset()
    #expect(chipset.map == [.firmware(0xE0000, 0x100000, offset: 0x20000)])
    #expect(fake.inl(0xCF8) == 0)
    #expect(chipset.read(0, 0x5F) == 0)
  }

  @Test func noOrderOfWritesOverlapsMappings() {
    var random = SplitMix(seed: 440)
    for _ in 0..<3000 {
      let register = 0x58 + UInt32(random.next() % 8)
      chipset.write(0, register == 0x58 ? 0x72 : register, UInt8(truncatingIfNeeded: random.next()) & 0xEF)
      let map = chipset.map
      for (first, second) in zip(map, map.dropFirst()) {
        #expect(first.guestAddress + first.size <= second.guestAddress)
      }
      #expect(map.allSatisfy { $0.guestAddress % 4096 == 0 && $0.size % 4096 == 0 && $0.size > 0 })
    }
  }
}

/// A small seeded generator, so that a failing run can be repeated.
struct SplitMix: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
    return value ^ value >> 31
  }
}
