import Backends
import TestKit
import Testing

@testable import Devices

@Suite struct E1000TransmitTests {
  typealias Card = E1000Card
  typealias Register = E1000Register

  @Test func aLegacyDescriptorSendsItsFrameAndIsWrittenBack() throws {
    let card = try Card()
    card.startTransmitting()
    card[Register.ims] = E1000Cause.transmitWrittenBack
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(200))
    try card.send(frame)
    #expect(card.network.takeSent() == [.init(frame)])
    #expect(try card.isDone(0))
    #expect(card[Register.tdh] == 1)
    #expect(card.isInterrupting)
    #expect(card[Register.icr] & E1000Cause.transmitWrittenBack != 0)
    #expect(!card.isInterrupting)
  }

  @Test func aFrameOfSeveralDescriptorsIsSentByReferenceAsOne() throws {
    let card = try Card()
    card.startTransmitting()
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(300))
    try card.fake.board.memory.write(Card.buffers, frame)
    try card.put(0, Card.buffers, Card.legacy(14, 0))
    // No data, but a status to be reported.
    try card.put(1, 0, Card.legacy(100, Card.rs))
    try card.put(2, Card.buffers + 14, Card.legacy(300, Card.eop | Card.ifcs | Card.rs))
    card[Register.tdt] = 2
    #expect(card.network.takeSent().isEmpty)
    card[Register.tdt] = 3
    #expect(card.network.takeSent() == [.init(frame)])
    #expect(try !card.isDone(0))
    #expect(try card.isDone(1) && card.isDone(2))
  }

  @Test func shortFramesArePaddedWhereAskedFor() throws {
    let card = try Card()
    card.startTransmitting()
    let frame = TestFrame.ethernet(to: TestFrame.source, [1, 2, 3])
    try card.send(frame)
    card[Register.tctl] = 1 << 1
    try card.send(frame)
    let sent = card.network.takeSent()
    #expect(sent.map(\.bytes) == [frame + [UInt8](repeating: 0, count: 60 - frame.count), frame])
  }

  @Test func aFrameThatBringsItsOwnFCSLosesIt() throws {
    let card = try Card()
    card.startTransmitting()
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(100))
    try card.send(frame + [1, 2, 3, 4], command: Card.eop | Card.rs)
    #expect(card.network.takeSent() == [.init(frame)])
  }

  @Test func aLegacyChecksumGoesWhereTheDescriptorSays() throws {
    let card = try Card()
    card.startTransmitting()
    let payload = TestFrame.pattern(101)
    let frame = TestFrame.tcp(to: TestFrame.source, payload)
    var left = TestFrame.tcpForOffload(payload, withLength: true)
    (left[24], left[25]) = (frame[24], frame[25])
    try card.send(left, command: Card.eop | Card.ifcs | Card.ic | Card.rs, cso: 50, css: 34)
    #expect(card.network.takeSent() == [.init(frame)])
  }

  @Test(arguments: [false, true]) func checksumsOfAContextAreInserted(backendSums: Bool) throws {
    let card = try Card(offloads: backendSums ? .checksum : [])
    card.startTransmitting()
    let payload = TestFrame.pattern(777)
    let frame = TestFrame.tcpForOffload(payload, withLength: true)
    try card.fake.board.memory.write(Card.buffers, frame)
    let (low, high) = Card.context(command: 0x3)
    try card.put(0, low, high)
    try card.put(1, Card.buffers, Card.data(100, Card.ifcs, options: 3))
    try card.put(2, Card.buffers + 100, Card.data(frame.count - 100, Card.eop | Card.ifcs | Card.rs))
    card[Register.tdt] = 3
    let sent = try #require(card.network.takeSent().first)
    var expected = TestFrame.tcp(to: TestFrame.source, payload)
    if backendSums {
      (expected[50], expected[51]) = (frame[50], frame[51])
      #expect(sent.header == FrameHeader(flags: .needsChecksum, checksumStart: 34, checksumOffset: 16))
    } else {
      #expect(sent.header == FrameHeader())
    }
    #expect(sent.bytes == expected)
    // What the guest has in memory stays as it was.
    #expect(try card.fake.board.memory.bytes(Card.buffers, frame.count) == frame)
  }

  @Test func segmentationMakesWholePacketsWithNumbersAndChecksums() throws {
    let card = try Card()
    card.startTransmitting()
    let payload = TestFrame.pattern(2500)
    try putSegmentation(card, payload, mss: 1000)
    let sent = card.network.takeSent().map(\.bytes)
    let expected = [(0, 1000, UInt8(0x10)), (1000, 1000, 0x10), (2000, 500, 0x19)].enumerated().map { index, part in
      TestFrame.tcp(
        to: TestFrame.source, Array(payload[part.0..<part.0 + part.1]), sequence: UInt32(1 + part.0), flags: part.2,
        identification: UInt16(7 + index))
    }
    #expect(sent == expected)
    #expect(try card.isDone(2))
    #expect(card[0x40F8] == 1)
  }

  @Test func aBackendThatCutsGetsThePacketWhole() throws {
    let card = try Card(offloads: [.checksum, .tso4])
    card.startTransmitting()
    let payload = TestFrame.pattern(2500)
    try putSegmentation(card, payload, mss: 1000)
    let sent = try #require(card.network.takeSent().first)
    #expect(
      sent.header
        == FrameHeader(
          flags: .needsChecksum, segmentation: .tcp4, headerLength: 54, segmentSize: 1000, checksumStart: 34,
          checksumOffset: 16))
    // Lengths and the IP checksum are those of the whole, and TCP has the pseudo header's sum.
    var expected = TestFrame.tcp(to: TestFrame.source, payload, flags: 0x19)
    let pseudo = TestFrame.tcpForOffload(payload, withLength: true)
    (expected[50], expected[51]) = (pseudo[50], pseudo[51])
    #expect(sent.bytes == expected)
  }

  @Test func aRefusedFrameIsSentOnceThereIsRoom() throws {
    let card = try Card()
    card.startTransmitting()
    card.network.setRoom(1)
    let payload = TestFrame.pattern(2500)
    try putSegmentation(card, payload, mss: 1000)
    #expect(card.network.takeSent().count == 1)
    #expect(try !card.isDone(2))
    card.network.setRoom(.max)
    card.fake.advance(nanoseconds: 1)
    let rest = card.network.takeSent()
    #expect(rest.count == 2)
    #expect(rest.last?.bytes.suffix(500) == payload.suffix(500))
    #expect(try card.isDone(2))
  }

  @Test func tagsAreInsertedInVLANMode() throws {
    let card = try Card()
    card.startTransmitting()
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(100))
    try card.fake.board.memory.write(Card.buffers, frame)
    let command = Card.eop | Card.ifcs | Card.vle
    try card.put(0, Card.buffers, Card.legacy(frame.count, command, special: 0x2005))
    card[Register.tdt] = 1
    card[Register.ctrl] |= E1000Control.vlanMode
    try card.put(1, Card.buffers, Card.legacy(frame.count, command, special: 0x2005))
    card[Register.tdt] = 2
    #expect(card.network.takeSent().map(\.bytes) == [frame, TestFrame.tagged(frame, 0x2005)])
  }

  @Test func interruptsWaitForTheDelayThatDescriptorsAskFor() throws {
    let card = try Card()
    card.startTransmitting()
    card[Register.tidv] = 10
    card[Register.tadv] = 15
    card[Register.ims] = E1000Cause.transmitWrittenBack
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(100))
    try card.send(frame, command: Card.eop | Card.ifcs | Card.rs | Card.ide)
    #expect(!card.isInterrupting)
    card.fake.advance(nanoseconds: 8 * 1024)
    // The packet timer starts again, the absolute one does not.
    try card.send(frame, command: Card.eop | Card.ifcs | Card.rs | Card.ide)
    card.fake.advance(nanoseconds: 6 * 1024)
    #expect(!card.isInterrupting)
    card.fake.advance(nanoseconds: 1024)
    #expect(card.isInterrupting)
  }

  @Test func macLoopbackBringsFramesBack() throws {
    let card = try Card()
    try card.startReceiving(1 << 6)
    card.startTransmitting()
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    try card.send(frame)
    #expect(card.network.takeSent().isEmpty)
    #expect(try card.received(0).bytes == frame)
  }

  // MARK: Hostile guests

  @Test func impossibleSegmentationSendsNothingAndGoesOn() throws {
    for (mss, headerLength) in [(0, 54), (1000, 0), (1000, 255), (1000, 13)] as [(UInt64, UInt64)] {
      let card = try Card()
      card.startTransmitting()
      let frame = TestFrame.tcpForOffload([1, 2, 3], withLength: false)
      try card.fake.board.memory.write(Card.buffers, frame)
      let (low, high) = Card.context(command: 0x7, headerLength: headerLength, mss: mss, payload: 0xFFFFF)
      try card.put(0, low, high)
      try card.put(1, Card.buffers, Card.data(frame.count, Card.eop | Card.tse | Card.ifcs | Card.rs, options: 3))
      card[Register.tdt] = 2
      #expect(card.network.takeSent().isEmpty)
      #expect(try card.isDone(1))
      #expect(card[0x40FC] == 1)
    }
  }

  @Test func everyOffsetOfAContextIsHarmless() throws {
    var generator = SystemRandomNumberGenerator()
    let cards = [try Card(), try Card(offloads: [.checksum, .tso4, .tso6])]
    for round in 0..<1000 {
      let card = cards[round % 2]
      card[Register.ctrl] = E1000Control.reset
      card.startTransmitting()
      try card.fake.board.memory.write(Card.buffers, TestFrame.pattern(4000))
      try card.put(0, generator.next(), generator.next() & ~(0xF << 20) | 1 << 29)
      let length = Int.random(in: 0...4000)
      let command = UInt64.random(in: 0...255) | Card.eop
      try card.put(
        1, Card.buffers, Card.data(length, command, options: generator.next() & 3, special: generator.next() & 0xFFFF))
      try card.put(2, Card.buffers, generator.next())
      card[Register.ctrl] |= Bool.random() ? E1000Control.vlanMode : 0
      card[Register.tdt] = 3
      for _ in 0..<100 where card[Register.tdh] != 3 { card.fake.advance(nanoseconds: 1000) }
      #expect(card[Register.tdh] == 3)
      _ = card.network.takeSent()
    }
  }

  @Test func ringsOutsideRAMAndWrongIndicesStopTheTransmitter() throws {
    let card = try Card()
    card.startTransmitting(at: 0xFFFF_FFFF_FFFF_FFF0)
    card[Register.tdt] = 3
    card[Register.tdbah] = 0x10
    card[Register.tdt] = 4
    #expect(card.network.takeSent().isEmpty)
    card.startTransmitting()
    card[Register.tdt] = 0xFFFF
    card[Register.tdh] = 0xFFFF
    card[Register.tdt] = 1
    card[Register.tdlen] = 0
    card[Register.tdt] = 0
    #expect(card.network.takeSent().isEmpty)
    card.startTransmitting()
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    try card.send(frame)
    #expect(card.network.takeSent() == [.init(frame)])
  }

  @Test func buffersOutsideRAMLoseTheirFrameOnly() throws {
    let card = try Card()
    card.startTransmitting()
    try card.put(0, 0xFFFF_FFFF_FFFF_FF00, Card.data(0xFFFFF, Card.eop | Card.ifcs | Card.rs))
    try card.put(1, Card.buffers, Card.data(0xFFFFF, Card.eop | Card.ifcs | Card.rs))
    card[Register.tdt] = 2
    #expect(card.network.takeSent().isEmpty)
    #expect(try card.isDone(0) && card.isDone(1))
  }

  @Test func manyContextsDoNotHoldUpTheCard() throws {
    let card = try Card()
    let ring: UInt64 = 0x20_0000
    card.startTransmitting(at: ring, count: 0xFFF80 / 16)
    let (low, high) = Card.context(command: 0x3)
    for index in 0..<UInt64(0xFFF80 / 16) {
      try card.fake.board.memory.store(low, at: ring + index * 16)
      try card.fake.board.memory.store(high, at: ring + index * 16 + 8)
    }
    card[Register.tdt] = 0xFFF80 / 16 - 1
    for _ in 0..<100 { card.fake.advance(nanoseconds: 1000) }
    #expect(card[Register.tdh] == card[Register.tdt])
  }

  @Test func aResetForgetsTheFrameUnderWay() throws {
    let card = try Card()
    card.startTransmitting()
    try card.fake.board.memory.write(Card.buffers, TestFrame.pattern(100))
    try card.put(0, Card.buffers, Card.legacy(100, 0))
    card[Register.tdt] = 1
    card[Register.ctrl] = E1000Control.reset
    #expect(card[Register.tdbal] == 0)
    card.startTransmitting()
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    try card.send(frame)
    #expect(card.network.takeSent() == [.init(frame)])
  }

  private func putSegmentation(_ card: Card, _ payload: [UInt8], mss: UInt64) throws {
    let frame = TestFrame.tcpForOffload(payload, withLength: false, flags: 0x19)
    try card.fake.board.memory.write(Card.buffers, frame)
    let (low, high) = Card.context(command: 0x7, mss: mss, payload: UInt64(payload.count))
    try card.put(0, low, high)
    try card.put(1, Card.buffers, Card.data(54, Card.tse | Card.ifcs, options: 3))
    try card.put(2, Card.buffers + 54, Card.data(payload.count, Card.eop | Card.tse | Card.ifcs | Card.rs))
    card[Register.tdt] = 3
  }
}
