/// Where the headers of a TCP or UDP frame are.
struct TransportLayout {
  enum Transport {
    case tcp
    case udp
  }

  let isIPv6: Bool
  /// Offset of the IP header.
  let network: Int
  /// Offset of the TCP or UDP header.
  let transportStart: Int
  let transport: Transport
  /// Offset of what the transport carries.
  let payload: Int

  /// nil unless the frame is a whole, unfragmented TCP or UDP packet over IPv4 (RFC 791) or IPv6 (RFC 8200), perhaps behind
  /// VLAN tags.
  init?(_ frame: UnsafeRawBufferPointer) {
    func byte(_ offset: Int) -> Int { offset < frame.count ? Int(frame[offset]) : 0 }
    func word(_ offset: Int) -> Int { byte(offset) << 8 | byte(offset &+ 1) }
    var type = 12
    while word(type) == 0x8100 || word(type) == 0x88A8 { type &+= 4 }
    let network = type &+ 2
    var next: Int
    var start: Int
    switch word(type) {
    case 0x0800:
      let length = (byte(network) & 0xF) * 4
      guard byte(network) >> 4 == 4, length >= 20, word(network &+ 6) & 0x3FFF == 0 else { return nil }
      (isIPv6, next, start) = (false, byte(network &+ 9), network &+ length)
    case 0x86DD:
      guard byte(network) >> 4 == 6 else { return nil }
      (isIPv6, next, start) = (true, byte(network &+ 6), network &+ 40)
      // Hop-by-hop and destination options know their length in units of 8 bytes behind the first. A routing header would
      // change the pseudo-header.
      while next == 0 || next == 60, start &+ 8 <= frame.count {
        (next, start) = (byte(start), start &+ (byte(start &+ 1) &+ 1) * 8)
      }
    default: return nil
    }
    switch next {
    case 6:
      let length = (byte(start &+ 12) >> 4) * 4
      guard length >= 20 else { return nil }
      (transport, payload) = (.tcp, start &+ length)
    case 17: (transport, payload) = (.udp, start &+ 8)
    default: return nil
    }
    guard payload <= frame.count else { return nil }
    self.network = network
    transportStart = start
  }

  /// Where the transport's checksum stands.
  var checksum: Int { transportStart &+ (transport == .tcp ? 16 : 6) }
}

extension UnsafeMutableRawBufferPointer {
  func store(bigEndian value: Int, at offset: Int) {
    storeBytes(of: UInt16(truncatingIfNeeded: value).bigEndian, toByteOffset: offset, as: UInt16.self)
  }
}
