/// Decodes instructions of the CPU that has certain features. Any byte sequence has an outcome; nothing is allocated.
public struct Decoder: Sendable {
  private let missing: InstructionAttributes

  /// An instruction that needs a CPUID feature not among `features` is undefined, or is what older CPUs take it for
  /// (TZCNT, LZCNT).
  public init(features: InstructionAttributes = .allFeatures) {
    missing = InstructionAttributes.allFeatures.subtracting(features)
  }

  /// Decodes the instruction at the start of `bytes`. More than 15 bytes are never read.
  @inline(__always)
  public func decode(_ bytes: UnsafeRawBufferPointer, mode: DecodeMode) -> DecodeResult {
    var instruction = Instruction()
    switch decode(bytes, mode: mode, into: &instruction) {
    case .instruction: return .instruction(instruction)
    case .needsMoreBytes: return .needsMoreBytes
    case .undefined: return .undefined(length: Int(instruction.length))
    case .tooLong: return .tooLong
    }
  }

  /// Decodes into `instruction`, which must be new or one already decoded. After `.undefined` its length counts the
  /// bytes consumed; the rest means nothing unless the status is `.instruction`.
  public func decode(
    _ bytes: UnsafeRawBufferPointer, mode: DecodeMode, into instruction: inout Instruction
  ) -> DecodeStatus {
    var state = DecodeState(bytes, mode)
    instruction = Instruction()
    let isDefined = state.decode(into: &instruction, missing: missing)
    if state.reader.isExhausted {
      return state.reader.isAtLimit ? .tooLong : .needsMoreBytes
    }
    instruction.length = UInt8(truncatingIfNeeded: state.reader.offset)
    return isDefined ? .instruction : .undefined
  }
}

/// Reads code bytes in order. Behind the end it yields zeros and remembers.
// Safety: every load is preceded by a check against `count`, which is at most that of the caller's buffer.
struct CodeReader {
  /// The longest instruction (SDM vol. 2, 2.3.11).
  static let limit = 15

  private let start: UnsafeRawPointer?
  private let count: Int
  private(set) var offset = 0
  /// Something was read that is not there.
  private(set) var isExhausted = false

  @inline(__always)
  init(_ bytes: UnsafeRawBufferPointer) {
    start = bytes.baseAddress
    count = min(bytes.count, Self.limit)
  }

  /// More bytes would not help.
  var isAtLimit: Bool { count == Self.limit }

  @inline(__always)
  mutating func read<Value: FixedWidthInteger & BitwiseCopyable>(_ type: Value.Type) -> Value {
    let size = MemoryLayout<Value>.size
    guard size <= count &- offset, let start else {
      isExhausted = true
      return 0
    }
    defer { offset &+= size }
    return start.loadUnaligned(fromByteOffset: offset, as: type)
  }

  /// The next byte, which stays.
  @inline(__always)
  mutating func peek() -> UInt8 {
    guard offset < count, let start else {
      isExhausted = true
      return 0
    }
    return start.load(fromByteOffset: offset, as: UInt8.self)
  }
}

/// What is known while an instruction is being decoded.
struct DecodeState {
  var reader: CodeReader
  let mode: DecodeMode
  var key = OpcodeTable.Key()
  var prefixes: Instruction.Prefixes = []
  var rex: UInt8 = 0
  /// A segment override that counts, or `noSegment`.
  var override = DecodeState.noSegment
  var segmentPrefix: UInt8 = 0
  /// VEX.vvvv, inverted.
  var vexRegister: UInt8 = 0
  var usesVEXRegister = false
  /// An operand does not exist.
  var isUndefined = false
  var opcode: UInt8 = 0
  var modRM: UInt8 = 0

  static let noSegment: UInt8 = 0xFF

  @inline(__always)
  init(_ bytes: UnsafeRawBufferPointer, _ mode: DecodeMode) {
    reader = CodeReader(bytes)
    self.mode = mode
  }

  @inline(__always)
  var is64: Bool { mode == .bits64 }

  /// False: #UD.
  @inline(__always)
  mutating func decode(into instruction: inout Instruction, missing: InstructionAttributes) -> Bool {
    readPrefixes()
    var map = OpcodeMap.oneByte
    if opcode == 0x0F {
      map = readEscape()
    } else if opcode == 0xC4 || opcode == 0xC5 || opcode == 0x62 {
      // Outside 64-bit mode LES, LDS and BOUND with a register are VEX and EVEX.
      if is64 || reader.peek() >= 0xC0 {
        guard opcode != 0x62, let vexMap = readVEX() else { return false }
        map = vexMap
      }
    } else if opcode & 0xF8 == 0xD8 {
      map = .x87
    }
    let operandSize = readOperandSize()

    // With REX.B, 90 is XCHG R8 like the opcodes after it (SDM vol. 2, NOP).
    let column = opcode == 0x90 && rex & 1 != 0 && map == .oneByte ? 0x91 : opcode
    let table = OpcodeTable.of(map)
    let entry = table.entry(column)
    if entry.hasModRM {
      modRM = reader.read(UInt8.self)
      key.modRM = modRM
    }
    var number = table.rowNumber(entry, key)
    var row = table.row(number)
    if !row.pointee.attributes.isDisjoint(with: missing) {
      guard row.pointee.attributes.contains(.prefixIgnorable) else { return false }
      key.prefix = prefixes.contains(.operandSize) ? 1 : 0
      number = table.rowNumber(entry, key)
      row = table.row(number)
    }
    guard number != 0 else { return false }

    let attributes = row.pointee.attributes
    instruction.attributes = attributes
    instruction.operation = row.pointee.operation
    instruction.row = OpcodeTable.reference(number, in: map)
    instruction.opcode = opcode
    instruction.modRM = modRM
    instruction.mode = mode
    instruction.rex = rex & 15
    instruction.segmentPrefix = segmentPrefix
    instruction.operandSize = operandSize
    if is64, !attributes.isDisjoint(with: [.d64, .f64]) {
      instruction.operandSize = operandSize == 2 && attributes.contains(.d64) ? 2 : 8
    }
    if row.pointee.hasMandatoryPrefix { prefixes.insert(.mandatory) }
    instruction.prefixes = prefixes

    let hasAddressPrefix = prefixes.contains(.addressSize)
    switch mode {
    case .bits16: instruction.addressSize = hasAddressPrefix ? 4 : 2
    case .bits32: instruction.addressSize = hasAddressPrefix ? 2 : 4
    case .bits64: instruction.addressSize = hasAddressPrefix ? 4 : 8
    }
    if entry.hasModRM, modRM < 0xC0, !attributes.contains(.modIgnored) {
      if instruction.addressSize == 2 { readAddress16(&instruction) } else { readAddress(&instruction) }
    }
    if override != Self.noSegment { instruction.segment = override }

    readOperands(&instruction, row)
    if prefixes.contains(.lock) {
      guard attributes.contains(.lockable), instruction.operands[0].kind == .memory else { return false }
    }
    // An unused VEX.vvvv must be 1111 (SDM vol. 2, 2.3.5.6).
    if prefixes.contains(.vex), !usesVEXRegister, vexRegister != 0 { return false }
    return !isUndefined
  }

  /// Reads prefixes and the first byte after them. Of each group the last counts; REX counts directly before the opcode.
  @inline(__always)
  private mutating func readPrefixes() {
    while true {
      let byte = reader.read(UInt8.self)
      switch byte {
      case 0x66: prefixes.insert(.operandSize)
      case 0x67: prefixes.insert(.addressSize)
      case 0xF0: prefixes.insert(.lock)
      case 0xF2:
        prefixes.insert(.repne)
        prefixes.remove(.rep)
      case 0xF3:
        prefixes.insert(.rep)
        prefixes.remove(.repne)
      case 0x26, 0x2E, 0x36, 0x3E:
        segmentPrefix = byte
        // 64-bit mode ignores these four (SDM vol. 2, 2.1.1).
        if !is64 {
          override = byte >> 3 & 3
          prefixes.insert(.segment)
        }
      case 0x64, 0x65:
        segmentPrefix = byte
        override = byte & 7
        prefixes.insert(.segment)
      case 0x40...0x4F where is64:
        rex = byte
        continue
      default:
        opcode = byte
        if rex != 0 { prefixes.insert(.rex) }
        if prefixes.contains(.repne) {
          key.prefix = 3
        } else if prefixes.contains(.rep) {
          key.prefix = 2
        } else if prefixes.contains(.operandSize) {
          key.prefix = 1
        }
        return
      }
      rex = 0
    }
  }

  /// Reads what follows 0F.
  @inline(__always)
  private mutating func readEscape() -> OpcodeMap {
    opcode = reader.read(UInt8.self)
    guard opcode == 0x38 || opcode == 0x3A else { return .map0F }
    let map = opcode == 0x38 ? OpcodeMap.map0F38 : .map0F3A
    opcode = reader.read(UInt8.self)
    return map
  }

  /// Reads VEX behind its first byte, and the opcode (SDM vol. 2, 2.3). Nil: #UD.
  private mutating func readVEX() -> OpcodeMap? {
    guard prefixes.isDisjoint(with: [.operandSize, .rep, .repne, .lock, .rex]) else { return nil }
    let hasThreeBytes = opcode == 0xC4
    let first = reader.read(UInt8.self)
    var last = first
    var mapNumber: UInt8 = 1
    rex = ~first >> 5 & 0b100
    if hasThreeBytes {
      last = reader.read(UInt8.self)
      mapNumber = first & 0x1F
      rex = ~first >> 5 | last >> 4 & 8
    }
    // VEX.B and VEX.W are ignored outside 64-bit mode, where R and X are 1 or this were LES or LDS.
    if !is64 { rex = 0 }
    prefixes.insert(.vex)
    vexRegister = ~last >> 3 & (is64 ? 15 : 7)
    switch last & 3 {
    case 0: key.prefix = 0
    case 1: key.prefix = 1
    case 2: key.prefix = 2
    default: key.prefix = 3
    }
    opcode = reader.read(UInt8.self)
    // No instruction of these tables is 256 bits wide.
    guard last & 4 == 0 else { return nil }
    // Map 0F has none of them.
    switch mapNumber {
    case 2: return .vex0F38
    case 3: return .vex0F3A
    default: return nil
    }
  }

  /// The operand size in bytes before d64 and f64.
  @inline(__always)
  private mutating func readOperandSize() -> UInt8 {
    let hasPrefix = prefixes.contains(.operandSize)
    if is64 {
      key.mode = 1
      if rex & 8 != 0 {
        key.size = 2
        return 8
      }
    }
    if hasPrefix != (mode == .bits16) { return 2 }
    key.size = 1
    return 4
  }
}
