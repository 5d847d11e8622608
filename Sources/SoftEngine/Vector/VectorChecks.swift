import CSoftCPU
import X86

/// When SSE instructions, or x87 and MMX instructions, must be checked before and after: `mode` says so, and blocks made
/// in that mode have operations for it. In the ordinary mode nothing can be wrong, as Linux runs its programs.
enum VectorChecks {
  /// Bits of `soft_cpu.mode`.
  static let sse: UInt8 = 8
  static let x87: UInt8 = 16

  /// Exception masks of MXCSR and of the x87 control word.
  static let mxcsrMasks: UInt32 = 0x1F80
  static let x87Masks: UInt16 = 0x3F

  /// Those that are needed.
  static func needed(_ state: State) -> UInt8 {
    let isOff = state.pointee.cr0 & (CR0.em | CR0.ts) != 0
    let forSSE = isOff || state.pointee.cr4 & CR4.osfxsr == 0 || state.pointee.mxcsr & mxcsrMasks != mxcsrMasks
    let forX87 = isOff || state.pointee.x87.control & x87Masks != x87Masks
    return (forSSE ? sse : 0) | (forX87 ? x87 : 0)
  }
}

extension Vector {
  static let simdFloatingPoint: UInt8 = 19
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// What SSE instructions need (SDM vol. 3, table 2-2 and 14.1).
  func checkSSE() throws(Fault) {
    if pointee.cr0 & CR0.em != 0 || pointee.cr4 & CR4.osfxsr == 0 { throw .undefined }
    if pointee.cr0 & CR0.ts != 0 { throw .exception(Vector.deviceNotAvailable, errorCode: nil) }
  }

  /// What MMX instructions need (SDM vol. 3, 13.1 and 13.2).
  func checkMMX() throws(Fault) {
    if pointee.cr0 & CR0.em != 0 { throw .undefined }
    try checkX87(waits: true)
  }

  /// What x87 instructions need; those that wait also raise a pending exception.
  func checkX87(waits: Bool) throws(Fault) {
    if pointee.cr0 & (CR0.em | CR0.ts) != 0 { throw .exception(Vector.deviceNotAvailable, errorCode: nil) }
    soft_x87_unload(self)
    if waits { try raisePending() }
  }

  func checkWait() throws(Fault) {
    if pointee.cr0 & (CR0.mp | CR0.ts) == CR0.mp | CR0.ts {
      throw .exception(Vector.deviceNotAvailable, errorCode: nil)
    }
    soft_x87_unload(self)
    try raisePending()
  }

  /// Raises #MF for a pending exception. With CR0.NE clear it is FERR# instead, which is IRQ 13 on a PC, and the
  /// processor waits for an interrupt unless IGNNE# is asserted (SDM vol. 1, 8.7.2).
  private func raisePending() throws(Fault) {
    guard pointee.x87.status & X87.errorSummary != 0 else { return }
    guard pointee.cr0 & CR0.ne == 0, let controllers = context.pointee.controllers else {
      throw .exception(Vector.floatingPoint, errorCode: nil)
    }
    if !controllers.raiseFloatingPointError() { throw .waitForInterrupt }
  }

  /// The host must not meet exceptions that IGNNE# lets the guest's next instruction ignore.
  func setAsideIgnored() {
    guard pointee.x87.status & X87.errorSummary != 0 else { return }
    context.pointee.ignoredExceptions = pointee.x87.status & X87.exceptions
    pointee.x87.status &= ~X87.exceptions
  }

  func restoreIgnored() {
    pointee.x87.status |= context.pointee.ignoredExceptions
    context.pointee.ignoredExceptions = 0
  }

  /// FERR# goes with the exceptions that are no longer pending.
  func lowerFloatingPointError() {
    guard pointee.cr0 & CR0.ne == 0, pointee.x87.status & X87.errorSummary == 0 else { return }
    context.pointee.controllers?.lowerFloatingPointError()
  }
}

@inline(__always)
private func check(_ state: State, _ op: MicroOp, _ body: (State) throws(Fault) -> Void) -> Bool {
  do throws(Fault) {
    try body(state)
    return true
  } catch {
    leave(state, op, error)
    return false
  }
}

@c func softCheckSSE(_ state: State, _ op: MicroOp) {
  guard check(state, op, { s throws(Fault) in try s.checkSSE() }) else { return }
  return next(state, op)
}

@c func softCheckMMX(_ state: State, _ op: MicroOp) {
  guard check(state, op, { s throws(Fault) in try s.checkMMX() }) else { return }
  return next(state, op)
}

@c func softCheckX87(_ state: State, _ op: MicroOp) {
  guard check(state, op, { s throws(Fault) in try s.checkX87(waits: true) }) else { return }
  state.setAsideIgnored()
  return next(state, op)
}

@c func softCheckX87NoWait(_ state: State, _ op: MicroOp) {
  guard check(state, op, { s throws(Fault) in try s.checkX87(waits: false) }) else { return }
  return next(state, op)
}

@c func softCheckWait(_ state: State, _ op: MicroOp) {
  guard check(state, op, { s throws(Fault) in try s.checkWait() }) else { return }
  return next(state, op)
}

/// Saves what `softEndFloat` restores when an unmasked exception was raised: 16 bytes at `dst`, and the flags.
@c func softBeginFloat(_ state: State, _ op: MicroOp) {
  soft_copy_vector(&state.pointee.float_saved, vectorRegister(state, op.pointee.dst))
  state.pointee.float_result = state.pointee.result
  state.pointee.float_carries = state.pointee.carries
  state.pointee.mxcsr = soft_mxcsr(state)
  // Unmasked, underflow is raised by exact tiny results as well, and nothing is flushed to zero (SDM vol. 1, 4.9.1.5).
  soft_clear_float_flags(state, state.pointee.mxcsr & MXCSR.underflowMask == 0 ? 1 : 0)
  return next(state, op)
}

/// Raises #XM for what the operation before raised and MXCSR does not mask.
@c func softEndFloat(_ state: State, _ op: MicroOp) {
  let control = state.pointee.mxcsr
  let flags = soft_float_flags()
  guard flags & ~(control >> 7) == 0 else { return tail(state, op, softRaiseFloat) }
  soft_set_mxcsr(state, control | flags)
  return next(state, op)
}

/// A handler of its own: what has its own operations on the stack cannot end with a jump to the next.
@inline(never) @c func softRaiseFloat(_ state: State, _ op: MicroOp) {
  let control = state.pointee.mxcsr
  var flags = soft_float_flags()
  undoFloat(state, op)
  if control & MXCSR.underflowMask == 0, flags & MXCSR.underflow != 0 {
    // Whether it was exact, too, only the operation without flushing tells.
    soft_clear_float_flags(state, 0)
    repeatAlone(state, op - 1)
    flags = soft_float_flags() | MXCSR.underflow
    undoFloat(state, op)
  }
  // These are found before the operation, and then nothing else is.
  let before = flags & MXCSR.beforeOperation
  soft_set_mxcsr(state, control | (before & ~(control >> 7) != 0 ? before : flags))
  let isReported = state.pointee.cr4 & CR4.osxmmexcpt != 0
  leave(
    state, op, .exception(isReported ? Vector.simdFloatingPoint : Vector.invalidOpcode, errorCode: nil))
}

private func undoFloat(_ state: State, _ op: MicroOp) {
  soft_copy_vector(vectorRegister(state, op.pointee.dst), &state.pointee.float_saved)
  state.pointee.result = state.pointee.float_result
  state.pointee.carries = state.pointee.float_carries
}

/// Executes one operation, which ends by executing the one after it.
@inline(never)
private func repeatAlone(_ state: State, _ op: MicroOp) {
  var pair = (op.pointee, op.pointee)
  pair.1.handler = softReturn
  withUnsafeBytes(of: &pair) {
    guard let first = $0.baseAddress?.assumingMemoryBound(to: soft_op.self) else { return }
    first.pointee.handler(state, first)
  }
}

@c func softReturn(_ state: State, _ op: MicroOp) {}
