/// The transfer modes that SET FEATURES 03h chooses from (ATA/ATAPI-4 §8.37.10). All move data at the same speed here.
struct TransferModes: Sendable {
  /// Multiword DMA 0–2, as bits of IDENTIFY word 63.
  private(set) var multiword: UInt16 = 0
  /// Ultra DMA 0–5, as bits of IDENTIFY word 88.
  private(set) var ultra: UInt16 = 0

  static let supportedMultiword: UInt16 = 0x07
  static let supportedUltra: UInt16 = 0x3F

  /// Multiword DMA 2 is chosen at power-on.
  init() { multiword = 0x04 }

  var multiwordWord: UInt16 { Self.supportedMultiword | multiword << 8 }
  var ultraWord: UInt16 { Self.supportedUltra | ultra << 8 }

  /// Takes the Sector Count value of SET FEATURES 03h; false for a mode that does not exist.
  mutating func select(_ value: UInt8) -> Bool {
    let mode = UInt16(value & 0x07)
    switch value >> 3 {
    // PIO default with or without IORDY, and PIO 0–4.
    case 0: return mode <= 1
    case 1: return mode <= 4
    case 4 where mode <= 2: (multiword, ultra) = (1 << mode, 0)
    case 8 where mode <= 5: (multiword, ultra) = (0, 1 << mode)
    default: return false
    }
    return true
  }
}

/// Builds the 256 words of IDENTIFY DEVICE and IDENTIFY PACKET DEVICE.
struct IdentifyData: Sendable {
  private(set) var bytes = [UInt8](repeating: 0, count: 512)

  subscript(word: Int) -> UInt16 {
    get { UInt16(bytes[word * 2]) | UInt16(bytes[word * 2 + 1]) << 8 }
    set {
      bytes[word * 2] = UInt8(truncatingIfNeeded: newValue)
      bytes[word * 2 + 1] = UInt8(truncatingIfNeeded: newValue >> 8)
    }
  }

  /// Sets an ATA string: padded with spaces, the first character in the high byte (ATA/ATAPI-4 §8.12.8).
  mutating func set(_ words: Range<Int>, _ text: String) {
    var characters = text.utf8.map { 0x20..<0x7F ~= $0 ? $0 : 0x3F }[...]
    for word in words {
      let high = characters.popFirst() ?? 0x20
      let low = characters.popFirst() ?? 0x20
      self[word] = UInt16(high) << 8 | UInt16(low)
    }
  }

  /// Sets a number that takes `count` words, low word first.
  mutating func set(_ word: Int, count: Int, _ value: UInt64) {
    for index in 0..<count { self[word + index] = UInt16(truncatingIfNeeded: value >> UInt64(index * 16)) }
  }

  /// The result of a hardware reset (word 93, ATA/ATAPI-6 §8.15.57): an 80-conductor cable, jumpered device number.
  mutating func setResetResult(unit: Int) { self[93] = unit == 0 ? 0x600B : 0x6300 }

  /// Word 255: signature A5h and a checksum that makes the sum of all bytes zero.
  mutating func seal() {
    bytes[510] = 0xA5
    bytes[511] = 0
    bytes[511] = 0 &- bytes.reduce(0, &+)
  }
}

/// The names that a drive gives itself.
struct DriveIdentity: Sendable, Equatable {
  static let revision = "1.0"
  /// At most 20 characters.
  var serial: String
  /// At most 40 characters.
  var model: String
}
