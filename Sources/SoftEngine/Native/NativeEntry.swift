/// Where in a translation an operation begins, what the host's registers hold there, and whether flags are deferred.
struct NativeEntry {
  private let bits: UInt64

  /// So many operations an access may stand behind the calculation whose flags are deferred.
  static let farthest = 15

  init(offset: Int, flagsDistance: Int, _ contents: RegisterCache.Contents) {
    bits =
      UInt64(truncatingIfNeeded: offset) & 0x1FF_FFFF | UInt64(truncatingIfNeeded: flagsDistance & Self.farthest) << 25
      | contents.bits << 29
  }

  /// From the block's beginning.
  var offset: Int { Int(truncatingIfNeeded: bits & 0x1FF_FFFF) }
  /// So many operations before stands the calculation whose flags are deferred; 0: the state has all.
  var flagsDistance: Int { Int(truncatingIfNeeded: bits &>> 25) & Self.farthest }
  var contents: RegisterCache.Contents { RegisterCache.Contents(bits: bits >> 29) }
}
