import CSoftCPU

/// Three sets of translations, for each way in which the same page can be permitted or not.
enum TLB {
  static let count = 4096
  /// Supervisor, user, supervisor with RFLAGS.AC set (SMAP suspended).
  static let sets = 3
  /// Generations there are; then the sets must be cleared.
  static let generations: UInt64 = 4096

  /// The entry that a page may stand in.
  @inline(__always)
  static func entry(_ state: State, _ linear: UInt64) -> UnsafeMutablePointer<soft_tlb_entry> {
    state.pointee.tlb + Int(truncatingIfNeeded: linear &>> 12 & UInt64(count &- 1))
  }

  /// The tag that permits an access. One that crosses a page gets the second page's, which never stands in the entry of
  /// the first.
  @inline(__always)
  static func tag(_ state: State, _ linear: UInt64, width: Int) -> UInt64 {
    (linear &+ UInt64(width &- 1)) & ~0xFFF | state.pointee.tlb_generation
  }

  @inline(__always)
  static func host(_ entry: UnsafeMutablePointer<soft_tlb_entry>, _ linear: UInt64) -> UnsafeMutableRawPointer {
    // Safety: the tag matched, so the sum is an address of the mapped region, which is never 0.
    UnsafeMutableRawPointer(bitPattern: Int(truncatingIfNeeded: linear) &+ Int(entry.pointee.addend)).unsafelyUnwrapped
  }

  /// Forgets all translations, and what was derived from them.
  static func flush(_ state: State) {
    state.pointee.tlb_generation &+= 1
    // Generation 0 is what cleared entries have.
    if state.pointee.tlb_generation >= generations {
      clear(state)
      state.pointee.tlb_generation = 1
    }
    state.pointee.large_low = .max
    state.pointee.large_high = 0
    flushJumps(state)
  }

  static func clear(_ state: State) {
    state.context.pointee.tlb.update(
      repeating: soft_tlb_entry(read_tag: 0, write_tag: 0, addend: 0, physical: 0), count: count * sets)
    CodeTLB.clear(state)
  }

  /// A translation of a page larger than 4 KiB, which any of its addresses invalidates, stands in the TLB.
  static func noteLargePage(_ state: State, _ linear: UInt64, mask: UInt64) {
    state.pointee.large_low = min(state.pointee.large_low, linear & ~mask)
    state.pointee.large_high = max(state.pointee.large_high, linear | mask)
  }

  /// Forgets one page, and with it all where it may be a large one.
  static func flush(_ state: State, page linear: UInt64) {
    if linear >= state.pointee.large_low, linear <= state.pointee.large_high { return flush(state) }
    let index = Int(truncatingIfNeeded: linear >> 12 & UInt64(count - 1))
    for set in 0..<sets {
      let entry = state.context.pointee.tlb + (set * count + index)
      entry.pointee.read_tag = 0
      entry.pointee.write_tag = 0
    }
    CodeTLB.flush(state, page: linear)
    JumpCache.flush(state, page: linear)
  }

  /// Forgets where blocks were found by RIP.
  static func flushJumps(_ state: State) {
    state.pointee.jump_tag &+= 1 << 48
    if state.pointee.jump_tag >> 48 & 0xFFF == 0 {
      state.pointee.jump_tag = UInt64(state.pointee.mode) << 60 | 1 << 48
      state.context.pointee.jumps.update(
        repeating: soft_jump(tag: 0, target: nil), count: JumpCache.count * 2)
    }
  }

  /// Chooses the set for the current privilege level.
  static func select(_ state: State) {
    let isUser = state.pointee.cpl == 3
    let set = isUser ? 1 : state.pointee.system_flags & RFLAGS.ac != 0 ? 2 : 0
    state.pointee.tlb = state.context.pointee.tlb + set * count
    state.pointee.jumps = state.context.pointee.jumps + (isUser ? JumpCache.count : 0)
  }
}
