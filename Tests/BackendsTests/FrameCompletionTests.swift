import Testing

@testable import Backends

@Suite struct FrameCompletionTests {
  static let shapes: [Packet] = [
    Packet(), Packet(isIPv6: true), Packet(isTCP: false), Packet(isIPv6: true, isTCP: false),
    Packet(tags: [0x81, 0, 0, 7]), Packet(isIPv6: true, tags: [0x88, 0xA8, 0, 7, 0x81, 0, 0, 9]),
    Packet(ipOptions: [1, 1, 1, 1, 1, 1, 1, 0], tcpOptions: [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
  ]

  private func filled(_ bytes: [UInt8], _ header: FrameHeader) -> [UInt8]? {
    var frame = bytes
    return frame.withUnsafeMutableBytes { FrameCompletion.fillChecksum($0, header) } ? frame : nil
  }

  private func cut(_ bytes: [UInt8], _ header: FrameHeader) -> [[UInt8]]? {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
    defer { buffer.deallocate() }
    var ranges: [Range<Int>] = []
    let isCut = bytes.withUnsafeBytes { bytes in
      FrameCompletion.segment(bytes, header) { count in
        let start = ranges.last?.upperBound ?? 0
        ranges.append(start..<start + count)
        return UnsafeMutableRawBufferPointer(rebasing: buffer[start..<start + count])
      }
    }
    return isCut ? ranges.map { Array(buffer[$0]) } : nil
  }

  @Test(arguments: shapes.indices, [0, 1, 2, 3, 7, 8, 9, 1459, 1460])
  func aChecksumIsFilledIn(_ shape: Int, _ count: Int) {
    var packet = Self.shapes[shape]
    packet.payload = frame(3, count: count)
    #expect(filled(packet.unfinished, packet.header) == packet.bytes)
  }

  @Test(arguments: shapes.indices, [(64, 64), (64, 65), (536, 5000), (1460, 1461), (1460, 2920), (1448, 65_000)])
  func aPacketBecomesSegments(_ shape: Int, _ sizes: (segment: Int, payload: Int)) {
    var packet = Self.shapes[shape]
    packet.flags = 0x99  // CWR, ACK, PSH and FIN
    packet.payload = frame(5, count: sizes.payload)
    #expect(cut(packet.unfinished, packet.header(segments: sizes.segment)) == packet.segments(of: sizes.segment))
  }

  @Test func aPacketForTheNetworkProcessStaysWholeWithARightChecksum() {
    var packet = Packet(payload: frame(9, count: 60_000))
    packet.flags = 0x18
    #expect(filled(packet.unfinished, packet.header(segments: 1460)) == packet.bytes)
  }

  @Test func aChecksumOutsideOfTheFrameIsRefused() {
    let bytes = Packet(payload: [1, 2, 3]).unfinished
    for (start, offset) in [(bytes.count, 0), (bytes.count - 1, 0), (0xFFFF, 0xFFFF), (34, bytes.count - 35)] {
      let header = FrameHeader(flags: .needsChecksum, checksumStart: UInt16(start), checksumOffset: UInt16(offset))
      #expect(filled(bytes, header) == nil)
    }
  }

  @Test func whatCannotBeCutIsRefused() {
    let packet = Packet(payload: frame(1, count: 3000))
    func isRefused(_ bytes: [UInt8], _ change: (inout FrameHeader) -> Void = { _ in }) -> Bool {
      var header = packet.header(segments: 1000)
      change(&header)
      return cut(bytes, header) == nil
    }
    #expect(isRefused(packet.bytes) { $0.segmentSize = 0 })
    #expect(isRefused(packet.bytes) { $0.segmentSize = 63 })
    #expect(isRefused(packet.bytes) { $0.segmentation = .tcp6 })
    #expect(isRefused(packet.bytes) { $0.segmentation = .udpL4 })
    #expect(isRefused(packet.bytes) { $0.segmentation = .udp })
    var fragment = packet.bytes
    fragment[20] = 0x20
    #expect(isRefused(fragment))
    var short = packet.bytes
    short[14] = 0x44
    #expect(isRefused(short))
    var offset = packet.bytes
    offset[14 + 20 + 12] = 0x40
    #expect(isRefused(offset))
    for count in [14, 15, 33, 34, 53] { #expect(isRefused(Array(packet.bytes[..<count]))) }
  }

  /// Whatever the bytes, nothing traps and nothing is written outside of the room that was given.
  @Test func anyBytesAreSurvived() {
    var state: UInt64 = 99
    func random() -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33)
    }
    for _ in 0..<20_000 {
      var bytes = Self.shapes[random() % Self.shapes.count].bytes + frame(random(), count: random() % 300)
      for _ in 0..<random() % 6 { bytes[random() % bytes.count] = UInt8(truncatingIfNeeded: random()) }
      bytes = Array(bytes.prefix(14 + random() % bytes.count))
      let header = FrameHeader(
        flags: FrameHeader.Flags(rawValue: UInt8(random() % 4)),
        segmentation: FrameHeader.Segmentation(rawValue: UInt8([0, 1, 3, 4, 5, 0x81, 0x84, 9][random() % 8])),
        headerLength: UInt16(truncatingIfNeeded: random()), segmentSize: UInt16(random() % 200),
        checksumStart: UInt16(random() % 200), checksumOffset: UInt16(random() % 40))
      _ = filled(bytes, header)
      _ = cut(bytes, header)
    }
  }
}
