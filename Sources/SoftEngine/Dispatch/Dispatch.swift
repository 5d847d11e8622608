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
  op.pointee.handler(state, op)
}

/// Goes to the block at `rip` if it is in the jump cache, else to the outer loop.
@c func softDispatch(_ state: State, _ op: MicroOp) {
  let rip = state.pointee.rip
  let entry = state.pointee.jumps + Int(truncatingIfNeeded: JumpCache.index(rip))
  if entry.pointee.tag == rip ^ state.pointee.jump_tag, let target = entry.pointee.target {
    state.pointee.code_page = entry.pointee.code_page
    return goto(state, target)
  }
  state.pointee.leave = LeaveReason.dispatch
}

extension soft_jump {
  static var none: soft_jump { soft_jump(tag: 0, target: nil, code_page: 0, native: nil) }
}

/// Where blocks were found last, by RIP: a group of entries for each page.
enum JumpCache {
  static let count = 32768
  static let perPage: UInt64 = 128
  static let pages: UInt64 = 256

  @inline(__always)
  static func index(_ rip: UInt64) -> UInt64 { group(rip) | (rip ^ rip &>> 7) & (perPage &- 1) }

  @inline(__always)
  private static func group(_ rip: UInt64) -> UInt64 { (rip &>> 12 ^ rip &>> 20) & (pages &- 1) &* perPage }

  /// Forgets the blocks of a page, and those of the page before that may reach into it.
  static func flush(_ state: State, page linear: UInt64) {
    // Without a CS base, which is what paged code has, RIP is linear.
    guard state.pointee.is64BitCode || state.segment(SegmentRegister.cs).pointee.linear_base == 0 else {
      return TLB.flushAllJumps(state)
    }
    for rip in [linear, linear &- 4096] {
      for set in 0..<2 {
        (state.context.pointee.jumps + (set * count + Int(truncatingIfNeeded: group(rip))))
          .update(repeating: .none, count: Int(perPage))
      }
    }
  }
}

/// Enters a block: its first operation, whose `index` counts up to 0, when it is translated.
@c func softBlock(_ state: State, _ op: MicroOp) {
  state.pointee.block = op
  if soft_attention(state) != 0 {
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

/// Enters a block that is dead: the outer loop finds what stands there now.
@c func softDeadBlock(_ state: State, _ op: MicroOp) {
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
