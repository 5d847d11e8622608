import CSoftCPU

/// Sets of translations, for each way in which the same page can be permitted or not. A tag's generation is the address
/// space it was made in, so that others stay while CR3 changes.
enum TLB {
  static let count = 4096
  /// Supervisor, user, supervisor with RFLAGS.AC set (SMAP suspended), and one that stays empty.
  static let sets = 4
  /// Accesses that find nothing go the slow way, which looks at breakpoints and alignment.
  private static let emptySet = 3
  /// Generations there are; then the sets must be cleared.
  static let generations: UInt64 = 4096

  /// The entry that a page may stand in.
  @inline(__always)
  static func entry(_ state: State, _ linear: UInt64) -> UnsafeMutablePointer<soft_tlb_entry> {
    state.pointee.tlb + index(linear)
  }

  /// Pages at equal places of regions aligned to 16 MiB, as programs lay them out, have entries of their own.
  @inline(__always)
  private static func index(_ linear: UInt64) -> Int {
    Int(truncatingIfNeeded: (linear ^ linear &>> 12) &>> 12 & UInt64(count &- 1))
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

  /// In `soft_tlb_entry.physical`: the translation is that of all address spaces.
  static let global: UInt64 = 1

  /// Words of a bitmap that has a bit for each entry of a set.
  static let words = count / 64

  /// An entry is to outlive its address space.
  static func noteGlobal(_ state: State, _ entry: UnsafeMutablePointer<soft_tlb_entry>) {
    let index = entry - state.context.pointee.tlb
    state.context.pointee.globals[index >> 6] |= 1 << UInt64(index & 63)
  }

  /// Forgets the translations of all address spaces, and what was derived from them.
  static func flush(_ state: State) {
    state.context.pointee.spaces.forgetAll()
    startGeneration(state)
    flushJumps(state)
  }

  /// Has writes to a page, by its physical address, go the slow way from now on; nil: all writes, once.
  static func forbidWrites(_ state: State, page: UInt64?) {
    // Without paging no system flushes the TLB: this is when code is compared with what devices have written since.
    guard state.pointee.cr0 & CR0.pg != 0 else { return flush(state) }
    let tlb = state.context.pointee.tlb
    if let page {
      soft_forbid_writes(tlb, count * emptySet, page)
    } else {
      soft_forbid_all_writes(tlb, count * emptySet)
    }
  }

  /// Forgets those of one PCID but global ones.
  static func flush(_ state: State, pcid: UInt64) {
    if pcid == state.context.pointee.spaces.current {
      let old = state.pointee.tlb_generation
      startGeneration(state)
      enterGeneration(state, from: old)
      flushUserJumps(state)
    } else {
      state.context.pointee.spaces.forget(pcid)
    }
  }

  /// Changes to another address space; its old translations stay when `keepsTranslations`, global ones always.
  static func enter(_ state: State, pcid: UInt64, keepsTranslations: Bool) {
    let context = state.context
    let old = state.pointee.tlb_generation
    context.pointee.spaces.leave(old)
    context.pointee.spaces.current = pcid
    if keepsTranslations, let space = context.pointee.spaces.find(pcid) {
      state.pointee.tlb_generation = space.translations
      enterGeneration(state, from: old)
      if space.jumps != 0 {
        context.pointee.spaces.userJumps = space.jumps
        return select(state)
      }
    } else {
      startGeneration(state)
      enterGeneration(state, from: old)
    }
    flushUserJumps(state)
  }

  /// Takes the global translations along, and what code was found by them.
  private static func enterGeneration(_ state: State, from old: UInt64) {
    let new = state.pointee.tlb_generation
    if state.context.pointee.spaces.supervisorCodeIsLocal { flushSupervisorJumps(state) }
    guard new != old, state.pointee.cr4 & CR4.pge != 0 else { return }
    for set in [0, 2] {
      let context = state.context
      soft_keep_global(
        context.pointee.tlb + set * count, context.pointee.globals + set * words, count, old, new)
    }
  }

  /// Gives the current address space a generation that has no entries.
  private static func startGeneration(_ state: State) {
    let next = state.context.pointee.spaces.lastGeneration &+ 1
    // Generation 0 is what cleared entries have.
    if next >= generations { return clear(state) }
    state.context.pointee.spaces.lastGeneration = next
    state.pointee.tlb_generation = next
  }

  /// Clears all entries; generations begin anew.
  static func clear(_ state: State) {
    state.context.pointee.tlb.update(
      repeating: soft_tlb_entry(read_tag: 0, write_tag: 0, addend: 0, physical: 0), count: count * sets)
    CodeTLB.clear(state)
    state.context.pointee.spaces.forgetAll()
    state.context.pointee.spaces.lastGeneration = 1
    state.pointee.tlb_generation = 1
  }

  /// A translation of a page larger than 4 KiB, which any of its addresses invalidates, stands in the TLB.
  static func noteLargePage(_ state: State, _ linear: UInt64, mask: UInt64) {
    if mask > 0x3F_FFFF { state.context.pointee.spaces.hugeRegions.insert(linear) }
    state.context.pointee.spaces.largeRegions.insert(linear)
    // 4 MiB are two regions.
    if mask == 0x3F_FFFF { state.context.pointee.spaces.largeRegions.insert(linear ^ 1 << 21) }
  }

  /// Forgets one page in all address spaces, and with it all of a large one.
  static func flush(_ state: State, page linear: UInt64) {
    let context = state.context
    if context.pointee.spaces.hugeRegions.contains(linear) { return flush(state) }
    let isLarge = context.pointee.spaces.largeRegions.contains(linear)
    if isLarge {
      // Its neighbour, too: it may have been one of 4 MiB.
      let first = index(linear) & ~1023
      for set in 0..<sets - 1 { drop(context.pointee.tlb + (set * count + first), count: 1024) }
      CodeTLB.clear(state)
      return flushAllJumps(state)
    }
    let index = index(linear)
    for set in 0..<sets - 1 { drop(context.pointee.tlb + (set * count + index), count: 1) }
    CodeTLB.flush(state, page: linear)
    JumpCache.flush(state, page: linear)
    if Translator.supervisorPage(linear) != nil { startBranchEpoch(state) }
  }

  private static func drop(_ entries: UnsafeMutablePointer<soft_tlb_entry>, count: Int) {
    for index in 0..<count {
      entries[index].read_tag = 0
      entries[index].write_tag = 0
    }
  }

  private static func nextJumps(_ state: State) -> UInt64 {
    let context = state.context
    var next = context.pointee.spaces.lastJumps &+ 1
    if next > 0x7FF {
      next = 1
      context.pointee.spaces.forgetJumps()
      context.pointee.jumps.update(repeating: .none, count: JumpCache.count * 2)
      JumpCache.forgetReturns(state)
      CodeTLB.clear(state)
      // Tags of neither set are given out again before the other set has a new one.
      context.pointee.spaces.supervisorJumps = 1
      context.pointee.spaces.userJumps = 1
    }
    context.pointee.spaces.lastJumps = next
    return next
  }

  private static func flushUserJumps(_ state: State) {
    let next = nextJumps(state)
    state.context.pointee.spaces.userJumps = next
    select(state)
  }

  private static func flushSupervisorJumps(_ state: State) {
    let next = nextJumps(state)
    state.context.pointee.spaces.supervisorJumps = next
    state.context.pointee.spaces.supervisorCodeIsLocal = false
    startBranchEpoch(state)
    select(state)
  }

  /// Translated code of the supervisor no longer branches from page to page as it did.
  static func startBranchEpoch(_ state: State) {
    var next = state.context.pointee.spaces.branchEpoch &+ 1
    if next == BranchEpoch.user {
      // It does not come again while there is code that knows it.
      state.context.pointee.native?.fill()
      soft_request_attention(state, Attention.code)
      next = BranchEpoch.first
    }
    state.context.pointee.spaces.branchEpoch = next
    if state.pointee.branch_epoch != BranchEpoch.user { state.pointee.branch_epoch = next }
  }

  /// Forgets where blocks were found by RIP, in the current address space.
  private static func flushJumps(_ state: State) {
    flushUserJumps(state)
    flushSupervisorJumps(state)
  }

  /// Forgets where blocks were found by RIP, in all address spaces: some are gone.
  static func flushAllJumps(_ state: State) {
    state.context.pointee.spaces.forgetJumps()
    flushJumps(state)
  }

  /// Chooses the set for CPL 0 where no access is checked.
  @inline(__always)
  static func selectSupervisor(_ state: State, suspendsSMAP: Bool) {
    state.pointee.tlb = state.context.pointee.tlb + (suspendsSMAP ? 2 * count : 0)
  }

  /// Chooses the set for the current privilege level.
  static func select(_ state: State) {
    let isUser = state.pointee.cpl == 3
    let ac = state.pointee.system_flags & RFLAGS.ac != 0
    let checksAlignment = isUser && ac && state.pointee.cr0 & CR0.am != 0
    let checks = checksAlignment || state.pointee.data_breakpoints != 0
    state.pointee.checks_accesses = checks ? 1 : 0
    let set = checks ? emptySet : isUser ? 1 : ac ? 2 : 0
    state.pointee.tlb = state.context.pointee.tlb + set * count
    let context = state.context
    state.pointee.jumps = context.pointee.jumps + (isUser ? JumpCache.count : 0)
    state.pointee.returns = context.pointee.returns + (isUser ? 1 : 0)
    let jumps = isUser ? context.pointee.spaces.userJumps : context.pointee.spaces.supervisorJumps
    state.pointee.jump_tag = UInt64(state.pointee.mode) << 59 | jumps << 48
    state.pointee.branch_epoch = isUser ? BranchEpoch.user : context.pointee.spaces.branchEpoch
  }
}
