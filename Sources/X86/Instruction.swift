/// How code is decoded: CS.D and whether the segment is 64-bit (SDM vol. 1, 3.6).
public enum DecodeMode: UInt8, Sendable, CaseIterable {
  /// Real-address mode, virtual-8086 mode, and code segments with D = 0.
  case bits16
  /// Code segments with D = 1.
  case bits32
  /// 64-bit mode: IA32_EFER.LMA = 1 and CS.L = 1.
  case bits64
}

/// The register files an operand can name.
public enum RegisterClass: UInt8, Sendable {
  case none
  /// RAX to R15: the low `size` bytes of register `number`.
  case general
  /// AH, CH, DH, BH: bits 15:8 of register `number` (0 to 3).
  case highByte
  /// ES, CS, SS, DS, FS, GS.
  case segment
  case control
  case debug
  /// ST(i).
  case x87
  case mmx
  case xmm
}

/// One operand of an instruction. What an instruction has at most once (the parts of an address, an immediate) is in
/// `Instruction`.
public struct Operand: Sendable, Equatable {
  public enum Kind: UInt8, Sendable {
    case none
    /// Register `number` of `registerClass`.
    case register
    /// Memory at `Instruction.segment`, `base`, `index`, `scale`, `displacement`.
    case memory
    /// `Instruction.immediate`.
    case immediate
    /// `Instruction.secondImmediate`: ENTER's nesting level.
    case secondImmediate
    /// A branch to the next instruction's address plus `Instruction.immediate`.
    case relative
    /// A far pointer: `Instruction.secondImmediate` is the selector, `immediate` the offset.
    case farPointer
    /// Memory at `Instruction.segment`:rSI.
    case stringSource
    /// Memory at ES:rDI.
    case stringDestination
  }

  public var kind = Kind.none
  public var registerClass = RegisterClass.none
  public var number: UInt8 = 0
  /// Bytes; 0 where the instruction alone decides (LEA, FXSAVE, FNSTENV).
  public var size: UInt8 = 0

  public init() {}
}

/// One decoded instruction: plain data, without references.
public struct Instruction: Sendable {
  /// What stood before the opcode.
  public struct Prefixes: OptionSet, Sendable {
    public var rawValue: UInt16
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    public static let lock = Prefixes(rawValue: 1 << 0)
    /// F3 was the last of F2 and F3: REP, REPE, or a mandatory prefix.
    public static let rep = Prefixes(rawValue: 1 << 1)
    /// F2 was the last of F2 and F3: REPNE, or a mandatory prefix.
    public static let repne = Prefixes(rawValue: 1 << 2)
    public static let operandSize = Prefixes(rawValue: 1 << 3)
    public static let addressSize = Prefixes(rawValue: 1 << 4)
    /// A segment override that counts.
    public static let segment = Prefixes(rawValue: 1 << 5)
    public static let rex = Prefixes(rawValue: 1 << 6)
    public static let vex = Prefixes(rawValue: 1 << 7)
    /// F2, F3 or 66 is part of the opcode.
    public static let mandatory = Prefixes(rawValue: 1 << 8)
  }

  /// `base` and `index`: no register.
  public static let noRegister: UInt8 = 0xFF
  /// `base`: the address of the next instruction.
  public static let instructionPointer: UInt8 = 0x10

  /// Sign-extended; an address's offset in MOV's moffs forms. The effective address wraps at `addressSize`.
  public var displacement: Int64 = 0
  /// Sign-extended from its encoding, except a far pointer's offset.
  public var immediate: Int64 = 0
  /// Validity, privilege and features, from the opcode tables.
  public var attributes: InstructionAttributes = []
  public var operation = Operation.invalid
  /// Which row of the opcode tables; two encodings never share one.
  public var row: UInt16 = 0
  public var prefixes: Prefixes = []
  public var secondImmediate: UInt16 = 0
  public var operands = InlineArray<4, Operand>(repeating: Operand())
  /// General register, `instructionPointer` or `noRegister`.
  public var base = Instruction.noRegister
  /// General register or `noRegister`.
  public var index = Instruction.noRegister
  /// 1, 2, 4 or 8.
  public var scale: UInt8 = 1
  /// The segment of the memory operand, by default or by override: 0 ES, 1 CS, 2 SS, 3 DS, 4 FS, 5 GS.
  public var segment: UInt8 = 3
  /// Bytes: 2, 4 or 8, after d64 and f64. The size of a branch target, too.
  public var operandSize: UInt8 = 0
  /// Bytes: 2, 4 or 8.
  public var addressSize: UInt8 = 0
  /// Bytes: 1 to 15.
  public var length: UInt8 = 0
  /// The opcode's last byte (the low four bits of Jcc, SETcc, CMOVcc are the condition).
  public var opcode: UInt8 = 0
  /// 0 where there is none.
  public var modRM: UInt8 = 0
  /// W R X B in bits 3 to 0, from REX or VEX.
  public var rex: UInt8 = 0
  /// The last segment prefix, whether or not it counts (3E is also NOTRACK): its byte, or 0.
  public var segmentPrefix: UInt8 = 0
  public var mode = DecodeMode.bits64

  public init() {}

  /// tttn (SDM vol. 2, B.1.4.7).
  public var condition: UInt8 { opcode & 15 }
}

/// What came of decoding.
public enum DecodeResult: Sendable {
  case instruction(Instruction)
  /// The bytes end inside the instruction: give those of the next page too.
  case needsMoreBytes
  /// #UD. The length is what the decoder consumed.
  case undefined(length: Int)
  /// More than 15 bytes: #GP(0).
  case tooLong
}

/// `DecodeResult` without the instruction.
public enum DecodeStatus: Sendable, Equatable {
  case instruction, needsMoreBytes, undefined, tooLong
}
