/// Does in software what a `FrameHeader` leaves to the backend.
enum FrameCompletion {
  /// Segments shorter than this are no sensible request: a guest could have one frame become tens of thousands.
  static let minimumSegment = 64

  /// Fills in the checksum that the header asks for, in a frame that stays in one piece. False: the header does not fit
  /// the frame.
  static func fillChecksum(_ frame: UnsafeMutableRawBufferPointer, _ header: FrameHeader) -> Bool {
    guard header.segmentation.kind == .none else {
      // The whole packet's lengths are right; the pseudo-header's sum may have been made for a segment.
      guard let layout = TransportLayout(UnsafeRawBufferPointer(frame)) else { return false }
      setChecksum(frame, layout)
      return true
    }
    guard header.flags.contains(.needsChecksum) else { return true }
    let start = Int(header.checksumStart)
    let field = start + Int(header.checksumOffset)
    guard start < frame.count, field + 2 <= frame.count else { return false }
    // The field holds the pseudo-header's sum (virtio 1.2 §5.1.6.2).
    var sum = InternetChecksum()
    sum.add(UnsafeRawBufferPointer(rebasing: frame[start...]))
    frame.store(bigEndian: Int(sum.checksum), at: field)
    return true
  }

  /// Cuts a frame into segments of at most `header.segmentSize` bytes of payload (RFC 9293 for TCP, RFC 768 for UDP) and
  /// hands each to `emit`, which says where it wants it: a buffer of the given size. False: the frame cannot be cut, or
  /// `emit` has no room.
  static func segment(
    _ frame: UnsafeRawBufferPointer, _ header: FrameHeader, emit: (Int) -> UnsafeMutableRawBufferPointer?
  ) -> Bool {
    guard let layout = TransportLayout(frame), Int(header.segmentSize) >= minimumSegment,
      isRight(header.segmentation.kind, layout)
    else { return false }
    let size = Int(header.segmentSize)
    let total = frame.count - layout.payload
    var offset = 0
    var index = 0
    repeat {
      let count = min(size, total - offset)
      guard let segment = emit(layout.payload + count) else { return false }
      segment.copyMemory(from: UnsafeRawBufferPointer(rebasing: frame[..<layout.payload]))
      UnsafeMutableRawBufferPointer(rebasing: segment[layout.payload...]).copyMemory(
        from: UnsafeRawBufferPointer(rebasing: frame[(layout.payload + offset)..<(layout.payload + offset + count)]))
      adapt(segment, layout, offset: offset, index: index, isLast: offset + count >= total)
      setChecksum(segment, layout)
      offset += count
      index += 1
    } while offset < total
    return true
  }

  private static func isRight(_ kind: FrameHeader.Segmentation, _ layout: TransportLayout) -> Bool {
    switch kind {
    case .tcp4: layout.transport == .tcp && !layout.isIPv6
    case .tcp6: layout.transport == .tcp && layout.isIPv6
    case .udpL4: layout.transport == .udp
    default: false
    }
  }

  /// Gives the headers, copied from the whole packet, what this segment has of its own.
  private static func adapt(
    _ segment: UnsafeMutableRawBufferPointer, _ layout: TransportLayout, offset: Int, index: Int, isLast: Bool
  ) {
    let network = layout.network
    if !layout.isIPv6 {
      let identification = Int(segment[network + 4]) << 8 | Int(segment[network + 5])
      segment.store(bigEndian: identification + index, at: network + 4)
    }
    setLength(segment, layout)
    let start = layout.transportStart
    switch layout.transport {
    case .tcp:
      let sequence = UInt32(bigEndian: segment.loadUnaligned(fromByteOffset: start + 4, as: UInt32.self))
      let next = (sequence &+ UInt32(truncatingIfNeeded: offset)).bigEndian
      segment.storeBytes(of: next, toByteOffset: start + 4, as: UInt32.self)
      // CWR is the first segment's (RFC 3168 §6.1.2), PSH and FIN are the last one's.
      if index > 0 { segment[start + 13] &= ~0x80 }
      if !isLast { segment[start + 13] &= ~0x09 }
    case .udp: segment.store(bigEndian: segment.count - start, at: start + 4)
    }
  }

  /// Gives the IP header the frame's length, and IPv4's its checksum.
  static func setLength(_ frame: UnsafeMutableRawBufferPointer, _ layout: TransportLayout) {
    let network = layout.network
    guard !layout.isIPv6 else { return frame.store(bigEndian: frame.count - network - 40, at: network + 4) }
    frame.store(bigEndian: frame.count - network, at: network + 2)
    frame.store(bigEndian: 0, at: network + 10)
    var sum = InternetChecksum()
    sum.add(UnsafeRawBufferPointer(rebasing: frame[network..<network + Int(frame[network] & 0xF) * 4]))
    frame.store(bigEndian: Int(sum.checksum), at: network + 10)
  }

  /// The sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1).
  static func pseudoHeader(_ frame: UnsafeMutableRawBufferPointer, _ layout: TransportLayout) -> InternetChecksum {
    let addresses =
      layout.isIPv6 ? (layout.network + 8)..<(layout.network + 40) : (layout.network + 12)..<(layout.network + 20)
    var sum = InternetChecksum()
    sum.add(UnsafeRawBufferPointer(rebasing: frame[addresses]))
    sum.add(layout.transport == .tcp ? 6 : 17)
    // Packets are shorter than 64 KiB.
    sum.add(UInt16(truncatingIfNeeded: frame.count - layout.transportStart))
    return sum
  }

  /// Computes the transport's checksum over pseudo-header and all that follows the IP headers.
  private static func setChecksum(_ frame: UnsafeMutableRawBufferPointer, _ layout: TransportLayout) {
    frame.store(bigEndian: 0, at: layout.checksum)
    var sum = pseudoHeader(frame, layout)
    sum.add(UnsafeRawBufferPointer(rebasing: frame[layout.transportStart...]))
    // A UDP checksum of zero would mean that there is none (RFC 768).
    let value = sum.checksum == 0 && layout.transport == .udp ? 0xFFFF : sum.checksum
    frame.store(bigEndian: Int(value), at: layout.checksum)
  }
}
