import CSoftCPU

/// Turns a block's micro-operations into code of the host. Those that have a template become code; the others' handlers
/// are called as ever. The state in memory is the same after each of them as if handlers had executed it, but for
/// temporaries, which it has where a handler may need them: so any of them may fault, wait for a device or be executed
/// anew.
struct Translator {
  var a: Assembler
  /// What the host's registers hold of the guest's.
  var cache = RegisterCache()
  /// Where the block will stand in the code: what is always executed, what is before it, and what rarely is executed.
  private let origin: Int
  private let start: Int
  private let coldOrigin: Int
  /// Where what is being written will stand.
  private var base: Int
  /// The host has the guest's arithmetic flags.
  var flagsAreInHost = false
  /// Of each access, how many operations before it stands the calculation whose flags are deferred; 0: none are.
  var flagsDistances: [Int]
  /// What leads out of the block, and its jumps away.
  private var departures: [Departure] = []
  /// Pushes or pops that are done one by one where they are not on one page of the TLB.
  private var stackRuns: [StackRun] = []
  /// Where the code loads the address of where its call returns to, which is not known before.
  var returnPlace: Int?
  /// Every routine that was asked for exists.
  private var isComplete = true
  let operations: UnsafeMutablePointer<soft_op>
  let count: Int
  /// `code_page`; 0: it is not the supervisor's.
  private let supervisorPage: UInt64
  private(set) var templates: [Template?]
  let routines: Routines

  private struct Departure {
    let index: Int
    let skips: [Int]
    let way: Way

    enum Way {
      /// A direct branch that does not lead to its target itself.
      case follow
      /// One into another page, to be connected until the epoch changes.
      case leavePage
      case divideError
    }
  }

  private struct StackRun {
    let operations: Range<Int>
    let skip: Int
    /// What the registers hold at the jump there.
    let before: RegisterCache
    /// Where the block goes on, and with what.
    let end: Int
    let after: RegisterCache.Contents
  }

  private init(_ code: NativeCode, _ block: UnsafeMutablePointer<Block>, _ state: State) {
    routines = code.makeRoutines()
    supervisorPage = state.pointee.branch_epoch != BranchEpoch.user ? state.pointee.code_page : 0
    start = code.cursor
    origin = start + NativeCode.prologueSize
    coldOrigin = code.coldCursor
    base = start
    let operations = block.operations
    self.operations = operations
    count = block.pointee.operationCount
    a = Assembler(capacity: 32 * count)
    templates = (0..<count).map { Template.of(operations[$0]) }
    flagsDistances = Array(repeating: 0, count: count)
  }

  /// Translates a block that is being entered, whose operations lead into the code from then on; false: it stays as it
  /// is.
  static func translate(_ block: UnsafeMutablePointer<Block>, _ code: NativeCode, _ state: State) -> Bool {
    // What was put into the jump cache before the routines were made has no entry for translated code.
    if code.routines == nil { soft_discard_jumps(state.context.pointee.jumps, JumpCache.count * 2) }
    var translator = Translator(code, block, state)
    return translator.translate(block, code)
  }

  private mutating func translate(_ block: UnsafeMutablePointer<Block>, _ code: NativeCode) -> Bool {
    for index in 0..<count {
      if case .rotate = templates[index], !flagsAreDead(after: index) { templates[index] = nil }
    }
    // Where handlers do most of the work, going in and out only costs.
    guard templates.count(where: { $0 != nil }) * 2 > count else { return false }
    let entries = UnsafeMutablePointer<NativeEntry>.allocate(capacity: count + 1)
    /// Operations that are not entered by `softNativeContinue`, with where they are.
    var handlers: [(index: Int, handler: soft_handler)] = []
    var continuations: [(index: Int, offset: Int)] = []
    a.load(.rcx, NativeState.notice)
    a.calculate(.cmp, HostAddress(.rcx), immediate: 0, size: 4)
    let notice = a.skip(if: HostCondition.notEqual)
    assert(a.count == NativeCode.prologueSize)
    var index = 0
    while index < count {
      defer { index += 1 }
      let followsHandler = index > 0 && templates[index - 1] == nil
      guard templates[index] != nil else {
        handlers.append((index, operations[index].handler))
        entries[index] = entry
        // Handler to handler it goes as without translation.
        if followsHandler { continue }
        guard let pointer = code.pointer(operations[index].handler) else {
          entries.deallocate()
          return false
        }
        emitHandler(index, pointerAt: pointer)
        continue
      }
      if followsHandler {
        continuations.append((index, a.count))
        a.loadAddress(.rsi, .rsi, -Int32(index * MemoryLayout<soft_op>.stride))
        flagsAreInHost = false
      }
      let stackCount = stackOperations(from: index)
      if stackCount > 1 {
        emitStack(index, stackCount)
        index += stackCount - 1
        continue
      }
      begin(index, entries)
      emit(index)
    }
    entries[count] = entry
    // What follows stands apart, so that it takes no place in the host's cache.
    var hot = Assembler()
    swap(&a, &hot)
    base = coldOrigin
    hot.land(notice, at: base - start)
    a.move(.rsi, quadword: UInt64(UInt(bitPattern: operations)))
    a.jump(to: routines.attend - base)
    for run in stackRuns {
      hot.land(run.skip, at: base - start + a.count)
      emitOneByOne(run, entries)
    }
    cache.removeAll()
    for departure in departures {
      for skip in departure.skips { hot.land(skip, at: base - start + a.count) }
      switch departure.way {
      case .follow: emitFollow(departure.index)
      case .leavePage: emitHandler(departure.index, pointerAt: routines.leavePage)
      case .divideError: emitHandler(departure.index, pointerAt: routines.divideError)
      }
    }
    guard isComplete, code.append(hot.bytes, cold: a.bytes) else {
      entries.deallocate()
      return false
    }
    block.pointee.entries = entries
    block.pointee.native = Int32(truncatingIfNeeded: origin)
    for index in 1..<count { operations[index].handler = softNativeContinue }
    for (index, handler) in handlers { operations[index].handler = handler }
    for (index, offset) in continuations { operations[index].handler = code.handler(at: start + offset) }
    operations[0].handler = code.handler(at: origin)
    return true
  }

  /// Where the next instruction will stand, from the block's beginning.
  private var here: Int { base - origin + a.count }
  private var entry: NativeEntry { NativeEntry(offset: here, flagsDistance: 0, cache.contents) }

  private mutating func begin(_ index: Int, _ entries: UnsafeMutablePointer<NativeEntry>) {
    if index > 0, operations[index].offset != operations[index - 1].offset { cache.dropTemporaries() }
    cache.unpin()
    entries[index] = NativeEntry(offset: here, flagsDistance: flagsDistances[index], cache.contents)
  }

  /// Goes to an operation's handler, or another for the same operation.
  private mutating func emitHandler(_ index: Int, pointerAt pointer: Int) {
    storeTemporaries()
    cache.removeAll()
    a.store(.rsi, NativeState.block)
    if index > 0 { a.loadAddress(.rsi, .rsi, Int32(index * MemoryLayout<soft_op>.stride)) }
    a.jump(throughPointerAt: pointer - base)
  }

  /// Leaves where the comparison with 0 before says that there is something to attend to.
  mutating func leaveForAttention() { a.jump(if: HostCondition.notEqual, to: routines.attend - base) }

  mutating func call(_ routine: Int?) {
    guard let routine else {
      isComplete = false
      return
    }
    a.call(routine - base)
  }

  /// How many pushes, or pops, stand here that can be done together: RSP itself is not an operand.
  private func stackOperations(from index: Int) -> Int {
    let stackPointer = Slot.general(General.rsp)
    var end = index
    switch templates[index] {
    case .push: while end < count, case .push = templates[end], operations[end].src != stackPointer { end += 1 }
    case .pop: while end < count, case .pop = templates[end], operations[end].dst != stackPointer { end += 1 }
    default: break
    }
    // Displacements stay small.
    return min(end - index, 15)
  }

  /// Pushes or pops that are on one page, as functions begin and end with them.
  private mutating func emitStack(_ index: Int, _ count: Int) {
    let isPush = if case .push = templates[index] { true } else { false }
    let size = Int32(8 * count)
    flagsAreInHost = false
    cache.drop(Slot.general(General.rsp))
    a.move(.rax, immediate: UInt64(size))
    call(isPush ? routines.below : routines.above)
    let skip = a.skip(if: HostCondition.notEqual)
    let before = cache
    for each in index..<index + count {
      let op = operations[each]
      let displacement = Int32(8 * (each - index))
      cache.unpin()
      if isPush {
        a.store(use(op.src), HostAddress(.r8, size - 8 - displacement))
      } else {
        a.load(define(op.dst), HostAddress(.r8, displacement))
        written(op.dst)
      }
    }
    if !isPush { a.loadAddress(.rax, .rax, size) }
    a.store(.rax, NativeState.stackPointer)
    stackRuns.append(
      StackRun(operations: index..<index + count, skip: skip, before: before, end: a.count, after: cache.contents))
  }

  /// The same where they are not on one page of the TLB.
  private mutating func emitOneByOne(_ run: StackRun, _ entries: UnsafeMutablePointer<NativeEntry>) {
    cache = run.before
    for each in run.operations {
      begin(each, entries)
      emit(each)
    }
    storeTemporaries()
    let contents = cache.contents
    for (index, register) in RegisterCache.registers.enumerated() {
      if let slot = run.after.slot(index), slot != contents.slot(index) { a.load(register, place(slot)) }
    }
    a.jump(to: start + run.end - base)
  }

  /// Goes where a direct branch goes.
  mutating func emitBranch(_ index: Int, if condition: UInt8?) {
    let op = operations[index]
    if op.aux > Link.never, let target = MicroOp(bitPattern: UInt(op.aux)) {
      // Safety: a block of the same page, which dies with this one.
      let native = target == UnsafePointer(operations) ? origin : Int(Block.of(target).pointee.native)
      if native != Int(Block.notTranslated) {
        let entry = NativeCode.entry(of: native, from: base + a.count) - base
        if let condition { return a.jump(if: condition, to: entry) }
        return a.jump(to: entry)
      }
    }
    if condition == nil, op.aux == Link.never {
      if let pages = supervisorPages(op) { return emitLeavePage(index, from: pages.from, to: pages.to) }
      return emitFollow(index)
    }
    departures.append(Departure(index: index, skips: [a.skip(if: condition, aligned: true)], way: .follow))
  }

  /// `code_page` now and at the target of a branch into another page, if both are in the supervisor's code.
  private func supervisorPages(_ op: soft_op) -> (from: Int32, to: Int32)? {
    guard supervisorPage != 0, op.shift == 8 else { return nil }
    let target = supervisorPage &+ UInt64(bitPattern: op.imm)
    guard let from = Self.supervisorPage(supervisorPage), let to = Self.supervisorPage(target & ~0xFFF) else {
      return nil
    }
    return (from, to)
  }

  /// In the highest 2 GiB, where kernels are: as an immediate, sign-extended.
  static func supervisorPage(_ linear: UInt64) -> Int32? {
    Int32(exactly: Int64(bitPattern: linear)).flatMap { $0 < 0 ? $0 : nil }
  }

  /// Goes to another page: directly while the epoch is that of the last time (`NativeCode.connect`) and this code is
  /// where it was when it was translated.
  private mutating func emitLeavePage(_ index: Int, from: Int32, to: Int32) {
    a.align(1)
    a.calculate(.cmp, NativeState.codePage, longImmediate: from)
    let elsewhere = a.skip(if: HostCondition.notEqual)
    a.calculate(.cmp, NativeState.branchEpoch, longImmediate: Int32(bitPattern: BranchEpoch.none), size: 4)
    let epoch = a.count
    let changed = a.skip(if: HostCondition.notEqual)
    a.store(immediate: to, NativeState.codePage)
    let jump = a.skip(if: nil, aligned: true)
    assert(jump - epoch == NativeCode.epochDistance && epoch & 3 == 0)
    departures.append(Departure(index: index, skips: [elsewhere, changed, jump], way: .leavePage))
  }

  /// Raises #DE where the host has a quotient that does not fit.
  mutating func divideError(_ index: Int, if condition: UInt8) {
    departures.append(Departure(index: index, skips: [a.skip(if: condition)], way: .divideError))
  }

  /// Goes where a direct branch goes that does not lead to translated code.
  private mutating func emitFollow(_ index: Int) {
    let op = operations[index]
    guard op.aux == Link.never else { return emitHandler(index, pointerAt: routines.follow) }
    a.load(.rax, NativeState.codePage)
    if let distance = Int32(exactly: op.imm) {
      a.loadAddress(.rax, .rax, distance)
    } else {
      a.move(.rcx, immediate: UInt64(bitPattern: op.imm))
      a.loadAddress(.rax, .rax, .rcx, scale: 0, 0)
    }
    if op.shift == 4 { a.move(.rax, .rax, size: 4) }
    emitFind()
  }

  /// Goes to the block at RIP, which is in RAX.
  mutating func emitFind(isReturn: Bool = false) {
    call(isReturn ? routines.findReturn : routines.find)
    a.jump(through: HostAddress(.rcx, soft_jump_native_offset))
  }
}
