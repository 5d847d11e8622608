import CSoftCPU

// One line for each operation and size; the bodies are in Moves.swift and Stack.swift.

@c func softMoveRegister8(_ s: State, _ o: MicroOp) { return moveRegister(s, o, UInt8.self) }
@c func softMoveRegister16(_ s: State, _ o: MicroOp) { return moveRegister(s, o, UInt16.self) }
@c func softMoveRegister32(_ s: State, _ o: MicroOp) { return moveRegister(s, o, UInt32.self) }
@c func softMoveRegister64(_ s: State, _ o: MicroOp) { return moveRegister(s, o, UInt64.self) }
@c func softMoveImmediate8(_ s: State, _ o: MicroOp) { return moveImmediate(s, o, UInt8.self) }
@c func softMoveImmediate16(_ s: State, _ o: MicroOp) { return moveImmediate(s, o, UInt16.self) }
@c func softMoveImmediate32(_ s: State, _ o: MicroOp) { return moveImmediate(s, o, UInt32.self) }
@c func softMoveImmediate64(_ s: State, _ o: MicroOp) { return moveImmediate(s, o, UInt64.self) }
@c func softExchange8(_ s: State, _ o: MicroOp) { return exchange(s, o, UInt8.self) }
@c func softExchange16(_ s: State, _ o: MicroOp) { return exchange(s, o, UInt16.self) }
@c func softExchange32(_ s: State, _ o: MicroOp) { return exchange(s, o, UInt32.self) }
@c func softExchange64(_ s: State, _ o: MicroOp) { return exchange(s, o, UInt64.self) }
@c func softMoveIf8(_ s: State, _ o: MicroOp) { return moveIf(s, o, UInt8.self) }
@c func softMoveIf16(_ s: State, _ o: MicroOp) { return moveIf(s, o, UInt16.self) }
@c func softMoveIf32(_ s: State, _ o: MicroOp) { return moveIf(s, o, UInt32.self) }
@c func softMoveIf64(_ s: State, _ o: MicroOp) { return moveIf(s, o, UInt64.self) }
@c func softMultiply8(_ s: State, _ o: MicroOp) { return multiply(s, o, UInt8.self) }
@c func softMultiply16(_ s: State, _ o: MicroOp) { return multiply(s, o, UInt16.self) }
@c func softMultiply32(_ s: State, _ o: MicroOp) { return multiply(s, o, UInt32.self) }
@c func softMultiply64(_ s: State, _ o: MicroOp) { return multiply(s, o, UInt64.self) }
@c func softMultiplyImmediate8(_ s: State, _ o: MicroOp) { return multiplyImmediate(s, o, UInt8.self) }
@c func softMultiplyImmediate16(_ s: State, _ o: MicroOp) { return multiplyImmediate(s, o, UInt16.self) }
@c func softMultiplyImmediate32(_ s: State, _ o: MicroOp) { return multiplyImmediate(s, o, UInt32.self) }
@c func softMultiplyImmediate64(_ s: State, _ o: MicroOp) { return multiplyImmediate(s, o, UInt64.self) }
@c func softSignFill8(_ s: State, _ o: MicroOp) { return signFill(s, o, UInt8.self) }
@c func softSignFill16(_ s: State, _ o: MicroOp) { return signFill(s, o, UInt16.self) }
@c func softSignFill32(_ s: State, _ o: MicroOp) { return signFill(s, o, UInt32.self) }
@c func softSignFill64(_ s: State, _ o: MicroOp) { return signFill(s, o, UInt64.self) }
@c func softZeroExtend8To16(_ s: State, _ o: MicroOp) { return extend(s, o, UInt8.self, UInt16.self) }
@c func softSignExtend8To16(_ s: State, _ o: MicroOp) { return extend(s, o, Int8.self, UInt16.self) }
@c func softZeroExtend8To32(_ s: State, _ o: MicroOp) { return extend(s, o, UInt8.self, UInt32.self) }
@c func softSignExtend8To32(_ s: State, _ o: MicroOp) { return extend(s, o, Int8.self, UInt32.self) }
@c func softZeroExtend8To64(_ s: State, _ o: MicroOp) { return extend(s, o, UInt8.self, UInt64.self) }
@c func softSignExtend8To64(_ s: State, _ o: MicroOp) { return extend(s, o, Int8.self, UInt64.self) }
@c func softZeroExtend16To32(_ s: State, _ o: MicroOp) { return extend(s, o, UInt16.self, UInt32.self) }
@c func softSignExtend16To32(_ s: State, _ o: MicroOp) { return extend(s, o, Int16.self, UInt32.self) }
@c func softZeroExtend16To64(_ s: State, _ o: MicroOp) { return extend(s, o, UInt16.self, UInt64.self) }
@c func softSignExtend16To64(_ s: State, _ o: MicroOp) { return extend(s, o, Int16.self, UInt64.self) }
@c func softZeroExtend32To64(_ s: State, _ o: MicroOp) { return extend(s, o, UInt32.self, UInt64.self) }
@c func softSignExtend32To64(_ s: State, _ o: MicroOp) { return extend(s, o, Int32.self, UInt64.self) }
@c func softAddress16(_ s: State, _ o: MicroOp) { return address(s, o, UInt16.self) }
@c func softPushSegmented16(_ s: State, _ o: MicroOp) { return push(s, o, Segmented.self, UInt16.self) }
@c func softPopSegmented16(_ s: State, _ o: MicroOp) { return pop(s, o, Segmented.self, UInt16.self) }
@c func softAddress32(_ s: State, _ o: MicroOp) { return address(s, o, UInt32.self) }
@c func softPushSegmented32(_ s: State, _ o: MicroOp) { return push(s, o, Segmented.self, UInt32.self) }
@c func softPopSegmented32(_ s: State, _ o: MicroOp) { return pop(s, o, Segmented.self, UInt32.self) }
@c func softAddress64(_ s: State, _ o: MicroOp) { return address(s, o, UInt64.self) }
@c func softPushFlat64(_ s: State, _ o: MicroOp) { return push(s, o, Flat.self, UInt64.self) }
@c func softPushSegmented64(_ s: State, _ o: MicroOp) { return push(s, o, Segmented.self, UInt64.self) }
@c func softPopFlat64(_ s: State, _ o: MicroOp) { return pop(s, o, Flat.self, UInt64.self) }
@c func softPopSegmented64(_ s: State, _ o: MicroOp) { return pop(s, o, Segmented.self, UInt64.self) }

extension SizedHandlers {
  static var moveRegister: SizedHandlers {
    SizedHandlers(softMoveRegister8, softMoveRegister16, softMoveRegister32, softMoveRegister64)
  }
  static var moveImmediate: SizedHandlers {
    SizedHandlers(softMoveImmediate8, softMoveImmediate16, softMoveImmediate32, softMoveImmediate64)
  }
  static var exchange: SizedHandlers { SizedHandlers(softExchange8, softExchange16, softExchange32, softExchange64) }
  static var moveIf: SizedHandlers { SizedHandlers(softMoveIf8, softMoveIf16, softMoveIf32, softMoveIf64) }
  static var multiply: SizedHandlers { SizedHandlers(softMultiply8, softMultiply16, softMultiply32, softMultiply64) }
  static var multiplyImmediate: SizedHandlers {
    SizedHandlers(softMultiplyImmediate8, softMultiplyImmediate16, softMultiplyImmediate32, softMultiplyImmediate64)
  }
  static var signFill: SizedHandlers { SizedHandlers(softSignFill8, softSignFill16, softSignFill32, softSignFill64) }
  static var address: SizedHandlers { SizedHandlers(softAddress16, softAddress16, softAddress32, softAddress64) }
  static var push: SizedHandlers {
    SizedHandlers(softPushSegmented16, softPushSegmented16, softPushSegmented32, softPushSegmented64)
  }
  static var pop: SizedHandlers {
    SizedHandlers(softPopSegmented16, softPopSegmented16, softPopSegmented32, softPopSegmented64)
  }
}

/// The handler that extends a register; nil: no such sizes (in bytes).
func extensionHandler(signed: Bool, from: UInt8, to: UInt8) -> soft_handler? {
  switch (from, to) {
  case (1, 2): signed ? softSignExtend8To16 : softZeroExtend8To16
  case (1, 4): signed ? softSignExtend8To32 : softZeroExtend8To32
  case (1, 8): signed ? softSignExtend8To64 : softZeroExtend8To64
  case (2, 4): signed ? softSignExtend16To32 : softZeroExtend16To32
  case (2, 8): signed ? softSignExtend16To64 : softZeroExtend16To64
  case (4, 8): signed ? softSignExtend32To64 : softZeroExtend32To64
  default: nil
  }
}
