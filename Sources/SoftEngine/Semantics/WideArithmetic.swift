import CSoftCPU

// MUL and DIV by `src`, which is RDX:RAX's partner.

@c func softMultiplyWide32(_ state: State, _ op: MicroOp) {
  let product =
    UInt64(register(state, Slot.general(General.rax), as: UInt32.self).pointee)
    &* UInt64(register(state, op.pointee.src, as: UInt32.self).pointee)
  let (high, low) = (UInt32(truncatingIfNeeded: product &>> 32), UInt32(truncatingIfNeeded: product))
  setRegister(state, Slot.general(General.rax), low)
  setRegister(state, Slot.general(General.rdx), high)
  state.setFlags(low, vector: Carries.flags(cf: high != 0, of: high != 0))
  return next(state, op)
}

@c func softMultiplyWide64(_ state: State, _ op: MicroOp) {
  let (high, low) = register(state, Slot.general(General.rax), as: UInt64.self).pointee
    .multipliedFullWidth(by: register(state, op.pointee.src, as: UInt64.self).pointee)
  setRegister(state, Slot.general(General.rax), low)
  setRegister(state, Slot.general(General.rdx), high)
  state.setFlags(low, vector: Carries.flags(cf: high != 0, of: high != 0))
  return next(state, op)
}

@c func softDivide32(_ state: State, _ op: MicroOp) {
  let divisor = UInt64(register(state, op.pointee.src, as: UInt32.self).pointee)
  let high = UInt64(register(state, Slot.general(General.rdx), as: UInt32.self).pointee)
  // The quotient fits exactly when the dividend's upper half is below the divisor.
  guard high < divisor else { return tail(state, op, softDivideError) }
  let dividend = high &<< 32 | UInt64(register(state, Slot.general(General.rax), as: UInt32.self).pointee)
  setRegister(state, Slot.general(General.rax), UInt32(truncatingIfNeeded: dividend / divisor))
  setRegister(state, Slot.general(General.rdx), UInt32(truncatingIfNeeded: dividend % divisor))
  return next(state, op)
}

@c func softDivide64(_ state: State, _ op: MicroOp) {
  let divisor = register(state, op.pointee.src, as: UInt64.self).pointee
  let high = register(state, Slot.general(General.rdx), as: UInt64.self)
  let low = register(state, Slot.general(General.rax), as: UInt64.self)
  guard high.pointee < divisor else { return tail(state, op, softDivideError) }
  let (quotient, remainder) = divide(high.pointee, low.pointee, by: divisor)
  low.pointee = quotient
  high.pointee = remainder
  return next(state, op)
}

@inline(never) @c func softDivideError(_ state: State, _ op: MicroOp) {
  leave(state, op, .exception(Vector.divideError, errorCode: nil))
}

/// Divides 128 bits; `high` is below the divisor.
@inline(__always)
func divide(_ high: UInt64, _ low: UInt64, by divisor: UInt64) -> (quotient: UInt64, remainder: UInt64) {
  let result = soft_divide(high, low, divisor)
  return (result.quotient, result.remainder)
}
