/// Instructions as text, in the syntax of the manual as `objdump -M intel` writes it.
public enum Disassembler {
  /// `instruction` at linear address, or offset in its segment, `address`.
  public static func text(_ instruction: Instruction, at address: UInt64) -> String {
    let names = OperandText(instruction: instruction, address: address)
    var text = prefixText(instruction)
    text += mnemonic(instruction)
    let operands = names.all()
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
    case .xlat: return "xlat"
    case .fxsave, .fxrstor, .xsave, .xrstor, .xsaveopt, .xsavec, .xsaves, .xrstors:
      return String(describing: instruction.operation) + (size == 8 ? "64" : "")
    case .mov where instruction.operands[1].kind == .immediate && instruction.operands[1].size == 8
      && instruction.modRM == 0 && instruction.opcode & 0xF8 == 0xB8,
      .mov where instruction.opcode & 0xFC == 0xA0 && instruction.addressSize == 8:
      return "movabs"
    case .sysret, .sysexit: return String(describing: instruction.operation) + (size == 8 ? "q" : size == 4 ? "d" : "")
    default: return String(describing: instruction.operation)
    }
  }
}
