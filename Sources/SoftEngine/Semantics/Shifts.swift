import CSoftCPU

/// A shift or rotation by `count`, which is masked but not zero. SDM vol. 2 leaves OF undefined for counts other than 1:
/// here it is what the last of that many shifts by one would give, as on Intel processors.
protocol ShiftOperation {
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value
}

@inline(__always)
func topBit<Value: FixedWidthInteger & UnsignedInteger>(_ a: Value) -> Bool { a >> (Value.bitWidth - 1) != 0 }

@inline(__always)
private func setRotateFlags(_ state: State, cf: Bool, of: Bool) {
  state.pointee.carries = state.pointee.carries & ~Carries.cfAndOF | Carries.flags(cf: cf, of: of)
}

enum Rol: ShiftOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value {
    let count = count & (Value.bitWidth &- 1)
    let result = count == 0 ? a : a << count | a >> (Value.bitWidth &- count)
    let cf = result & 1 != 0
    setRotateFlags(state, cf: cf, of: topBit(result) != cf)
    return result
  }
}

enum Ror: ShiftOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value {
    let count = count & (Value.bitWidth &- 1)
    let result = count == 0 ? a : a >> count | a << (Value.bitWidth &- count)
    let cf = topBit(result)
    setRotateFlags(state, cf: cf, of: topBit(result << 1) != cf)
    return result
  }
}

enum Rcl: ShiftOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value {
    let bits = Value.bitWidth
    let count = bits < 32 ? count % (bits &+ 1) : count
    if count == 0 { return a }
    let carry: Value = state.carry ? 1 : 0
    let cf = a >> (bits &- count) & 1 != 0
    var result = a << count | carry << (count &- 1)
    if count > 1 { result |= a >> (bits &+ 1 &- count) }
    setRotateFlags(state, cf: cf, of: topBit(result) != cf)
    return result
  }
}

enum Rcr: ShiftOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value {
    let bits = Value.bitWidth
    let count = bits < 32 ? count % (bits &+ 1) : count
    if count == 0 { return a }
    let carry: Value = state.carry ? 1 : 0
    let cf = a >> (count &- 1) & 1 != 0
    var result = a >> count | carry << (bits &- count)
    if count > 1 { result |= a << (bits &+ 1 &- count) }
    setRotateFlags(state, cf: cf, of: topBit(result) != topBit(result << 1))
    return result
  }
}

enum Shl: ShiftOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value {
    let result = a << count
    let cf = count <= Value.bitWidth && a >> (Value.bitWidth &- count) & 1 != 0
    state.setFlags(result, vector: Carries.flags(cf: cf, of: topBit(result) != cf))
    return result
  }
}

enum Shr: ShiftOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value {
    let result = a >> count
    let cf = a >> (count &- 1) & 1 != 0
    state.setFlags(result, vector: Carries.flags(cf: cf, of: topBit(result << 1) != topBit(result)))
    return result
  }
}

enum Sar: ShiftOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ count: Int) -> Value {
    let unused = Int64(64 &- Value.bitWidth)
    let wide = (Int64(truncatingIfNeeded: a) << unused) >> unused
    let result = Value(truncatingIfNeeded: wide >> Int64(count))
    state.setFlags(result, vector: Carries.flags(cf: wide >> Int64(count &- 1) & 1 != 0, of: false))
    return result
  }
}

/// The count is the byte register `src` plus the immediate (one of them is zero).
@inline(__always)
func shift<Operation: ShiftOperation, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ operation: Operation.Type, _ type: Value.Type
) {
  let mask: UInt8 = Value.bitWidth == 64 ? 63 : 31
  let count =
    (register(state, op.pointee.src, as: UInt8.self).pointee | UInt8(truncatingIfNeeded: op.pointee.imm)) & mask
  let slot = op.pointee.dst
  let a = register(state, slot, as: Value.self).pointee
  // A count of zero changes no flag, but a 32-bit register's upper half is cleared.
  setRegister(state, slot, count == 0 ? a : Operation.apply(state, a, Int(count)))
  return next(state, op)
}
