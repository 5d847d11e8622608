import CSoftCPU

/// Translations of pages that code is fetched from, whose blocks were found to be what the page holds.
struct CodeTranslation {
  /// The page's linear address and a generation.
  var tag: UInt64
  var physical: UInt64
  var host: UnsafeMutableRawPointer?

  static var none: CodeTranslation { CodeTranslation(tag: 0, physical: 0, host: nil) }
}

/// One set for each of supervisor and user.
enum CodeTLB {
  static let count = 2048

  /// The user's are of an address space; the supervisor's stay as long as its jump cache, since most are global.
  @inline(__always)
  static func tag(_ state: State, _ linear: UInt64) -> UInt64 {
    let generation =
      state.pointee.cpl == 3 ? state.pointee.tlb_generation : state.context.pointee.spaces.supervisorJumps
    return linear & ~0xFFF | generation
  }

  @inline(__always)
  static func entry(_ state: State, _ linear: UInt64) -> UnsafeMutablePointer<CodeTranslation> {
    let set = state.pointee.cpl == 3 ? count : 0
    return state.context.pointee.codeTLB + (set &+ Int(truncatingIfNeeded: linear &>> 12 & UInt64(count &- 1)))
  }

  static func clear(_ state: State) { state.context.pointee.codeTLB.update(repeating: .none, count: count * 2) }

  static func flush(_ state: State, page linear: UInt64) {
    let index = Int(truncatingIfNeeded: linear >> 12 & UInt64(count - 1))
    state.context.pointee.codeTLB[index] = .none
    state.context.pointee.codeTLB[count + index] = .none
  }
}
