/// Instructions as text, in the syntax of the manual as `objdump -M intel` writes it.
public enum Disassembler {
  /// `instruction` at linear address, or offset in its segment, `address`.
  public static func text(_ instruction: Instruction, at address: UInt64) -> String {
    let names = OperandText(instruction: instruction, address: address)
    var text = prefixText(instruction)
    text += mnemonic(instruction) + sizeSuffix(instruction)
    var operands = names.all()
    if namesImmediate(instruction) { operands.removeLast() }
    if instruction.operation == .nop, instruction.opcode == 0x90, instruction.prefixes.contains(.operandSize) {
      // The accumulator exchanged with itself, as it is written with a size of its own.
      operands = instruction.operandSize == 2 ? ["ax", "ax"] : ["eax", "eax"]
    }
    if !operands.isEmpty {
      text += " " + operands.joined(separator: ",")
    }
    if instruction.base == Instruction.instructionPointer {
      text += "        # " + hex(names.instructionPointerTarget)
    }
    return text
  }

  /// `0x` and lower-case digits.
  static func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }

  /// The prefixes that change what an instruction does.
  private static func prefixText(_ instruction: Instruction) -> String {
    var text = instruction.prefixes.contains(.lock) ? "lock " : ""
    let isMandatory = instruction.prefixes.contains(.mandatory)
    if instruction.prefixes.contains(.rep), !isMandatory {
      switch instruction.operation {
      case .cmps, .scas: text += "repz "
      case .ins, .outs, .movs, .lods, .stos: text += "rep "
      case .ret: text += "repz "
      default: text += instruction.attributes.contains(.lockable) ? "xrelease " : "repz "
      }
    }
    if instruction.prefixes.contains(.repne), !isMandatory {
      switch instruction.operation {
      case .call, .jmp, .jcc, .ret: text += "bnd "
      default:
        text += instruction.attributes.contains(.lockable) && instruction.prefixes.contains(.lock)
          ? "xacquire " : "repnz "
      }
    }
    if instruction.segmentPrefix == 0x3E, instruction.operation == .call || instruction.operation == .jmp,
      instruction.operands[0].kind != .relative
    {
      text += "notrack "
    }
    return text
  }

  /// Conditions by tttn.
  private static let conditions = [
    "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g",
  ]

  private static func mnemonic(_ instruction: Instruction) -> String {
    let size = instruction.operandSize
    let is16 = instruction.mode == .bits16
    switch instruction.operation {
    case .jcc: return "j" + conditions[Int(instruction.condition)]
    case .setcc: return "set" + conditions[Int(instruction.condition)]
    case .cmovcc: return "cmov" + conditions[Int(instruction.condition)]
    case .jcxz: return instruction.addressSize == 8 ? "jrcxz" : instruction.addressSize == 4 ? "jecxz" : "jcxz"
    case .pusha, .popa, .pushf, .popf:
      let name = String(describing: instruction.operation)
      if is16 { return size == 4 ? name + "d" : name }
      return size == 2 ? name + "w" : name
    case .iret: return size == 8 ? "iretq" : is16 ? size == 4 ? "iretd" : "iret" : size == 2 ? "iretw" : "iret"
    case .callf: return "call"
    case .jmpf: return "jmp"
    case .fxsave, .fxrstor, .xsave, .xrstor, .xsaveopt, .xsavec, .xsaves, .xrstors:
      return String(describing: instruction.operation) + (size == 8 ? "64" : "")
    case .mov where instruction.operands[1].kind == .immediate && instruction.operands[1].size == 8
      && instruction.modRM == 0 && instruction.opcode & 0xF8 == 0xB8,
      .mov where instruction.opcode & 0xFC == 0xA0 && instruction.addressSize == 8:
      return "movabs"
    case .sysret, .sysexit: return String(describing: instruction.operation) + (size == 8 ? "q" : instruction.mode == .bits64 ? "d" : "")
    case .cmpps, .cmppd, .cmpss, .cmpsd:
      let name = String(describing: instruction.operation)
      let predicate = Int(truncatingIfNeeded: instruction.immediate & 0xFF)
      return predicate < predicates.count ? "cmp" + predicates[predicate] + name.dropFirst(3) : name
    case .pclmulqdq:
      switch instruction.immediate {
      case 0x00: return "pclmullqlqdq"
      case 0x01: return "pclmulhqlqdq"
      case 0x10: return "pclmullqhqdq"
      case 0x11: return "pclmulhqhqdq"
      default: return "pclmulqdq"
      }
    case .nop where instruction.opcode == 0x90 && instruction.prefixes.contains(.operandSize): return "xchg"
    default: return String(describing: instruction.operation)
    }
  }

  /// The operand size, where it is not the mode's and no operand shows it.
  private static func sizeSuffix(_ instruction: Instruction) -> String {
    let suffix = instruction.operandSize == 2 ? "w" : instruction.operandSize == 4 ? "d" : ""
    let first = instruction.operands[0]
    switch instruction.operation {
    case .lgdt, .lidt, .sgdt, .sidt:
      return instruction.mode == .bits64 ? "" : suffix
    case .retf where instruction.operandSize == 8: return "q"
    case .call, .jmp: if first.kind != .relative || first.size == 1 { return "" }
    case .push, .pop:
      if first.kind != .immediate && first.registerClass != .segment { return "" }
    case .leave, .enter, .ret, .retf, .fldenv, .fnstenv, .fnsave, .frstor: break
    default: return ""
    }
    return instruction.prefixes.contains(.operandSize) ? suffix : ""
  }

  /// Comparison predicates of CMPPS and its kin.
  private static let predicates = ["eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord"]

  /// Whether the mnemonic says what the last operand, an immediate, says.
  private static func namesImmediate(_ instruction: Instruction) -> Bool {
    switch instruction.operation {
    case .cmpps, .cmppd, .cmpss, .cmpsd: return (0..<8).contains(instruction.immediate)
    case .pclmulqdq: return [0x00, 0x01, 0x10, 0x11].contains(instruction.immediate)
    default: return false
    }
  }
}
