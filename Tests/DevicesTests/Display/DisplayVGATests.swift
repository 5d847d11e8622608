import Testing

@testable import Devices

/// The chip's registers as values, without a board.
@Suite struct DisplayVGARegisterTests {
  var registers = VGARegisters()

  init() { registers.write(port: 0x3C2, 0x67) }

  mutating func indexed(_ port: UInt16, _ index: UInt8, _ value: UInt8) -> UInt8 {
    registers.write(port: port, index)
    registers.write(port: port + 1, value)
    return registers.read(port: port + 1, now: 0)
  }

  @Test mutating func onlyImplementedBitsAreStored() {
    let sequencer = (UInt8(0)..<8).map { indexed(0x3C4, $0, 0xFF) }
    #expect(sequencer == [0x03, 0x3D, 0x0F, 0x3F, 0x0E, 0, 0, 0])
    let graphics = (UInt8(0)..<16).map { indexed(0x3CE, $0, 0xFF) }
    #expect(graphics == [0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF, 0, 0, 0, 0, 0, 0, 0])
    #expect(indexed(0x3D4, 0x18, 0xFF) == 0xFF)
    #expect(indexed(0x3D4, 0x19, 0xFF) == 0)
    #expect(indexed(0x3D4, 0xFF, 0xFF) == 0)
  }

  @Test mutating func cr11ProtectsTheTimingButForTheLineCompareBit() {
    #expect(indexed(0x3D4, 0x00, 0x5F) == 0x5F)
    #expect(indexed(0x3D4, 0x07, 0x00) == 0x00)
    #expect(indexed(0x3D4, 0x11, 0x8E) == 0x8E)
    #expect(indexed(0x3D4, 0x00, 0xFF) == 0x5F)
    #expect(indexed(0x3D4, 0x07, 0xFF) == 0x10)
    #expect(indexed(0x3D4, 0x08, 0x12) == 0x12)
    #expect(indexed(0x3D4, 0x11, 0x0E) == 0x0E)
    #expect(indexed(0x3D4, 0x00, 0xFF) == 0xFF)
  }

  @Test mutating func theAttributePortAlternatesUntilTheStatusIsRead() {
    _ = registers.read(port: 0x3DA, now: 0)
    registers.write(port: 0x3C0, 0x13)
    registers.write(port: 0x3C0, 0x05)
    registers.write(port: 0x3C0, 0x14)
    _ = registers.read(port: 0x3DA, now: 0)
    registers.write(port: 0x3C0, 0x33)
    #expect(registers.read(port: 0x3C1, now: 0) == 0x05)
    #expect(registers.read(port: 0x3C0, now: 0) == 0x33)
    #expect(registers.isScreenConnected)
    registers.write(port: 0x3C0, 0xFF)
    registers.write(port: 0x3C0, 0x1F)
    registers.write(port: 0x3C0, 0xFF)
    #expect(registers.read(port: 0x3C1, now: 0) == 0)
  }

  @Test mutating func theDACStepsThroughComponents() {
    registers.write(port: 0x3C8, 0xFF)
    for value in UInt8(0xC1)...0xC6 { registers.write(port: 0x3C9, value) }
    #expect(registers.read(port: 0x3C7, now: 0) == 0)
    registers.write(port: 0x3C7, 0xFF)
    #expect(registers.read(port: 0x3C7, now: 0) == 3)
    let read = (0..<6).map { _ in registers.read(port: 0x3C9, now: 0) }
    #expect(read == [1, 2, 3, 4, 5, 6])
    #expect(registers.read(port: 0x3C8, now: 0) == 1)
  }

  @Test mutating func onlyTheSelectedCRTCAddressAnswers() {
    registers.write(port: 0x3C2, 0x66)
    #expect(registers.read(port: 0x3D4, now: 0) == 0xFF)
    registers.write(port: 0x3D4, 0x0C)
    registers.write(port: 0x3B4, 0x0D)
    #expect(registers.read(port: 0x3B4, now: 0) == 0x0D)
    registers.write(port: 0x3C2, 0x67)
    #expect(registers.read(port: 0x3B4, now: 0) == 0xFF)
    #expect(registers.read(port: 0x3D4, now: 0) == 0x0D)
    #expect(registers.read(port: 0x3CC, now: 0) == 0x67)
  }

  @Test(arguments: [true, false]) mutating func retraceComesOnceAFrame(isProgrammed: Bool) {
    if isProgrammed {
      for (index, value) in ModeTable.text.crtc.enumerated() { _ = indexed(0x3D4, UInt8(index), value) }
    } else {
      for index in UInt8(0)..<25 { _ = indexed(0x3D4, index, 0xFF & (index == 0x11 ? 0x7F : 0xFF)) }
    }
    var rises = 0
    var blanks = 0
    var last: UInt8 = 0
    for microsecond in UInt64(0)..<1_000_000 / 4 {
      let status = registers.read(port: 0x3DA, now: microsecond * 4000)
      if status & 8 != 0, last & 8 == 0 { rises += 1 }
      if status & 1 != 0, last & 1 == 0 { blanks += 1 }
      if status & 8 != 0 { #expect(status & 1 != 0) }
      last = status
    }
    #expect(10...90 ~= rises)
    #expect(blanks > 1000)
  }
}

@Suite struct DisplayDISPITests {
  @Test func capabilitiesReadInPlaceOfTheMode() {
    var dispi = BochsDISPI(memorySize: 16 << 20)
    _ = dispi.write(BochsDISPI.Index.width, 640)
    _ = dispi.write(BochsDISPI.Index.enable, 0x02)
    #expect((1...3).map { dispi.read($0) } == [16000, 12000, 32])
    _ = dispi.write(BochsDISPI.Index.enable, 0)
    #expect(dispi.read(BochsDISPI.Index.width) == 640)
    #expect(dispi.read(BochsDISPI.Index.videoMemory) == 256)
    #expect(dispi.read(0xFFFF) == 0)
  }

  @Test(arguments: [(0xB0C0, 0xB0C0), (0xB0C5, 0xB0C5), (0xB0C6, 0xB0C5), (0, 0xB0C5)] as [(UInt16, UInt16)])
  func knownVersionsCanBeAskedFor(written: UInt16, read: UInt16) {
    var dispi = BochsDISPI(memorySize: 1 << 20)
    _ = dispi.write(BochsDISPI.Index.id, written)
    #expect(dispi.read(BochsDISPI.Index.id) == read)
  }

  @Test func enablingClearsTheVisibleMemoryUnlessAskedNotTo() {
    var dispi = BochsDISPI(memorySize: 1 << 20)
    for (index, value) in [(1, 320), (2, 200), (3, 16)] as [(Int, UInt16)] { _ = dispi.write(index, value) }
    #expect(dispi.write(BochsDISPI.Index.enable, 0x41) == 320 * 200 * 2)
    #expect(dispi.write(BochsDISPI.Index.enable, 0x41) == 0)
    _ = dispi.write(BochsDISPI.Index.enable, 0)
    #expect(dispi.write(BochsDISPI.Index.enable, 0xC1) == 0)
  }

  @Test func noModeIsLargerThanTheMemory() {
    var random = SplitMix(seed: 1)
    for size in [1 << 20, 16 << 20, 256 << 20] {
      var dispi = BochsDISPI(memorySize: size)
      for _ in 0..<20_000 {
        let cleared = dispi.write(Int(random.next() % 12), UInt16(truncatingIfNeeded: random.next()))
        #expect(cleared <= size)
        guard dispi.isEnabled else { continue }
        let end = (dispi.yOffset + dispi.height) * dispi.pitch
        #expect(dispi.width > 0 && dispi.height > 0 && end <= size && dispi.bank << 16 < size)
      }
    }
  }
}
