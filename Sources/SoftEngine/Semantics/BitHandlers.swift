import CSoftCPU

// Bit tests and double shifts of registers. What comes from another register is in `src`, else in `imm`.

/// What BTS, BTR and BTC make of an operand's bit.
protocol BitChange {
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value, _ bit: Value) -> Value
}

enum BitSet: BitChange {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value, _ bit: Value) -> Value { value | bit }
}
enum BitReset: BitChange {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value, _ bit: Value) -> Value { value & ~bit }
}
enum BitComplement: BitChange {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value, _ bit: Value) -> Value { value ^ bit }
}

/// The register `src`, or `imm` where there is none.
@inline(__always)
private func second(_ state: State, _ op: MicroOp, _ slot: UInt8) -> UInt64 {
  slot == Slot.zero ? UInt64(bitPattern: op.pointee.imm) : register(state, slot, as: UInt64.self).pointee
}

/// The bit that an instruction means, of an operand that is a register.
@inline(__always)
private func bit<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) -> Value
{
  1 &<< Value(truncatingIfNeeded: second(state, op, op.pointee.src))
}

@inline(__always)
private func testBit<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  state.setCarry(register(state, op.pointee.dst, as: Value.self).pointee & bit(state, op, type) != 0)
  return next(state, op)
}

@inline(__always)
private func changeBit<Change: BitChange, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ change: Change.Type, _ type: Value.Type
) {
  let old = register(state, op.pointee.dst, as: Value.self).pointee
  let bit = bit(state, op, type)
  setRegister(state, op.pointee.dst, Change.apply(old, bit))
  state.setCarry(old & bit != 0)
  return next(state, op)
}

@c func softBT32(_ s: State, _ o: MicroOp) { return testBit(s, o, UInt32.self) }
@c func softBT64(_ s: State, _ o: MicroOp) { return testBit(s, o, UInt64.self) }
@c func softBTS32(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitSet.self, UInt32.self) }
@c func softBTS64(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitSet.self, UInt64.self) }
@c func softBTR32(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitReset.self, UInt32.self) }
@c func softBTR64(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitReset.self, UInt64.self) }
@c func softBTC32(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitComplement.self, UInt32.self) }
@c func softBTC64(_ s: State, _ o: MicroOp) { return changeBit(s, o, BitComplement.self, UInt64.self) }

/// SHLD and SHRD: bits of `src` come after those of `dst`, as many as the register `base` or `imm` says.
@inline(__always)
private func shiftDouble<Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, left: Bool, _ type: Value.Type
) {
  let count = Value(truncatingIfNeeded: second(state, op, op.pointee.base)) & Value(Value.bitWidth &- 1)
  let destination = register(state, op.pointee.dst, as: Value.self).pointee
  // A register of 32 bits loses its upper half in any case.
  guard count != 0 else {
    setRegister(state, op.pointee.dst, destination)
    return next(state, op)
  }
  let source = register(state, op.pointee.src, as: Value.self).pointee
  let rest = Value(Value.bitWidth) &- count
  let result = left ? destination &<< count | source &>> rest : destination &>> count | source &<< rest
  let cf = (left ? destination &>> rest : destination &>> (count &- 1)) & 1 != 0
  setRegister(state, op.pointee.dst, result)
  state.setFlags(result, vector: Carries.flags(cf: cf, of: topBit(result) != (left ? cf : topBit(result &<< 1))))
  return next(state, op)
}

@c func softSHLD32(_ s: State, _ o: MicroOp) { return shiftDouble(s, o, left: true, UInt32.self) }
@c func softSHLD64(_ s: State, _ o: MicroOp) { return shiftDouble(s, o, left: true, UInt64.self) }
@c func softSHRD32(_ s: State, _ o: MicroOp) { return shiftDouble(s, o, left: false, UInt32.self) }
@c func softSHRD64(_ s: State, _ o: MicroOp) { return shiftDouble(s, o, left: false, UInt64.self) }

/// SHLX, SHRX and SARX: `src` by the register `base`; no flags.
@inline(__always)
private func shiftFreely<Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ shift: HostShift, _ type: Value.Type
) {
  let value = register(state, op.pointee.src, as: Value.self).pointee
  let count = Value(truncatingIfNeeded: register(state, op.pointee.base, as: UInt64.self).pointee)
  let isNegative = shift == .sar && topBit(value)
  setRegister(
    state, op.pointee.dst, shift == .shl ? value &<< count : isNegative ? ~(~value &>> count) : value &>> count)
  return next(state, op)
}

@c func softSHLX32(_ s: State, _ o: MicroOp) { return shiftFreely(s, o, .shl, UInt32.self) }
@c func softSHLX64(_ s: State, _ o: MicroOp) { return shiftFreely(s, o, .shl, UInt64.self) }
@c func softSHRX32(_ s: State, _ o: MicroOp) { return shiftFreely(s, o, .shr, UInt32.self) }
@c func softSHRX64(_ s: State, _ o: MicroOp) { return shiftFreely(s, o, .shr, UInt64.self) }
@c func softSARX32(_ s: State, _ o: MicroOp) { return shiftFreely(s, o, .sar, UInt32.self) }
@c func softSARX64(_ s: State, _ o: MicroOp) { return shiftFreely(s, o, .sar, UInt64.self) }

/// BSF and BSR: zero leaves the destination alone, as processors do, though a 32-bit one loses its upper half on none.
@inline(__always)
private func scanBits<Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, forward: Bool, _ type: Value.Type
) {
  let value = register(state, op.pointee.src, as: Value.self).pointee
  state.pointee.result = value == 0 ? 0 : 1
  state.pointee.carries = 0
  guard value != 0 else { return next(state, op) }
  let count = forward ? value.trailingZeroBitCount : Value.bitWidth &- 1 &- value.leadingZeroBitCount
  setRegister(state, op.pointee.dst, Value(truncatingIfNeeded: count))
  return next(state, op)
}

@c func softBSF32(_ s: State, _ o: MicroOp) { return scanBits(s, o, forward: true, UInt32.self) }
@c func softBSF64(_ s: State, _ o: MicroOp) { return scanBits(s, o, forward: true, UInt64.self) }
@c func softBSR32(_ s: State, _ o: MicroOp) { return scanBits(s, o, forward: false, UInt32.self) }
@c func softBSR64(_ s: State, _ o: MicroOp) { return scanBits(s, o, forward: false, UInt64.self) }
