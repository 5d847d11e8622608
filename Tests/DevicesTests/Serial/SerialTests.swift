import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

/// The chip driven as a program drives it.
private struct Port {
  var chip = Serial16550()
  subscript(_ register: UInt64) -> UInt8 {
    mutating get { chip.read(register) }
    set { chip.write(register, newValue) }
  }
  mutating func receive(_ bytes: [UInt8]) { for byte in bytes { chip.receive(byte) } }
  mutating func takeSent() -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: 16)
    let count = buffer.withUnsafeMutableBytes { chip.copyOutput(into: $0) }
    chip.sent(count)
    return Array(buffer[0..<count])
  }
}

private typealias R = Serial16550.Register

@Suite struct Serial16550Tests {
  @Test func resetValuesAreThoseOfTable3() {
    var port = Port()
    #expect(port[R.interruptEnable] == 0)
    #expect(port[R.interruptIdentification] == 0x01)
    #expect(port[R.lineControl] == 0)
    #expect(port[R.modemControl] == 0)
    #expect(port[R.lineStatus] == 0x60)
    #expect(port[R.modemStatus] == 0xB0)
    #expect(!port.chip.interrupt)
  }

  /// Each register that processors read themselves, by its offset: what the device has them read, nil where they ask.
  private func shown(_ port: Port) -> [UInt64: UInt32?] {
    let shared = SharedRegisters()
    shared.declare(Serial16550.sharedRegisters)
    port.chip.show(in: shared)
    var values: [UInt64: UInt32?] = [:]
    for register in R.data...R.scratch {
      guard let access = shared.find(register, width: 1), access.isRead else { continue }
      values[register] = .some(shared.read(access))
    }
    return values
  }

  @Test func processorsReadWhatTheChipAnswersAndAskWhereReadingChangesIt() {
    var random = SplitMix(seed: 7)
    var port = Port()
    var (plain, asked) = (0, 0)
    for _ in 0..<20_000 {
      switch random.next() % 8 {
      case 0: port.chip.receive(UInt8(truncatingIfNeeded: random.next()))
      case 1: port.chip.receiveBreak()
      case 2: port.chip.setModemInputs(UInt8(truncatingIfNeeded: random.next()))
      case 3: _ = port.takeSent()
      case 4: port.chip.timeoutExpired()
      case 5: _ = port[random.next() % 8]
      default: port[random.next() % 8] = UInt8(truncatingIfNeeded: random.next())
      }
      let values = shown(port)
      #expect(values.count == 4)
      for (register, value) in values {
        var after = port
        let answer = after[register]
        guard let value else {
          asked += 1
          continue
        }
        plain += 1
        #expect(value == UInt32(answer))
        #expect(shown(after) == values, "reading \(register) changed something")
      }
    }
    #expect(plain > 1000 && asked > 1000)
  }

  @Test(arguments: [UInt8(0), 1]) func whatProcessorsMayHavePostedBeforeTheySeeTHREClearIsNotLost(_ fifos: UInt8) {
    var port = Port()
    port[R.interruptIdentification] = fifos
    let bytes = (0..<UInt8(16 + SharedRegisters.postedWrites)).map { $0 }
    for byte in bytes { port[R.data] = byte }
    #expect(port[R.lineStatus] & 0x60 == 0)
    var sent: [UInt8] = []
    while sent.count < bytes.count {
      let next = port.takeSent()
      guard !next.isEmpty else { break }
      sent += next
    }
    #expect(sent == bytes)
    #expect(port[R.lineStatus] & 0x60 == 0x60)
  }

  @Test func masterResetKeepsScratchAndDivisor() {
    var port = Port()
    port[R.scratch] = 0x5A
    port[R.lineControl] = 0x83
    port[R.data] = 0x34
    port[R.interruptEnable] = 0x12
    port.chip.reset()
    #expect(port[R.scratch] == 0x5A)
    #expect(port[R.lineControl] == 0)
    port[R.lineControl] = 0x80
    #expect(port[R.data] == 0x34)
    #expect(port[R.interruptEnable] == 0x12)
  }

  @Test func theDivisorLatchHidesDataAndInterruptEnable() {
    var port = Port()
    port[R.interruptEnable] = 0x0F
    port[R.lineControl] = 0x80
    port[R.interruptEnable] = 0x00
    port[R.lineControl] = 0x03
    #expect(port[R.interruptEnable] == 0x0F)
    #expect(port.takeSent().isEmpty)
  }

  @Test func interruptEnableKeepsFourBits() {
    var port = Port()
    port[R.interruptEnable] = 0xFF
    #expect(port[R.interruptEnable] == 0x0F)
  }

  @Test func transmitterStaysBusyUntilTheLineTookEveryByte() {
    var port = Port()
    port[R.interruptIdentification] = 0x01
    port[R.data] = 0x41
    port[R.data] = 0x42
    #expect(port[R.lineStatus] & 0x60 == 0)
    port.chip.sent(1)
    #expect(port[R.lineStatus] & 0x60 == 0)
    #expect(port.takeSent() == [0x42])
    #expect(port[R.lineStatus] & 0x60 == 0x60)
  }

  @Test func enablingTheTransmitterInterruptWhileEmptyRaisesItEachTime() {
    var port = Port()
    for _ in 0..<2 {
      port[R.interruptEnable] = 0x02
      #expect(port[R.interruptIdentification] == 0x02)
      #expect(port[R.interruptIdentification] == 0x01)
      port[R.interruptEnable] = 0x00
    }
  }

  @Test func writingDataClearsTheTransmitterInterruptUntilItIsSent() {
    var port = Port()
    port[R.interruptEnable] = 0x02
    port[R.data] = 0x41
    #expect(!port.chip.interrupt)
    _ = port.takeSent()
    #expect(port.chip.interrupt)
    #expect(port[R.interruptIdentification] == 0x02)
    #expect(!port.chip.interrupt)
  }

  @Test func interruptsComeInTheOrderOfTable4() {
    var port = Port()
    port[R.interruptEnable] = 0x0F
    port.chip.setModemInputs(0x00)
    port.receive([0x41, 0x42])
    #expect(port[R.interruptIdentification] == 0x06)
    #expect(port[R.lineStatus] & 0x02 != 0)
    #expect(port[R.interruptIdentification] == 0x04)
    #expect(port[R.data] == 0x42)
    #expect(port[R.interruptIdentification] == 0x02)
    #expect(port[R.interruptIdentification] == 0x00)
    #expect(port[R.modemStatus] == 0x0B)
    #expect(port[R.interruptIdentification] == 0x01)
  }

  @Test(arguments: [(UInt8(0x01), 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
  func receivedDataInterruptComesAtTheTriggerLevel(control: UInt8, level: Int) {
    var port = Port()
    port[R.interruptIdentification] = control
    port[R.interruptEnable] = 0x01
    for count in 1...16 {
      port.receive([UInt8(count)])
      #expect(port.chip.interrupt == (count >= level))
    }
    #expect(port[R.interruptIdentification] == 0xC4)
    for _ in 0...(16 - level) { _ = port[R.data] }
    #expect(!port.chip.interrupt)
  }

  @Test func timeoutRaisesTheInterruptBelowTheTriggerLevelAndAReadClearsIt() {
    var port = Port()
    port[R.lineControl] = 0x83
    port[R.data] = 1
    port[R.interruptEnable] = 0
    port[R.lineControl] = 0x03
    port[R.interruptIdentification] = 0xC1
    port[R.interruptEnable] = 0x01
    port.receive([0x41, 0x42])
    // 8N1 at 115 200 bits a second: ten bits a character, four characters.
    #expect(port.chip.takeTimeoutChange() == .restart(347_220))
    #expect(!port.chip.interrupt)
    port.chip.timeoutExpired()
    #expect(port[R.interruptIdentification] == 0xCC)
    #expect(port[R.data] == 0x41)
    #expect(!port.chip.interrupt)
    #expect(port.chip.takeTimeoutChange() == .restart(347_220))
    #expect(port[R.data] == 0x42)
    #expect(port.chip.takeTimeoutChange() == .cancel)
  }

  @Test func overrunKeepsTheFifoAndLosesTheNewByte() {
    var port = Port()
    port[R.interruptIdentification] = 0x01
    port.receive((0..<17).map { UInt8($0) })
    #expect(port[R.lineStatus] & 0x03 == 0x03)
    #expect(port[R.lineStatus] & 0x02 == 0)
    for value in 0..<16 { #expect(port[R.data] == UInt8(value)) }
    #expect(port[R.lineStatus] & 0x01 == 0)
  }

  @Test func breakShowsWhenItsByteIsFirstInTheFifo() {
    var port = Port()
    port[R.interruptIdentification] = 0x01
    port[R.interruptEnable] = 0x04
    port.receive([0x41])
    port.chip.receiveBreak()
    #expect(port[R.lineStatus] & 0x90 == 0x80)
    #expect(!port.chip.interrupt)
    _ = port[R.data]
    #expect(port.chip.interrupt)
    #expect(port[R.lineStatus] & 0x90 == 0x90)
    #expect(port[R.lineStatus] & 0x90 == 0x00)
    #expect(port[R.data] == 0)
  }

  @Test func loopbackReturnsDataAndModemOutputs() {
    var port = Port()
    port[R.modemControl] = 0x10
    _ = port[R.modemStatus]
    port[R.modemControl] = 0x1A
    #expect(port[R.modemStatus] == 0x99)
    port[R.data] = 0x7E
    #expect(port[R.data] == 0x7E)
    #expect(port.takeSent().isEmpty)
    #expect(port.chip.receiveRoom == 0)
  }

  @Test func ringShowsItsTrailingEdgeOnly() {
    var port = Port()
    port.chip.setModemInputs(0xF0)
    #expect(port[R.modemStatus] == 0xF0)
    port.chip.setModemInputs(0xB0)
    #expect(port[R.modemStatus] == 0xB4)
    #expect(port[R.modemStatus] == 0xB0)
  }

  @Test func fifoControlBitsCountOnlyWithTheEnableBit() {
    var port = Port()
    port[R.interruptIdentification] = 0x01
    port.receive([1, 2, 3])
    port[R.interruptIdentification] = 0x03
    #expect(port[R.lineStatus] & 0x01 == 0)
    port.receive([4])
    port[R.interruptIdentification] = 0xC6
    #expect(port[R.lineStatus] & 0x01 == 0)
    #expect(port[R.interruptIdentification] & 0xC0 == 0)
  }
}

@Suite struct ISASerialTests {
  private func make(_ character: RecordingCharacter?) throws -> (FakeBoard, ISASerial) {
    let fake = FakeBoard(resources: FakeResources(characters: character.map { ["serial0": $0] } ?? [:]))
    var values: [String: PropertyValue] = ["iobase": .integer(0x3F8), "irq": .integer(4)]
    if character != nil { values["chardev"] = .string("serial0") }
    let device = try ISASerial.model.make("com1", Properties(values), fake.board)
    device.reset()
    device.start()
    return (fake, try #require(device as? ISASerial))
  }

  @Test func bytesGoOutAndTheTransmitterInterruptIsAnEdgeForEach() throws {
    let character = RecordingCharacter()
    let (fake, _) = try make(character)
    fake.outb(0x3F9, 0x02)
    #expect(fake.interrupts.takePulses(4) == 1)
    for byte in "ok".utf8 {
      fake.outb(0x3F8, byte)
      #expect(fake.interrupts.takePulses(4) == 1)
    }
    #expect(character.takeText() == "ok")
  }

  @Test func aFullBackendKeepsTheTransmitterBusyAndLosesNothing() throws {
    let character = RecordingCharacter(room: 2)
    let (fake, _) = try make(character)
    fake.outb(0x3FA, 0x01)
    for byte in "abcdef".utf8 { fake.outb(0x3F8, byte) }
    #expect(character.takeText() == "ab")
    #expect(fake.inb(0x3FD) & 0x20 == 0)
    character.setRoom(3)
    #expect(character.takeText() == "cde")
    #expect(fake.inb(0x3FD) & 0x20 == 0)
    character.setRoom(.max)
    #expect(character.takeText() == "f")
    #expect(fake.inb(0x3FD) & 0x60 == 0x60)
  }

  @Test func allThatWasPostedWhileTheLineStoppedGoesOutWhenItGoesOn() throws {
    let character = RecordingCharacter(room: 2)
    let (fake, _) = try make(character)
    fake.outb(0x3FA, 0x01)
    let text = String(repeating: "0123456789", count: 8)
    for byte in text.utf8 { fake.outb(0x3F8, byte) }
    #expect(character.takeText() == "01")
    character.setRoom(.max)
    #expect(character.takeText() == text.dropFirst(2))
    #expect(fake.inb(0x3FD) & 0x60 == 0x60)
  }

  @Test func inputBeyondTheFifoWaitsInTheBackendWithoutOverrun() throws {
    let character = RecordingCharacter()
    let (fake, _) = try make(character)
    fake.outb(0x3FA, 0x01)
    let text = String(repeating: "0123456789", count: 4)
    character.type(text)
    #expect(character.waiting == 24)
    var read: [UInt8] = []
    while fake.inb(0x3FD) & 1 != 0 {
      #expect(fake.inb(0x3FD) & 0x02 == 0)
      read.append(fake.inb(0x3F8))
      if fake.inb(0x3FD) & 1 == 0 { character.deliver() }
    }
    #expect(String(decoding: read, as: UTF8.self) == text)
    #expect(character.resumes == 2)
  }

  @Test func withoutFifosOneByteAtATimeIsTaken() throws {
    let character = RecordingCharacter()
    let (fake, _) = try make(character)
    character.type("xyz")
    #expect(character.waiting == 2)
    #expect(fake.inb(0x3F8) == UInt8(ascii: "x"))
    #expect(character.resumes == 1)
  }

  @Test func theCharacterTimeoutInterruptsAfterFourCharacterTimes() throws {
    let character = RecordingCharacter()
    let (fake, _) = try make(character)
    fake.outb(0x3FB, 0x83)
    fake.outw(0x3F8, 0x0001)
    fake.outb(0x3FB, 0x03)
    fake.outb(0x3FA, 0xC1)
    fake.outb(0x3F9, 0x01)
    character.type("a")
    fake.advance(nanoseconds: 340_000)
    #expect(fake.interrupts.takePulses(4) == 0)
    fake.advance(nanoseconds: 10_000)
    #expect(fake.interrupts.takePulses(4) == 1)
    #expect(fake.inb(0x3FA) == 0xCC)
  }

  @Test func withoutAConnectionOutputIsDroppedAndNeverBlocks() throws {
    let (fake, _) = try make(nil)
    for _ in 0..<100 { fake.outb(0x3F8, 0x41) }
    #expect(fake.inb(0x3FD) & 0x60 == 0x60)
  }

  @Test func anUnknownConnectionIsNamed() {
    let fake = FakeBoard()
    #expect(throws: DeviceError("there is no connection 'serial9'")) {
      try ISASerial.model.make("com1", Properties(["chardev": .string("serial9")]), fake.board)
    }
  }

  @Test func twoPortsAtOneAddressAreRefused() throws {
    let (fake, _) = try make(nil)
    #expect(throws: DeviceError("port 0x3f8+0x8 is already claimed or does not exist")) {
      try ISASerial.model.make("com2", Properties([:]), fake.board)
    }
  }
}
