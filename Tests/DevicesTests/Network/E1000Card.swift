import Backends
import Buses
import DeviceKit
import MachineModel
import TestKit

@testable import Devices

/// A card on a fake board as a driver sees it: its registers at `base`, rings and buffers in RAM.
struct E1000Card {
  typealias Register = E1000Register

  static let base: UInt64 = 0xFEBC_0000
  static let address: [UInt8] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56]
  static let transmitRing: UInt64 = 0x1_0000
  static let receiveRing: UInt64 = 0x2_0000
  static let buffers: UInt64 = 0x10_0000
  static let bufferStride: UInt64 = 0x4000
  static let ringCount = 8

  let fake: FakeBoard
  let network: RecordingNetwork
  let device: Device

  init(offloads: NetworkOffloads = [], mmio: AddressSpace = .mmio()) throws {
    network = RecordingNetwork(offloads: offloads)
    fake = FakeBoard(resources: FakeResources(networks: ["net0": network]), mmio: mmio)
    device = try E1000Device.model.make(
      "nic", Properties(["netdev": .string("net0"), "mac": .string("52:54:00:12:34:56"), "addr": .string("03.0")]),
      fake.board)
    device.reset()
    device.start()
    fake.board.interrupts.route(pirq: 2, to: 11)
    fake.board.pci.write(slot: 3, function: 0, register: 0x10, .dword, UInt32(Self.base))
    fake.board.pci.write(slot: 3, function: 0, register: 0x14, .dword, 0xC000)
    fake.board.pci.write(slot: 3, function: 0, register: 0x04, .word, 0x7)
  }

  subscript(_ register: Int) -> UInt32 {
    get { UInt32(truncatingIfNeeded: fake.board.mmio.read(Self.base + UInt64(register), .dword)) }
    nonmutating set { fake.board.mmio.write(Self.base + UInt64(register), .dword, UInt64(newValue)) }
  }

  var isInterrupting: Bool { fake.interrupts.level(11) }

  // MARK: Transmission

  func startTransmitting(at ring: UInt64 = transmitRing, count: Int = ringCount) {
    self[Register.tdbal] = UInt32(truncatingIfNeeded: ring)
    self[Register.tdbah] = UInt32(truncatingIfNeeded: ring >> 32)
    self[Register.tdlen] = UInt32(count * 16)
    self[Register.tdh] = 0
    self[Register.tdt] = 0
    self[Register.tctl] = 1 << 1 | 1 << 3
  }

  /// Puts a descriptor into the ring at the tail, without telling the card.
  func put(_ index: Int, _ low: UInt64, _ high: UInt64) throws {
    try fake.board.memory.store(low, at: Self.transmitRing + UInt64(index % Self.ringCount) * 16)
    try fake.board.memory.store(high, at: Self.transmitRing + UInt64(index % Self.ringCount) * 16 + 8)
  }

  func isDone(_ index: Int) throws -> Bool {
    try fake.board.memory.load(Self.transmitRing + UInt64(index) * 16 + 12, as: UInt8.self) & 1 != 0
  }

  static func legacy(_ length: Int, _ command: UInt64, cso: UInt64 = 0, css: UInt64 = 0, special: UInt64 = 0) -> UInt64
  {
    UInt64(length) | cso << 16 | command << 24 | css << 40 | special << 48
  }

  static func data(_ length: Int, _ command: UInt64, options: UInt64 = 0, special: UInt64 = 0) -> UInt64 {
    UInt64(length) | 1 << 20 | (command | 0x20) << 24 | options << 40 | special << 48
  }

  /// The two halves of a context descriptor for IPv4 and TCP behind an Ethernet header.
  static func context(
    command: UInt64, headerLength: UInt64 = 54, mss: UInt64 = 0, payload: UInt64 = 0, transportOffset: UInt64 = 50
  ) -> (UInt64, UInt64) {
    (
      14 | 24 << 8 | 33 << 16 | 34 << 32 | transportOffset << 40,
      payload | (command | 0x20) << 24 | headerLength << 40 | mss << 48
    )
  }

  static let eop: UInt64 = 1
  static let ifcs: UInt64 = 2
  static let ic: UInt64 = 4
  static let tse: UInt64 = 4
  static let rs: UInt64 = 8
  static let vle: UInt64 = 0x40
  static let ide: UInt64 = 0x80

  /// Sends one frame by a legacy descriptor at the tail.
  func send(_ frame: [UInt8], command: UInt64 = eop | ifcs | rs, cso: UInt64 = 0, css: UInt64 = 0) throws {
    let tail = Int(self[Register.tdt])
    let buffer = Self.buffers + UInt64(tail) * Self.bufferStride
    try fake.board.memory.write(buffer, frame)
    try put(tail, buffer, Self.legacy(frame.count, command, cso: cso, css: css))
    self[Register.tdt] = UInt32((tail + 1) % Self.ringCount)
  }

  // MARK: Reception

  /// Enables reception with `free` buffers of 2 KiB.
  func startReceiving(_ control: UInt32 = 0, free: Int = ringCount - 1) throws {
    self[Register.rdbal] = UInt32(Self.receiveRing)
    self[Register.rdlen] = UInt32(Self.ringCount * 16)
    for index in 0..<Self.ringCount {
      try fake.board.memory.store(
        Self.buffers + UInt64(index) * Self.bufferStride, at: Self.receiveRing + UInt64(index) * 16)
      try fake.board.memory.store(UInt64(0), at: Self.receiveRing + UInt64(index) * 16 + 8)
    }
    self[Register.rdh] = 0
    self[Register.rdt] = UInt32(free)
    self[Register.rctl] = control | 1 << 1 | 1 << 15 | 1 << 26
  }

  struct Received: Equatable {
    var bytes: [UInt8]
    var checksum: UInt16
    var status: UInt8
    var errors: UInt8
    var special: UInt16
  }

  func received(_ index: Int) throws -> Received {
    let word = try fake.board.memory.load(Self.receiveRing + UInt64(index) * 16 + 8, as: UInt64.self)
    return Received(
      bytes: try fake.board.memory.bytes(
        Self.buffers + UInt64(index) * Self.bufferStride, Int(word & 0xFFFF)),
      checksum: UInt16(truncatingIfNeeded: word >> 16), status: UInt8(truncatingIfNeeded: word >> 32),
      errors: UInt8(truncatingIfNeeded: word >> 40), special: UInt16(truncatingIfNeeded: word >> 48))
  }
}

/// Frames for tests of network cards.
enum TestFrame {
  static let source: [UInt8] = [0x52, 0x55, 0x0A, 0x00, 0x02, 0x02]

  static func ethernet(to destination: [UInt8] = E1000Card.address, type: UInt16 = 0x88B5, _ payload: [UInt8])
    -> [UInt8]
  {
    destination + source + [UInt8(type >> 8), UInt8(type & 0xFF)] + payload
  }

  static func tagged(_ frame: [UInt8], _ tag: UInt16) -> [UInt8] {
    Array(frame[..<12]) + [0x81, 0x00, UInt8(tag >> 8), UInt8(tag & 0xFF)] + Array(frame[12...])
  }

  static func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) } }

  /// The one's complement sum, the slow way.
  static func sum(_ bytes: [UInt8]) -> UInt16 {
    var sum = 0
    for (index, byte) in bytes.enumerated() { sum += Int(byte) << (index & 1 == 0 ? 8 : 0) }
    while sum > 0xFFFF { sum = sum & 0xFFFF + sum >> 16 }
    return UInt16(sum)
  }

  /// IPv4 with TCP, checksums right.
  static func tcp(
    to destination: [UInt8] = E1000Card.address, _ payload: [UInt8], sequence: UInt32 = 1, flags: UInt8 = 0x18,
    identification: UInt16 = 7
  ) -> [UInt8] {
    let total = 40 + payload.count
    var ip: [UInt8] = [
      0x45, 0, UInt8(total >> 8), UInt8(total & 0xFF), UInt8(identification >> 8), UInt8(identification & 0xFF), 0x40,
      0,
      64, 6, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15,
    ]
    let header = ~sum(ip)
    (ip[10], ip[11]) = (UInt8(header >> 8), UInt8(header & 0xFF))
    var tcp: [UInt8] = [0, 80, 0x30, 0x39]
    tcp += [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: sequence >> $0) }
    tcp += [0, 0, 0, 9, 0x50, flags, 0x20, 0, 0, 0, 0, 0]
    let length = 20 + payload.count
    let check = ~sum(Array(ip[12...]) + [0, 6, UInt8(length >> 8), UInt8(length & 0xFF)] + tcp + payload)
    (tcp[16], tcp[17]) = (UInt8(check >> 8), UInt8(check & 0xFF))
    return ethernet(to: destination, type: 0x0800, ip + tcp + payload)
  }

  /// The same as a driver leaves it to the card: no IP checksum, the pseudo header's sum for TCP. `withLength` is as for
  /// one packet; without, and with no IP length, as for segmentation.
  static func tcpForOffload(_ payload: [UInt8], withLength: Bool, flags: UInt8 = 0x18) -> [UInt8] {
    var frame = tcp(to: source, payload, flags: flags)
    (frame[24], frame[25]) = (0, 0)
    let length = withLength ? 20 + payload.count : 0
    if !withLength { (frame[16], frame[17]) = (0, 0) }
    let pseudo = sum(Array(frame[26..<34]) + [0, 6, UInt8(length >> 8), UInt8(length & 0xFF)])
    (frame[50], frame[51]) = (UInt8(pseudo >> 8), UInt8(pseudo & 0xFF))
    return frame
  }
}
