/// The opcode maps (SDM vol. 2, appendix A).
enum OpcodeMap: Int, CaseIterable {
  case oneByte, map0F, map0F38, map0F3A, vex0F38, vex0F3A
  /// The escape opcodes D8 to DF.
  case x87

  /// Where numbers of rows end, counted from 1 in each map.
  static let mostRows = 511
}

/// An `OpcodeRow`'s encoding, compiled: which opcodes it covers, and which values of each selector.
struct OpcodePattern {
  /// One selector's permitted values, a bit each.
  struct Choice {
    var mask: UInt16
    let full: UInt16
    init(values: Int) {
      full = UInt16(truncatingIfNeeded: (1 << values) - 1)
      mask = full
    }
    var isFree: Bool { mask == full }
    var count: Int { mask.nonzeroBitCount }
    mutating func limit(to value: Int) { mask &= 1 << UInt16(truncatingIfNeeded: value) }
    func permits(_ value: Int) -> Bool { mask >> UInt16(truncatingIfNeeded: value) & 1 != 0 }
  }

  var map = OpcodeMap.oneByte
  var opcode: UInt8 = 0
  /// Consecutive opcodes covered: 8 with `+r`, 16 with `+cc`.
  var opcodeCount = 1
  var hasModRM = false
  /// The mandatory prefix is part of the opcode: 66, F3 or F2.
  var hasMandatoryPrefix = false
  /// None, 66, F3, F2.
  var prefix = Choice(values: 4)
  /// ModRM.mod is not 3, is 3.
  var mod = Choice(values: 2)
  var reg = Choice(values: 8)
  var rm = Choice(values: 8)
  /// Outside, inside 64-bit mode.
  var mode = Choice(values: 2)
  /// Operand size 16, 32, 64 before d64 and f64.
  var size = Choice(values: 3)

  /// How many cells of an opcode's table the pattern can cover: the smaller, the more specific.
  var breadth: Int {
    prefix.count * mod.count * reg.count * rm.count * mode.count * size.count
  }

  /// Reads a row; nil when its notation is wrong.
  init?(_ row: OpcodeRow, operands: OpcodeTable.Operands) {
    if row.attributes.contains(.i64) { mode.limit(to: 0) }
    if row.attributes.contains(.o64) { mode.limit(to: 1) }
    var opcodeBytes = 0
    var isComplete = false
    var isValid = true
    var isVEX = false
    ASCIISlice(row.encoding).forEachPart(separator: " ") { token in
      if token == "NP" {
        prefix.limit(to: 0)
      } else if token == "NFx" {
        prefix.mask = 0b0011
      } else if opcodeBytes == 0, !isVEX, let value = Self.mandatoryPrefix(token) {
        prefix.limit(to: value)
        hasMandatoryPrefix = true
      } else if token[0..<3] == "VEX" {
        isVEX = true
        isValid = readVEX(token) && isValid
      } else if token == "/r" {
        hasModRM = true
      } else if token[0] == UInt8(ascii: "/") {
        hasModRM = true
        reg.limit(to: Int(token[1]) - 0x30)
      } else if token == "mod3" {
        mod.limit(to: 1)
      } else if token == "o16" {
        size.limit(to: 0)
      } else if token == "o32" {
        size.limit(to: 1)
      } else if token == "o64" {
        size.limit(to: 2)
      } else if let byte = token.hexByte(at: 0) {
        if isComplete {
          readModRM(byte, free: token[2] == UInt8(ascii: "+"))
        } else {
          opcodeBytes += 1
          isComplete = readOpcode(byte, number: opcodeBytes, isVEX: isVEX)
          if token[2..<token.count] == "+r" { opcodeCount = 8 }
          if token[2..<token.count] == "+cc" { opcodeCount = 16 }
        }
      } else {
        isValid = false
      }
    }
    if !row.attributes.contains(.modIgnored) {
      for form in [operands.0.form, operands.1.form, operands.2.form, operands.3.form] { limitMod(to: form) }
    }
    guard isValid, isComplete, mod.mask != 0 else { return nil }
  }

  private mutating func limitMod(to form: OperandSpec.Form) {
    switch form {
    case .any: break
    case .memory: mod.limit(to: 0)
    case .register: mod.limit(to: 1)
    }
  }

  private static func mandatoryPrefix(_ token: ASCIISlice) -> Int? {
    if token == "66" { return 1 }
    if token == "F3" { return 2 }
    if token == "F2" { return 3 }
    return nil
  }

  /// Takes an opcode byte; true when it is the last.
  private mutating func readOpcode(_ byte: UInt8, number: Int, isVEX: Bool) -> Bool {
    if !isVEX, number == 1, byte == 0x0F {
      map = .map0F
      return false
    }
    if !isVEX, number == 2, map == .map0F, byte == 0x38 || byte == 0x3A {
      map = byte == 0x38 ? .map0F38 : .map0F3A
      return false
    }
    opcode = byte
    if !isVEX, map == .oneByte, byte & 0xF8 == 0xD8 { map = .x87 }
    return true
  }

  /// A fixed ModRM byte; `free`: with any r/m (`+i`).
  private mutating func readModRM(_ byte: UInt8, free: Bool) {
    hasModRM = true
    mod.limit(to: 1)
    reg.limit(to: Int(byte >> 3 & 7))
    if !free { rm.limit(to: Int(byte & 7)) }
  }

  /// `VEX.LZ.pp.map`: the length bit must be clear.
  private mutating func readVEX(_ token: ASCIISlice) -> Bool {
    var number = 0
    var isValid = true
    token.forEachPart(separator: ".") { part in
      switch number {
      case 0: break
      case 1: isValid = part == "LZ" && isValid
      case 2: if part == "NP" { prefix.limit(to: 0) } else { prefix.limit(to: Self.mandatoryPrefix(part) ?? 0) }
      default:
        if part == "0F38" {
          map = .vex0F38
        } else {
          isValid = part == "0F3A" && isValid
          map = .vex0F3A
        }
      }
      number += 1
    }
    return isValid && number == 4
  }
}
