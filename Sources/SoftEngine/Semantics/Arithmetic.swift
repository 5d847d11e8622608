import CSoftCPU

/// An operation on two integers that sets flags.
protocol BinaryOperation {
  /// False: only flags (CMP, TEST).
  static var writes: Bool { get }
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value
}

extension BinaryOperation {
  @inline(__always) static var writes: Bool { true }
}

enum Add: BinaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    let result = a &+ b
    state.setFlags(result, carries: a & b | (a | b) & ~result)
    return result
  }
}

enum Adc: BinaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    let result = a &+ b &+ (state.carry ? 1 : 0)
    state.setFlags(result, carries: a & b | (a | b) & ~result)
    return result
  }
}

enum Sub: BinaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    let result = a &- b
    state.setFlags(result, carries: ~a & b | (~a | b) & result)
    return result
  }
}

enum Sbb: BinaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    let result = a &- b &- (state.carry ? 1 : 0)
    state.setFlags(result, carries: ~a & b | (~a | b) & result)
    return result
  }
}

enum Cmp: BinaryOperation {
  @inline(__always) static var writes: Bool { false }
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    Sub.apply(state, a, b)
  }
}

enum And: BinaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    let result = a & b
    state.setFlags(result, vector: 0)
    return result
  }
}

enum Or: BinaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    let result = a | b
    state.setFlags(result, vector: 0)
    return result
  }
}

enum Xor: BinaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    let result = a ^ b
    state.setFlags(result, vector: 0)
    return result
  }
}

enum Test: BinaryOperation {
  @inline(__always) static var writes: Bool { false }
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value, _ b: Value) -> Value {
    And.apply(state, a, b)
  }
}

@inline(__always)
func binaryRegister<Operation: BinaryOperation, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ operation: Operation.Type, _ type: Value.Type
) {
  let result = Operation.apply(
    state, register(state, op.pointee.dst, as: Value.self).pointee,
    register(state, op.pointee.src, as: Value.self).pointee)
  if Operation.writes { setRegister(state, op.pointee.dst, result) }
  return next(state, op)
}

@inline(__always)
func binaryImmediate<Operation: BinaryOperation, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ operation: Operation.Type, _ type: Value.Type
) {
  let result = Operation.apply(
    state, register(state, op.pointee.dst, as: Value.self).pointee, Value(truncatingIfNeeded: op.pointee.imm))
  if Operation.writes { setRegister(state, op.pointee.dst, result) }
  return next(state, op)
}

protocol UnaryOperation {
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value) -> Value
}

/// INC and DEC leave CF alone; `carries` is what the addition would give.
@inline(__always)
private func setFlagsKeepingCarry<Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ result: Value, _ carries: Value
) {
  let cf = state.pointee.carries & Carries.cf
  let new = Carries.vector(carries)
  let of = (new ^ new &<< 1) & Carries.cf
  state.setFlags(result, vector: cf | (cf ^ of) >> 1 | new & Carries.af)
}

enum Inc: UnaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value) -> Value {
    let result = a &+ 1
    setFlagsKeepingCarry(state, result, a & ~result)
    return result
  }
}

enum Dec: UnaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value) -> Value {
    let result = a &- 1
    setFlagsKeepingCarry(state, result, ~a & result)
    return result
  }
}

/// NOT; the only one without flags. Its name is not the manual's, which is taken by conditions.
enum Complement: UnaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value) -> Value { ~a }
}

enum Neg: UnaryOperation {
  @inline(__always)
  static func apply<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ a: Value) -> Value {
    Sub.apply(state, 0, a)
  }
}

@inline(__always)
func unary<Operation: UnaryOperation, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ operation: Operation.Type, _ type: Value.Type
) {
  let slot = op.pointee.dst
  setRegister(state, slot, Operation.apply(state, register(state, slot, as: Value.self).pointee))
  return next(state, op)
}
