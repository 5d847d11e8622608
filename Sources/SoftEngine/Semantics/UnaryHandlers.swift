import CSoftCPU

// One line for each operation, operand size and form; the bodies are in Arithmetic.swift and Shifts.swift.

@c func softInc8(_ s: State, _ o: MicroOp) { return unary(s, o, Inc.self, UInt8.self) }
@c func softInc16(_ s: State, _ o: MicroOp) { return unary(s, o, Inc.self, UInt16.self) }
@c func softInc32(_ s: State, _ o: MicroOp) { return unary(s, o, Inc.self, UInt32.self) }
@c func softInc64(_ s: State, _ o: MicroOp) { return unary(s, o, Inc.self, UInt64.self) }
@c func softDec8(_ s: State, _ o: MicroOp) { return unary(s, o, Dec.self, UInt8.self) }
@c func softDec16(_ s: State, _ o: MicroOp) { return unary(s, o, Dec.self, UInt16.self) }
@c func softDec32(_ s: State, _ o: MicroOp) { return unary(s, o, Dec.self, UInt32.self) }
@c func softDec64(_ s: State, _ o: MicroOp) { return unary(s, o, Dec.self, UInt64.self) }
@c func softNot8(_ s: State, _ o: MicroOp) { return unary(s, o, Complement.self, UInt8.self) }
@c func softNot16(_ s: State, _ o: MicroOp) { return unary(s, o, Complement.self, UInt16.self) }
@c func softNot32(_ s: State, _ o: MicroOp) { return unary(s, o, Complement.self, UInt32.self) }
@c func softNot64(_ s: State, _ o: MicroOp) { return unary(s, o, Complement.self, UInt64.self) }
@c func softNeg8(_ s: State, _ o: MicroOp) { return unary(s, o, Neg.self, UInt8.self) }
@c func softNeg16(_ s: State, _ o: MicroOp) { return unary(s, o, Neg.self, UInt16.self) }
@c func softNeg32(_ s: State, _ o: MicroOp) { return unary(s, o, Neg.self, UInt32.self) }
@c func softNeg64(_ s: State, _ o: MicroOp) { return unary(s, o, Neg.self, UInt64.self) }
@c func softRol8(_ s: State, _ o: MicroOp) { return shift(s, o, Rol.self, UInt8.self) }
@c func softRol16(_ s: State, _ o: MicroOp) { return shift(s, o, Rol.self, UInt16.self) }
@c func softRol32(_ s: State, _ o: MicroOp) { return shift(s, o, Rol.self, UInt32.self) }
@c func softRol64(_ s: State, _ o: MicroOp) { return shift(s, o, Rol.self, UInt64.self) }
@c func softRor8(_ s: State, _ o: MicroOp) { return shift(s, o, Ror.self, UInt8.self) }
@c func softRor16(_ s: State, _ o: MicroOp) { return shift(s, o, Ror.self, UInt16.self) }
@c func softRor32(_ s: State, _ o: MicroOp) { return shift(s, o, Ror.self, UInt32.self) }
@c func softRor64(_ s: State, _ o: MicroOp) { return shift(s, o, Ror.self, UInt64.self) }
@c func softRcl8(_ s: State, _ o: MicroOp) { return shift(s, o, Rcl.self, UInt8.self) }
@c func softRcl16(_ s: State, _ o: MicroOp) { return shift(s, o, Rcl.self, UInt16.self) }
@c func softRcl32(_ s: State, _ o: MicroOp) { return shift(s, o, Rcl.self, UInt32.self) }
@c func softRcl64(_ s: State, _ o: MicroOp) { return shift(s, o, Rcl.self, UInt64.self) }
@c func softRcr8(_ s: State, _ o: MicroOp) { return shift(s, o, Rcr.self, UInt8.self) }
@c func softRcr16(_ s: State, _ o: MicroOp) { return shift(s, o, Rcr.self, UInt16.self) }
@c func softRcr32(_ s: State, _ o: MicroOp) { return shift(s, o, Rcr.self, UInt32.self) }
@c func softRcr64(_ s: State, _ o: MicroOp) { return shift(s, o, Rcr.self, UInt64.self) }
@c func softShl8(_ s: State, _ o: MicroOp) { return shift(s, o, Shl.self, UInt8.self) }
@c func softShl16(_ s: State, _ o: MicroOp) { return shift(s, o, Shl.self, UInt16.self) }
@c func softShl32(_ s: State, _ o: MicroOp) { return shift(s, o, Shl.self, UInt32.self) }
@c func softShl64(_ s: State, _ o: MicroOp) { return shift(s, o, Shl.self, UInt64.self) }
@c func softShr8(_ s: State, _ o: MicroOp) { return shift(s, o, Shr.self, UInt8.self) }
@c func softShr16(_ s: State, _ o: MicroOp) { return shift(s, o, Shr.self, UInt16.self) }
@c func softShr32(_ s: State, _ o: MicroOp) { return shift(s, o, Shr.self, UInt32.self) }
@c func softShr64(_ s: State, _ o: MicroOp) { return shift(s, o, Shr.self, UInt64.self) }
@c func softSar8(_ s: State, _ o: MicroOp) { return shift(s, o, Sar.self, UInt8.self) }
@c func softSar16(_ s: State, _ o: MicroOp) { return shift(s, o, Sar.self, UInt16.self) }
@c func softSar32(_ s: State, _ o: MicroOp) { return shift(s, o, Sar.self, UInt32.self) }
@c func softSar64(_ s: State, _ o: MicroOp) { return shift(s, o, Sar.self, UInt64.self) }

/// Handlers by operand size (8, 16, 32, 64 bits).
struct SizedHandlers {
  let handlers: (soft_handler, soft_handler, soft_handler, soft_handler)

  init(_ byte: soft_handler, _ word: soft_handler, _ doubleword: soft_handler, _ quadword: soft_handler) {
    handlers = (byte, word, doubleword, quadword)
  }

  static var inc: SizedHandlers { SizedHandlers(softInc8, softInc16, softInc32, softInc64) }
  static var dec: SizedHandlers { SizedHandlers(softDec8, softDec16, softDec32, softDec64) }
  static var not: SizedHandlers { SizedHandlers(softNot8, softNot16, softNot32, softNot64) }
  static var neg: SizedHandlers { SizedHandlers(softNeg8, softNeg16, softNeg32, softNeg64) }
  static var rol: SizedHandlers { SizedHandlers(softRol8, softRol16, softRol32, softRol64) }
  static var ror: SizedHandlers { SizedHandlers(softRor8, softRor16, softRor32, softRor64) }
  static var rcl: SizedHandlers { SizedHandlers(softRcl8, softRcl16, softRcl32, softRcl64) }
  static var rcr: SizedHandlers { SizedHandlers(softRcr8, softRcr16, softRcr32, softRcr64) }
  static var shl: SizedHandlers { SizedHandlers(softShl8, softShl16, softShl32, softShl64) }
  static var shr: SizedHandlers { SizedHandlers(softShr8, softShr16, softShr32, softShr64) }
  static var sar: SizedHandlers { SizedHandlers(softSar8, softSar16, softSar32, softSar64) }
}
