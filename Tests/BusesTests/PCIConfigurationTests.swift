import Buses
import Testing

@Suite struct PCIConfigurationTests {
  static let memoryOn = UInt32(PCICommand.memorySpace.rawValue)
  static let ioOn = UInt32(PCICommand.ioSpace.rawValue)

  func space(_ body: (inout PCIConfiguration) -> Void = { _ in }) -> PCIConfiguration {
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: 0x8086, device: 0x7010, revision: 3, classCode: 0x010180, subsystemVendor: 0x1AF4, subsystem: 0x1100))
    body(&space)
    space.seal()
    return space
  }

  @Test func identityIsReadOnly() {
    var space = space()
    for register in [0x00, 0x08, 0x2C] { space.write(register, .dword, 0xFFFF_FFFF) }
    #expect(space.read(0x00, .dword) == 0x7010_8086)
    #expect(space.read(0x08, .dword) == 0x0101_8003)
    #expect(space.read(0x2C, .dword) == 0x1100_1AF4)
    #expect(space.read(0x0A, .word) == 0x0101)
    #expect(space.read(0x0B, .byte) == 0x01)
  }

  @Test func onlyImplementedCommandBitsStick() {
    var space = space()
    space.write(PCIRegister.command, .word, 0xFFFF)
    #expect(space.read(PCIRegister.command, .word) == 0x0547)
  }

  @Test func statusErrorsClearByWritingOne() {
    var space = space { $0.set16(PCIRegister.status, 0xFBB0) }
    space.write(PCIRegister.status, .word, 0x2000)
    #expect(space.read(PCIRegister.status, .word) == 0xDBB0)
    space.write(PCIRegister.command, .dword, 0xFFFF_0000)
    #expect(space.read(PCIRegister.status, .word) == 0x02B0)
  }

  @Test(
    arguments: [
      (BARKind.io, 16, 0xFFFF_FFF1), (.io, 256, 0xFFFF_FF01), (.memory32, 16, 0xFFFF_FFF0),
      (.memory32, 0x1000, 0xFFFF_F000), (.prefetchable32, 16 << 20, 0xFF00_0008),
      (.prefetchable32, 256 << 20, 0xF000_0008),
    ] as [(BARKind, UInt64, UInt32)])
  func writingOnesSizesABAR(kind: BARKind, size: UInt64, expected: UInt32) {
    var space = space { $0.addBAR(0, kind, size: size) }
    space.write(PCIRegister.bar0, .dword, 0xFFFF_FFFF)
    #expect(space.read(PCIRegister.bar0, .dword) == expected)
    space.write(PCIRegister.bar0, .dword, 0)
    #expect(space.read(PCIRegister.bar0, .dword) == expected & 0xF)
    #expect(space.read(PCIRegister.bar0 + 4, .dword) == 0)
  }

  @Test func a64BitBARTakesTwoRegisters() {
    var space = space { $0.addBAR(2, .prefetchable64, size: 1 << 33) }
    space.write(0x18, .dword, 0xFFFF_FFFF)
    space.write(0x1C, .dword, 0xFFFF_FFFF)
    #expect(space.read(0x18, .dword) == 0x0000_000C)
    #expect(space.read(0x1C, .dword) == 0xFFFF_FFFE)
    space.write(0x18, .dword, 0)
    space.write(0x1C, .dword, 0x0000_0040)
    space.write(PCIRegister.command, .word, Self.memoryOn)
    #expect(space.decodedBase(2) == 0x40_0000_0000)
    #expect(space.bars[3] == nil)
  }

  @Test func theROMDecodesOnlyWithBothEnables() {
    var space = space { $0.addBAR(6, .memory32, size: 0x1_0000) }
    space.write(PCIRegister.expansionROM, .dword, 0xFFFF_FFFE)
    #expect(space.read(PCIRegister.expansionROM, .dword) == 0xFFFF_0000)
    space.write(PCIRegister.expansionROM, .dword, 0xFEB0_0000)
    space.write(PCIRegister.command, .word, Self.memoryOn)
    #expect(space.decodedBase(6) == nil)
    space.write(PCIRegister.expansionROM, .dword, 0xFEB0_0001)
    #expect(space.decodedBase(6) == 0xFEB0_0000)
    space.write(PCIRegister.command, .word, 0)
    #expect(space.decodedBase(6) == nil)
  }

  @Test func aBARUnderSizingDoesNotDecode() {
    var space = space {
      $0.addBAR(0, .memory32, size: 0x1000)
      $0.addBAR(1, .io, size: 16)
      $0.addBAR(2, .memory64, size: 0x1000)
    }
    space.write(PCIRegister.command, .word, Self.memoryOn | Self.ioOn)
    #expect(space.decodedBase(0) == nil)
    for register in [0x10, 0x14, 0x18] { space.write(register, .dword, 0xFFFF_FFFF) }
    #expect(space.decodedBase(0) == nil && space.decodedBase(1) == nil && space.decodedBase(2) == nil)
    space.write(0x1C, .dword, 0xFFFF_FFFF)
    #expect(space.decodedBase(2) == nil)
    space.write(0x14, .dword, 0xFFF1)
    #expect(space.decodedBase(1) == 0xFFF0)
  }

  @Test func narrowBARWritesAddUp() {
    var space = space { $0.addBAR(0, .memory32, size: 0x1000) }
    space.write(PCIRegister.command, .byte, Self.memoryOn)
    space.write(0x12, .byte, 0xB0)
    space.write(0x13, .byte, 0xFE)
    space.write(0x10, .word, 0x1FFF)
    #expect(space.decodedBase(0) == 0xFEB0_1000)
  }

  @Test func resetGoesBackToTheSealedValues() {
    var space = space {
      $0.addBAR(0, .memory32, size: 0x1000)
      $0.set8(0x40, 0x55)
      $0.allowWrite(0x40, 0xFF)
    }
    space.write(0x10, .dword, 0xFEB0_0000)
    space.write(0x40, .byte, 0xAA)
    space.write(PCIRegister.interruptLine, .byte, 11)
    space.reset()
    #expect(space.read(0x10, .dword) == 0 && space.read(0x40, .byte) == 0x55)
    #expect(space.read(PCIRegister.interruptLine, .byte) == 0)
  }

  @Test func accessesAcrossTheEndReadOnes() {
    var space = space()
    space.write(0xFE, .dword, 0x1234_5678)
    #expect(space.read(0xFE, .dword) == 0xFFFF_0000)
  }
}
