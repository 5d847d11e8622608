/// An operand code of SDM vol. 2, appendix A.2, compiled.
///
/// Letters: A far pointer; B VEX.vvvv; C, D control and debug register; E general register or memory; G general
/// register by ModRM.reg; I immediate; J branch displacement; M memory only; N, P, Q MMX register by r/m, by reg, by
/// r/m or memory; O offset; R general register by r/m only; S segment register; U, V, W XMM register by r/m, by reg, by
/// r/m or memory; X, Y string source and destination; Z general register in the opcode's low bits.
/// Two letters joined by `/` give register and memory different sizes: `Rv/Mw`.
///
/// Sizes: a two of v; b 1; d, ss 4; dq, x 16; p far pointer; q, sd 8; r 4, or 8 in 64-bit mode; s pseudo-descriptor;
/// t 10; v operand size; w 2; y 4, or 8 with operand size 64; z operand size but at most 4. `Ibs` is a byte
/// sign-extended to the operand size; no size: the instruction decides.
struct OperandSpec {
  enum Kind: UInt8 {
    case none, registerField, registerOrMemory, opcodeRegister, vexRegister, fixedRegister
    case immediate, signedByte, one, relative, memoryOffset, farPointer
    case stringSource, stringDestination, translation
  }

  /// A number of bytes up to 127, or a rule that gives it.
  struct Size {
    var code: UInt8
    static let operand = Size(code: 0x80)
    static let operandAtMost4 = Size(code: 0x81)
    static let operandAtLeast4 = Size(code: 0x82)
    static let farPointer = Size(code: 0x83)
    static let pair = Size(code: 0x84)
    static let pseudoDescriptor = Size(code: 0x85)
    static let native = Size(code: 0x86)

    @inline(__always)
    func bytes(operandSize: UInt8, is64: Bool) -> UInt8 {
      guard code >= 0x80 else { return code }
      switch code {
      case 0x80: return operandSize
      case 0x81: return min(operandSize, 4)
      case 0x82: return max(operandSize, 4)
      case 0x83: return operandSize &+ 2
      case 0x84: return operandSize &* 2
      case 0x85: return is64 ? 10 : 6
      default: return is64 ? 8 : 4
      }
    }
  }

  /// Which ModRM.mod an operand asks for.
  enum Form { case any, memory, register }

  var kind = Kind.none
  var registerClass = RegisterClass.none
  var number: UInt8 = 0
  var registerSize = Size(code: 0)
  var memorySize = Size(code: 0)
  private(set) var form = Form.any

  private init(
    _ kind: Kind, _ registerClass: RegisterClass = .none, size: Size = Size(code: 0), number: UInt8 = 0,
    registerSize: Size? = nil, form: Form = .any
  ) {
    self.kind = kind
    self.registerClass = registerClass
    self.number = number
    self.registerSize = registerSize ?? size
    memorySize = size
    self.form = form
  }

  static let none = OperandSpec(.none)

  /// Reads one operand code; nil when it is none.
  init?(_ text: ASCIISlice) {
    if let slash = text.firstIndex(of: "/") {
      guard let register = OperandSpec(text[0..<slash]), let memory = OperandSpec(text[(slash + 1)..<text.count])
      else { return nil }
      self.init(
        .registerOrMemory, register.registerClass, size: memory.memorySize, registerSize: register.registerSize)
      return
    }
    // Names come last: no name is a letter and a size.
    guard let size = Self.size(text[1..<text.count]) else {
      guard let spec = Self.named(text) else { return nil }
      self = spec
      return
    }
    let xmm = Size(code: 16)
    let mmx = Size(code: 8)
    switch UnicodeScalar(text[0]) {
    case "A": self.init(.farPointer, size: size)
    case "B": self.init(.vexRegister, .general, size: size)
    case "C": self.init(.registerField, .control, size: size)
    case "D": self.init(.registerField, .debug, size: size)
    case "E": self.init(.registerOrMemory, .general, size: size)
    case "G": self.init(.registerField, .general, size: size)
    case "I": self.init(.immediate, size: size)
    case "J": self.init(.relative, size: size)
    case "M": self.init(.registerOrMemory, .general, size: size, form: .memory)
    case "N": self.init(.registerOrMemory, .mmx, size: size, registerSize: mmx, form: .register)
    case "O": self.init(.memoryOffset, size: size)
    case "P": self.init(.registerField, .mmx, size: size, registerSize: mmx)
    case "Q": self.init(.registerOrMemory, .mmx, size: size, registerSize: mmx)
    case "R": self.init(.registerOrMemory, .general, size: size, form: .register)
    case "S": self.init(.registerField, .segment, size: size)
    case "U": self.init(.registerOrMemory, .xmm, size: size, registerSize: xmm, form: .register)
    case "V": self.init(.registerField, .xmm, size: size, registerSize: xmm)
    case "W": self.init(.registerOrMemory, .xmm, size: size, registerSize: xmm)
    case "X": self.init(.stringSource, size: size)
    case "Y": self.init(.stringDestination, size: size)
    case "Z": self.init(.opcodeRegister, .general, size: size)
    default:
      guard let spec = Self.named(text) else { return nil }
      self = spec
    }
  }

  private static func named(_ text: ASCIISlice) -> OperandSpec? {
    for (name, spec) in named where text == name { return spec }
    return nil
  }

  private static func size(_ text: ASCIISlice) -> Size? {
    for (name, size) in sizes where text == name { return size }
    return nil
  }

  private static let sizes: [(StaticString, Size)] = [
    ("v", .operand), ("b", Size(code: 1)), ("x", Size(code: 16)), ("q", Size(code: 8)), ("d", Size(code: 4)),
    ("z", .operandAtMost4), ("y", .operandAtLeast4), ("w", Size(code: 2)), ("ss", Size(code: 4)),
    ("sd", Size(code: 8)), ("t", Size(code: 10)), ("r", .native), ("p", .farPointer), ("s", .pseudoDescriptor),
    ("a", .pair), ("dq", Size(code: 16)), ("", Size(code: 0)),
  ]

  private static let named: [(StaticString, OperandSpec)] = [
    ("AL", OperandSpec(.fixedRegister, .general, size: Size(code: 1))),
    ("AX", OperandSpec(.fixedRegister, .general, size: Size(code: 2))),
    ("rAX", OperandSpec(.fixedRegister, .general, size: .operand)),
    ("zAX", OperandSpec(.fixedRegister, .general, size: .operandAtMost4)),
    ("CL", OperandSpec(.fixedRegister, .general, size: Size(code: 1), number: 1)),
    ("DX", OperandSpec(.fixedRegister, .general, size: Size(code: 2), number: 2)),
    ("ES", OperandSpec(.fixedRegister, .segment, size: .operand, number: 0)),
    ("CS", OperandSpec(.fixedRegister, .segment, size: .operand, number: 1)),
    ("SS", OperandSpec(.fixedRegister, .segment, size: .operand, number: 2)),
    ("DS", OperandSpec(.fixedRegister, .segment, size: .operand, number: 3)),
    ("FS", OperandSpec(.fixedRegister, .segment, size: .operand, number: 4)),
    ("GS", OperandSpec(.fixedRegister, .segment, size: .operand, number: 5)),
    ("ST", OperandSpec(.fixedRegister, .x87, size: Size(code: 10))),
    ("STi", OperandSpec(.registerOrMemory, .x87, size: Size(code: 10), form: .register)),
    ("XMM0", OperandSpec(.fixedRegister, .xmm, size: Size(code: 16))),
    ("Ibs", OperandSpec(.signedByte, size: .operand)),
    ("1", OperandSpec(.one, size: Size(code: 1))),
    ("BBb", OperandSpec(.translation, size: Size(code: 1))),
  ]
}
