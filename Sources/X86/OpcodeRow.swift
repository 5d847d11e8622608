/// A line of the opcode tables, in the manual's notation.
struct OpcodeRow: Sendable {
  /// Prefixes, opcode and ModRM constraint as in the "Opcode" column of SDM vol. 2 (section 3.1.1.1):
  /// an optional `NP`, `66`, `F3`, `F2` or `NFx` (neither F2 nor F3), or a VEX field; the opcode bytes; `+r`, `+cc` or
  /// `+i`; `/r`, `/digit` or a fixed ModRM byte; `mod3` where only the register form exists and no operand says so;
  /// `o16`, `o32`, `o64` where the operand size selects the instruction.
  let encoding: StaticString
  let operation: Operation
  /// Operand codes of SDM vol. 2, appendix A.2, separated by commas; `OperandSpec` lists them.
  let operands: StaticString
  let attributes: InstructionAttributes
}

extension OpcodeMap {
  /// Its rows, in the order of their numbers.
  var rows: [[OpcodeRow]] {
    switch self {
    case .oneByte: [OpcodeRow.oneByteMap]
    case .map0F: [OpcodeRow.twoByteMap, OpcodeRow.twoByteMapSIMD]
    case .map0F38: [OpcodeRow.map0F38]
    case .map0F3A: [OpcodeRow.map0F3A]
    case .vex0F38: [OpcodeRow.vex0F38]
    case .vex0F3A: [OpcodeRow.vex0F3A]
    case .x87: [OpcodeRow.x87Map]
    }
  }
}

func row(
  _ encoding: StaticString, _ operation: Operation, _ operands: StaticString = "",
  _ attributes: InstructionAttributes = []
) -> OpcodeRow {
  OpcodeRow(encoding: encoding, operation: operation, operands: operands, attributes: attributes)
}

/// What the tables know of an instruction beside its encoding: where it is valid, who may execute it, and the CPUID
/// features without which it is undefined.
public struct InstructionAttributes: OptionSet, Sendable {
  public var rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Invalid in 64-bit mode.
  public static let i64 = InstructionAttributes(rawValue: 1 << 0)
  /// Valid in 64-bit mode only.
  public static let o64 = InstructionAttributes(rawValue: 1 << 1)
  /// In 64-bit mode the operand size defaults to 64 bits and cannot be 32.
  public static let d64 = InstructionAttributes(rawValue: 1 << 2)
  /// In 64-bit mode the operand size is 64 bits whatever the prefixes.
  public static let f64 = InstructionAttributes(rawValue: 1 << 3)
  /// LOCK is permitted when the destination is memory.
  public static let lockable = InstructionAttributes(rawValue: 1 << 4)
  /// #GP(0) unless CPL is 0.
  public static let cpl0 = InstructionAttributes(rawValue: 1 << 5)
  /// Subject to IOPL and the I/O permission bitmap.
  public static let io = InstructionAttributes(rawValue: 1 << 6)
  /// Sensitive to IOPL, in virtual-8086 mode or always.
  public static let iopl = InstructionAttributes(rawValue: 1 << 7)
  /// #UD in real-address and virtual-8086 mode (SYSENTER and SYSEXIT: #GP in real-address mode).
  public static let protected = InstructionAttributes(rawValue: 1 << 8)
  /// ModRM.mod is ignored: r/m is always a register.
  public static let modIgnored = InstructionAttributes(rawValue: 1 << 9)
  /// Without the feature the mandatory prefix is ignored and the instruction is that of the row without it.
  public static let prefixIgnorable = InstructionAttributes(rawValue: 1 << 10)

  /// The part that is features.
  public static let allFeatures = InstructionAttributes(rawValue: ~0 << firstFeature)
  private static let firstFeature: UInt64 = 16

  private static func feature(_ number: UInt64) -> InstructionAttributes {
    InstructionAttributes(rawValue: 1 << (firstFeature + number))
  }

  // Named as CPUID's flags (SDM vol. 2, CPUID).
  public static let fpu = feature(0)
  public static let tsc = feature(1)
  public static let msr = feature(2)
  public static let cx8 = feature(3)
  public static let sep = feature(4)
  public static let cmov = feature(5)
  public static let clfsh = feature(6)
  public static let mmx = feature(7)
  public static let fxsr = feature(8)
  public static let sse = feature(9)
  public static let sse2 = feature(10)
  public static let sse3 = feature(11)
  public static let ssse3 = feature(12)
  public static let sse41 = feature(13)
  public static let sse42 = feature(14)
  public static let popcnt = feature(15)
  public static let cx16 = feature(16)
  public static let movbe = feature(17)
  public static let aes = feature(18)
  public static let pclmulqdq = feature(19)
  public static let xsave = feature(20)
  public static let xsaveopt = feature(21)
  public static let xsavec = feature(22)
  public static let xsaves = feature(23)
  public static let rdrand = feature(24)
  public static let rdseed = feature(25)
  public static let monitor = feature(26)
  public static let fsgsbase = feature(27)
  public static let bmi1 = feature(28)
  public static let bmi2 = feature(29)
  public static let lzcnt = feature(30)
  public static let invpcid = feature(31)
  public static let smap = feature(32)
  public static let clflushopt = feature(33)
  public static let clwb = feature(34)
  public static let adx = feature(35)
  public static let sha = feature(36)
  public static let rdpid = feature(37)
  public static let pku = feature(38)
  public static let syscall = feature(39)
  public static let rdtscp = feature(40)
  public static let vmx = feature(41)
  public static let svm = feature(42)
}
