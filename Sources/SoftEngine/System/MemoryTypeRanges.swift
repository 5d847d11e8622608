/// Memory type range registers (SDM vol. 3, 12.11). They are kept; all memory here is write-back.
struct MemoryTypeRanges {
  static let capability: UInt64 = 0x508  // 8 variable ranges, fixed ranges, write combining
  private static let fixedNumbers: [UInt32] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
  ]

  private var variable = InlineArray<16, UInt64>(repeating: 0)
  private var fixed = InlineArray<11, UInt64>(repeating: 0)
  private var defaultType: UInt64 = 0

  static func handles(_ msr: UInt32) -> Bool {
    msr == 0x2FF || (0x200...0x20F).contains(msr) || fixedNumbers.contains(msr)
  }

  func read(_ msr: UInt32) -> UInt64 {
    if msr == 0x2FF { return defaultType }
    if let index = Self.fixedNumbers.firstIndex(of: msr) { return fixed[index] }
    return variable[Int(msr & 15)]
  }

  /// False: a reserved bit or type.
  mutating func write(_ msr: UInt32, _ value: UInt64, physicalAddressBits: Int) -> Bool {
    if msr == 0x2FF {
      guard value & ~0xCFF == 0, Self.isType(value) else { return false }
      defaultType = value
    } else if let index = Self.fixedNumbers.firstIndex(of: msr) {
      guard (0..<8).allSatisfy({ Self.isType(value >> UInt64(8 * $0)) }) else { return false }
      fixed[index] = value
    } else {
      let beyond: UInt64 = ~0 << UInt64(clamping: physicalAddressBits)
      guard value & beyond == 0 else { return false }
      guard msr & 1 != 0 ? value & 0x7FF == 0 : value & 0xF00 == 0 && Self.isType(value) else { return false }
      variable[Int(msr & 15)] = value
    }
    return true
  }

  private static func isType(_ value: UInt64) -> Bool { [0, 1, 4, 5, 6].contains(value & 0xFF) }
}
