import CSoftCPU

/// What `soft_op.aux` says of a direct branch before it is linked.
enum Link {
  /// The target is still to be found, and linked.
  static let wanted: UInt64 = 0
  /// The target is in another page, whose translation may change: by the jump cache.
  static let never: UInt64 = 1
}

/// Goes to a direct branch's target, `imm`, relative to the page.
@inline(__always)
func follow(_ state: State, _ op: MicroOp) {
  // Safety: above `never` it is the first operation of a block of the same page, which dies with this one; `code_page`
  // stays what it is.
  if op.pointee.aux > Link.never, let target = MicroOp(bitPattern: UInt(op.pointee.aux)) { return goto(state, target) }
  return tail(state, op, softFollow)
}

@inline(never) @c func softFollow(_ state: State, _ op: MicroOp) {
  let size: UInt8 = op.pointee.shift
  let mask: UInt64 = size == 2 ? 0xFFFF : size == 4 ? 0xFFFF_FFFF : .max
  state.pointee.rip = (state.pointee.code_page &+ UInt64(bitPattern: op.pointee.imm)) & mask
  if op.pointee.aux == Link.never { return tail(state, op, softDispatch) }
  if let block = findBlock(state) {
    link(state, op, to: block)
    return goto(state, UnsafePointer(block.operations))
  }
  state.context.pointee.link = op
  state.pointee.leave = LeaveReason.dispatch
}

@c func softJump(_ state: State, _ op: MicroOp) { return follow(state, op) }

/// Behind a call: where translated code goes when it returns. Nothing else leads here.
@c func softReturnPlace(_ state: State, _ op: MicroOp) { return follow(state, op) }

@inline(__always)
func branch<Test: Condition>(_ state: State, _ op: MicroOp, _ condition: Test.Type) {
  if Test.holds(state) { return follow(state, op) }
  return next(state, op)
}

/// Goes to the register `src`, cut to `aux`.
@c func softJumpIndirect(_ state: State, _ op: MicroOp) {
  state.pointee.rip = register(state, op.pointee.src, as: UInt64.self).pointee & op.pointee.aux
  return tail(state, op, softDispatch)
}

/// LOOP, LOOPE, LOOPNE, JCXZ: `base` says which, `dst` is the counter, `src` masks it.
@c func softLoop(_ state: State, _ op: MicroOp) {
  let counter = register(state, Slot.general(General.rcx), as: UInt64.self)
  let mask: UInt64 = op.pointee.src == 2 ? 0xFFFF : op.pointee.src == 4 ? 0xFFFF_FFFF : .max
  if op.pointee.base == LoopKind.jcxz {
    if counter.pointee & mask == 0 { return follow(state, op) }
    return next(state, op)
  }
  let count = (counter.pointee &- 1) & mask
  counter.pointee = mask == 0xFFFF ? counter.pointee & ~mask | count : count
  let zero = state.zero
  if count != 0, op.pointee.base == LoopKind.loop || zero == (op.pointee.base == LoopKind.loope) {
    return follow(state, op)
  }
  return next(state, op)
}

enum LoopKind {
  static let loop: UInt8 = 0
  static let loope: UInt8 = 1
  static let loopne: UInt8 = 2
  static let jcxz: UInt8 = 3
}
