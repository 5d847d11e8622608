@testable import X86

/// A random instruction of a row of the opcode tables: 64-bit mode, memory operands inside the test's memory.
struct RandomVectorInstruction {
  var bytes: [UInt8] = []
  var registers = [UInt64](repeating: 0, count: 16)
  /// Of the memory operand.
  var address: UInt64?

  /// The rows to choose from: x87, MMX, SSE and what came with them, but nothing that needs CPL 0.
  static func rows(features: InstructionAttributes) -> [OpcodeRow] {
    let whole: [Operation] = [
      .ldmxcsr, .stmxcsr, .movnti, .popcnt, .fxsave, .fxrstor, .xsave, .xsaveopt, .xsavec, .xrstor,
    ]
    let all =
      OpcodeRow.twoByteMapSIMD + OpcodeRow.map0F38 + OpcodeRow.map0F3A + OpcodeRow.x87Map + OpcodeRow.x87Map
      + OpcodeRow.vex0F38 + OpcodeRow.vex0F3A
      + OpcodeRow.twoByteMap.filter {
        whole.contains($0.operation)
      }
    let permitted = features.union([.protected, .prefixIgnorable])
    return all.filter { permitted.isSuperset(of: $0.attributes) }
  }

  init(row: OpcodeRow, memory: UInt64, _ random: inout SplitMix) {
    for index in 0..<16 { registers[index] = random.value() }
    registers[4] = memory + 0x8000
    let operands = row.operands.description.split(separator: ",").map(String.init)
    var tokens = row.encoding.description.split(separator: " ").map(String.init)
    var rex: UInt8 = random.next() % 2 == 0 ? UInt8(random.next() & 7) : 0
    let takesSize = operands.contains { $0.hasSuffix("y") || $0.hasSuffix("v") }
    var isWide = tokens.contains("o64") || takesSize && random.next() % 2 == 0
    // REX.W means another instruction to some, and nothing to the rest.
    if !takesSize, !row.operands.description.contains("d"), row.operands.description != "M",
      random.next() % 8 == 0
    {
      isWide = true
    }
    if isWide { rex |= 8 }
    let isImage = row.operands.description == "M" && row.encoding.description.hasPrefix("NP 0F")
    // EDX:EAX chooses components; the address is in other registers.
    if isImage { rex |= 3 }
    tokens.removeAll { $0 == "o64" || $0 == "NP" || $0 == "NFx" || $0 == "mod3" }
    var opcode: [UInt8] = []
    var modRM: UInt8?
    var reg = UInt8(random.next() & 7)
    var hasModRM = false
    var vex: String?
    for token in tokens {
      if token.hasPrefix("VEX") {
        vex = token
      } else if token.hasPrefix("/") {
        hasModRM = true
        if let digit = UInt8(token.dropFirst()) { reg = digit }
      } else if token.hasSuffix("+i"), let value = UInt8(token.dropLast(2), radix: 16) {
        modRM = value + UInt8(random.next() & 7)
      } else if opcode.isEmpty, vex == nil, token == "66" || token == "F3" || token == "F2" {
        bytes.append(UInt8(token, radix: 16) ?? 0)
      } else if let value = UInt8(token, radix: 16) {
        if !opcode.isEmpty, opcode[0] >= 0xD8, opcode[0] <= 0xDF { modRM = value } else { opcode.append(value) }
      }
    }
    if takesSize, opcode.first == 0x0F, !isWide, operands.contains(where: { $0.hasSuffix("v") }), random.next() % 4 == 0
    {
      bytes.insert(0x66, at: 0)
    }
    if let vex {
      let parts = vex.split(separator: ".").map(String.init)
      let prefix: UInt8 = ["NP": 0, "66": 1, "F3": 2, "F2": 3][parts[2]] ?? 0
      let map: UInt8 = parts[3] == "0F38" ? 2 : parts[3] == "0F3A" ? 3 : 1
      let usesRegister = operands.contains { $0.hasPrefix("B") }
      let other = usesRegister ? UInt8(random.next() & 15) : 0
      bytes += [0xC4, (~rex & 7) << 5 | map, (rex & 8) << 4 | (~other & 15) << 3 | prefix]
    } else if rex != 0 {
      bytes.append(0x40 | rex)
    }
    bytes += opcode
    if let modRM {
      bytes.append(modRM)
    } else if hasModRM {
      let isMemoryOnly = operands.contains { $0.hasPrefix("M") }
      let isRegisterOnly = operands.contains { "UNR".contains($0.prefix(1)) && !$0.contains("/") }
      if isMemoryOnly || !isRegisterOnly && random.next() % 2 == 0 {
        address(row, memory, reg, rex, &random)
      } else {
        bytes.append(0xC0 | reg << 3 | UInt8(random.next() & 7))
      }
    }
    if operands.contains("Ib") { bytes.append(UInt8(truncatingIfNeeded: random.next())) }
    if isImage {
      registers[0] = random.next() & 3
      registers[2] = 0
    }
    if row.operation == .maskmovq || row.operation == .maskmovdqu {
      registers[7] = memory + 0x8100 + random.next() % 64
    }
  }

  private mutating func address(
    _ row: OpcodeRow, _ memory: UInt64, _ reg: UInt8, _ rex: UInt8, _ random: inout SplitMix
  ) {
    let isAligned =
      row.operands.description.contains("x") || row.operands.description.contains("M,")
      || ["M"].contains(row.operands.description)
    let isImage = row.operands.description == "M" && row.encoding.description.hasPrefix("NP 0F")
    let alignment: UInt64 = isImage ? 63 : isAligned || random.next() % 2 == 0 ? 15 : 0
    // In the middle of a page, or around the end of one.
    let area = memory + (random.next() % 4 == 0 ? 0x8F00 : 0x8100)
    let target = area + (random.next() % 512) & ~alignment
    address = target
    let displacement = UInt64(bitPattern: Int64(Int8(truncatingIfNeeded: random.next())))
    var base = UInt8(random.next() & 7)
    if base == 4 {
      base = UInt8(random.next() & 7)
      var index = UInt8(random.next() & 7)
      while index | (rex & 2) << 2 == base | (rex & 1) << 3 { index = (index + 1) & 7 }
      let scale = UInt8(random.next() & 3)
      bytes += [0x44 | reg << 3, scale << 6 | index << 3 | base]
      var part: UInt64 = 0
      if index | (rex & 2) << 2 != 4 {
        let value = random.next() % 64
        registers[Int(index | (rex & 2) << 2)] = value
        part = value << UInt64(scale)
      }
      registers[Int(base | (rex & 1) << 3)] = target &- displacement &- part
    } else {
      bytes.append(0x40 | reg << 3 | base)
      registers[Int(base | (rex & 1) << 3)] = target &- displacement
    }
    bytes.append(UInt8(truncatingIfNeeded: displacement))
  }
}

/// Floating-point values at the edges, in 4, 8 and 10 bytes.
extension SplitMix {
  mutating func single() -> UInt32 {
    let sign: UInt32 = next() & 1 != 0 ? 1 << 31 : 0
    let fraction = UInt32(truncatingIfNeeded: next()) & 0x7F_FFFF
    switch next() % 12 {
    case 0: return sign
    case 1: return sign | fraction
    case 2: return sign | 1
    case 3: return sign | 0x0080_0000
    case 4: return sign | 0x7F7F_FFFF
    case 5: return sign | 0x7F80_0000
    case 6: return sign | 0x7FC0_0000 | fraction
    case 7: return sign | 0x7F80_0001 | fraction & 0x3F_FFFF
    case 8: return sign | (120 + UInt32(next() % 16)) << 23 | fraction & 0x70_0000
    case 9: return sign | (127 + UInt32(next() % 40)) << 23 | fraction
    default: return UInt32(truncatingIfNeeded: next())
    }
  }

  mutating func double() -> UInt64 {
    let sign: UInt64 = next() & 1 != 0 ? 1 << 63 : 0
    let fraction = next() & 0xF_FFFF_FFFF_FFFF
    switch next() % 12 {
    case 0: return sign
    case 1: return sign | fraction
    case 2: return sign | 1
    case 3: return sign | 1 << 52
    case 4: return sign | 0x7FEF_FFFF_FFFF_FFFF
    case 5: return sign | 0x7FF0_0000_0000_0000
    case 6: return sign | 0x7FF8_0000_0000_0000 | fraction
    case 7: return sign | 0x7FF0_0000_0000_0001 | fraction & 0x7_FFFF_FFFF_FFFF
    case 8: return sign | (1016 + next() % 16) << 52 | fraction & 0xE_0000_0000_0000
    case 9: return sign | (1023 + next() % 70) << 52 | fraction
    case 10: return sign | (872 + next() % 30) << 52 | fraction
    default: return next()
    }
  }

  /// The significand, and sign and exponent.
  mutating func extended() -> (UInt64, UInt16) {
    let sign: UInt16 = next() & 1 != 0 ? 1 << 15 : 0
    let integer: UInt64 = 1 << 63
    let fraction = next() & ~integer
    switch next() % 14 {
    case 0: return (0, sign)
    case 1: return (fraction, sign)
    // Pseudo-denormal.
    case 2: return (integer | fraction, sign)
    case 3: return (integer, sign | 1)
    case 4: return (.max, sign | 0x7FFE)
    case 5: return (integer, sign | 0x7FFF)
    case 6: return (integer | 1 << 62 | fraction, sign | 0x7FFF)
    case 7: return (integer | 1 | fraction & ~(1 << 62), sign | 0x7FFF)
    // Pseudo-infinity, pseudo-NaN, unnormal.
    case 8: return (0, sign | 0x7FFF)
    case 9: return (fraction, sign | UInt16(next() % 0x7FFF + 1))
    case 10, 11: return (integer | fraction & (7 << 60), sign | UInt16(0x3FFF - 8 + next() % 16))
    case 12: return (integer | fraction, sign | UInt16(0x3FFF + next() % 70))
    default: return (integer | fraction, sign | UInt16(next() % 0x7FFF))
    }
  }

  /// 8 bytes: one or two floating-point values, integers near boundaries, or anything.
  mutating func lanes() -> UInt64 {
    switch next() % 8 {
    case 0, 1, 2: double()
    case 3, 4: UInt64(single()) << 32 | UInt64(single())
    case 5: value()
    default: next()
    }
  }
}
