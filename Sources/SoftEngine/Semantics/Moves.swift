import CSoftCPU

@inline(__always)
func moveRegister<Value: FixedWidthInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  setRegister(state, op.pointee.dst, register(state, op.pointee.src, as: Value.self).pointee)
  return next(state, op)
}

@inline(__always)
func moveImmediate<Value: FixedWidthInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  setRegister(state, op.pointee.dst, Value(truncatingIfNeeded: op.pointee.imm))
  return next(state, op)
}

@inline(__always)
func exchange<Value: FixedWidthInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  let a = register(state, op.pointee.dst, as: Value.self).pointee
  let b = register(state, op.pointee.src, as: Value.self).pointee
  setRegister(state, op.pointee.dst, b)
  setRegister(state, op.pointee.src, a)
  return next(state, op)
}

/// CMOVcc with the condition in `base`. A 32-bit destination is zero-extended whether or not it is written.
@inline(__always)
func moveIf<Value: FixedWidthInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  let slot = conditionHolds(op.pointee.base, state) ? op.pointee.src : op.pointee.dst
  setRegister(state, op.pointee.dst, register(state, slot, as: Value.self).pointee)
  return next(state, op)
}

/// SETcc with the condition in `base`.
@c func softSetIf(_ state: State, _ op: MicroOp) {
  register(state, op.pointee.dst, as: UInt8.self).pointee = conditionHolds(op.pointee.base, state) ? 1 : 0
  return next(state, op)
}

@inline(__always)
func extend<From: FixedWidthInteger, To: FixedWidthInteger>(
  _ state: State, _ op: MicroOp, _ from: From.Type, _ to: To.Type
) {
  setRegister(state, op.pointee.dst, To(truncatingIfNeeded: register(state, op.pointee.src, as: From.self).pointee))
  return next(state, op)
}

/// LEA.
@inline(__always)
func address<Value: FixedWidthInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  setRegister(state, op.pointee.dst, Value(truncatingIfNeeded: Flat.offset(state, op) & op.pointee.aux))
  return next(state, op)
}

/// CWD, CDQ, CQO: `dst` becomes the sign of `src`.
@inline(__always)
func signFill<Value: FixedWidthInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  let value = register(state, op.pointee.src, as: Value.self).pointee
  let isNegative = value & (1 &<< Value(truncatingIfNeeded: Value.bitWidth &- 1)) != 0
  setRegister(state, op.pointee.dst, isNegative ? ~(0 as Value) : 0)
  return next(state, op)
}

@c func softByteSwap32(_ state: State, _ op: MicroOp) {
  setRegister(state, op.pointee.dst, register(state, op.pointee.dst, as: UInt32.self).pointee.byteSwapped)
  return next(state, op)
}

@c func softByteSwap64(_ state: State, _ op: MicroOp) {
  setRegister(state, op.pointee.dst, register(state, op.pointee.dst, as: UInt64.self).pointee.byteSwapped)
  return next(state, op)
}

/// IMUL with two operands. SF is that of the result, as on the processors; ZF, AF and PF are undefined.
@inline(__always)
func multiply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  multiply(
    state, op, register(state, op.pointee.dst, as: Value.self).pointee,
    register(state, op.pointee.src, as: Value.self).pointee)
  return next(state, op)
}

/// IMUL with three operands.
@inline(__always)
func multiplyImmediate<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  multiply(
    state, op, register(state, op.pointee.src, as: Value.self).pointee, Value(truncatingIfNeeded: op.pointee.imm))
  return next(state, op)
}

@inline(__always)
private func multiply<Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ a: Value, _ b: Value
) {
  let shift = Int64(64 &- Value.bitWidth)
  let (high, low) = (Int64(truncatingIfNeeded: a) << shift).multipliedFullWidth(
    by: (Int64(truncatingIfNeeded: b) << shift) >> shift)
  // The product stands `shift` bits higher: it fits when `high` is only its sign.
  let result = Value(truncatingIfNeeded: low >> UInt64(shift))
  let overflows = high != Int64(bitPattern: low) >> 63
  state.setFlags(result, vector: Carries.flags(cf: overflows, of: overflows))
  setRegister(state, op.pointee.dst, result)
}

@c func softNop(_ state: State, _ op: MicroOp) { return next(state, op) }

@c func softClearCarry(_ state: State, _ op: MicroOp) {
  state.setCarry(false)
  return next(state, op)
}

@c func softSetCarry(_ state: State, _ op: MicroOp) {
  state.setCarry(true)
  return next(state, op)
}

@c func softComplementCarry(_ state: State, _ op: MicroOp) {
  state.setCarry(!state.carry)
  return next(state, op)
}

@c func softClearDirection(_ state: State, _ op: MicroOp) {
  state.pointee.system_flags &= ~RFLAGS.df
  return next(state, op)
}

@c func softSetDirection(_ state: State, _ op: MicroOp) {
  state.pointee.system_flags |= RFLAGS.df
  return next(state, op)
}

/// Moves the pointers `src` and `dst` of a string instruction, of so many bytes as `shift` says, by `imm`.
@c func softStepString(_ state: State, _ op: MicroOp) {
  let delta = UInt64(bitPattern: state.pointee.system_flags & RFLAGS.df != 0 ? 0 &- op.pointee.imm : op.pointee.imm)
  step(state, op.pointee.src, delta, op.pointee.shift)
  step(state, op.pointee.dst, delta, op.pointee.shift)
  if state.pointee.code_changed != 0 {
    state.pointee.rip = instructionPointer(state, op + 1)
    state.pointee.leave = LeaveReason.dispatch
    return
  }
  return next(state, op)
}

/// Bytes that a forward repeated string instruction, of items as `shift` says, moves at once, which do not leave the page
/// at `pointer`; nil: it is not done at once.
@inline(__always)
private func repeatedBytes(_ state: State, _ op: MicroOp) -> UInt64? {
  let count = register(state, Slot.general(General.rcx), as: UInt64.self).pointee
  guard count &- 1 < 4096, state.pointee.system_flags & RFLAGS.df == 0 else { return nil }
  return count &<< UInt64(op.pointee.shift)
}

/// Where so many bytes stand at a pointer if they are on one page that permits the access.
@inline(__always)
private func span(_ state: State, _ slot: UInt8, _ bytes: UInt64, write: Bool) -> UnsafeMutableRawPointer? {
  let linear = register(state, slot, as: UInt64.self).pointee
  guard linear & 4095 &+ bytes <= 4096 else { return nil }
  return lookUp(state, linear, width: 1, write: write)
}

@inline(__always)
private func advance(_ state: State, _ slot: UInt8, _ bytes: UInt64) {
  setRegister(state, slot, register(state, slot, as: UInt64.self).pointee &+ bytes)
}

/// REP STOS with 64-bit addresses.
@c func softRepeatStore(_ state: State, _ op: MicroOp) {
  let destination = Slot.general(General.rdi)
  guard let bytes = repeatedBytes(state, op), let to = span(state, destination, bytes, write: true) else {
    return tail(state, op, softComplex)
  }
  let shift = Int(op.pointee.shift)
  soft_store_items(
    to, register(state, Slot.general(General.rax), as: UInt64.self).pointee, Int(bytes) &>> shift, 1 &<< shift)
  advance(state, destination, bytes)
  setRegister(state, Slot.general(General.rcx), 0 as UInt64)
  return next(state, op)
}

/// REP MOVS with 64-bit addresses.
@c func softRepeatMove(_ state: State, _ op: MicroOp) {
  let (source, destination) = (Slot.general(General.rsi), Slot.general(General.rdi))
  guard let bytes = repeatedBytes(state, op), let to = span(state, destination, bytes, write: true),
    let from = span(state, source, bytes, write: false)
  else { return tail(state, op, softComplex) }
  let shift = Int(op.pointee.shift)
  soft_move_items(to, from, Int(bytes) &>> shift, 1 &<< shift)
  advance(state, source, bytes)
  advance(state, destination, bytes)
  setRegister(state, Slot.general(General.rcx), 0 as UInt64)
  return next(state, op)
}

@inline(__always)
private func step(_ state: State, _ slot: UInt8, _ delta: UInt64, _ size: UInt8) {
  let pointer = register(state, slot, as: UInt64.self)
  let new = pointer.pointee &+ delta
  switch size {
  case 2: pointer.pointee = pointer.pointee & ~0xFFFF | new & 0xFFFF
  case 4: pointer.pointee = new & 0xFFFF_FFFF
  default: pointer.pointee = new
  }
}
