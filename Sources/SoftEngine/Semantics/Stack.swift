import CSoftCPU

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Moves the stack pointer, of which only the part that the stack segment uses changes.
  @inline(__always)
  func adjustStack(_ bytes: UInt64) {
    let mask = pointee.stack_mask
    let slot = register(self, Slot.general(General.rsp), as: UInt64.self)
    slot.pointee = slot.pointee & ~mask | (slot.pointee &+ bytes) & mask
  }
}

/// Stores `src` below the stack pointer (`imm` is minus the width), then moves it.
@inline(__always)
func push<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  guard let host = lookUp(state, linear, width: width, write: true) else {
    state.pointee.linear = linear
    return tail(state, op, softPushSlow)
  }
  host.storeBytes(of: register(state, op.pointee.src, as: Value.self).pointee, as: Value.self)
  state.adjustStack(UInt64(bitPattern: Int64(0 &- width)))
  return next(state, op)
}

@inline(never) @c func softPushSlow(_ state: State, _ op: MicroOp) {
  if fillTLB(state, width: AccessShape.width(op), .write) { return goto(state, op) }
  return tail(state, op, softPushSlowly)
}

@inline(never) @c func softPushSlowly(_ state: State, _ op: MicroOp) {
  // A changed block is left at the next one: the operation after this may belong to the same CALL.
  guard writeSlowly(state, op) else { return }
  state.adjustStack(UInt64(bitPattern: Int64(0 &- AccessShape.width(op))))
  return next(state, op)
}

@inline(__always)
func pop<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: false) else {
    return tail(state, op, softSegmentFault)
  }
  guard let host = lookUp(state, linear, width: width, write: false) else {
    state.pointee.linear = linear
    return tail(state, op, softPopSlow)
  }
  let value = host.loadUnaligned(as: Value.self)
  state.adjustStack(UInt64(width))
  setRegister(state, op.pointee.dst, value)
  return next(state, op)
}

@inline(never) @c func softPopSlow(_ state: State, _ op: MicroOp) {
  if fillTLB(state, width: AccessShape.width(op), .read) { return goto(state, op) }
  return tail(state, op, softPopSlowly)
}

@inline(never) @c func softPopSlowly(_ state: State, _ op: MicroOp) {
  guard let value = readSlowly(state, op, forWrite: false) else { return }
  state.adjustStack(UInt64(AccessShape.width(op)))
  setRegister(state, op, value, width: AccessShape.width(op))
  return next(state, op)
}

/// Moves the stack pointer by `imm`: RET with an operand.
@c func softAdjustStack(_ state: State, _ op: MicroOp) {
  state.adjustStack(UInt64(bitPattern: op.pointee.imm))
  return next(state, op)
}
