import Testing

@testable import SoftEngine

extension IOAPIC {
  fileprivate mutating func set(_ register: UInt8, _ value: UInt32) -> Request? {
    _ = write(0x00, UInt32(register))
    return write(0x10, value)
  }

  fileprivate mutating func get(_ register: UInt8) -> UInt32 {
    _ = write(0x00, UInt32(register))
    return read(0x10)
  }

  fileprivate mutating func route(_ pin: UInt8, _ low: UInt32, destination: UInt32 = 0) {
    _ = set(0x11 + 2 * pin, destination << 24)
    _ = set(0x10 + 2 * pin, low)
  }
}

private let level: UInt32 = 1 << 15
private let masked: UInt32 = 1 << 16
private let remoteIRR: UInt32 = 1 << 14

@Suite struct IOAPICTests {
  @Test func versionSays24PinsAndTheIDIsFourBits() {
    var chip = IOAPIC()
    #expect(chip.get(1) == 0x0017_0011)
    _ = chip.set(0, 0xFFFF_FFFF)
    #expect(chip.get(0) == 0x0F00_0000 && chip.get(2) == 0x0F00_0000)
    _ = chip.set(1, 0)
    #expect(chip.get(1) == 0x0017_0011)
    #expect(chip.read(0) == 1)
    #expect(chip.get(0x40) == 0 && chip.get(3) == 0)
  }

  @Test func entriesAreMaskedAtResetAndKeepTheirReadOnlyBits() {
    var chip = IOAPIC()
    for pin in 0..<24 as Range<UInt8> { #expect(chip.get(0x10 + 2 * pin) == 0x10000) }
    _ = chip.set(0x10, 0xFFFF_FFFF)
    _ = chip.set(0x11, 0xFFFF_FFFF)
    #expect(chip.get(0x10) == 0x0001_AFFF && chip.get(0x11) == 0xFF00_0000)
  }

  @Test(
    arguments: [
      (low: 0x31, high: 3, message: InterruptMessage(vector: 0x31, mode: .fixed, destination: 3)),
      (
        low: 0x0000_0931, high: 0x0F,
        message: InterruptMessage(vector: 0x31, mode: .lowestPriority, isLogical: true, destination: 0x0F)
      ),
      (low: 0x0431, high: 0xFF, message: InterruptMessage(vector: 0x31, mode: .nmi, destination: .max)),
      (low: 0x0231, high: 1, message: InterruptMessage(vector: 0x31, mode: .smi, destination: 1)),
      (low: 0x0531, high: 1, message: InterruptMessage(vector: 0x31, mode: .initialize, destination: 1)),
      (low: 0x8731, high: 1, message: InterruptMessage(vector: 0x31, mode: .external, destination: 1)),
    ] as [(low: UInt32, high: UInt32, message: InterruptMessage)])
  func anEdgeSendsWhatTheEntrySays(low: UInt32, high: UInt32, message: InterruptMessage) {
    var chip = IOAPIC()
    chip.route(5, low, destination: high)
    #expect(chip.setInput(5, true) == .init(pin: 5, message: message))
  }

  @Test func anEdgeIsSentOnceAndLostWhileMasked() {
    var chip = IOAPIC()
    chip.route(4, 0x40)
    #expect(chip.setInput(4, true) != nil)
    #expect(chip.setInput(4, true) == nil)
    #expect(chip.setInput(4, false) == nil)
    chip.route(4, 0x40 | masked)
    #expect(chip.setInput(4, true) == nil)
    #expect(chip.set(0x18, 0x40) == nil)
    #expect(chip.get(0x18) & remoteIRR == 0)
  }

  @Test func aLevelWaitsForItsEOI() {
    var chip = IOAPIC()
    chip.route(16, 0x50 | level)
    #expect(chip.setInput(16, true)?.message.isLevel == true)
    #expect(chip.get(0x30) & remoteIRR != 0)
    #expect(chip.setInput(16, true) == nil)
    #expect(chip.endOfInterrupt(0x51) == 0)
    #expect(chip.endOfInterrupt(0x50) == 1 << 16)
    #expect(chip.get(0x30) & remoteIRR == 0)
    #expect(chip.serveAgain(16) != nil)
    _ = chip.setInput(16, false)
    _ = chip.endOfInterrupt(0x50)
    #expect(chip.serveAgain(16) == nil)
  }

  @Test func unmaskingAnAssertedLevelSendsIt() {
    var chip = IOAPIC()
    #expect(chip.setInput(10, true) == nil)
    #expect(chip.set(0x24, 0x60 | level)?.pin == 10)
    #expect(chip.set(0x24, 0x60 | level) == nil)
    #expect(chip.set(0x24, 0x60 | level | masked) == nil)
    #expect(chip.get(0x24) & remoteIRR != 0)
  }

  @Test func switchingToEdgeClearsTheRemoteIRR() {
    var chip = IOAPIC()
    chip.route(10, 0x60 | level)
    _ = chip.setInput(10, true)
    _ = chip.set(0x24, 0x60 | masked)
    #expect(chip.get(0x24) & remoteIRR == 0)
    #expect(chip.set(0x24, 0x60 | level) != nil)
  }

  @Test func aRefusedLevelIsNotInService() {
    var chip = IOAPIC()
    chip.route(10, 0x60 | level)
    _ = chip.setInput(10, true)
    chip.reject(10)
    #expect(chip.get(0x24) & remoteIRR == 0)
    #expect(chip.setInput(10, true) != nil)
  }

  @Test func vectorsOfItsEntriesAreKnown() {
    var chip = IOAPIC()
    #expect(chip.vectors == VectorSet())
    chip.route(3, 0x33 | masked)
    chip.route(4, 0xFE)
    var expected = VectorSet()
    expected[0x33] = true
    expected[0xFE] = true
    #expect(chip.vectors == expected)
    #expect(expected.highest == 0xFE)
  }
}
