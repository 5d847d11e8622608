import CSoftCPU
import X86

/// The SIMD instructions of `VectorInstructions.h` by operation.
// Safety: filled once, and only read.
struct VectorTable: @unchecked Sendable {
  static let shared = VectorTable()

  /// The form of an instruction: an operation may have one with a register source and one with an immediate, for XMM
  /// and for MMX.
  private struct Key: Hashable {
    let operation: Operation
    let isMMX: Bool
    let isShift: Bool
  }

  private var instructions: [Key: soft_vector_instruction] = [:]

  private init() {
    let operations = Dictionary(uniqueKeysWithValues: Operation.allCases.map { (String(describing: $0), $0) })
    var index = 0
    while true {
      let instruction = soft_vector_instruction_at(index).pointee
      let mnemonic = String(cString: instruction.mnemonic)
      if mnemonic.isEmpty { return }
      if let operation = operations[mnemonic] {
        let key = Key(
          operation: operation, isMMX: instruction.is_mmx != 0, isShift: instruction.form == soft_form_shift)
        instructions[key] = instruction
      }
      index += 1
    }
  }

  /// Nil: none of these.
  func find(_ i: Instruction, isMMX: Bool) -> soft_vector_instruction? {
    let isShift = i.operands[1].kind == .immediate
    return instructions[Key(operation: i.operation, isMMX: isMMX, isShift: isShift)]
  }
}

extension InstructionAttributes {
  /// Features whose instructions use x87, MMX or XMM registers, and some more.
  static let vector: InstructionAttributes = [
    .fpu, .mmx, .sse, .sse2, .sse3, .ssse3, .sse41, .sse42, .aes, .pclmulqdq, .sha, .fxsr, .xsave, .xsaveopt, .xsavec,
    .xsaves,
  ]
}

extension Slot {
  /// Slots of vector operations count units of 8 bytes.
  @inline(__always)
  static func wide(_ slot: UInt8) -> UInt8 { slot / 8 }

  @inline(__always)
  static func xmm(_ number: UInt8) -> UInt8 { soft_xmm_slot &+ (number & 15) &* 2 }

  static let xmmTemporary0: UInt8 = soft_xmm_slot &+ 32
  static let xmmTemporary1: UInt8 = soft_xmm_slot &+ 34
}
