import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

@Suite struct DisplayStandardVGATests {
  let display: DisplayBoard
  var mmio: AddressSpace { display.fake.board.mmio }
  init() throws { display = try DisplayBoard() }

  @Test func identityIsTheStandardVGA() {
    #expect(display.configuration(0x00) == 0x1111_1234)
    #expect(display.configuration(0x08) == 0x0300_0002)
    #expect(display.configuration(0x2C) == 0x1100_1AF4)
  }

  @Test func barsHaveTheirSizes() {
    for register in [0x10, 0x18, 0x30] { display.configure(register, 0xFFFF_FFFF) }
    #expect(display.configuration(0x10) == 0xFFF0_0008)
    #expect(display.configuration(0x14) == 0)
    #expect(display.configuration(0x18) == 0xFFFF_F000)
    #expect(display.configuration(0x30) == 0xFFFF_0001)
  }

  @Test func theFrameBufferAndTheROMAreMapped() {
    display.configure(0x10, 0xFD00_0000)
    display.configure(0x30, 0xFEB0_0001)
    display.configure(0x04, 0x02)
    #expect(
      display.fake.mapper.mappings == [
        MemoryMapping(guestAddress: 0xFD00_0000, size: 1 << 20, source: .device(0), readOnly: false),
        MemoryMapping(guestAddress: 0xFEB0_0000, size: 1 << 16, source: .device(1 << 20), readOnly: true),
      ])
    #expect(mmio.read(0xFEB0_1234, .byte) == UInt64(DisplayBoard.rom[0x1234]))
    #expect(mmio.read(0xFEB0_FFFF, .byte) == 0)
    mmio.write(0xFEB0_1234, .byte, 0xAA)
    #expect(mmio.read(0xFEB0_1234, .byte) == UInt64(DisplayBoard.rom[0x1234]))
    mmio.write(0xFD00_0010, .qword, 0x1122_3344_5566_7788)
    #expect(mmio.read(0xFD00_0014, .dword) == 0x1122_3344)
    display.device.reset()
    #expect(display.fake.mapper.mappings.isEmpty)
  }

  @Test func theRegisterBARMirrorsPortsAndDISPI() {
    display.configure(0x18, 0xFEBF_0000)
    display.configure(0x04, 0x02)
    mmio.write(0xFEBF_0402, .byte, 0x67)
    #expect(display.inb(0x3CC) == 0x67)
    mmio.write(0xFEBF_0414, .word, 0x120C)
    #expect(display.inb(0x3D5) == 0x12)
    #expect(mmio.read(0xFEBF_0415, .byte) == 0x12)
    mmio.write(0xFEBF_0502, .word, 640)
    mmio.write(0xFEBF_0504, .dword, 0x0020_01E0)
    #expect(display.dispi(1) == 640 && display.dispi(2) == 480 && display.dispi(3) == 32)
    #expect(mmio.read(0xFEBF_0500, .dword) == 0x0280_B0C5)
    #expect(mmio.read(0xFEBF_0503, .byte) == 0x02)
    #expect(mmio.read(0xFEBF_0000, .dword) == 0xFFFF_FFFF)
  }

  @Test func theByteOrderRegisterSwapsPixels() {
    display.configure(0x18, 0xFEBF_0000)
    display.configure(0x04, 0x02)
    #expect(mmio.read(0xFEBF_0600, .qword) == 0x1E1E_1E1E_0000_0008)
    display.dispi(1, 64)
    display.dispi(2, 32)
    display.dispi(3, 32)
    display.dispi(4, 0x41)
    for (offset, byte) in ([0xFF, 0x11, 0x22, 0x33] as [UInt8]).enumerated() {
      display.poke(0xA0000 + UInt64(offset), byte)
    }
    #expect(display.picture.pixels[0] == 0x2211FF)
    mmio.write(0xFEBF_0604, .dword, 0x1234_5678)
    #expect(mmio.read(0xFEBF_0604, .dword) == 0x1E1E_1E1E)
    mmio.write(0xFEBF_0604, .dword, 0xBEBE_BEBE)
    #expect(mmio.read(0xFEBF_0604, .dword) == 0xBEBE_BEBE)
    #expect(display.picture.pixels[0] == 0x112233)
  }

  @Test func theBankWindowAndTheFrameBufferShareBytes() {
    display.configure(0x10, 0xFD00_0000)
    display.configure(0x04, 0x02)
    display.dispi(1, 640)
    display.dispi(2, 480)
    display.dispi(3, 16)
    display.dispi(4, 0x41)
    display.dispi(5, 3)
    mmio.write(0xA1234, .dword, 0xCAFE_F00D)
    #expect(mmio.read(0xFD03_1234, .dword) == 0xCAFE_F00D)
    display.dispi(5, 0x13)
    #expect(display.dispi(5) == 3)
    #expect(mmio.read(0xB1234, .dword) == 0xFFFF_FFFF)
    display.dispi(4, 0)
    display.dispi(4, 0x41)
    #expect(mmio.read(0xFD03_1234, .dword) == 0)
  }

  @Test func wideDACEntriesNeedTheDISPIFlag() {
    display.outb(0x3C8, 0)
    display.outb(0x3C9, 0xFF)
    display.dispi(4, 0x20)
    display.outb(0x3C9, 0xFF)
    display.outb(0x3C7, 0)
    #expect(display.inb(0x3C9) == 0x3F && display.inb(0x3C9) == 0xFF)
  }

  @Test func resetTurnsTheScreenOff() {
    display.set(.text)
    display.dispi(4, 0x41)
    display.device.reset()
    #expect(display.screen.textScreen() == nil)
    #expect(display.dispi(4) == 0 && display.dispi(0) == 0xB0C5)
    #expect(display.inb(0x3CC) == 0)
  }

  @Test func retracesFollowGuestTime() {
    display.set(.text)
    var seen = Set<UInt8>()
    for _ in 0..<400 {
      seen.insert(display.inb(0x3DA) & 0x09)
      display.fake.advance(nanoseconds: 50_321)
    }
    #expect(seen == [0x00, 0x01, 0x09])
  }

  @Test func impossibleOptionsAreRefused() {
    func make(_ properties: [String: PropertyValue], on fake: FakeBoard) throws {
      _ = try StandardVGA.model.make("vga", Properties(properties), fake.board)
    }
    #expect(throws: DeviceError.self) { try make(["vgamem": .integer(3 << 20)], on: FakeBoard()) }
    #expect(throws: DeviceError.self) { try make(["vgamem": .integer(512 << 10)], on: FakeBoard()) }
    #expect(throws: DeviceError.self) { try make(["vgamem": .integer(64 << 20)], on: FakeBoard()) }
    let large = FakeBoard(resources: FakeResources(files: ["vgabios": [UInt8](repeating: 0, count: 129 << 10)]))
    #expect(throws: DeviceError.self) { try make([:], on: large) }
    #expect(throws: DeviceError.self) {
      try StandardVGA.model.make("second", Properties(["vgamem": .integer(1 << 20)]), display.fake.board)
    }
  }

  @Test func aBoardWithoutVideoBIOSHasNoROMBAR() throws {
    let bare = try DisplayBoard(rom: nil)
    bare.configure(0x30, 0xFFFF_FFFF)
    #expect(bare.configuration(0x30) == 0)
  }

  /// Whatever a guest writes anywhere, nothing traps and pictures stay within bounds.
  @Test(arguments: [1, 2, 3, 4] as [UInt64]) func randomAccessesNeverTrap(seed: UInt64) {
    var random = SplitMix(seed: seed)
    display.configure(0x10, 0xFD00_0000)
    display.configure(0x18, 0xFEBF_0000)
    display.configure(0x30, 0xFEB0_0001)
    display.configure(0x04, 0x03)
    display.set([ModeTable.text, .planar, .chained, .cga][Int(seed % 4)])
    let widths: [AccessWidth] = [.byte, .word, .dword, .qword]
    let ports = display.fake.board.ports
    for step in 0..<30_000 {
      let value = random.next()
      let width = widths[Int(random.next() % 4)]
      let at = random.next()
      switch random.next() % 8 {
      case 0: ports.write(0x3B0 + at % 0x30, width, value)
      case 1: _ = ports.read(0x3B0 + at % 0x30, width)
      case 2: display.dispi(UInt16(at % 12), UInt16(truncatingIfNeeded: value >> (at >> 32 % 16)))
      case 3: mmio.write(0xA0000 + at % 0x20000, width, value)
      case 4: _ = mmio.read(0xA0000 + at % 0x20000, width)
      case 5: mmio.write(0xFEBF_0000 + at % 0x1000, width, value)
      case 6: mmio.write([0xFD00_0000, 0xFEB0_0000][Int(value % 2)] + at % 0x10_0000, width, value)
      default: _ = mmio.read([0xFD00_0000, 0xFEB0_0000, 0xFEBF_0000][Int(value % 3)] + at % 0x10_0000, width)
      }
      if step % 1000 == 0 {
        display.fake.advance(nanoseconds: value % 1_000_000_000)
        _ = display.screen.textScreen()
        let header = display.screen.screenshotPPM().prefix(2)
        #expect(header.elementsEqual("P6".utf8))
      }
    }
  }
}
