import CSoftCPU

/// Translations of pages that code is fetched from, whose blocks were found to be what the page holds.
struct CodeTranslation {
  /// The page's linear address and the generation, as in `soft_tlb_entry`.
  var tag: UInt64
  var physical: UInt64
  var host: UnsafeMutableRawPointer?
  var isGlobal: Bool

  static var none: CodeTranslation { CodeTranslation(tag: 0, physical: 0, host: nil, isGlobal: false) }
}

/// One set for each of supervisor and user.
enum CodeTLB {
  static let count = 512

  @inline(__always)
  static func entry(_ state: State, _ linear: UInt64) -> UnsafeMutablePointer<CodeTranslation> {
    let set = state.pointee.cpl == 3 ? count : 0
    return state.context.pointee.codeTLB + (set &+ Int(truncatingIfNeeded: linear &>> 12 & UInt64(count &- 1)))
  }

  static func clear(_ state: State) { state.context.pointee.codeTLB.update(repeating: .none, count: count * 2) }

  /// Moves the supervisor's global translations from one generation to another.
  static func keepGlobal(_ state: State, from old: UInt64, to new: UInt64) {
    let entries = state.context.pointee.codeTLB
    for index in 0..<count where entries[index].isGlobal && entries[index].tag & 0xFFF == old {
      entries[index].tag ^= old ^ new
    }
  }

  static func flush(_ state: State, page linear: UInt64) {
    let index = Int(truncatingIfNeeded: linear >> 12 & UInt64(count - 1))
    state.context.pointee.codeTLB[index] = .none
    state.context.pointee.codeTLB[count + index] = .none
  }
}
