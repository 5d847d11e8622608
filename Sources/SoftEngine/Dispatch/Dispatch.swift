import CSoftCPU

// Handlers end by calling the next one. That is a jump: every handler is a C function of the same type, so LLVM makes it
// a tail call. Without optimisation nothing promises that: Package.swift compiles this target optimised always.

/// Executes the operation after `op`.
@inline(__always)
func next(_ state: State, _ op: MicroOp) { goto(state, op + 1) }

@inline(__always)
func goto(_ state: State, _ op: MicroOp) {
  return op.pointee.handler(state, op)
}

/// Continues with another handler for the same operation.
@inline(__always)
func tail(_ state: State, _ op: MicroOp, _ handler: soft_handler) {
  return handler(state, op)
}

/// Executes from `op` until something leaves.
func interpret(_ state: State, from op: MicroOp) {
  soft_enter_guest(state)
  defer { soft_leave_guest(state) }
  soft_execute(state, op)
}

/// Goes to the block at `rip` if it is in the jump cache, or else is quickly found.
@c func softDispatch(_ state: State, _ op: MicroOp) {
  if let entry = JumpCache.find(state, state.pointee.rip), let target = entry.pointee.target {
    state.pointee.code_page = entry.pointee.code_page
    return goto(state, target)
  }
  return tail(state, op, softFindBlock)
}

/// Goes to the block at `rip`, which is not in the jump cache: without the outer loop where that would only find it.
@c func softFindBlock(_ state: State, _ op: MicroOp) {
  if let block = findBlock(state) { return goto(state, UnsafePointer(block.operations)) }
  state.pointee.leave = LeaveReason.dispatch
}

/// The block at `rip`, if it is there and its page's translation is known, and if the outer loop has nothing else to do;
/// `code_page` and the jump cache have it then.
@inline(never)
func findBlock(_ state: State) -> UnsafeMutablePointer<Block>? {
  let rip = state.pointee.rip
  guard soft_attention(state) == 0, soft_has_notice(state) == 0, state.pointee.events_waiting == 0,
    state.pointee.shadow == 0, state.pointee.system_flags & RFLAGS.tf == 0,
    state.pointee.code_breakpoints == 0, state.pointee.data_breakpoints == 0, state.pointee.is64BitCode
  else { return nil }
  let translation = CodeTLB.entry(state, rip)
  guard translation.pointee.tag == CodeTLB.tag(state, rip),
    let block = state.context.pointee.blocks.find(
      physical: translation.pointee.physical | rip & 0xFFF, mode: state.pointee.mode),
    block.pointee.secondPage == Block.noPage
  else { return nil }
  state.pointee.code_page = rip & ~0xFFF
  JumpCache.insert(state, block)
  return block
}

/// Has a direct branch of the current block lead to the block at its target, if nothing but their page decides that.
func link(_ state: State, _ op: MicroOp, to block: UnsafeMutablePointer<Block>) {
  guard let source = state.pointee.block, state.pointee.code_changed == 0 else { return }
  let from = Block.of(source)
  let isLinkable =
    UInt64(bitPattern: op.pointee.imm) == block.pointee.physical & 4095
    && from.pointee.physical >> 12 == block.pointee.physical >> 12
    && from.pointee.secondPage == Block.noPage && block.pointee.secondPage == Block.noPage
    && from.pointee.mode == block.pointee.mode
  // Safety: a block's operations are its vCPU's alone.
  UnsafeMutablePointer(mutating: op).pointee.aux =
    isLinkable ? UInt64(UInt(bitPattern: UnsafePointer(block.operations))) : Link.never
}

/// After STI: the next block is entered whatever there is to attend to, since interrupts are held off for an instruction.
/// What there is already goes to the outer loop.
@inline(never) @c func softDispatchShadowed(_ state: State, _ op: MicroOp) {
  guard soft_attention(state) == 0, soft_has_notice(state) == 0, state.pointee.events_waiting == 0,
    let entry = JumpCache.find(state, state.pointee.rip),
    let target = entry.pointee.target, !Block.of(target).pointee.isDead
  else { return }
  state.pointee.shadow = 0
  state.pointee.code_page = entry.pointee.code_page
  state.pointee.block = target
  // Past `softBlock`.
  return goto(state, target + 1)
}

extension soft_jump {
  static var none: soft_jump { soft_jump(tag: 0, target: nil, code_page: 0, native: nil) }
}

/// Where blocks were found last, by RIP: a group of entries for each page, in pairs that share a line of the host's cache.
enum JumpCache {
  static let count = 32768
  /// Bytes that the entries of a page have, and those that all have.
  static let groupSize: UInt64 = 4096
  static let size = groupSize * 256
  static let pairSize: UInt64 = 64
  private static let entrySize = MemoryLayout<soft_jump>.stride

  /// The entry of a block; nil: it is not here.
  @inline(__always)
  static func find(_ state: State, _ rip: UInt64) -> UnsafeMutablePointer<soft_jump>? {
    let tag = rip ^ state.pointee.jump_tag
    let pair = pair(state, rip)
    if pair.pointee.tag == tag { return pair }
    return pair[1].tag == tag ? pair + 1 : nil
  }

  /// The two entries that a block may have.
  @inline(__always)
  private static func pair(_ state: State, _ rip: UInt64) -> UnsafeMutablePointer<soft_jump> {
    let offset = group(rip) | (rip ^ rip &<< 6) & (groupSize &- pairSize)
    return state.pointee.jumps + Int(truncatingIfNeeded: offset) / entrySize
  }

  /// In bytes.
  @inline(__always)
  private static func group(_ rip: UInt64) -> UInt64 { (rip ^ rip &>> 8) & (size &- groupSize) }

  /// Puts the block at `rip` first of its pair.
  static func insert(_ state: State, _ block: UnsafeMutablePointer<Block>) {
    let rip = state.pointee.rip
    let pair = pair(state, rip)
    let tag = rip ^ state.pointee.jump_tag
    if pair.pointee.tag != tag { pair[1] = pair[0] }
    pair[0] = soft_jump(
      tag: tag, target: UnsafePointer(block.operations), code_page: state.pointee.code_page,
      native: UnsafeRawPointer(state.context.pointee.native?.entry(of: block)))
  }

  /// Forgets where calls under way return to.
  static func forgetReturns(_ state: State) {
    state.context.pointee.returns.update(repeating: soft_returns(), count: 2)
  }

  /// Forgets the blocks of a page, and those of the page before that may reach into it.
  static func flush(_ state: State, page linear: UInt64) {
    // Without a CS base, which is what paged code has, RIP is linear.
    guard state.pointee.is64BitCode || state.segment(SegmentRegister.cs).pointee.linear_base == 0 else {
      return TLB.flushAllJumps(state)
    }
    forgetReturns(state)
    for rip in [linear, linear &- 4096] {
      for set in 0..<2 {
        let first = set * count + Int(truncatingIfNeeded: group(rip)) / entrySize
        (state.context.pointee.jumps + first).update(repeating: .none, count: Int(groupSize) / entrySize)
      }
    }
  }
}

/// Enters a block: its first operation, whose `index` counts up to 0, when it is translated.
@c func softBlock(_ state: State, _ op: MicroOp) {
  state.pointee.block = op
  if soft_attention(state) != 0 || soft_has_notice(state) != 0 {
    state.pointee.rip = codeAddress(state, op)
    state.pointee.leave = LeaveReason.dispatch
    return
  }
  let executions = op.pointee.index &+ 1
  // Safety: a block's operations are its vCPU's alone.
  UnsafeMutablePointer(mutating: op).pointee.index = executions
  if executions == 0 { return tail(state, op, softTranslate) }
  return next(state, op)
}

/// Enters a block that is dead: the outer loop finds what stands there now. Branches of other pages are connected anew, as
/// one may lead here.
@c func softDeadBlock(_ state: State, _ op: MicroOp) {
  let block = Block.of(op)
  if block.pointee.isEnteredFromOtherPages {
    block.pointee.isEnteredFromOtherPages = false
    TLB.startBranchEpoch(state)
  }
  state.pointee.rip = codeAddress(state, op)
  state.pointee.leave = LeaveReason.dispatch
}

/// The code address that stands in `imm` relative to the page.
@inline(__always)
func codeAddress(_ state: State, _ op: MicroOp) -> UInt64 {
  (state.pointee.code_page &+ UInt64(bitPattern: op.pointee.imm)) & state.pointee.linear_mask
}

/// RIP of the instruction that `op` belongs to.
func instructionPointer(_ state: State, _ op: MicroOp) -> UInt64 {
  guard let operations = state.pointee.block else { return state.pointee.rip }
  let start = Block.of(operations).pointee.physical & 4095
  return (state.pointee.code_page &+ start &+ UInt64(op.pointee.offset)) & state.pointee.linear_mask
}

/// Ends an operation that could not be done.
func leave(_ state: State, _ op: MicroOp, _ fault: Fault) {
  state.pointee.rip = instructionPointer(state, op)
  record(state, fault)
}

/// Records why the interpreter is being left; RIP is that of the instruction.
func record(_ state: State, _ fault: Fault) {
  switch fault {
  case .exception(let vector, let errorCode):
    state.pointee.leave = LeaveReason.exception
    state.pointee.vector = vector
    state.pointee.has_error_code = errorCode == nil ? 0 : 1
    state.pointee.error_code = errorCode ?? 0
  case .device: break
  case .waitForInterrupt: state.pointee.leave = LeaveReason.halt
  }
}
