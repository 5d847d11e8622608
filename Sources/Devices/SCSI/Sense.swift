/// Sense data: why a packet command ended with CHECK CONDITION (SPC-2 §7.23, MMC-3 annex).
struct Sense: Sendable, Equatable {
  let key: UInt8
  /// Additional sense code and its qualifier.
  let code: UInt8
  let qualifier: UInt8

  static let none = Sense(key: 0x0, code: 0x00, qualifier: 0x00)
  static let noMedium = Sense(key: 0x2, code: 0x3A, qualifier: 0x01)
  static let noMediumTrayOpen = Sense(key: 0x2, code: 0x3A, qualifier: 0x02)
  static let readError = Sense(key: 0x3, code: 0x11, qualifier: 0x00)
  static let unknownCommand = Sense(key: 0x5, code: 0x20, qualifier: 0x00)
  static let addressOutOfRange = Sense(key: 0x5, code: 0x21, qualifier: 0x00)
  static let invalidField = Sense(key: 0x5, code: 0x24, qualifier: 0x00)
  static let savingNotSupported = Sense(key: 0x5, code: 0x39, qualifier: 0x00)
  static let removalPrevented = Sense(key: 0x5, code: 0x53, qualifier: 0x02)
  static let illegalMode = Sense(key: 0x5, code: 0x64, qualifier: 0x00)
  static let mediumChanged = Sense(key: 0x6, code: 0x28, qualifier: 0x00)
  static let reset = Sense(key: 0x6, code: 0x29, qualifier: 0x00)
  static let hardwareError = Sense(key: 0x4, code: 0x44, qualifier: 0x00)
  static let writeError = Sense(key: 0x3, code: 0x0C, qualifier: 0x00)
  static let parameterListLength = Sense(key: 0x5, code: 0x1A, qualifier: 0x00)
  static let noSuchUnit = Sense(key: 0x5, code: 0x25, qualifier: 0x00)
  static let invalidParameter = Sense(key: 0x5, code: 0x26, qualifier: 0x00)
  static let capacityChanged = Sense(key: 0x6, code: 0x2A, qualifier: 0x09)
  static let writeProtected = Sense(key: 0x7, code: 0x27, qualifier: 0x00)
  static let spaceAllocationFailed = Sense(key: 0x7, code: 0x27, qualifier: 0x07)

  /// Fixed format, as of the last command (SPC-2 §7.23.2).
  var fixed: [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 18)
    bytes[0] = 0x70
    bytes[2] = key
    bytes[7] = 10
    bytes[12] = code
    bytes[13] = qualifier
    return bytes
  }
}

/// What a packet command comes to.
enum PacketOutcome: Sendable, Equatable {
  case done
  /// Bytes for the host, already cut to the allocation length.
  case data([UInt8])
  /// Blocks of the medium for the host.
  case read(block: UInt64, count: Int)
  case check(Sense)
}

/// The low bytes of a number, high byte first.
func bigEndian(_ value: UInt64, _ count: Int) -> [UInt8] {
  (0..<count).reversed().map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}

extension [UInt8] {
  /// A big-endian number of at most 4 bytes in a command packet.
  func number(_ start: Int, _ count: Int) -> Int {
    self[start..<start + count].reduce(0) { $0 << 8 | Int($1) }
  }

  /// A big-endian number of 8 bytes.
  func wideNumber(_ start: Int) -> UInt64 { UInt64(number(start, 4)) << 32 | UInt64(number(start + 4, 4)) }
}

extension DriveIdentity {
  /// Vendor, product and revision of INQUIRY (SPC-2 §7.3.2).
  var inquiry: [UInt8] {
    func text(_ string: String, _ count: Int) -> [UInt8] {
      Array((Array(string.utf8) + [UInt8](repeating: 0x20, count: count)).prefix(count))
    }
    return text("VMRUN", 8) + text(model, 16) + text(Self.revision, 4)
  }
}
