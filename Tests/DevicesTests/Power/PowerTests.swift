import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

private struct Power {
  let fake = FakeBoard()
  let device: PIIX4PowerDevice

  /// With PMBASE as SeaBIOS sets it.
  init() throws {
    device = try #require(try PIIX4PowerDevice.model.make("pm", Properties([:]), fake.board) as? PIIX4PowerDevice)
    device.reset()
    fake.board.pci.write(slot: 1, function: 3, register: 0x40, .dword, 0x601)
    fake.board.pci.write(slot: 1, function: 3, register: 0x80, .byte, 1)
  }

  func read(_ register: Int, _ width: AccessWidth) -> UInt32 {
    fake.board.pci.read(slot: 1, function: 3, register: register, width)
  }
}

@Suite struct PIIX4PowerTests {
  @Test func itIsFunction3OfThePIIX4WithSMMSetUpAlready() throws {
    let power = try Power()
    #expect(power.read(0, .dword) == 0x7113_8086)
    #expect(power.read(8, .dword) >> 8 == 0x068000)
    #expect(power.read(0x3D, .byte) == 1)
    #expect(power.read(0x58, .dword) & 1 << 25 != 0)
    #expect(power.read(0x40, .dword) == 0x601)
    power.device.reset()
    #expect(power.read(0x40, .dword) == 1)
    #expect(power.fake.inw(0x604) == 0xFFFF)
  }

  @Test func theRegistersFollowTheBase() throws {
    let power = try Power()
    #expect(power.fake.inw(0x604) == 0)
    power.fake.board.pci.write(slot: 1, function: 3, register: 0x40, .dword, 0xFFFF_B001)
    #expect(power.fake.inw(0x604) == 0xFFFF)
    #expect(power.fake.inw(0xB004) == 0)
    power.fake.board.pci.write(slot: 1, function: 3, register: 0x80, .byte, 0)
    #expect(power.fake.inw(0xB004) == 0xFFFF)
  }

  @Test func theTimerCounts24BitsAt3579545Hertz() throws {
    let power = try Power()
    #expect(power.fake.inl(0x608) == 0)
    power.fake.advance(nanoseconds: 1_000_000_000)
    #expect(power.fake.inl(0x608) == 3_579_545)
    power.fake.advance(nanoseconds: 10_000_000_000_000)
    #expect(UInt64(power.fake.inl(0x608)) == 10_001 * 3_579_545 % (1 << 24))
  }

  @Test func theTimersTopBitRaisesTheSCIWhenEnabled() throws {
    let power = try Power()
    power.fake.advance(nanoseconds: 2_300_000_000)
    #expect(power.fake.inw(0x600) == 0)
    power.fake.outw(0x602, 0x0001)
    power.fake.outb(0xB2, 0xF1)
    #expect(!power.fake.interrupts.level(9))
    power.fake.advance(nanoseconds: 100_000_000)
    #expect(power.fake.interrupts.level(9))
    #expect(power.fake.inw(0x600) == 1)
    power.fake.outw(0x600, 1)
    #expect(!power.fake.interrupts.level(9))
    #expect(power.fake.inw(0x600) == 0)
    power.fake.advance(nanoseconds: 2_344_000_000)
    #expect(power.fake.interrupts.level(9))
  }

  @Test func theCommandPortTurnsACPIModeOnAndOff() throws {
    let power = try Power()
    power.fake.outb(0xB2, 0xF1)
    #expect(power.fake.inw(0x604) & 1 == 1)
    #expect(power.fake.inb(0xB2) == 0xF1)
    power.fake.outb(0xB3, 0x42)
    #expect(power.fake.inb(0xB3) == 0x42)
    power.fake.outb(0xB2, 0xF0)
    #expect(power.fake.inw(0x604) & 1 == 0)
  }

  @Test func sleepTypeZeroSwitchesOff() throws {
    let power = try Power()
    power.fake.outw(0x604, 0x0001)
    #expect(power.fake.events.take().isEmpty)
    power.fake.outw(0x604, 0x2001)
    #expect(power.fake.events.take() == [.powerOff])
    #expect(power.fake.inw(0x604) == 0x0001)
  }

  @Test(arguments: [(UInt16(1), false), (2, true), (4, true), (5, false)])
  func shallowSleepsWakeAtOnce(type: UInt16, wakes: Bool) throws {
    let power = try Power()
    power.fake.outw(0x604, 0x2000 | type << 10)
    #expect(power.fake.events.take().isEmpty)
    #expect(power.fake.inw(0x600) == (wakes ? 0x8000 : 0))
  }

  @Test func thePowerButtonRaisesTheSCI() throws {
    let power = try Power()
    power.fake.outb(0xB2, 0xF1)
    power.fake.outw(0x602, 0x0100)
    power.device.pressPowerButton()
    #expect(power.fake.interrupts.level(9))
    power.fake.outb(0x601, 0x01)
    #expect(!power.fake.interrupts.level(9))
  }

  @Test func theGeneralPurposeBlockIsIdle() throws {
    let power = try Power()
    power.fake.outl(0xAFE0, 0xFFFF_FFFF)
    #expect(power.fake.inl(0xAFE0) == 0xFFFF_0000)
  }

  @Test func smbusTransfersEndWithoutAnswer() throws {
    let power = try Power()
    #expect(power.fake.inb(0xB100) == 0)
    power.fake.outb(0xB104, 0xA1)
    power.fake.outb(0xB102, 0x48)
    #expect(power.fake.inb(0xB100) == 0x04)
    power.fake.outb(0xB100, 0x04)
    #expect(power.fake.inb(0xB100) == 0)
    power.fake.board.pci.write(slot: 1, function: 3, register: 0x90, .dword, 0x701)
    #expect(power.fake.inb(0xB104) == 0xFF)
    #expect(power.fake.inb(0x704) == 0xA1)
  }
}

@Suite struct SystemPortTests {
  @Test func port92ResetsOnTheRiseOfBitZero() throws {
    let fake = FakeBoard()
    let device = try Port92.model.make("port92", Properties([:]), fake.board)
    device.reset()
    #expect(fake.inb(0x92) == 0x02)
    fake.outb(0x92, 0x00)
    #expect(fake.inb(0x92) == 0x00)
    fake.outb(0x92, 0x03)
    fake.outb(0x92, 0x03)
    #expect(fake.events.take() == [.reset])
  }

  @Test func readingTheExitDeviceMarksTheMomentAndNoMore() throws {
    let fake = FakeBoard()
    _ = try ExitDevice.model.make("exit", Properties([:]), fake.board)
    #expect(fake.inb(0xF4) == 0xFF)
    #expect(fake.events.take() == [.marked])
  }

  @Test func theExitDeviceTakesTheLowByteOfAnyWidth() throws {
    let fake = FakeBoard()
    _ = try ExitDevice.model.make("exit", Properties([:]), fake.board)
    fake.outb(0xF4, 0)
    fake.outw(0xF4, 0x1203)
    fake.outl(0xF4, 0xFFFF_FF07)
    #expect(fake.events.take() == [.exit(0), .exit(3), .exit(7)])
  }

  @Test func pvpanicReportsAPanicButNotALoadedCrashKernel() throws {
    let fake = FakeBoard()
    _ = try PanicDevice.model.make("pvpanic", Properties([:]), fake.board)
    #expect(fake.inb(0x505) == 3)
    fake.outb(0x505, 2)
    #expect(fake.events.take().isEmpty)
    fake.outb(0x505, 1)
    #expect(fake.events.take() == [.panicked])
  }

  @Test func theDebugConsoleIdentifiesItselfAndNeverBlocks() throws {
    let character = RecordingCharacter(room: 5)
    let fake = FakeBoard(resources: FakeResources(characters: ["log": character]))
    _ = try DebugConsole.model.make("debug", Properties(["chardev": .string("log")]), fake.board)
    #expect(fake.inb(0x402) == 0xE9)
    fake.outb(0x402, UInt8(ascii: "a"))
    Array("bcdefgh".utf8).withUnsafeBytes { fake.board.ports.writeString(0x402, .byte, from: $0) }
    #expect(character.takeText() == "abcde")
  }

  @Test func testDeviceDoesWhatItsDatasheetSays() throws {
    let fake = FakeBoard()
    let device = try TestDevice.model.make("test", Properties([:]), fake.board)
    device.reset()
    fake.outl(0xE0, 0x1234_5678)
    fake.outb(0xE1, 0xAA)
    #expect(fake.inl(0xE0) == 0x1234_AA78)
    #expect(fake.inw(0xE2) == 0x1234)
    for input in UInt8(0)...20 { fake.outb(0xE4, input) }
    #expect(fake.interrupts.takePulses(2) == 0)
    #expect(fake.interrupts.takePulses(3) == 1)
    #expect(fake.interrupts.takePulses(15) == 1)
    fake.outl(0xE8, 0xFFFF_FFFF)
    #expect(fake.inl(0xE8) == 0x00FF_FFF8)
    #expect(fake.interrupts.level(23))
    fake.advance(nanoseconds: 1_000)
    #expect(fake.inl(0xEC) == 1_000)
    device.reset()
    #expect(!fake.interrupts.level(23))
    #expect(fake.inl(0xE0) == 0)
  }
}

@Suite struct PlatformFuzzTests {
  /// Numbers that are the same in every run (splitmix64).
  private struct Random: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      state &+= 0x9E37_79B9_7F4A_7C15
      var value = state
      value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
      value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
      return value ^ value >> 31
    }
  }

  @Test(arguments: UInt64(1)...8)
  func arbitraryAccessesNeverTrap(seed: UInt64) throws {
    let character = RecordingCharacter(room: 1000)
    let fake = FakeBoard(resources: FakeResources(characters: ["c": character]))
    let connected = Properties(["chardev": .string("c")])
    let models = [
      PIIX4PowerDevice.model, RealTimeClock.model, I8042.model, HPETDevice.model, Port92.model, ExitDevice.model,
      PanicDevice.model, TestDevice.model,
    ]
    var devices = try models.map { try $0.make($0.name, Properties([:]), fake.board) }
    devices.append(try ISASerial.model.make("com1", connected, fake.board))
    devices.append(try DebugConsole.model.make("debug", connected, fake.board))
    for device in devices {
      device.reset()
      device.start()
    }
    let keyboard = try #require(fake.board.sockets.find(I8042.socket, as: I8042.self))
    let ranges: [ClosedRange<UInt64>] = [
      0x3F8...0x3FF, 0x60...0x64, 0x70...0x71, 0x92...0x92, 0xB2...0xB3, 0xE0...0xF7, 0x402...0x402, 0x505...0x505,
      0x600...0x63F, 0x700...0x70F, 0xAFE0...0xAFE3, 0xB100...0xB10F,
    ]
    let widths: [AccessWidth] = [.byte, .word, .dword]
    var random = Random(state: seed)
    for step in 0..<20_000 {
      let width = widths.randomElement(using: &random) ?? .byte
      let port = UInt64.random(in: ranges.randomElement(using: &random) ?? 0...0, using: &random)
      let value = random.next()
      switch random.next() % 12 {
      case 0...3: fake.board.ports.write(port, width, value & width.mask)
      case 4...6: _ = fake.board.ports.read(port, width)
      case 7:
        let address = 0xFED0_0000 + UInt64.random(in: 0..<0x400, using: &random)
        let wide: AccessWidth = value & 1 == 0 ? .qword : .dword
        let small = random.next() % 3 == 0 ? value % 64 : value
        fake.board.mmio.write(value & 2 == 0 ? address & ~7 : address, wide, small & wide.mask)
        _ = fake.board.mmio.read(address, wide)
      case 8: fake.board.pci.write(slot: 1, function: 3, register: Int(port & 0xFF), width, UInt32(value & width.mask))
      case 9:
        keyboard.key(KeyCode(rawValue: UInt8(truncatingIfNeeded: value)), isPressed: value & 0x100 != 0)
        keyboard.moveMouse(
          dx: Int(truncatingIfNeeded: value), dy: Int(truncatingIfNeeded: random.next()), wheel: 1,
          buttons: MouseButtons(rawValue: UInt8(truncatingIfNeeded: value)))
      case 10:
        character.setRoom(Int(value & 0xFF))
        character.type([UInt8(truncatingIfNeeded: value)])
      default: fake.advance(nanoseconds: value % 3_000_000)
      }
      if step % 5000 == 4999 { for device in devices { device.reset() } }
    }
    fake.advance(nanoseconds: 1_000_000_000)
    for device in devices { device.drain() }
  }
}
