/// CRC-32 of IEEE 802.3, as GPT uses it (UEFI 2.10 §5.3.2).
enum CRC32 {
  private static let table: [UInt32] = (0..<256).map { index in
    (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 0 ? value >> 1 : value >> 1 ^ 0xEDB8_8320 }
  }

  static func checksum(_ bytes: some Sequence<UInt8>) -> UInt32 {
    var value = UInt32.max
    for byte in bytes { value = value >> 8 ^ table[Int(truncatingIfNeeded: (value ^ UInt32(byte)) & 0xFF)] }
    return ~value
  }
}
