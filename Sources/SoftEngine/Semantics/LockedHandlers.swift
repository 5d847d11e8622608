import CSoftCPU

// Instructions that read, change and write memory at once, of 4 and 8 bytes and with 64-bit addresses: `base` holds the
// operand's offset, `src` the other operand. Where the TLB does not permit it, or two cache lines are touched, the
// instruction is executed as a whole.

/// A value that the host's locked instructions can replace.
protocol LockedValue: FixedWidthInteger & UnsignedInteger {
  /// Replaces what is `expected`; what was there.
  static func compareExchange(_ host: UnsafeMutableRawPointer, _ expected: Self, _ desired: Self) -> Self
}

extension UInt32: LockedValue {
  @inline(__always)
  static func compareExchange(_ host: UnsafeMutableRawPointer, _ expected: UInt32, _ desired: UInt32) -> UInt32 {
    soft_compare_exchange_32(host, expected, desired)
  }
}

extension UInt64: LockedValue {
  @inline(__always)
  static func compareExchange(_ host: UnsafeMutableRawPointer, _ expected: UInt64, _ desired: UInt64) -> UInt64 {
    soft_compare_exchange_64(host, expected, desired)
  }
}

/// Where `width` bytes stand at the operand's offset and `distance` bytes behind it, if they may be written and are in
/// one cache line.
@inline(__always)
private func operand(_ state: State, _ op: MicroOp, _ width: UInt64, distance: UInt64 = 0) -> UnsafeMutableRawPointer? {
  let offset = register(state, op.pointee.base, as: UInt64.self).pointee &+ distance
  let linear = state.segment(Int(op.pointee.segment)).pointee.linear_base &+ offset
  guard linear & 63 <= 64 &- width else { return nil }
  return lookUp(state, linear, width: 1, write: true)
}

/// Replaces memory by what `change` makes of it, which may be called again; gives the old value.
@inline(__always)
private func replace<Value: LockedValue>(_ host: UnsafeMutableRawPointer, _ change: (Value) -> Value) -> Value {
  var old = host.loadUnaligned(as: Value.self)
  while true {
    let found = Value.compareExchange(host, old, change(old))
    if found == old { return old }
    old = found
  }
}

@inline(__always)
private func compareExchange<Value: LockedValue>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  guard let host = operand(state, op, UInt64(MemoryLayout<Value>.size)) else { return tail(state, op, softComplex) }
  let accumulator = Slot.general(General.rax)
  let expected = register(state, accumulator, as: Value.self).pointee
  let old = Value.compareExchange(host, expected, register(state, op.pointee.src, as: Value.self).pointee)
  if old != expected { setRegister(state, accumulator, old) }
  _ = Sub.apply(state, expected, old)
  return next(state, op)
}

@inline(__always)
private func exchangeAdd<Value: LockedValue>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  guard let host = operand(state, op, UInt64(MemoryLayout<Value>.size)) else { return tail(state, op, softComplex) }
  let value = register(state, op.pointee.src, as: Value.self).pointee
  let old = replace(host) { $0 &+ value }
  setRegister(state, op.pointee.src, old)
  _ = Add.apply(state, old, value)
  return next(state, op)
}

@inline(__always)
private func exchange<Value: LockedValue>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  guard let host = operand(state, op, UInt64(MemoryLayout<Value>.size)) else { return tail(state, op, softComplex) }
  let value = register(state, op.pointee.src, as: Value.self).pointee
  setRegister(state, op.pointee.src, replace(host) { _ in value })
  return next(state, op)
}

@inline(__always)
private func binary<Operation: BinaryOperation, Value: LockedValue>(
  _ state: State, _ op: MicroOp, _ operation: Operation.Type, _ type: Value.Type
) {
  guard let host = operand(state, op, UInt64(MemoryLayout<Value>.size)) else { return tail(state, op, softComplex) }
  let value = register(state, op.pointee.src, as: Value.self).pointee
  _ = replace(host) { Operation.apply(state, $0, value) }
  return next(state, op)
}

@inline(__always)
private func unary<Operation: UnaryOperation, Value: LockedValue>(
  _ state: State, _ op: MicroOp, _ operation: Operation.Type, _ type: Value.Type
) {
  guard let host = operand(state, op, UInt64(MemoryLayout<Value>.size)) else { return tail(state, op, softComplex) }
  _ = replace(host) { (old: Value) in Operation.apply(state, old) }
  return next(state, op)
}

/// The number of a bit counts from the operand, in both directions.
@inline(__always)
private func bitNumber<Value: LockedValue>(_ state: State, _ op: MicroOp, _ type: Value.Type) -> (
  distance: UInt64, bit: Value
) {
  let unused = Int64(64 &- Value.bitWidth)
  let number = (register(state, op.pointee.src, as: Int64.self).pointee &<< unused) &>> unused
  let values = number &>> Int64(Value.bitWidth.trailingZeroBitCount)
  let size = Int64(MemoryLayout<Value>.size)
  return (UInt64(bitPattern: values &* size), 1 &<< Value(truncatingIfNeeded: number))
}

@inline(__always)
private func changeBit<Change: BitChange, Value: LockedValue>(
  _ state: State, _ op: MicroOp, _ change: Change.Type, _ type: Value.Type
) {
  let (distance, bit) = bitNumber(state, op, type)
  guard let host = operand(state, op, UInt64(MemoryLayout<Value>.size), distance: distance) else {
    return tail(state, op, softComplex)
  }
  state.setCarry(replace(host) { Change.apply($0, bit) } & bit != 0)
  return next(state, op)
}

@inline(__always)
private func testBit<Value: LockedValue>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  let (distance, bit) = bitNumber(state, op, type)
  let offset = register(state, op.pointee.base, as: UInt64.self).pointee &+ distance
  let linear = state.segment(Int(op.pointee.segment)).pointee.linear_base &+ offset
  guard let host = lookUp(state, linear, width: MemoryLayout<Value>.size, write: false) else {
    return tail(state, op, softComplex)
  }
  state.setCarry(host.loadUnaligned(as: Value.self) & bit != 0)
  return next(state, op)
}

@c func softCompareExchange16B(_ state: State, _ op: MicroOp) {
  // An operand that is not aligned faults.
  guard let host = operand(state, op, 16), UInt(bitPattern: host) & 15 == 0 else {
    return tail(state, op, softComplex)
  }
  let (rax, rdx) = (Slot.general(General.rax), Slot.general(General.rdx))
  var low = register(state, rax, as: UInt64.self).pointee
  var high = register(state, rdx, as: UInt64.self).pointee
  let isEqual =
    soft_compare_exchange_128(
      host, &low, &high, register(state, Slot.general(General.rbx), as: UInt64.self).pointee,
      register(state, Slot.general(General.rcx), as: UInt64.self).pointee) != 0
  // What was there where it is not equal, and else what they are.
  setRegister(state, rax, low)
  setRegister(state, rdx, high)
  let flags = state.arithmeticFlags
  state.arithmeticFlags = isEqual ? flags | RFLAGS.zf : flags & ~RFLAGS.zf
  return next(state, op)
}

@c func softCompareExchange32(_ s: State, _ o: MicroOp) { return compareExchange(s, o, UInt32.self) }
@c func softCompareExchange64(_ s: State, _ o: MicroOp) { return compareExchange(s, o, UInt64.self) }
@c func softExchangeAdd32(_ s: State, _ o: MicroOp) { return exchangeAdd(s, o, UInt32.self) }
@c func softExchangeAdd64(_ s: State, _ o: MicroOp) { return exchangeAdd(s, o, UInt64.self) }
@c func softExchangeMemory32(_ s: State, _ o: MicroOp) { return exchange(s, o, UInt32.self) }
@c func softExchangeMemory64(_ s: State, _ o: MicroOp) { return exchange(s, o, UInt64.self) }
@c func softLockAdd32(_ s: State, _ o: MicroOp) { return binary(s, o, Add.self, UInt32.self) }
@c func softLockAdd64(_ s: State, _ o: MicroOp) { return binary(s, o, Add.self, UInt64.self) }
@c func softLockSub32(_ s: State, _ o: MicroOp) { return binary(s, o, Sub.self, UInt32.self) }
@c func softLockSub64(_ s: State, _ o: MicroOp) { return binary(s, o, Sub.self, UInt64.self) }
@c func softLockAnd32(_ s: State, _ o: MicroOp) { return binary(s, o, And.self, UInt32.self) }
@c func softLockAnd64(_ s: State, _ o: MicroOp) { return binary(s, o, And.self, UInt64.self) }
@c func softLockOr32(_ s: State, _ o: MicroOp) { return binary(s, o, Or.self, UInt32.self) }
@c func softLockOr64(_ s: State, _ o: MicroOp) { return binary(s, o, Or.self, UInt64.self) }
@c func softLockXor32(_ s: State, _ o: MicroOp) { return binary(s, o, Xor.self, UInt32.self) }
@c func softLockXor64(_ s: State, _ o: MicroOp) { return binary(s, o, Xor.self, UInt64.self) }
@c func softLockInc32(_ s: State, _ o: MicroOp) { return unary(s, o, Inc.self, UInt32.self) }
@c func softLockInc64(_ s: State, _ o: MicroOp) { return unary(s, o, Inc.self, UInt64.self) }
@c func softLockDec32(_ s: State, _ o: MicroOp) { return unary(s, o, Dec.self, UInt32.self) }
@c func softLockDec64(_ s: State, _ o: MicroOp) { return unary(s, o, Dec.self, UInt64.self) }
@c func softTestMemoryBit32(_ s: State, _ o: MicroOp) { return testBit(s, o, UInt32.self) }
@c func softTestMemoryBit64(_ s: State, _ o: MicroOp) { return testBit(s, o, UInt64.self) }
@c func softSetMemoryBit32(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitSet.self, UInt32.self) }
@c func softSetMemoryBit64(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitSet.self, UInt64.self) }
@c func softResetMemoryBit32(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitReset.self, UInt32.self) }
@c func softResetMemoryBit64(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitReset.self, UInt64.self) }
@c func softComplementMemoryBit32(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitComplement.self, UInt32.self) }
@c func softComplementMemoryBit64(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitComplement.self, UInt64.self) }
