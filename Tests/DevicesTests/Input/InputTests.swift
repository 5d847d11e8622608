import Buses
import DeviceKit
import TestKit
import Testing

@testable import Devices

/// The controller as software drives it through ports 0x60 and 0x64.
private struct Keyboard {
  let fake = FakeBoard()
  let device: I8042

  init() throws {
    device = try #require(try I8042.model.make("ps2", Properties([:]), fake.board) as? I8042)
    device.reset()
  }

  func command(_ command: UInt8, _ parameter: UInt8? = nil) {
    fake.outb(0x64, command)
    if let parameter { fake.outb(0x60, parameter) }
  }

  /// Everything that can be read, letting time pass between bytes.
  func drain() -> [UInt8] {
    var bytes: [UInt8] = []
    for _ in 0..<200 {
      if fake.inb(0x64) & 1 == 0 { fake.advance(nanoseconds: 1_000_000) }
      guard fake.inb(0x64) & 1 != 0 else { break }
      bytes.append(fake.inb(0x60))
    }
    return bytes
  }

  func keyboard(_ bytes: UInt8...) -> [UInt8] {
    var answer: [UInt8] = []
    for byte in bytes {
      fake.outb(0x60, byte)
      answer += drain()
    }
    return answer
  }

  func mouse(_ bytes: UInt8...) -> [UInt8] {
    var answer: [UInt8] = []
    for byte in bytes {
      command(0xD4, byte)
      answer += drain()
    }
    return answer
  }

  func press(_ key: KeyCode) -> [UInt8] {
    device.key(key, isPressed: true)
    return drain()
  }

  func release(_ key: KeyCode) -> [UInt8] {
    device.key(key, isPressed: false)
    return drain()
  }
}

@Suite struct I8042Tests {
  static let answers: [(UInt8, [UInt8])] = [
    (0xAA, [0x55]), (0xAB, [0x00]), (0xA9, [0x00]), (0xC0, [0x80]), (0xD0, [0xC3]), (0x20, [0x03]), (0xFF, []),
    (0x99, []),
  ]

  @Test(arguments: answers)
  func commandsAnswer(command: UInt8, answer: [UInt8]) throws {
    let controller = try Keyboard()
    controller.command(command)
    #expect(controller.drain() == answer)
  }

  @Test func theSelfTestSetsTheSystemFlag() throws {
    let controller = try Keyboard()
    #expect(controller.fake.inb(0x64) & 0x04 == 0)
    controller.command(0xAA)
    #expect(controller.fake.inb(0x64) == 0x1D)
  }

  @Test func controllerMemoryKeepsWhatIsWritten() throws {
    let controller = try Keyboard()
    controller.command(0x7F, 0xA5)
    controller.command(0x3F)
    #expect(controller.drain() == [0xA5])
  }

  @Test func disablingAPortShowsInTheCommandByte() throws {
    let controller = try Keyboard()
    controller.command(0xA7)
    controller.command(0xAD)
    controller.command(0x20)
    #expect(controller.drain() == [0x33])
    controller.command(0xA8)
    controller.command(0xAE)
    controller.command(0x20)
    #expect(controller.drain() == [0x03])
  }

  @Test func loopedBytesComeBackFromTheDeviceAskedFor() throws {
    let controller = try Keyboard()
    controller.command(0xD2, 0x11)
    #expect(controller.fake.inb(0x64) & 0x21 == 0x01)
    #expect(controller.fake.inb(0x60) == 0x11)
    controller.command(0xD3, 0x22)
    #expect(controller.fake.inb(0x64) & 0x21 == 0x21)
    #expect(controller.fake.inb(0x60) == 0x22)
    #expect(controller.fake.interrupts.takePulses(1) == 1)
    #expect(controller.fake.interrupts.takePulses(12) == 1)
  }

  @Test(arguments: [(UInt8(0xFE), 1), (0xFC, 1), (0xFF, 0), (0xFD, 0)])
  func pulsingLineZeroResets(command: UInt8, resets: Int) throws {
    let controller = try Keyboard()
    controller.command(command)
    #expect(controller.fake.events.take() == Array(repeating: .reset, count: resets))
  }

  @Test func theOutputPortResetsAndHoldsA20() throws {
    let controller = try Keyboard()
    controller.command(0xD1, 0x01)
    controller.command(0xD0)
    #expect(controller.drain() == [0x01])
    #expect(controller.fake.events.take().isEmpty)
    controller.command(0xD1, 0x02)
    #expect(controller.fake.events.take() == [.reset])
  }

  @Test func aByteReadTwiceIsTheSameByteBothTimes() throws {
    let controller = try Keyboard()
    controller.device.key(.a, isPressed: true)
    controller.device.key(.z, isPressed: true)
    #expect(controller.fake.inb(0x60) == 0x1C)
    #expect(controller.fake.inb(0x60) == 0x1C)
    controller.fake.advance(nanoseconds: 1_000_000)
    #expect(controller.fake.inb(0x60) == 0x1A)
  }

  @Test func interruptsFollowTheCommandByte() throws {
    let controller = try Keyboard()
    controller.command(0x60, 0x00)
    controller.device.key(.a, isPressed: true)
    #expect(controller.fake.interrupts.takePulses(1) == 0)
    controller.command(0x60, 0x01)
    #expect(controller.fake.interrupts.takePulses(1) == 1)
  }

  @Test func aDisabledKeyboardHoldsItsKeysBack() throws {
    let controller = try Keyboard()
    controller.command(0xAD)
    #expect(controller.press(.a).isEmpty)
    controller.command(0xAE)
    #expect(controller.drain() == [0x1C])
  }
}

@Suite struct PS2KeyboardTests {
  @Test func commandsAreAnsweredAsTheManualSays() throws {
    let controller = try Keyboard()
    #expect(controller.keyboard(0xEE) == [0xEE])
    #expect(controller.keyboard(0xF2) == [0xFA, 0xAB, 0x83])
    #expect(controller.keyboard(0xFF) == [0xFA, 0xAA])
    #expect(controller.keyboard(0xED, 0x05) == [0xFA, 0xFA])
    #expect(controller.device.indicators == 5)
    #expect(controller.keyboard(0xF3, 0x20) == [0xFA, 0xFA])
    #expect(controller.keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x02])
    #expect(controller.keyboard(0x55) == [0xFE])
    #expect(controller.keyboard(0xEF) == [0xFE])
    #expect(controller.keyboard(0xEE, 0xFE) == [0xEE, 0xEE])
    // A command where an option was expected is taken as a command.
    #expect(controller.keyboard(0xED, 0xF2) == [0xFA, 0xFA, 0xAB, 0x83])
  }

  @Test func disablingStopsScanCodesUntilEnabled() throws {
    let controller = try Keyboard()
    #expect(controller.keyboard(0xF5) == [0xFA])
    #expect(controller.press(.a).isEmpty)
    #expect(controller.keyboard(0xF4) == [0xFA])
    #expect(controller.press(.a) == [0x1C])
  }

  struct Key: Sendable {
    let key: KeyCode
    let make2: [UInt8]
    let break2: [UInt8]
    let make1: [UInt8]
    let break1: [UInt8]

    init(_ key: KeyCode, _ make2: [UInt8], _ break2: [UInt8], _ make1: [UInt8], _ break1: [UInt8]) {
      (self.key, self.make2, self.break2, self.make1, self.break1) = (key, make2, break2, make1, break1)
    }
  }

  static let keys: [Key] = [
    Key(.a, [0x1C], [0xF0, 0x1C], [0x1E], [0x9E]),
    Key(.right, [0xE0, 0x74], [0xE0, 0xF0, 0x74], [0xE0, 0x4D], [0xE0, 0xCD]),
    Key(.rightControl, [0xE0, 0x14], [0xE0, 0xF0, 0x14], [0xE0, 0x1D], [0xE0, 0x9D]),
    // F7, the one code above 0x80.
    Key(KeyCode(rawValue: 0x40), [0x83], [0xF0, 0x83], [0x41], [0xC1]),
    Key(
      .pause, [0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77], [], [0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5], []),
    Key(
      .printScreen, [0xE0, 0x12, 0xE0, 0x7C], [0xE0, 0xF0, 0x7C, 0xE0, 0xF0, 0x12], [0xE0, 0x2A, 0xE0, 0x37],
      [0xE0, 0xB7, 0xE0, 0xAA]),
  ]

  @Test(arguments: keys)
  func keysSendSet2AndTranslatedSet1(_ expected: Key) throws {
    let (key, make2, break2) = (expected.key, expected.make2, expected.break2)
    let (make1, break1) = (expected.make1, expected.break1)
    let controller = try Keyboard()
    #expect(controller.press(key) == make2)
    #expect(controller.release(key) == break2)
    controller.command(0x60, 0x43)
    #expect(controller.press(key) == make1)
    #expect(controller.release(key) == break1)
    // Set 1 from the keyboard itself is the same as the translation of set 2.
    controller.command(0x60, 0x03)
    #expect(controller.keyboard(0xF0, 0x01) == [0xFA, 0xFA])
    #expect(controller.press(key) == make1)
    #expect(controller.release(key) == break1)
  }

  @Test func set3SendsBreaksForModifiersUntilToldOtherwise() throws {
    let controller = try Keyboard()
    #expect(controller.keyboard(0xF0, 0x03) == [0xFA, 0xFA])
    #expect(controller.press(.escape) == [0x08])
    #expect(controller.release(.escape).isEmpty)
    #expect(controller.press(.leftControl) == [0x11])
    #expect(controller.release(.leftControl) == [0xF0, 0x11])
    #expect(controller.keyboard(0xFC, 0x08) == [0xFA, 0xFA])
    #expect(controller.keyboard(0xF4) == [0xFA])
    #expect(controller.press(.escape) == [0x08])
    #expect(controller.release(.escape) == [0xF0, 0x08])
  }

  @Test func everyMakeCodeOfTheTableIsItsOwn() {
    var seen: Set<[UInt8]> = []
    var doubles = 0
    for usage in UInt8(0)...0xFF {
      guard let code = ScanCode.of(KeyCode(rawValue: usage)) else { continue }
      if !seen.insert([code.isExtended ? 0xE0 : 0, code.set2]).inserted { doubles += 1 }
    }
    // Backslash and the European hash share a place; Pause and Num Lock share 77, Pause with a prefix of its own.
    #expect(doubles == 2)
    #expect(seen.count >= 104)
  }

  @Test func tooManyKeysGiveOneOverrunCode() throws {
    let controller = try Keyboard()
    for _ in 0..<500 { controller.device.key(.a, isPressed: true) }
    let bytes = controller.drain()
    #expect(bytes.last == 0x00)
    #expect(bytes.dropLast().allSatisfy { $0 == 0x1C })
    #expect(controller.press(.z) == [0x1A])
  }
}

@Suite struct PS2MouseTests {
  @Test func resetAndIdentityAreThoseOfAPlainMouse() throws {
    let controller = try Keyboard()
    #expect(controller.mouse(0xFF) == [0xFA, 0xAA, 0x00])
    #expect(controller.mouse(0xF2) == [0xFA, 0x00])
    #expect(controller.mouse(0xE9) == [0xFA, 0x00, 0x02, 0x64])
    #expect(controller.mouse(0xF1) == [0xFE])
    #expect(controller.mouse(0xE8, 0x07) == [0xFA, 0xFE])
  }

  @Test func knockingUnlocksWheelAndThenFiveButtons() throws {
    let controller = try Keyboard()
    _ = controller.mouse(0xF3, 200, 0xF3, 200, 0xF3, 80)
    #expect(controller.mouse(0xF2) == [0xFA, 0x00])
    _ = controller.mouse(0xF3, 200, 0xF3, 100, 0xF3, 80)
    #expect(controller.mouse(0xF2) == [0xFA, 0x03])
    _ = controller.mouse(0xF3, 200, 0xF3, 200, 0xF3, 80)
    #expect(controller.mouse(0xF2) == [0xFA, 0x04])
    #expect(controller.mouse(0xF4) == [0xFA])
    controller.device.moveMouse(dx: 0, dy: 0, wheel: -1, buttons: [.back, .left])
    #expect(controller.drain() == [0x09, 0x00, 0x00, 0x1F])
  }

  @Test func movementIsReportedInTwosComplementOnceEnabled() throws {
    let controller = try Keyboard()
    controller.device.moveMouse(dx: 5, dy: 5)
    #expect(controller.drain().isEmpty)
    _ = controller.mouse(0xF6)
    #expect(controller.mouse(0xF4) == [0xFA])
    controller.device.moveMouse(dx: -3, dy: 4, buttons: [.right])
    #expect(controller.drain() == [0x1A, 0xFD, 0x04])
    #expect(controller.fake.interrupts.takePulses(12) > 0)
    controller.device.moveMouse(dx: 0, dy: 0, buttons: [.right])
    #expect(controller.drain().isEmpty)
  }

  @Test func farMovementIsSpreadOverPackets() throws {
    let controller = try Keyboard()
    _ = controller.mouse(0xF4)
    controller.device.moveMouse(dx: 300, dy: Int.min)
    let bytes = controller.drain()
    #expect(bytes.count % 3 == 0)
    #expect(Array(bytes[0..<6]) == [0x28, 0xFF, 0x01, 0x28, 0x2D, 0x01])
    // 4 096 counts down at most: sixteen packets of 255 and one of 16.
    #expect(bytes.count == 17 * 3)
  }

  @Test func remoteModeReportsWhenAsked() throws {
    let controller = try Keyboard()
    #expect(controller.mouse(0xF0) == [0xFA])
    #expect(controller.mouse(0xF4) == [0xFA])
    controller.device.moveMouse(dx: 2, dy: 1)
    #expect(controller.drain().isEmpty)
    #expect(controller.mouse(0xEB) == [0xFA, 0x08, 0x02, 0x01])
  }

  @Test func wrapModeEchoesUntilLeft() throws {
    let controller = try Keyboard()
    #expect(controller.mouse(0xEE) == [0xFA])
    #expect(controller.mouse(0xF4, 0x12) == [0xF4, 0x12])
    #expect(controller.mouse(0xEC) == [0xFA])
    #expect(controller.mouse(0xF2) == [0xFA, 0x00])
  }
}
