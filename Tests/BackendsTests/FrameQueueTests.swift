import Glibc
import LinuxSystem
import Testing

@testable import Backends

@Suite struct FrameQueueTests {
  /// What a device process reads: datagrams of a header and a frame.
  private func sent(_ frames: [[UInt8]]) -> [(header: FrameHeader, frame: [UInt8])] {
    let (near, far) = socketPair(SOCK_SEQPACKET)
    defer { close(near) }
    var queue = FrameQueue()
    for frame in frames { frame.withUnsafeBytes { queue.append($0) } }
    var received: [(FrameHeader, [UInt8])] = []
    while !queue.isEmpty {
      let isThere = queue.send(on: near)
      #expect(isThere)
      while true {
        var bytes = [UInt8](repeating: 0, count: 1 << 17)
        let count = read(far.raw, &bytes, bytes.count)
        guard count >= FrameHeader.size else { break }
        received.append(
          (bytes.withUnsafeBytes { FrameHeader(decoding: $0) }, Array(bytes[FrameHeader.size..<count])))
      }
    }
    return received
  }

  private static let whole = FrameHeader(flags: .dataValid)

  /// Data from a host, as it may be joined: ACK alone, PSH in the last.
  private static func stream(_ count: Int, isIPv6: Bool = false, options: [UInt8] = []) -> Packet {
    var packet = Packet(isIPv6: isIPv6, tcpOptions: options, payload: frame(3, count: count))
    packet.flags = 0x18
    return packet
  }

  @Test(arguments: [false, true], [(1460, 2920), (1460, 5000), (1448, 65_000), (64, 6400)])
  func segmentsOfAStreamBecomeOneFrameThatCutsIntoTheSameSegments(
    isIPv6: Bool, sizes: (segment: Int, payload: Int)
  ) throws {
    let packet = Self.stream(sizes.payload, isIPv6: isIPv6, options: [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
    let segments = packet.segments(of: sizes.segment)
    let received = sent(segments)
    #expect(received.count == 1)
    let (header, joined) = try #require(received.first)
    #expect(joined == packet.unfinished)
    var expected = packet.header(segments: sizes.segment)
    expected.headerLength = UInt16(joined.count - sizes.payload)
    #expect(header == expected)
  }

  @Test func aSingleSegmentStaysAsItIs() {
    let frames = [Self.stream(1460).bytes, frame(7), Packet(isTCP: false, payload: frame(1, count: 900)).bytes]
    let received = sent(frames)
    #expect(received.map(\.frame) == frames)
    #expect(received.allSatisfy { $0.header == Self.whole })
  }

  /// What the second of two segments must not differ in for both to be joined.
  static let differences: [(String, @Sendable (inout Packet) -> Void)] = [
    ("sequence", { $0.sequence += 1 }), ("FIN", { $0.flags = 0x11 }), ("URG", { $0.flags = 0x30 }),
    ("longer", { $0.payload += [1] }), ("no payload", { $0.payload = [] }),
    ("options", { $0.tcpOptions = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 3] }),
    ("IP options", { $0.ipOptions = [1, 1, 1, 0] }),
    ("UDP", { $0.isTCP = false }), ("IPv6", { $0.isIPv6 = true }), ("tag", { $0.tags = [0x81, 0, 0, 7] }),
  ]

  @Test(arguments: differences.indices) func whatIsNoContinuationStaysApart(_ index: Int) {
    var packets = [Self.stream(1000), Self.stream(1000)]
    for index in packets.indices {
      packets[index].flags = 0x10
      packets[index].tcpOptions = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]
    }
    packets[1].sequence = (packets[0].sequence + 1000) & 0xFFFF_FFFF
    #expect(sent(packets.map(\.bytes)).count == 1)
    Self.differences[index].1(&packets[1])
    let received = sent(packets.map(\.bytes))
    #expect(received.map(\.frame) == packets.map(\.bytes), "\(Self.differences[index].0)")
    #expect(received.allSatisfy { $0.header == Self.whole })
  }

  @Test func otherHeaderBytesKeepSegmentsApart() {
    var packets = [Self.stream(1000), Self.stream(1000)]
    for index in packets.indices { packets[index].flags = 0x10 }
    packets[1].sequence = (packets[0].sequence + 1000) & 0xFFFF_FFFF
    let frames = packets.map(\.bytes)
    // Ethernet addresses, type of service, fragmentation, TTL, IP addresses, ports, acknowledgement, window, urgent pointer.
    for offset in [0, 11, 15, 20, 22, 26, 33, 34, 37, 42, 45, 48, 49, 52, 53] {
      var second = frames[1]
      second[offset] ^= 1
      #expect(sent([frames[0], second]).count == 2, "byte \(offset)")
    }
  }

  @Test func aPushEndsATrain() {
    let packet = Self.stream(4000)
    var segments = packet.segments(of: 1000)
    segments[1][14 + 20 + 13] |= 0x08
    #expect(sent(segments).map(\.frame.count) == [54 + 2000, 54 + 2000])
  }

  @Test func aTrainEndsBeforeThePacketIsLongerThanIPAllows() {
    let received = sent(Self.stream(100_000).segments(of: 1460))
    #expect(received.count == 2)
    #expect(received[0].frame.count == 54 + (65_535 - 40) / 1460 * 1460)
  }

  @Test func streamsThatTakeTurnsStayInOrder() {
    var first = Self.stream(2920).segments(of: 1460)
    let second = Self.stream(2920, isIPv6: true).segments(of: 1460)
    first = [first[0], second[0], first[1], second[1]]
    #expect(sent(first).map(\.frame) == first)
  }

  @Test func whatFindsNoRoomIsLostAndNothingElse() {
    let frames = (0..<20_000).map { frame($0, count: 1000) }
    let received = sent(frames)
    #expect(1000..<20_000 ~= received.count)
    #expect(received.map(\.frame) == Array(frames[..<received.count]))
  }

  /// Whatever the bytes, nothing traps, and what is joined can be cut again.
  @Test func anyBytesAreSurvived() {
    var state: UInt64 = 7
    func random() -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33)
    }
    for _ in 0..<300 {
      var frames = (0..<8).flatMap { _ in
        Self.stream(100 + random() % 3000, isIPv6: random() % 2 == 0).segments(of: 64 + random() % 900)
      }
      for index in frames.indices where random() % 4 == 0 {
        for _ in 0..<random() % 4 {
          frames[index][random() % frames[index].count] = UInt8(truncatingIfNeeded: random())
        }
        frames[index] = Array(frames[index].prefix(14 + random() % frames[index].count))
      }
      _ = sent(frames)
    }
  }
}
