import Backends
import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

/// A card on a fake board as a driver sees it.
private struct Card {
  static let base: UInt64 = 0xC000
  static let ring: UInt64 = 0x2_0000
  static let buffers: UInt64 = 0x10_0000

  let fake: FakeBoard
  let network = RecordingNetwork()
  let device: Device

  init() throws {
    fake = FakeBoard(resources: FakeResources(networks: ["net0": network]))
    device = try RTL8139Device.model.make(
      "nic", Properties(["netdev": .string("net0"), "mac": .string("52:54:00:12:34:56"), "addr": .string("03.0")]),
      fake.board)
    device.reset()
    device.start()
    fake.board.interrupts.route(pirq: 2, to: 11)
    fake.board.pci.write(slot: 3, function: 0, register: 0x10, .dword, UInt32(Self.base))
    fake.board.pci.write(slot: 3, function: 0, register: 0x14, .dword, 0xFEBF_0000)
    fake.board.pci.write(slot: 3, function: 0, register: 0x04, .word, 0x7)
  }

  func read8(_ register: UInt64) -> UInt8 { fake.inb(Self.base + register) }
  func read16(_ register: UInt64) -> UInt16 { fake.inw(Self.base + register) }
  func read32(_ register: UInt64) -> UInt32 { fake.inl(Self.base + register) }
  func write8(_ register: UInt64, _ value: UInt8) { fake.outb(Self.base + register, value) }
  func write16(_ register: UInt64, _ value: UInt16) { fake.outw(Self.base + register, value) }
  func write32(_ register: UInt64, _ value: UInt32) { fake.outl(Self.base + register, value) }

  var isInterrupting: Bool { fake.interrupts.level(11) }

  /// Receiver and transmitter on, the receiver with the configuration and a ring of 8 KiB.
  func start(_ configuration: UInt32 = 0x0A) {
    write32(0x30, UInt32(Self.ring))
    write8(0x37, 0x0C)
    write32(0x44, configuration)
    write16(0x3C, 0xFFFF)
  }

  func send(_ index: UInt64, _ frame: [UInt8]) throws {
    try fake.board.memory.write(Self.buffers + index * 0x1000, frame)
    write32(0x20 + index * 4, UInt32(Self.buffers + index * 0x1000))
    write32(0x10 + index * 4, UInt32(frame.count))
  }

  /// The packet at an offset of the ring: status, and bytes with FCS.
  func received(_ offset: UInt64) throws -> (status: UInt16, bytes: [UInt8]) {
    let header = try fake.board.memory.load(Self.ring + offset, as: UInt32.self)
    return (
      UInt16(truncatingIfNeeded: header), try fake.board.memory.bytes(Self.ring + offset + 4, Int(header >> 16))
    )
  }
}

@Suite struct RTL8139Tests {
  @Test func theFunctionIsAnRTL8139C() throws {
    let card = try Card()
    let pci = card.fake.board.pci
    #expect(pci.read(slot: 3, function: 0, register: 0, .dword) == 0x8139_10EC)
    #expect(pci.read(slot: 3, function: 0, register: 8, .byte) == 0x10)
    #expect(card.read32(0x40) & 0x7CC0_0000 == 0x7400_0000)
    #expect((0..<6).map { card.read8($0) } == E1000Card.address)
    #expect(card.fake.board.mmio.read(0xFEBF_0000, .dword) == 0x1200_5452)
  }

  @Test func descriptorsSendInTurn() throws {
    let card = try Card()
    card.start()
    let frames = (0..<6).map { TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(100 + $0)) }
    for (index, frame) in frames.enumerated() { try card.send(UInt64(index % 4), frame) }
    #expect(card.network.takeSent().map(\.bytes) == frames)
    #expect(card.read32(0x10) & 0xE000 == 0xA000)
    #expect(card.isInterrupting)
    #expect(card.read16(0x3E) == 0x0004)
    card.write16(0x3E, 0x0004)
    #expect(!card.isInterrupting)
    #expect(card.read16(0x60) & 0xF00F == 0xF00F)
  }

  @Test func aRefusedFrameIsSentOnceThereIsRoom() throws {
    let card = try Card()
    card.start()
    card.network.setRoom(0)
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(100))
    try card.send(0, frame)
    #expect(card.read32(0x10) & 0x2000 == 0)
    card.network.setRoom(.max)
    card.fake.advance(nanoseconds: 1)
    #expect(card.network.takeSent() == [.init(frame)])
    #expect(card.read32(0x10) & 0xA000 == 0xA000)
  }

  @Test func aPacketLiesInTheRingBehindItsStatus() throws {
    let card = try Card()
    card.start()
    #expect(card.read8(0x37) & 1 == 1)
    let frame = TestFrame.ethernet(TestFrame.pattern(101))
    card.network.inject(frame)
    let (status, bytes) = try card.received(0)
    #expect(status == 0x4001)
    #expect(bytes.dropLast(4) == frame[...])
    #expect(card.read8(0x37) & 1 == 0)
    #expect(card.read16(0x3A) == UInt16((frame.count + 8 + 3) & ~3))
    #expect(card.isInterrupting)
    card.write16(0x38, card.read16(0x3A) &- 16)
    #expect(card.read8(0x37) & 1 == 1)
  }

  @Test(arguments: [false, true]) func theRingWrapsOrThePacketGoesOn(goesOn: Bool) throws {
    let card = try Card()
    card.start(goesOn ? 0x8A : 0x0A)
    let frame = TestFrame.ethernet(TestFrame.pattern(1000))
    let stride = UInt64((frame.count + 8 + 3) & ~3)
    for index in 0..<9 {
      card.network.inject(frame)
      let offset = UInt64(index) * stride % 8192
      if index < 8 {
        let bytes = goesOn || offset + stride <= 8192 ? try card.received(offset).bytes : try wrapped(card, offset)
        #expect(bytes.dropLast(4) == frame[...])
      }
      card.write16(0x38, card.read16(0x3A) &- 16)
    }
    #expect(card.network.waiting == 0)
  }

  private func wrapped(_ card: Card, _ offset: UInt64) throws -> [UInt8] {
    let ring = try card.fake.board.memory.bytes(Card.ring, 8192)
    let whole = Array(ring[Int(offset)...] + ring[..<Int(offset)])
    return Array(whole[4..<4 + Int(whole[2]) + Int(whole[3]) << 8])
  }

  @Test func aFullRingHoldsTheBackendUntilSoftwareHasRead() throws {
    let card = try Card()
    card.start()
    let frame = TestFrame.ethernet(TestFrame.pattern(1486))
    for _ in 0..<6 { card.network.inject(frame) }
    #expect(card.network.waiting == 1)
    #expect(card.read16(0x3E) & 0x10 != 0)
    card.write16(0x38, UInt16((frame.count + 8 + 3) & ~3) &- 16)
    #expect(card.network.resumes == 1)
    card.network.deliver()
    #expect(card.network.waiting == 0)
  }

  @Test func filtersDecide() throws {
    let group: [UInt8] = [0x01, 0x00, 0x5E, 0x00, 0x00, 0x01]
    let broadcast = [UInt8](repeating: 0xFF, count: 6)
    func status(_ destination: [UInt8], _ configuration: UInt32, table: UInt64 = 0) throws -> UInt16? {
      let card = try Card()
      card.start(configuration)
      card.write32(0x08, UInt32(truncatingIfNeeded: table))
      card.write32(0x0C, UInt32(truncatingIfNeeded: table >> 32))
      card.network.inject(TestFrame.ethernet(to: destination, TestFrame.pattern(100)))
      return card.read8(0x37) & 1 != 0 ? nil : try card.received(0).status
    }
    #expect(try status(E1000Card.address, 2) == 0x4001)
    #expect(try status(E1000Card.address, 0) == nil)
    #expect(try status([2, 0, 0, 0, 0, 1], 2) == nil)
    #expect(try status([2, 0, 0, 0, 0, 1], 1) == 0x0001)
    #expect(try status(broadcast, 8) == 0x2001)
    #expect(try status(broadcast, 6) == nil)
    #expect(try status(group, 4) == nil)
    // The CRC of the address of all hosts starts with 011111 (Linux: ether_crc >> 26).
    let bit = multicastBit(group)
    #expect(try status(group, 4, table: 1 << bit) == 0x8001)
    #expect(try status(group, 4, table: ~(1 << bit)) == nil)
  }

  /// The most significant six bits of the CRC of IEEE 802.3 §3.2.9, bit by bit.
  private func multicastBit(_ address: [UInt8]) -> UInt64 {
    var crc = UInt32.max
    for byte in address {
      for bit in 0..<8 {
        let feedback = crc >> 31 ^ UInt32(byte >> UInt8(bit) & 1)
        crc = crc << 1 ^ (feedback != 0 ? 0x04C1_1DB7 : 0)
      }
    }
    return UInt64(crc >> 26)
  }

  @Test func theEEPROMIsReadByItsPins() throws {
    let card = try Card()
    func read(_ address: UInt32) -> UInt32 {
      card.write8(0x50, 0x80)
      card.write8(0x50, 0x88)
      func clock(_ bit: UInt32) {
        card.write8(0x50, 0x88 | UInt8(bit << 1))
        card.write8(0x50, 0x8C | UInt8(bit << 1))
      }
      let command = 0b110 << 6 | address
      for bit in stride(from: 8, through: 0, by: -1) { clock(command >> UInt32(bit) & 1) }
      var value: UInt32 = 0
      for _ in 0..<16 {
        clock(0)
        value = value << 1 | UInt32(card.read8(0x50) & 1)
      }
      card.write8(0x50, 0)
      return value
    }
    #expect(read(0) == 0x8129)
    #expect([read(7), read(8), read(9)] == [0x5452, 0x1200, 0x5634])
  }

  @Test func theTimerCountsThePCIClockAndInterrupts() throws {
    let card = try Card()
    card.write16(0x3C, 0x4000)
    card.write32(0x48, 0)
    card.write32(0x54, 33_000)
    card.fake.advance(nanoseconds: 999_999)
    #expect(!card.isInterrupting)
    card.fake.advance(nanoseconds: 1)
    #expect(card.isInterrupting)
    #expect(card.read32(0x48) == 33_000)
    card.write16(0x3E, 0x4000)
    #expect(!card.isInterrupting)
  }

  @Test func theLinkFollowsTheBackend() throws {
    let card = try Card()
    card.start()
    #expect(card.read16(0x64) & 0x24 == 0x24)
    #expect(card.read8(0x58) & 4 == 0)
    card.network.setLink(false)
    #expect(card.isInterrupting)
    #expect(card.read16(0x3E) & 0x20 != 0)
    #expect(card.read16(0x64) & 0x24 == 0)
    #expect(card.read8(0x58) & 4 != 0)
    card.network.setLink(true)
    card.fake.advance(nanoseconds: 1_000_000_000)
    #expect(card.read8(0x58) & 4 == 0)
  }

  @Test func loopbackBringsFramesBack() throws {
    let card = try Card()
    card.start()
    card.write32(0x40, 3 << 17)
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    try card.send(0, frame)
    #expect(card.network.takeSent().isEmpty)
    #expect(try card.received(0).bytes.dropLast(4) == frame[...])
  }

  @Test func theAddressAndConfigurationNeedToBeUnlocked() throws {
    let card = try Card()
    card.write8(0, 2)
    card.write8(0x52, 0x21)
    #expect(card.read8(0) == 0x52)
    card.write8(0x50, 0xC0)
    card.write8(0, 2)
    #expect(card.read8(0) == 2)
    card.write8(0x50, 0x40)
    #expect(card.read8(0) == 0x52)
  }

  // MARK: Hostile guests

  @Test func everyRegisterTakesEveryWidth() throws {
    let card = try Card()
    for round in 0..<20 {
      for register in 0..<UInt64(256) {
        for width in [AccessWidth.byte, .word, .dword] {
          _ = card.fake.board.ports.read(Card.base + register, width)
          card.fake.board.ports.write(Card.base + register, width, round == 0 ? .max : UInt64.random(in: 0...(.max)))
        }
        _ = card.fake.board.mmio.read(0xFEBF_0000 + register, .qword)
        card.fake.board.mmio.write(0xFEBF_0000 + register, .qword, UInt64.random(in: 0...(.max)))
      }
      card.network.inject(TestFrame.ethernet(TestFrame.pattern(Int.random(in: 0...1500))))
      card.fake.advance(nanoseconds: 1_000)
    }
  }

  @Test func memoryThatIsNotThereIsASystemError() throws {
    let card = try Card()
    card.start()
    card.write32(0x20, 0xFFFF_FF00)
    card.write32(0x10, 1000)
    #expect(card.read16(0x3E) & 0x8000 != 0)
    #expect(card.read32(0x10) & 1 << 30 != 0)
    card.write32(0x30, 0xFFFF_FFF0)
    card.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
    #expect(card.network.waiting == 0)
    card.write32(0x14, 0x1FFF)
    #expect(card.network.takeSent().isEmpty)
  }
}
