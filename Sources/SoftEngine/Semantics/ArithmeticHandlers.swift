import CSoftCPU

// One line for each operation, operand size and form; the bodies are in Arithmetic.swift.

@c func softAddRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Add.self, UInt8.self) }
@c func softAddRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Add.self, UInt8.self) }
@c func softAddRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Add.self, UInt16.self) }
@c func softAddRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Add.self, UInt16.self) }
@c func softAddRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Add.self, UInt32.self) }
@c func softAddRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Add.self, UInt32.self) }
@c func softAddRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Add.self, UInt64.self) }
@c func softAddRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Add.self, UInt64.self) }
@c func softOrRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Or.self, UInt8.self) }
@c func softOrRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Or.self, UInt8.self) }
@c func softOrRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Or.self, UInt16.self) }
@c func softOrRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Or.self, UInt16.self) }
@c func softOrRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Or.self, UInt32.self) }
@c func softOrRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Or.self, UInt32.self) }
@c func softOrRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Or.self, UInt64.self) }
@c func softOrRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Or.self, UInt64.self) }
@c func softAdcRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Adc.self, UInt8.self) }
@c func softAdcRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Adc.self, UInt8.self) }
@c func softAdcRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Adc.self, UInt16.self) }
@c func softAdcRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Adc.self, UInt16.self) }
@c func softAdcRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Adc.self, UInt32.self) }
@c func softAdcRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Adc.self, UInt32.self) }
@c func softAdcRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Adc.self, UInt64.self) }
@c func softAdcRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Adc.self, UInt64.self) }
@c func softSbbRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sbb.self, UInt8.self) }
@c func softSbbRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sbb.self, UInt8.self) }
@c func softSbbRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sbb.self, UInt16.self) }
@c func softSbbRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sbb.self, UInt16.self) }
@c func softSbbRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sbb.self, UInt32.self) }
@c func softSbbRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sbb.self, UInt32.self) }
@c func softSbbRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sbb.self, UInt64.self) }
@c func softSbbRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sbb.self, UInt64.self) }
@c func softAndRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, And.self, UInt8.self) }
@c func softAndRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, And.self, UInt8.self) }
@c func softAndRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, And.self, UInt16.self) }
@c func softAndRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, And.self, UInt16.self) }
@c func softAndRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, And.self, UInt32.self) }
@c func softAndRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, And.self, UInt32.self) }
@c func softAndRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, And.self, UInt64.self) }
@c func softAndRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, And.self, UInt64.self) }
@c func softSubRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sub.self, UInt8.self) }
@c func softSubRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sub.self, UInt8.self) }
@c func softSubRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sub.self, UInt16.self) }
@c func softSubRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sub.self, UInt16.self) }
@c func softSubRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sub.self, UInt32.self) }
@c func softSubRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sub.self, UInt32.self) }
@c func softSubRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Sub.self, UInt64.self) }
@c func softSubRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Sub.self, UInt64.self) }
@c func softXorRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Xor.self, UInt8.self) }
@c func softXorRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Xor.self, UInt8.self) }
@c func softXorRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Xor.self, UInt16.self) }
@c func softXorRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Xor.self, UInt16.self) }
@c func softXorRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Xor.self, UInt32.self) }
@c func softXorRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Xor.self, UInt32.self) }
@c func softXorRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Xor.self, UInt64.self) }
@c func softXorRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Xor.self, UInt64.self) }
@c func softCmpRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Cmp.self, UInt8.self) }
@c func softCmpRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Cmp.self, UInt8.self) }
@c func softCmpRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Cmp.self, UInt16.self) }
@c func softCmpRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Cmp.self, UInt16.self) }
@c func softCmpRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Cmp.self, UInt32.self) }
@c func softCmpRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Cmp.self, UInt32.self) }
@c func softCmpRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Cmp.self, UInt64.self) }
@c func softCmpRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Cmp.self, UInt64.self) }
@c func softTestRR8(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Test.self, UInt8.self) }
@c func softTestRI8(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Test.self, UInt8.self) }
@c func softTestRR16(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Test.self, UInt16.self) }
@c func softTestRI16(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Test.self, UInt16.self) }
@c func softTestRR32(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Test.self, UInt32.self) }
@c func softTestRI32(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Test.self, UInt32.self) }
@c func softTestRR64(_ s: State, _ o: MicroOp) { return binaryRegister(s, o, Test.self, UInt64.self) }
@c func softTestRI64(_ s: State, _ o: MicroOp) { return binaryImmediate(s, o, Test.self, UInt64.self) }

/// Handlers of a two-operand operation by operand size (8, 16, 32, 64 bits).
struct BinaryHandlers {
  let register: (soft_handler, soft_handler, soft_handler, soft_handler)
  let immediate: (soft_handler, soft_handler, soft_handler, soft_handler)

  static var add: BinaryHandlers {
    BinaryHandlers(
      register: (softAddRR8, softAddRR16, softAddRR32, softAddRR64),
      immediate: (softAddRI8, softAddRI16, softAddRI32, softAddRI64))
  }
  static var or: BinaryHandlers {
    BinaryHandlers(
      register: (softOrRR8, softOrRR16, softOrRR32, softOrRR64),
      immediate: (softOrRI8, softOrRI16, softOrRI32, softOrRI64))
  }
  static var adc: BinaryHandlers {
    BinaryHandlers(
      register: (softAdcRR8, softAdcRR16, softAdcRR32, softAdcRR64),
      immediate: (softAdcRI8, softAdcRI16, softAdcRI32, softAdcRI64))
  }
  static var sbb: BinaryHandlers {
    BinaryHandlers(
      register: (softSbbRR8, softSbbRR16, softSbbRR32, softSbbRR64),
      immediate: (softSbbRI8, softSbbRI16, softSbbRI32, softSbbRI64))
  }
  static var and: BinaryHandlers {
    BinaryHandlers(
      register: (softAndRR8, softAndRR16, softAndRR32, softAndRR64),
      immediate: (softAndRI8, softAndRI16, softAndRI32, softAndRI64))
  }
  static var sub: BinaryHandlers {
    BinaryHandlers(
      register: (softSubRR8, softSubRR16, softSubRR32, softSubRR64),
      immediate: (softSubRI8, softSubRI16, softSubRI32, softSubRI64))
  }
  static var xor: BinaryHandlers {
    BinaryHandlers(
      register: (softXorRR8, softXorRR16, softXorRR32, softXorRR64),
      immediate: (softXorRI8, softXorRI16, softXorRI32, softXorRI64))
  }
  static var cmp: BinaryHandlers {
    BinaryHandlers(
      register: (softCmpRR8, softCmpRR16, softCmpRR32, softCmpRR64),
      immediate: (softCmpRI8, softCmpRI16, softCmpRI32, softCmpRI64))
  }
  static var test: BinaryHandlers {
    BinaryHandlers(
      register: (softTestRR8, softTestRR16, softTestRR32, softTestRR64),
      immediate: (softTestRI8, softTestRI16, softTestRI32, softTestRI64))
  }
}
