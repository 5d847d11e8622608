/// Where in a translation an operation begins, what the host's registers hold there, and whether the state has the flags.
struct NativeEntry {
  private let bits: UInt64

  /// So many operations an access may stand behind the calculation whose flags are owed to it.
  static let farthest = 15

  init(offset: Int, owed: Int, _ contents: RegisterCache.Contents) {
    bits =
      UInt64(truncatingIfNeeded: offset) & 0x1FF_FFFF | UInt64(truncatingIfNeeded: owed & Self.farthest) << 25
      | contents.bits << 29
  }

  /// From the block's beginning.
  var offset: Int { Int(truncatingIfNeeded: bits & 0x1FF_FFFF) }
  /// So many operations before stands a calculation whose flags the state does not have; 0: it has all.
  var owed: Int { Int(truncatingIfNeeded: bits &>> 25) & Self.farthest }
  var contents: RegisterCache.Contents { RegisterCache.Contents(bits: bits >> 29) }
}
