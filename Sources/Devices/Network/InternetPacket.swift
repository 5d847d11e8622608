import Backends

/// Where the IP packet and its TCP or UDP payload are in an Ethernet frame, as a card's checksum logic finds them.
///
/// Every offset lies inside the frame that it was made from.
struct InternetPacket: Sendable {
  static let tcp: UInt8 = 6
  static let udp: UInt8 = 17
  /// Where the checksum field is in the header.
  static let tcpChecksumOffset = 16
  static let udpChecksumOffset = 6

  let isIPv6: Bool
  /// Where the IP header is.
  let start: Int
  /// Where what follows the IP header is.
  let payload: Int
  /// Where the IP packet ends; padding may follow.
  let end: Int
  /// The protocol behind the header; nil for a fragment.
  let transport: UInt8?

  /// nil unless the frame has a whole IPv4 or IPv6 packet. One VLAN tag of `tagType` is passed over.
  init?(_ frame: UnsafeRawBufferPointer, tagType: UInt16 = Ethernet.typeVLAN) {
    guard frame.count >= Ethernet.headerSize + Ethernet.tagSize else { return nil }
    var type = frame.bigEndian16(Ethernet.typeOffset)
    var start = Ethernet.headerSize
    if type == tagType {
      type = frame.bigEndian16(Ethernet.typeOffset + Ethernet.tagSize)
      start += Ethernet.tagSize
    }
    self.start = start
    switch type {
    case Ethernet.typeIPv4:
      guard frame.count >= start + 20, frame[start] >> 4 == 4 else { return nil }
      let header = Int(frame[start] & 0xF) * 4
      let total = Int(frame.bigEndian16(start + 2))
      guard header >= 20, total >= header, frame.count >= start + total else { return nil }
      isIPv6 = false
      payload = start + header
      end = start + total
      // Neither more fragments nor an offset.
      transport = frame.bigEndian16(start + 6) & 0x3FFF == 0 ? frame[start + 9] : nil
    case Ethernet.typeIPv6:
      guard frame.count >= start + 40, frame[start] >> 4 == 6 else { return nil }
      let total = 40 + Int(frame.bigEndian16(start + 4))
      guard frame.count >= start + total else { return nil }
      isIPv6 = true
      payload = start + 40
      end = start + total
      transport = frame[start + 6]
    default: return nil
    }
  }

  /// Whether the checksum of an IPv4 header is right.
  func isHeaderIntact(_ frame: UnsafeRawBufferPointer) -> Bool {
    var sum = InternetChecksum()
    sum.add(UnsafeRawBufferPointer(rebasing: frame[start..<payload]))
    return sum.value == 0xFFFF
  }

  /// Whether the TCP or UDP checksum is right; nil where there is none.
  func isPayloadIntact(_ frame: UnsafeRawBufferPointer) -> Bool? {
    let count = end - payload
    switch transport {
    case Self.tcp: guard count >= 20 else { return nil }
    // A checksum of zero is none (RFC 768).
    case Self.udp: guard count >= 8, frame.bigEndian16(payload + Self.udpChecksumOffset) != 0 else { return nil }
    default: return nil
    }
    var sum = InternetChecksum()
    let addresses = isIPv6 ? start + 8..<start + 40 : start + 12..<start + 20
    sum.add(UnsafeRawBufferPointer(rebasing: frame[addresses]))
    sum.add(UInt16(transport ?? 0))
    sum.add(UInt16(truncatingIfNeeded: count))
    sum.add(UnsafeRawBufferPointer(rebasing: frame[payload..<end]))
    return sum.value == 0xFFFF
  }
}
