/// Part of a `StaticString` of ASCII characters.
struct ASCIISlice {
  // Safety: points into a static string, which lives for ever; only `subscript` reads, inside `count`.
  private let start: UnsafePointer<UInt8>
  let count: Int

  /// All of a string; empty when it is no UTF-8 string in memory.
  init(_ text: StaticString) {
    start = text.hasPointerRepresentation ? text.utf8Start : ("" as StaticString).utf8Start
    count = text.hasPointerRepresentation ? text.utf8CodeUnitCount : 0
  }

  private init(start: UnsafePointer<UInt8>, count: Int) {
    self.start = start
    self.count = count
  }

  /// The character at an index; 0 outside.
  subscript(index: Int) -> UInt8 { index >= 0 && index < count ? start[index] : 0 }

  /// The part of `range` that exists.
  subscript(range: Range<Int>) -> ASCIISlice {
    let lower = max(0, min(range.lowerBound, count))
    return ASCIISlice(start: start + lower, count: max(0, min(range.upperBound, count) - lower))
  }

  func firstIndex(of character: UnicodeScalar) -> Int? {
    for index in 0..<count where start[index] == UInt8(truncatingIfNeeded: character.value) { return index }
    return nil
  }

  static func == (slice: ASCIISlice, text: StaticString) -> Bool {
    let other = ASCIISlice(text)
    guard slice.count == other.count else { return false }
    for index in 0..<slice.count where slice.start[index] != other.start[index] { return false }
    return true
  }

  /// Calls with each part between separators, empty parts left out.
  func forEachPart(separator: UnicodeScalar, _ body: (ASCIISlice) -> Void) {
    var rest = self
    while rest.count > 0 {
      let end = rest.firstIndex(of: separator) ?? rest.count
      if end > 0 { body(rest[0..<end]) }
      rest = rest[(end + 1)..<rest.count + 1]
    }
  }

  /// Two hexadecimal digits, upper case, at an index.
  func hexByte(at index: Int) -> UInt8? {
    guard let high = Self.digit(self[index]), let low = Self.digit(self[index + 1]) else { return nil }
    return high << 4 | low
  }

  private static func digit(_ character: UInt8) -> UInt8? {
    switch character {
    case 0x30...0x39: character - 0x30
    case 0x41...0x46: character - 0x41 + 10
    default: nil
    }
  }
}
