/// The one's complement sum of 16-bit big-endian words that IP, TCP and UDP use (RFC 1071).
public struct InternetChecksum: Sendable {
  /// Sum of the words as a little-endian processor loads them; RFC 1071 §2 (B) allows either order.
  private var sum: UInt64 = 0
  /// The next byte is the second of its word.
  private var isOdd = false

  public init() {}

  /// Adds the bytes that follow those added before.
  public mutating func add(_ bytes: UnsafeRawBufferPointer) {
    var part: UInt64 = 0
    var offset = 0
    // Two 32-bit halves at a time: no carry is lost before 2^31 loads.
    while offset &+ 16 <= bytes.count {
      let first = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
      let second = bytes.loadUnaligned(fromByteOffset: offset &+ 8, as: UInt64.self)
      part = part &+ (first & 0xFFFF_FFFF) &+ (first >> 32) &+ (second & 0xFFFF_FFFF) &+ (second >> 32)
      offset &+= 16
    }
    while offset &+ 2 <= bytes.count {
      part = part &+ UInt64(bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
      offset &+= 2
    }
    if offset < bytes.count { part = part &+ UInt64(bytes[offset]) }
    let folded = Self.fold(part)
    sum = sum &+ UInt64(isOdd ? folded.byteSwapped : folded)
    if bytes.count & 1 != 0 { isOdd.toggle() }
  }

  /// Adds a number of 16 bits, such as a length in a pseudo header.
  public mutating func add(_ word: UInt16) { sum = sum &+ UInt64(word.byteSwapped) }

  /// The sum so far, not complemented.
  public var value: UInt16 { Self.fold(sum).byteSwapped }

  /// What goes into the checksum field.
  public var checksum: UInt16 { ~value }

  private static func fold(_ sum: UInt64) -> UInt16 {
    var sum = (sum & 0xFFFF_FFFF) &+ (sum >> 32)
    while sum >> 16 != 0 { sum = (sum & 0xFFFF) &+ (sum >> 16) }
    return UInt16(truncatingIfNeeded: sum)
  }
}
