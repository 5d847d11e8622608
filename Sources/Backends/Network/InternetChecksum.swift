/// The checksum of the Internet protocols (RFC 1071): a one's complement sum of 16-bit words, kept unfolded and in the
/// host's byte order, in which it may also be stored.
struct InternetChecksum {
  private var sum: UInt64 = 0

  /// Adds bytes that begin at an even offset of what is summed. An odd one at the end is padded with zero.
  mutating func add(_ bytes: UnsafeRawBufferPointer) {
    var position = 0
    var low: UInt64 = 0
    var high: UInt64 = 0
    // Halves of 32 bits in sums of 64 do not overflow within 16 GiB.
    while position &+ 8 <= bytes.count {
      let word = bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self)
      low &+= word & 0xFFFF_FFFF
      high &+= word >> 32
      position &+= 8
    }
    while position &+ 2 <= bytes.count {
      low &+= UInt64(bytes.loadUnaligned(fromByteOffset: position, as: UInt16.self))
      position &+= 2
    }
    if position < bytes.count { low &+= UInt64(UInt16(littleEndian: UInt16(bytes[position]))) }
    add(word: low)
    add(word: high)
  }

  /// Adds a number of at most 16 bits that the packet has in network order.
  mutating func add(_ number: Int) { sum &+= UInt64(UInt16(truncatingIfNeeded: number).bigEndian) }

  private mutating func add(word: UInt64) { sum &+= word >> 32 &+ word & 0xFFFF_FFFF }

  /// The complement, as it is stored.
  var value: UInt16 {
    var folded = sum
    while folded > 0xFFFF { folded = folded >> 16 &+ folded & 0xFFFF }
    return ~UInt16(truncatingIfNeeded: folded)
  }
}

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
