/// TCP segments that follow one another, in one frame: the first one's headers and all their payload. What large
/// receive offload does on a network card; `FrameCompletion.segment` is the way back.
struct SegmentTrain {
  let layout: TransportLayout
  /// Bytes of payload in each segment; the last may have fewer.
  private let segmentSize: Int
  private var nextSequence: UInt32
  /// The last segment has PSH, or fewer bytes than the others.
  private var isComplete: Bool
  private var isPushed: Bool
  /// Segments in the frame.
  private(set) var count = 1

  private enum TCPFlag {
    static let push: UInt8 = 0x08
    static let acknowledge: UInt8 = 0x10
  }

  /// nil unless the frame may be the first of a train: TCP data with no flag but ACK and PSH, without IP options.
  init?(_ frame: UnsafeRawBufferPointer) {
    guard let layout = TransportLayout(frame), layout.transport == .tcp else { return nil }
    let (network, start) = (layout.network, layout.transportStart)
    let flags = frame[start + 13]
    // Bytes behind the packet pad a short frame.
    let length = frame.word(network + (layout.isIPv6 ? 4 : 2)) + (layout.isIPv6 ? 40 : 0)
    guard start == network + (layout.isIPv6 ? 40 : 20), flags & ~TCPFlag.push == TCPFlag.acknowledge,
      frame.count - network == length, layout.payload < frame.count,
      // A header that asks for what cannot be cut again is left alone.
      frame.count - layout.payload >= FrameCompletion.minimumSegment
    else { return nil }
    self.layout = layout
    segmentSize = frame.count - layout.payload
    nextSequence = Self.sequence(frame, layout) &+ UInt32(truncatingIfNeeded: segmentSize)
    isPushed = flags & TCPFlag.push != 0
    isComplete = isPushed
  }

  /// The payload of the next segment where `frame` is that of the train whose frame is `joined`.
  mutating func payload(
    of frame: UnsafeRawBufferPointer, after joined: UnsafeRawBufferPointer
  ) -> UnsafeRawBufferPointer? {
    let count = frame.count - layout.payload
    guard !isComplete, 1...segmentSize ~= count, joined.count + count - layout.network <= FrameLength.maximumPacket,
      frame.word(layout.network + (layout.isIPv6 ? 4 : 2)) == frame.count - layout.network - (layout.isIPv6 ? 40 : 0),
      Self.sequence(frame, layout) == nextSequence,
      frame[layout.transportStart + 13] & ~TCPFlag.push == TCPFlag.acknowledge,
      hasSameHeaders(frame, joined)
    else { return nil }
    nextSequence &+= UInt32(truncatingIfNeeded: count)
    isPushed = frame[layout.transportStart + 13] & TCPFlag.push != 0
    isComplete = isPushed || count < segmentSize
    self.count += 1
    return UnsafeRawBufferPointer(rebasing: frame[layout.payload...])
  }

  /// Whether the frames differ in nothing but lengths, checksums, identification, sequence number and PSH.
  private func hasSameHeaders(_ frame: UnsafeRawBufferPointer, _ joined: UnsafeRawBufferPointer) -> Bool {
    let (network, start) = (layout.network, layout.transportStart)
    func same(_ range: Range<Int>) -> Bool { frame[range].elementsEqual(joined[range]) }
    let internet =
      layout.isIPv6
      ? same(network..<network + 4) && same(network + 6..<start)
      : same(network..<network + 2) && same(network + 6..<network + 10) && same(network + 12..<start)
    // Acknowledgement and header length; window; urgent pointer and options.
    return internet && same(0..<network) && same(start..<start + 4) && same(start + 8..<start + 13)
      && same(start + 14..<start + 16) && same(start + 18..<layout.payload)
  }

  /// Makes the frame one packet, and says what it lacks: its checksum, and to be cut.
  func finish(_ frame: UnsafeMutableRawBufferPointer) -> FrameHeader {
    FrameCompletion.setLength(frame, layout)
    if isPushed { frame[layout.transportStart + 13] |= TCPFlag.push }
    let sum = FrameCompletion.pseudoHeader(frame, layout)
    frame.store(bigEndian: Int(sum.value), at: layout.checksum)
    return FrameHeader(
      flags: .needsChecksum, segmentation: layout.isIPv6 ? .tcp6 : .tcp4,
      headerLength: UInt16(truncatingIfNeeded: layout.payload),
      segmentSize: UInt16(truncatingIfNeeded: segmentSize),
      checksumStart: UInt16(truncatingIfNeeded: layout.transportStart),
      checksumOffset: UInt16(truncatingIfNeeded: layout.checksum - layout.transportStart))
  }

  private static func sequence(_ frame: UnsafeRawBufferPointer, _ layout: TransportLayout) -> UInt32 {
    UInt32(bigEndian: frame.loadUnaligned(fromByteOffset: layout.transportStart + 4, as: UInt32.self))
  }
}

extension UnsafeRawBufferPointer {
  fileprivate func word(_ offset: Int) -> Int { Int(self[offset]) << 8 | Int(self[offset + 1]) }
}
