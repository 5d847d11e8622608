extension DecodeState {
  /// Fills in the operands and reads immediates.
  @inline(__always)
  mutating func readOperands(_ instruction: inout Instruction, _ row: UnsafePointer<OpcodeTable.Row>) {
    let specs = row.pointee.operands
    guard specs.0.kind != .none else { return }
    instruction.operands[0] = readOperand(specs.0, &instruction)
    guard specs.1.kind != .none else { return }
    instruction.operands[1] = readOperand(specs.1, &instruction)
    guard specs.2.kind != .none else { return }
    instruction.operands[2] = readOperand(specs.2, &instruction)
    guard specs.3.kind != .none else { return }
    instruction.operands[3] = readOperand(specs.3, &instruction)
  }

  private mutating func readOperand(_ spec: OperandSpec, _ instruction: inout Instruction) -> Operand {
    let operandSize = instruction.operandSize
    switch spec.kind {
    case .none:
      return Operand()
    case .registerField:
      return registerField(spec, operandSize)
    case .registerOrMemory:
      if modRM >= 0xC0 || instruction.attributes.contains(.modIgnored) {
        let size = spec.registerSize.bytes(operandSize: operandSize, is64: is64)
        return register(spec.registerClass, modRM & 7 | (rex & 1) << 3, size)
      }
      return operand(.memory, spec.memorySize.bytes(operandSize: operandSize, is64: is64))
    case .opcodeRegister:
      let size = spec.registerSize.bytes(operandSize: operandSize, is64: is64)
      return register(.general, opcode & 7 | (rex & 1) << 3, size)
    case .vexRegister:
      usesVEXRegister = true
      return register(.general, vexRegister, spec.registerSize.bytes(operandSize: operandSize, is64: is64))
    case .fixedRegister:
      var result = operand(.register, spec.registerSize.bytes(operandSize: operandSize, is64: is64))
      result.registerClass = spec.registerClass
      result.number = spec.number
      return result
    case .immediate:
      let size = spec.memorySize.bytes(operandSize: operandSize, is64: is64)
      if instruction.operation == .enter, size == 1 {
        instruction.secondImmediate = UInt16(reader.read(UInt8.self))
        return operand(.secondImmediate, 1)
      }
      // A 64-bit instruction sign-extends Iz.
      instruction.immediate = readSigned(size)
      return operand(.immediate, spec.memorySize.code == OperandSpec.Size.operandAtMost4.code ? operandSize : size)
    case .signedByte:
      instruction.immediate = readSigned(1)
      return operand(.immediate, operandSize)
    case .one:
      instruction.immediate = 1
      return operand(.immediate, 1)
    case .relative:
      let size = spec.memorySize.bytes(operandSize: operandSize, is64: is64)
      instruction.immediate = readSigned(size)
      return operand(.relative, size)
    case .memoryOffset:
      // Offsets are not sign-extended, but wrap at the address size anyway.
      instruction.displacement = readSigned(instruction.addressSize)
      return operand(.memory, spec.memorySize.bytes(operandSize: operandSize, is64: is64))
    case .farPointer:
      instruction.immediate =
        operandSize == 2 ? Int64(reader.read(UInt16.self)) : Int64(reader.read(UInt32.self))
      instruction.secondImmediate = reader.read(UInt16.self)
      return operand(.farPointer, spec.memorySize.bytes(operandSize: operandSize, is64: is64))
    case .stringSource:
      return operand(.stringSource, spec.memorySize.bytes(operandSize: operandSize, is64: is64))
    case .stringDestination:
      return operand(.stringDestination, spec.memorySize.bytes(operandSize: operandSize, is64: is64))
    case .translation:
      instruction.base = 3
      return operand(.memory, 1)
    }
  }

  private func operand(_ kind: Operand.Kind, _ size: UInt8) -> Operand {
    var operand = Operand()
    operand.kind = kind
    operand.size = size
    return operand
  }

  /// The register of ModRM.reg.
  @inline(__always)
  private mutating func registerField(_ spec: OperandSpec, _ operandSize: UInt8) -> Operand {
    let size = spec.registerSize.bytes(operandSize: operandSize, is64: is64)
    let number = modRM >> 3 & 7 | (rex & 4) << 1
    switch spec.registerClass {
    case .segment:
      // REX.R is ignored; MOV CS is the only opcode with a segment register in ModRM.reg as its destination (8E).
      var result = operand(.register, 2)
      result.registerClass = .segment
      result.number = number & 7
      if number & 7 > 5 || (number & 7 == 1 && opcode == 0x8E) { isUndefined = true }
      return result
    case .control:
      // CR0, CR2, CR3, CR4, CR8.
      if 0b1_0001_1101 >> UInt16(number) & 1 == 0 { isUndefined = true }
    case .debug:
      if number > 7 { isUndefined = true }
    default: break
    }
    return register(spec.registerClass, number, size)
  }

  /// A register of a class, by the number of its field.
  @inline(__always)
  private func register(_ registerClass: RegisterClass, _ number: UInt8, _ size: UInt8) -> Operand {
    var result = operand(.register, size)
    result.registerClass = registerClass
    result.number = number
    switch registerClass {
    case .general:
      // Without REX, byte registers 4 to 7 are AH, CH, DH, BH (SDM vol. 2, table 3-1).
      if size == 1, number >= 4, number < 8, !prefixes.contains(.rex) {
        result.registerClass = .highByte
        result.number = number & 3
      }
    case .mmx, .x87:
      result.number = number & 7
    default: break
    }
    return result
  }

  @inline(__always)
  private mutating func readSigned(_ size: UInt8) -> Int64 {
    switch size {
    case 1: Int64(reader.read(Int8.self))
    case 2: Int64(reader.read(Int16.self))
    case 4: Int64(reader.read(Int32.self))
    default: reader.read(Int64.self)
    }
  }

  /// 16-bit addressing (SDM vol. 2, table 2-1).
  mutating func readAddress16(_ instruction: inout Instruction) {
    let rm = modRM & 7
    let mod = modRM >> 6
    switch rm {
    case 0, 1, 7: instruction.base = 3
    case 2, 3: instruction.base = 5
    case 6 where mod != 0: instruction.base = 5
    case 4: instruction.base = 6
    case 5: instruction.base = 7
    default: instruction.displacement = Int64(reader.read(Int16.self))
    }
    if rm < 4 { instruction.index = 6 | rm & 1 }
    if instruction.base == 5 { instruction.segment = 2 }
    if mod == 1 { instruction.displacement = Int64(reader.read(Int8.self)) }
    if mod == 2 { instruction.displacement = Int64(reader.read(Int16.self)) }
  }

  /// 32-bit and 64-bit addressing (SDM vol. 2, tables 2-2 and 2-3; RIP-relative, 2.2.1.6).
  @inline(__always)
  mutating func readAddress(_ instruction: inout Instruction) {
    let mod = modRM >> 6
    var base = modRM & 7
    let hasSIB = base == 4
    if hasSIB {
      let sib = reader.read(UInt8.self)
      base = sib & 7
      let index = sib >> 3 & 7 | (rex & 2) << 2
      instruction.scale = 1 << (sib >> 6)
      if index != 4 { instruction.index = index }
    }
    if base == 5, mod == 0 {
      instruction.displacement = Int64(reader.read(Int32.self))
      if is64, !hasSIB { instruction.base = Instruction.instructionPointer }
      return
    }
    base |= (rex & 1) << 3
    instruction.base = base
    if base == 4 || base == 5 { instruction.segment = 2 }
    if mod == 1 { instruction.displacement = Int64(reader.read(Int8.self)) }
    if mod == 2 { instruction.displacement = Int64(reader.read(Int32.self)) }
  }
}
