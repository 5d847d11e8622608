import Backends
import TestKit
import Testing

@testable import Devices

@Suite struct E1000ReceiveTests {
  typealias Card = E1000Card
  typealias Register = E1000Register
  typealias Control = E1000ReceiveControl

  @Test func aFrameFillsADescriptorAndInterrupts() throws {
    let card = try Card()
    try card.startReceiving()
    card[Register.ims] = E1000Cause.receiveTimer
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    card.network.inject(frame)
    let received = try card.received(0)
    #expect(received.bytes == frame)
    #expect(received.status == 0x07)
    #expect(received.checksum == TestFrame.sum(frame))
    #expect(card[Register.rdh] == 1)
    #expect(card.isInterrupting)
    #expect(card[Register.icr] == E1000Cause.receiveTimer)
    #expect(!card.isInterrupting)
  }

  @Test func framesArePaddedAndCarryTheirFCSUnlessItIsStripped() throws {
    let card = try Card()
    try card.startReceiving()
    let frame = TestFrame.ethernet([1, 2, 3])
    let padded = frame + [UInt8](repeating: 0, count: 60 - frame.count)
    card.network.inject(frame)
    card[Register.rctl] &= ~Control.stripCRC
    card.network.inject(frame)
    #expect(try card.received(0).bytes == padded)
    #expect(try card.received(1).bytes == padded + fcs(padded))
  }

  @Test func theFCSIsThatOfIEEE8023() {
    var fcs = FrameCheckSequence()
    Array("123456789".utf8).withUnsafeBytes { fcs.add($0) }
    #expect(fcs.value == 0xCBF4_3926)
    for count in 0..<40 {
      let bytes = TestFrame.pattern(count)
      var fast = FrameCheckSequence()
      bytes.withUnsafeBytes { fast.add($0) }
      #expect(withUnsafeBytes(of: fast.value.littleEndian) { Array($0) } == self.fcs(bytes))
    }
  }

  @Test func theFCSIsTheSameForAnyLengthAndInAnyParts() {
    let bytes = (0..<2100).map { UInt8(truncatingIfNeeded: $0 &* 167 ^ $0 >> 3) }
    bytes.withUnsafeBytes { bytes in
      for length in [0, 1, 15, 16, 60, 63, 64, 65, 79, 80, 127, 128, 129, 1514, 2048, 2099] {
        for start in [0, 1, 14] where length >= start {
          var whole = FrameCheckSequence()
          whole.addByTable(UnsafeRawBufferPointer(rebasing: bytes[..<length]))
          var parts = FrameCheckSequence()
          parts.add(UnsafeRawBufferPointer(rebasing: bytes[..<start]))
          parts.add(UnsafeRawBufferPointer(rebasing: bytes[start..<length]))
          #expect(parts.value == whole.value, "\(length) bytes from \(start)")
        }
      }
    }
  }

  @Test func aLongFrameTakesSeveralDescriptors() throws {
    let card = try Card()
    // Buffers of 256 bytes.
    try card.startReceiving(3 << 16)
    let frame = TestFrame.ethernet(TestFrame.pattern(700))
    card.network.inject(frame)
    let parts = try (0..<3).map { try card.received($0) }
    #expect(parts.flatMap(\.bytes) == frame)
    #expect(parts.map(\.status) == [0x01, 0x01, 0x07])
  }

  static let bufferSizes: [(control: UInt32, size: Int)] = [
    (0, 2048), (0x1_0000, 1024), (0x2_0000, 512), (0x3_0000, 256), (0x201_0000, 16384), (0x202_0000, 8192),
    (0x203_0000, 4096),
  ]

  @Test(arguments: bufferSizes)
  func bufferSizesAreThoseOfBSIZEAndBSEX(control: UInt32, size: Int) throws {
    let card = try Card()
    try card.startReceiving(control | Control.longPackets)
    let frame = TestFrame.ethernet(TestFrame.pattern(min(size + 100, 16000)))
    if frame.count <= size * 7 { card.network.inject(frame) }
    #expect(try card.received(0).bytes.count == min(size, frame.count))
  }

  @Test func longPacketsNeedLPE() throws {
    let card = try Card()
    try card.startReceiving()
    let frame = TestFrame.ethernet(TestFrame.pattern(1505))
    card.network.inject(frame)
    #expect(card[Register.rdh] == 0)
    #expect(card[0x40AC] == 1)
    card[Register.rctl] |= Control.longPackets
    card.network.inject(frame)
    #expect(card[Register.rdh] == 1)
  }

  @Test func addressFiltersDecide() throws {
    let other: [UInt8] = [0x52, 0x54, 0, 9, 9, 9]
    let group: [UInt8] = [0x01, 0x00, 0x5E, 0x00, 0x00, 0xFB]
    let broadcast = [UInt8](repeating: 0xFF, count: 6)
    func passes(_ destination: [UInt8], _ prepare: (Card) -> Void = { _ in }) throws -> UInt8? {
      let card = try Card()
      try card.startReceiving()
      prepare(card)
      card.network.inject(TestFrame.ethernet(to: destination, TestFrame.pattern(100)))
      return card[Register.rdh] == 0 ? nil : try card.received(0).status
    }
    #expect(try passes(E1000Card.address) == 0x07)
    #expect(try passes(other) == nil)
    #expect(try passes(other) { $0[Register.rctl] |= Control.unicastPromiscuous } == 0x07)
    #expect(
      try passes(other) {
        $0[Register.ra.lowerBound + 8] = 0x0900_5452
        $0[Register.ra.lowerBound + 12] = 0x8000_0909
      } == 0x07)
    #expect(try passes(broadcast) == 0x07)
    #expect(try passes(broadcast) { $0[Register.rctl] &= ~Control.acceptBroadcast } == nil)
    #expect(try passes(group) == nil)
    #expect(try passes(group) { $0[Register.rctl] |= Control.multicastPromiscuous } == 0x07)
    // Address bits 47:36 index the table: 0xFB0.
    #expect(try passes(group) { $0[Register.mta.lowerBound + 0xFB0 / 32 * 4] = 1 << (0xFB0 % 32) } == 0x87)
    #expect(
      try passes(group) {
        $0[Register.mta.lowerBound + 0xB00 / 32 * 4] = 1 << (0xB00 % 32)
        $0[Register.rctl] |= 3 << 12
      } == 0x87)
  }

  @Test func tagsAreStrippedAndFiltered() throws {
    let card = try Card()
    try card.startReceiving()
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    card.network.inject(TestFrame.tagged(frame, 0x6005))
    card[Register.ctrl] |= E1000Control.vlanMode
    card.network.inject(TestFrame.tagged(frame, 0x6005))
    #expect(try card.received(0).bytes == TestFrame.tagged(frame, 0x6005))
    let stripped = try card.received(1)
    #expect(stripped.bytes == frame)
    #expect(stripped.special == 0x6005)
    #expect(stripped.status == 0x0F)
    card[Register.rctl] |= Control.vlanFilter
    card.network.inject(TestFrame.tagged(frame, 5))
    #expect(card[Register.rdh] == 2)
    card[Register.vfta.lowerBound] = 1 << 5
    card.network.inject(TestFrame.tagged(frame, 5))
    card.network.inject(frame)
    #expect(card[Register.rdh] == 4)
  }

  @Test func checksumsAreReported() throws {
    let card = try Card()
    try card.startReceiving()
    card[Register.rxcsum] = E1000ReceiveChecksum.ip | E1000ReceiveChecksum.tcpUDP | 14
    let good = TestFrame.tcp(TestFrame.pattern(77))
    var badIP = good
    badIP[22] ^= 1
    var badTCP = good
    badTCP[100] ^= 1
    for frame in [good, badIP, badTCP, TestFrame.tagged(good, 1)] { card.network.inject(frame) }
    #expect(try card.received(0).status == 0x63)
    #expect(try card.received(0).errors == 0)
    #expect(try card.received(0).checksum == TestFrame.sum(Array(good[14...])))
    #expect(try card.received(1).errors == 0x40)
    #expect(try card.received(2).errors == 0x20)
    #expect(try card.received(3).errors == 0)
    #expect(try card.received(3).status == 0x63)
  }

  @Test func aFullRingHoldsTheBackendUntilThereAreDescriptors() throws {
    let card = try Card()
    try card.startReceiving(free: 1)
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    card.network.inject(frame)
    card.network.inject(frame)
    #expect(card.network.waiting == 1)
    #expect(card.network.resumes == 0)
    #expect(card[0x40A0] == 1)
    card[Register.rdt] = 2
    #expect(card.network.resumes == 1)
    card.network.deliver()
    #expect(card.network.waiting == 0)
    #expect(try card.received(1).bytes == frame)
  }

  @Test func runningLowOnDescriptorsInterrupts() throws {
    let card = try Card()
    // RDMTS 0: half of eight.
    try card.startReceiving()
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    for _ in 0..<2 { card.network.inject(frame) }
    #expect(card[Register.icr] & E1000Cause.receiveMinimum == 0)
    card.network.inject(frame)
    #expect(card[Register.icr] & E1000Cause.receiveMinimum != 0)
    card.network.inject(frame)
    #expect(card[Register.icr] & E1000Cause.receiveMinimum == 0)
  }

  @Test func theReceiveDelayGathersInterrupts() throws {
    let card = try Card()
    try card.startReceiving()
    card[Register.ims] = E1000Cause.receiveTimer
    card[Register.rdtr] = 20
    card[Register.radv] = 30
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    card.network.inject(frame)
    card.fake.advance(nanoseconds: 15 * 1024)
    card.network.inject(frame)
    card.fake.advance(nanoseconds: 14 * 1024)
    #expect(!card.isInterrupting)
    card.fake.advance(nanoseconds: 1024)
    #expect(card.isInterrupting)
    _ = card[Register.icr]
    card.network.inject(frame)
    #expect(!card.isInterrupting)
    card[Register.rdtr] = 1 << 31 | 20
    #expect(card.isInterrupting)
  }

  @Test func smallPacketsAreDetected() throws {
    let card = try Card()
    try card.startReceiving()
    card[Register.rsrpd] = 100
    card.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
    #expect(card[Register.icr] & E1000Cause.smallPacket == 0)
    card.network.inject(TestFrame.ethernet(TestFrame.pattern(50)))
    #expect(card[Register.icr] & E1000Cause.smallPacket != 0)
  }

  @Test func framesAreLostWhileReceptionIsOff() throws {
    let card = try Card()
    card.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
    try card.startReceiving()
    card.fake.board.pci.write(slot: 3, function: 0, register: 4, .word, 0x3)
    card.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
    #expect(card.network.waiting == 0)
    #expect(card[Register.rdh] == 0)
  }

  @Test func statisticsCountAndClear() throws {
    let card = try Card()
    try card.startReceiving()
    card.network.inject(TestFrame.ethernet(TestFrame.pattern(86)))
    card.network.inject(TestFrame.ethernet(to: [UInt8](repeating: 0xFF, count: 6), TestFrame.pattern(1000)))
    card.network.inject(TestFrame.ethernet(to: [2, 0, 0, 0, 0, 1], TestFrame.pattern(1000)))
    #expect(card[0x4074] == 2)
    #expect(card[0x4074] == 0)
    #expect(card[0x4060] == 1)
    #expect(card[0x406C] == 1)
    #expect(card[0x4078] == 1)
    #expect(card[0x40D0] == 3)
    #expect(card[0x4088] == 104 + 1018)
    #expect(card[0x408C] == 0)
    #expect(card[0x4088] == 0)
  }

  // MARK: Hostile guests

  @Test func ringsAndBuffersOutsideRAMLoseFrames() throws {
    let card = try Card()
    try card.startReceiving()
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    try card.fake.board.memory.store(UInt64.max - 7, at: E1000Card.receiveRing)
    try card.fake.board.memory.store(UInt64(0), at: E1000Card.receiveRing + 16)
    card.network.inject(frame)
    card.network.inject(frame)
    card.network.inject(frame)
    #expect(try card.received(2).bytes == frame)
    card[Register.rdbah] = 0xFFFF_FFFF
    card.network.inject(frame)
    card[Register.rdlen] = 0
    card.network.inject(frame)
    card[Register.rdlen] = 128
    card[Register.rdt] = 0xFFFF
    card.network.inject(frame)
    #expect(card[Register.rdh] == 3)
  }

  @Test func aFrameThatNeverFitsIsNotHeldForEver() throws {
    let card = try Card()
    try card.startReceiving(Control.longPackets | 3 << 16)
    card.network.inject(TestFrame.ethernet(TestFrame.pattern(8000)))
    #expect(card.network.waiting == 0)
  }

  @Test func randomFramesOfEveryLengthAreHarmless() throws {
    let card = try Card()
    try card.startReceiving(Control.unicastPromiscuous | Control.multicastPromiscuous | Control.longPackets)
    card[Register.rxcsum] = 0x7FF
    for count in 0..<200 {
      var frame = (0..<count).map { _ in UInt8.random(in: 0...255) }
      if count > 16 { frame.replaceSubrange(12..<15, with: [0x08, 0x00, 0x45]) }
      card.network.inject(frame)
      if count > 20 {
        frame.replaceSubrange(12..<19, with: [0x81, 0x00, 0, 1, 0x86, 0xDD, 0x60])
        card.network.inject(frame)
      }
      card[Register.rdt] = (card[Register.rdh] + 6) % 8
      card.network.deliver()
    }
    #expect(card.network.waiting == 0)
  }

  /// The CRC bit by bit.
  private func fcs(_ bytes: [UInt8]) -> [UInt8] {
    var crc = UInt32.max
    for byte in bytes {
      crc ^= UInt32(byte)
      for _ in 0..<8 { crc = crc & 1 != 0 ? 0xEDB8_8320 ^ crc >> 1 : crc >> 1 }
    }
    return (0..<4).map { UInt8(truncatingIfNeeded: ~crc >> UInt32($0 * 8)) }
  }
}
