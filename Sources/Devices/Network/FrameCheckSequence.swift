import CChecksum

/// The CRC-32 at the end of an Ethernet frame (IEEE 802.3 §3.2.9).
struct FrameCheckSequence: Sendable {
  private var state = UInt32.max

  private static let folds = cchecksum_has_fold()

  mutating func add(_ bytes: UnsafeRawBufferPointer) {
    var taken = 0
    if Self.folds {
      var rest = InlineArray<16, UInt8>(repeating: 0)
      withUnsafeMutableBytes(of: &rest) { rest in
        taken = cchecksum_crc32_fold(state, bytes.baseAddress, bytes.count, rest.baseAddress)
        guard taken > 0 else { return }
        state = 0
        addByTable(UnsafeRawBufferPointer(rest))
      }
    }
    addByTable(UnsafeRawBufferPointer(rebasing: bytes[taken...]))
  }

  /// Eight bytes a step.
  mutating func addByTable(_ bytes: UnsafeRawBufferPointer) {
    var crc = state
    Self.tables.withUnsafeBufferPointer { tables in
      var offset = 0
      while offset &+ 8 <= bytes.count {
        let word = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) ^ UInt64(crc)
        crc = 0
        for index in 0..<8 {
          let byte = Int(truncatingIfNeeded: word >> UInt64(index &* 8) & 0xFF)
          crc ^= tables[(7 &- index) &* 256 &+ byte]
        }
        offset &+= 8
      }
      while offset < bytes.count {
        crc = tables[Int(truncatingIfNeeded: (crc ^ UInt32(bytes[offset])) & 0xFF)] ^ crc >> 8
        offset &+= 1
      }
    }
    state = crc
  }

  /// The CRC as a number whose low byte is sent first.
  var value: UInt32 { ~state }

  /// Table `n` at `n * 256`: the CRC of a byte with `n` zero bytes behind it, reflected polynomial 0xEDB88320.
  private static let tables: [UInt32] = {
    var tables = [UInt32](repeating: 0, count: 8 * 256)
    for byte in 0..<256 {
      var crc = UInt32(byte)
      for _ in 0..<8 { crc = crc & 1 != 0 ? 0xEDB8_8320 ^ crc >> 1 : crc >> 1 }
      tables[byte] = crc
    }
    for index in 256..<8 * 256 {
      let previous = tables[index - 256]
      tables[index] = tables[Int(previous & 0xFF)] ^ previous >> 8
    }
    return tables
  }()
}
