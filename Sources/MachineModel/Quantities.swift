/// Sizes and times as people write them.
public enum Quantity {
  private static let binaryUnits: [(letter: String, scale: UInt64)] = [
    ("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10),
  ]

  /// Bytes from `512M`, `2G`, `1.5G`: K, M, G and T are powers of 1024, in either case. A number alone counts
  /// `unit` bytes. Fractions are cut to whole bytes. nil: not a size, or 2^64 bytes and more.
  public static func bytes(_ text: String, unit: UInt64 = 1) -> UInt64? {
    let suffix = text.suffix(1).uppercased()
    guard let scale = binaryUnits.first(where: { $0.letter == suffix })?.scale else {
      return scaled(text[...], by: unit)
    }
    return scaled(text.dropLast(), by: scale)
  }

  /// Nanoseconds from `30s`, `500ms`, `5m`, `1h`, `1.5s`; a number alone counts seconds, as for timeout(1).
  /// nil: not a time, or longer than 2^64 nanoseconds.
  public static func nanoseconds(_ text: String) -> UInt64? {
    let units: [(String, UInt64)] = [
      ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
    ]
    for (suffix, scale) in units where text.hasSuffix(suffix) {
      return scaled(text.dropLast(suffix.count), by: scale)
    }
    return scaled(text[...], by: 1_000_000_000)
  }

  /// A byte count in the largest unit that divides it: 17179869184 is `16G`.
  public static func describe(bytes: UInt64) -> String {
    guard let (letter, scale) = binaryUnits.first(where: { bytes >= $0.scale && bytes.isMultiple(of: $0.scale) })
    else { return "\(bytes)" }
    return "\(bytes / scale)\(letter)"
  }

  /// `decimal` (digits, then a point and at most nine more digits) times `scale`.
  private static func scaled(_ decimal: Substring, by scale: UInt64) -> UInt64? {
    let parts = decimal.split(separator: ".", omittingEmptySubsequences: false)
    guard 1...2 ~= parts.count, let whole = digits(parts[0]) else { return nil }
    let (product, overflow) = whole.multipliedReportingOverflow(by: scale)
    guard !overflow else { return nil }
    guard parts.count == 2 else { return product }
    guard parts[1].count <= 9, let fraction = digits(parts[1]) else { return nil }
    let power = (0..<parts[1].count).reduce(UInt64(1)) { power, _ in power * 10 }
    // Below `scale`, so it fits: the high word is smaller than the divisor.
    let part = power.dividingFullWidth(scale.multipliedFullWidth(by: fraction)).quotient
    let (sum, carry) = product.addingReportingOverflow(part)
    return carry ? nil : sum
  }

  /// Like `UInt64.init`, without the signs that it allows.
  private static func digits(_ text: Substring) -> UInt64? {
    guard !text.isEmpty, text.utf8.allSatisfy({ UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }) else { return nil }
    return UInt64(text)
  }
}
