/// The operands of one instruction as text.
struct OperandText {
  let instruction: Instruction
  let address: UInt64

  private static let general64 = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
  ]
  private static let general16 = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"]
  private static let general8 = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"]
  private static let high8 = ["ah", "ch", "dh", "bh"]
  private static let segments = ["es", "cs", "ss", "ds", "fs", "gs"]

  /// Where a RIP-relative operand is.
  var instructionPointerTarget: UInt64 { wrapped(next &+ UInt64(bitPattern: instruction.displacement), addressSize) }

  private var next: UInt64 { address &+ UInt64(instruction.length) }
  private var addressSize: UInt8 { instruction.addressSize }

  private func wrapped(_ value: UInt64, _ size: UInt8) -> UInt64 {
    size >= 8 ? value : value & (1 << (UInt64(size) * 8) - 1)
  }

  func all() -> [String] {
    var texts: [String] = []
    for index in 0..<4 where instruction.operands[index].kind != .none {
      texts.append(text(instruction.operands[index], spec(index)))
    }
    return texts
  }

  /// The operand code that an operand was read by.
  private func spec(_ index: Int) -> OperandSpec.Kind {
    let specs = OpcodeTable.row(of: instruction.row).operands
    return index == 0 ? specs.0.kind : index == 1 ? specs.1.kind : index == 2 ? specs.2.kind : specs.3.kind
  }

  private func text(_ operand: Operand, _ spec: OperandSpec.Kind) -> String {
    switch operand.kind {
    case .none: return ""
    case .register:
      // The implied top of the x87 stack is not written with its number.
      return operand.registerClass == .x87 && spec == .fixedRegister ? "st" : register(operand)
    case .immediate where spec == .one: return "1"
    case .memory:
      return (hasSizeName(spec) ? sizeName(operand.size) : "") + memory()
    case .immediate:
      return Disassembler.hex(wrapped(UInt64(bitPattern: instruction.immediate), operand.size))
    case .secondImmediate: return Disassembler.hex(UInt64(instruction.secondImmediate))
    case .relative:
      let target = wrapped(next &+ UInt64(bitPattern: instruction.immediate), instruction.operandSize)
      // IP wraps inside the 64 KiB that a linear `address` is in.
      let isIP = instruction.operandSize == 2 && instruction.mode == .bits16
      return Disassembler.hex(isIP ? target | next & ~0xFFFF : target)
    case .farPointer:
      return Disassembler.hex(UInt64(instruction.secondImmediate)) + ":"
        + Disassembler.hex(UInt64(bitPattern: instruction.immediate))
    case .stringSource:
      return sizeName(operand.size) + Self.name(Self.segments, instruction.segment) + ":[" + general(6, addressSize)
        + "]"
    case .stringDestination: return sizeName(operand.size) + "es:[" + general(7, addressSize) + "]"
    }
  }

  private static func name(_ names: [String], _ number: UInt8) -> String {
    Int(number) < names.count ? names[Int(number)] : "?"
  }

  private func general(_ number: UInt8, _ size: UInt8) -> String {
    switch size {
    case 8: return Self.name(Self.general64, number)
    case 4: return number < 8 ? "e" + Self.name(Self.general16, number) : Self.name(Self.general64, number) + "d"
    case 2: return number < 8 ? Self.name(Self.general16, number) : Self.name(Self.general64, number) + "w"
    default: return number < 8 ? Self.name(Self.general8, number) : Self.name(Self.general64, number) + "b"
    }
  }

  private func register(_ operand: Operand) -> String {
    switch operand.registerClass {
    case .none: return "?"
    case .general: return general(operand.number, operand.size)
    case .highByte: return Self.name(Self.high8, operand.number)
    case .segment: return Self.name(Self.segments, operand.number)
    case .control: return "cr\(operand.number)"
    case .debug: return "dr\(operand.number)"
    case .x87: return "st(\(operand.number))"
    case .mmx: return "mm\(operand.number)"
    case .xmm: return "xmm\(operand.number)"
    }
  }

  private func sizeName(_ size: UInt8) -> String {
    switch size {
    case 1: return "BYTE PTR "
    case 2: return "WORD PTR "
    case 4: return "DWORD PTR "
    case 6: return "FWORD PTR "
    case 8: return "QWORD PTR "
    case 10: return "TBYTE PTR "
    case 16: return "XMMWORD PTR "
    default: return ""
    }
  }

  /// Whether the size of a memory operand is written: not where another operand or the instruction tells.
  private func hasSizeName(_ spec: OperandSpec.Kind) -> Bool {
    switch instruction.operation {
    case .lddqu, .sgdt, .sidt, .lgdt, .lidt: false
    default: spec != .memoryOffset
    }
  }

  private func memory() -> String {
    let hasOverride = instruction.prefixes.contains(.segment) || instruction.operation == .xlat
    var text = hasOverride ? Self.name(Self.segments, instruction.segment) + ":" : ""
    let displacement = instruction.displacement
    guard instruction.base != Instruction.noRegister || instruction.index != Instruction.noRegister || hasNoIndex else {
      return (hasOverride ? text : "ds:") + Disassembler.hex(wrapped(UInt64(bitPattern: displacement), addressSize))
    }
    text += "["
    var joint = ""
    if instruction.base == Instruction.instructionPointer {
      text += addressSize == 8 ? "rip" : "eip"
      joint = "+"
    } else if instruction.base != Instruction.noRegister {
      text += general(instruction.base, addressSize)
      joint = "+"
    }
    if instruction.index != Instruction.noRegister {
      text += joint + general(instruction.index, addressSize)
      if addressSize != 2 { text += "*\(instruction.scale)" }
    } else if hasNoIndex {
      text += joint + (addressSize == 8 ? "riz" : "eiz") + "*\(instruction.scale)"
    }
    // A displacement is written when it is encoded, zero or not.
    let isEncoded =
      instruction.modRM >= 0x40 || instruction.base == Instruction.noRegister
      || instruction.base == Instruction.instructionPointer
    if isEncoded, instruction.operation != .xlat {
      let hasRegister = instruction.base != Instruction.noRegister || instruction.index != Instruction.noRegister
      if displacement < 0, hasRegister || hasNoIndex, instruction.base != Instruction.instructionPointer {
        text += "-" + Disassembler.hex(displacement.magnitude)
      } else {
        let size = instruction.base == Instruction.instructionPointer ? 8 : addressSize
        text += "+" + Disassembler.hex(wrapped(UInt64(bitPattern: displacement), size))
      }
    }
    return text + "]"
  }

  /// A SIB byte that names no index although the base does not need one.
  private var hasNoIndex: Bool {
    guard addressSize != 2, instruction.modRM & 7 == 4, instruction.modRM < 0xC0,
      instruction.index == Instruction.noRegister, instruction.operands[0].kind != .none
    else { return false }
    if instruction.base == Instruction.noRegister {
      return addressSize == 4 && instruction.mode != .bits16 || instruction.scale != 1
    }
    return instruction.base & 7 != 4 || instruction.scale != 1
  }
}
