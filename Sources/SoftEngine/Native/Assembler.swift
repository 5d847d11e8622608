/// A general register of the host (SDM vol. 2, 2.1.5).
enum HostRegister: UInt8 {
  case rax = 0
  case rcx = 1
  case rdx = 2
  case rbx = 3
  case rsp = 4
  case rbp = 5
  case rsi = 6
  case rdi = 7
  case r8 = 8
  case r9 = 9
  case r10 = 10
  case r11 = 11
  case r12 = 12
  case r13 = 13
  case r14 = 14
  case r15 = 15

  var low: UInt8 { rawValue & 7 }
  var high: UInt8 { rawValue >> 3 }
}

/// An operand in memory: a base register and a displacement.
struct HostAddress {
  let base: HostRegister
  let displacement: Int32

  init(_ base: HostRegister, _ displacement: Int32 = 0) {
    self.base = base
    self.displacement = displacement
  }
}

/// The operations that share encodings, by the number in bits 5:3 of the opcode (SDM vol. 2, table A-2).
enum HostOperation: UInt8 {
  case add = 0
  case or = 1
  case adc = 2
  case sbb = 3
  case and = 4
  case sub = 5
  case xor = 6
  case cmp = 7
}

/// The rotations, by the number in ModRM (SDM vol. 2, table A-6, group 2).
enum HostRotation: UInt8 {
  case rol = 0
  case ror = 1
}

/// The shifts, likewise.
enum HostShift: UInt8 {
  case shl = 4
  case shr = 5
  case sar = 7
}

/// A condition by its number tttn (SDM vol. 2, B.1.4.7).
enum HostCondition {
  static let below: UInt8 = 2
  static let aboveOrEqual: UInt8 = 3
  static let equal: UInt8 = 4
  static let notEqual: UInt8 = 5
  static let belowOrEqual: UInt8 = 6
  static let above: UInt8 = 7
  static let parity: UInt8 = 10
  static let less: UInt8 = 12
}

/// Writes instructions of the host, 64-bit code (SDM vol. 2). Sizes are in bytes; a register of one byte is its lowest.
struct Assembler {
  private(set) var bytes: [UInt8] = []

  /// - Parameter capacity: bytes for which there is room from the start.
  init(capacity: Int = 0) { bytes.reserveCapacity(capacity) }

  var count: Int { bytes.count }

  /// INT3.
  static let breakpoint: UInt8 = 0xCC

  mutating func removeAll() { bytes.removeAll(keepingCapacity: true) }

  private mutating func doubleword(_ value: Int32) {
    let value = UInt32(bitPattern: value)
    for shift in stride(from: UInt32(0), to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: value >> shift)) }
  }

  mutating func quadword(_ value: UInt64) {
    for shift in stride(from: UInt64(0), to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: value >> shift)) }
  }

  /// Prefixes: operand size, and REX where the size or a register needs it. `byte`: of a register of one byte.
  private mutating func prefixes(size: Int, reg: UInt8, rm: UInt8, index: UInt8 = 0, byte: UInt8 = 0) {
    if size == 2 { bytes.append(0x66) }
    let rex = (size == 8 ? 8 : 0) | (reg >> 3) << 2 | (index >> 3) << 1 | rm >> 3
    // SPL, BPL, SIL and DIL are AH, CH, DH and BH without it.
    if rex != 0 || byte >= 4 { bytes.append(0x40 | rex) }
  }

  private mutating func operand(_ reg: UInt8, _ address: HostAddress) {
    let fits = Int8(exactly: address.displacement) != nil
    // Without a displacement RBP and R13 would be something else, and RSP and R12 always are (SDM vol. 2, tables 2-2, 2-3).
    let isBare = address.displacement == 0 && address.base.low != HostRegister.rbp.low
    let mode: UInt8 = isBare ? 0 : fits ? 0x40 : 0x80
    bytes.append(mode | (reg & 7) << 3 | address.base.low)
    if address.base.low == HostRegister.rsp.low { bytes.append(0x24) }
    if mode == 0x40 {
      bytes.append(UInt8(truncatingIfNeeded: address.displacement))
    } else if mode == 0x80 {
      doubleword(address.displacement)
    }
  }

  private mutating func operand(_ reg: UInt8, _ rm: HostRegister) { bytes.append(0xC0 | (reg & 7) << 3 | rm.low) }

  /// One byte, or two of which the first is 0Fh.
  private mutating func code(_ opcode: UInt16) {
    if opcode > 0xFF { bytes.append(0x0F) }
    bytes.append(UInt8(truncatingIfNeeded: opcode))
  }

  private mutating func memory(_ opcode: UInt16, size: Int, _ reg: UInt8, _ address: HostAddress, byte: UInt8 = 0) {
    prefixes(size: size, reg: reg, rm: address.base.rawValue, byte: byte)
    code(opcode)
    operand(reg, address)
  }

  private mutating func registers(_ opcode: UInt16, size: Int, _ reg: UInt8, _ rm: HostRegister, byte: UInt8 = 0) {
    prefixes(size: size, reg: reg, rm: rm.rawValue, byte: byte)
    code(opcode)
    operand(reg, rm)
  }

  /// Loads, zero-extended to 64 bits.
  mutating func load(_ to: HostRegister, _ from: HostAddress, size: Int = 8) {
    switch size {
    case 1: memory(0x0FB6, size: 4, to.rawValue, from)
    case 2: memory(0x0FB7, size: 4, to.rawValue, from)
    default: memory(0x8B, size: size, to.rawValue, from)
    }
  }

  /// Loads, sign-extended to 64 bits.
  mutating func loadSigned(_ to: HostRegister, _ from: HostAddress, size: Int) {
    switch size {
    case 1: memory(0x0FBE, size: 8, to.rawValue, from)
    case 2: memory(0x0FBF, size: 8, to.rawValue, from)
    default: memory(0x63, size: 8, to.rawValue, from)
    }
  }

  mutating func store(_ from: HostRegister, _ to: HostAddress, size: Int = 8) {
    memory(size == 1 ? 0x88 : 0x89, size: size, from.rawValue, to, byte: size == 1 ? from.rawValue : 0)
  }

  /// Stores a 32-bit immediate, sign-extended to 8 bytes.
  mutating func store(immediate: Int32, _ to: HostAddress, size: Int = 8) {
    memory(0xC7, size: size, 0, to)
    doubleword(immediate)
  }

  /// Of 1 or 2 bytes it leaves the others of the register.
  mutating func move(_ to: HostRegister, _ from: HostRegister, size: Int = 8) {
    let byte = size == 1 ? max(to.rawValue, from.rawValue) : 0
    registers(size == 1 ? 0x8A : 0x8B, size: size, to.rawValue, from, byte: byte)
  }

  /// Always of 10 bytes.
  mutating func move(_ to: HostRegister, quadword: UInt64) {
    prefixes(size: 8, reg: 0, rm: to.rawValue)
    bytes.append(0xB8 | to.low)
    self.quadword(quadword)
  }

  mutating func move(_ to: HostRegister, immediate: UInt64) {
    if immediate <= 0xFFFF_FFFF {
      prefixes(size: 4, reg: 0, rm: to.rawValue)
      bytes.append(0xB8 | to.low)
      doubleword(Int32(truncatingIfNeeded: immediate))
    } else if let signed = Int32(exactly: Int64(bitPattern: immediate)) {
      registers(0xC7, size: 8, 0, to)
      doubleword(signed)
    } else {
      move(to, quadword: immediate)
    }
  }

  /// Sign-extends the low `size` bytes to 64 bits.
  mutating func signExtend(_ register: HostRegister, size: Int) {
    extend(register, register, signed: true, from: size, to: 8)
  }

  /// Zero-extends the low 2 bytes.
  mutating func zeroExtend16(_ register: HostRegister) { extend(register, register, signed: false, from: 2, to: 4) }

  /// MOVZX, MOVSX, MOVSXD; of 4 bytes without sign it is a move.
  mutating func extend(_ to: HostRegister, _ from: HostRegister, signed: Bool, from width: Int, to size: Int) {
    switch width {
    case 1:
      registers(signed ? 0x0FBE : 0x0FB6, size: size, to.rawValue, from, byte: from.rawValue)
    case 2: registers(signed ? 0x0FBF : 0x0FB7, size: size, to.rawValue, from)
    default: registers(signed ? 0x63 : 0x8B, size: signed ? size : 4, to.rawValue, from)
    }
  }

  mutating func calculate(_ operation: HostOperation, _ to: HostRegister, _ from: HostRegister, size: Int = 8) {
    let byte = size == 1 ? max(to.rawValue, from.rawValue) : 0
    registers(UInt16(operation.rawValue << 3 | (size == 1 ? 2 : 3)), size: size, to.rawValue, from, byte: byte)
  }

  mutating func calculate(_ operation: HostOperation, _ to: HostRegister, _ from: HostAddress, size: Int = 8) {
    memory(UInt16(operation.rawValue << 3 | 3), size: size, to.rawValue, from)
  }

  /// With an immediate of 32 bits, sign-extended; sizes 4 and 8.
  mutating func calculate(_ operation: HostOperation, _ to: HostRegister, immediate: Int32, size: Int = 8) {
    if let small = Int8(exactly: immediate) {
      registers(0x83, size: size, operation.rawValue, to)
      bytes.append(UInt8(bitPattern: small))
    } else {
      registers(0x81, size: size, operation.rawValue, to)
      doubleword(immediate)
    }
  }

  /// On memory with an immediate of 8 bits, sign-extended.
  mutating func calculate(_ operation: HostOperation, _ to: HostAddress, immediate: Int8, size: Int = 8) {
    memory(0x83, size: size, operation.rawValue, to)
    bytes.append(UInt8(bitPattern: immediate))
  }

  /// The same with 32 bits.
  mutating func calculate(_ operation: HostOperation, _ to: HostAddress, longImmediate: Int32, size: Int = 8) {
    memory(0x81, size: size, operation.rawValue, to)
    doubleword(longImmediate)
  }

  /// `to` op= `from` in memory; sizes 4 and 8.
  mutating func calculate(_ operation: HostOperation, _ to: HostAddress, _ from: HostRegister, size: Int = 8) {
    memory(UInt16(operation.rawValue << 3 | 1), size: size, from.rawValue, to)
  }

  mutating func test(_ a: HostRegister, _ b: HostRegister, size: Int = 8) {
    let byte = size == 1 ? max(a.rawValue, b.rawValue) : 0
    registers(size == 1 ? 0x84 : 0x85, size: size, b.rawValue, a, byte: byte)
  }

  /// The low byte.
  mutating func test(_ register: HostRegister, immediate: UInt8) {
    registers(0xF6, size: 1, 0, register, byte: register.rawValue)
    bytes.append(immediate)
  }

  mutating func complement(_ register: HostRegister, size: Int = 8) { registers(0xF7, size: size, 2, register) }

  /// BSWAP; sizes 4 and 8.
  mutating func swapBytes(_ register: HostRegister, size: Int) {
    prefixes(size: size, reg: 0, rm: register.rawValue)
    code(0x0FC8 | UInt16(register.low))
  }

  mutating func shift(_ shift: HostShift, _ register: HostRegister, by count: UInt8, size: Int = 8) {
    registers(0xC1, size: size, shift.rawValue, register)
    bytes.append(count)
  }

  /// SHRD by one bit, which is bit 0 of `from`.
  mutating func shiftRightOnce(_ to: HostRegister, from: HostRegister) {
    registers(0x0FAC, size: 8, from.rawValue, to)
    bytes.append(1)
  }

  mutating func rotate(_ rotation: HostRotation, _ register: HostRegister, by count: UInt8, size: Int) {
    registers(0xC1, size: size, rotation.rawValue, register)
    bytes.append(count)
  }

  /// By CL.
  mutating func shiftByCL(_ shift: HostShift, _ register: HostRegister, size: Int) {
    registers(size == 1 ? 0xD2 : 0xD3, size: size, shift.rawValue, register, byte: size == 1 ? register.rawValue : 0)
  }

  /// IMUL of two registers.
  mutating func multiply(_ to: HostRegister, _ from: HostRegister, size: Int) {
    registers(0x0FAF, size: size, to.rawValue, from)
  }

  /// MUL and DIV: RDX:RAX becomes the product with RAX, or the remainder and the quotient.
  mutating func multiplyWide(by register: HostRegister, size: Int) { registers(0xF7, size: size, 4, register) }
  mutating func divideWide(by register: HostRegister, size: Int) { registers(0xF7, size: size, 6, register) }

  mutating func negate(_ register: HostRegister, size: Int) { registers(0xF7, size: size, 3, register) }

  /// All bits of the register become CF.
  mutating func spreadCarry(_ register: HostRegister) { registers(0x1B, size: 8, register.rawValue, register) }

  /// LEA of base + displacement, cut to `size`, 4 or 8.
  mutating func loadAddress(_ to: HostRegister, _ base: HostRegister, _ displacement: Int32, size: Int = 8) {
    memory(0x8D, size: size, to.rawValue, HostAddress(base, displacement))
  }

  /// LEA of base + index << scale + displacement, cut to `size`, 4 or 8. The base may be missing.
  mutating func loadAddress(
    _ to: HostRegister, _ base: HostRegister?, _ index: HostRegister, scale: UInt8, _ displacement: Int32,
    size: Int = 8
  ) {
    prefixes(size: size, reg: to.rawValue, rm: base?.rawValue ?? 0, index: index.rawValue)
    // Without a base there are 4 bytes of displacement in mode 0 (SDM vol. 2, table 2-3).
    let isBare = displacement == 0 && base?.low != HostRegister.rbp.low
    let small = Int8(exactly: displacement)
    let mode: UInt8 = base == nil || isBare ? 0 : small != nil ? 0x40 : 0x80
    code(0x8D)
    bytes.append(mode | 0x04 | to.low << 3)
    bytes.append((scale & 3) << 6 | index.low << 3 | (base?.low ?? 5))
    if base == nil || mode == 0x80 {
      doubleword(displacement)
    } else if mode == 0x40 {
      bytes.append(UInt8(truncatingIfNeeded: displacement))
    }
  }

  /// Loads or stores at base + index.
  mutating func loadIndexed(_ to: HostRegister, _ base: HostRegister, _ index: HostRegister, size: Int) {
    prefixes(size: size == 8 ? 8 : 4, reg: to.rawValue, rm: base.rawValue, index: index.rawValue)
    code(size == 1 ? 0x0FB6 : size == 2 ? 0x0FB7 : 0x8B)
    bytes.append(0x04 | to.low << 3)
    bytes.append(index.low << 3 | base.low)
  }

  mutating func storeIndexed(_ from: HostRegister, _ base: HostRegister, _ index: HostRegister, size: Int) {
    prefixes(size: size, reg: from.rawValue, rm: base.rawValue, index: index.rawValue)
    bytes.append(size == 1 ? 0x88 : 0x89)
    bytes.append(0x04 | from.low << 3)
    bytes.append(index.low << 3 | base.low)
  }

  /// Moves 4, 8 or 16 bytes between memory, which need not be aligned, and XMM0, the rest of which becomes 0.
  mutating func loadVector(_ from: HostAddress, size: Int) {
    if size == 8 {
      bytes.append(0xF3)
      memory(0x0F7E, size: 4, 0, from)
    } else {
      memory(size == 4 ? 0x0F6E : 0x0F10, size: 2, 0, from)
    }
  }

  mutating func storeVector(_ to: HostAddress, size: Int) {
    memory(size == 4 ? 0x0F7E : size == 8 ? 0x0FD6 : 0x0F11, size: 2, 0, to)
  }

  /// An instruction of XMM0 and memory that a pattern has behind its length, with the displacement in its last four bytes.
  mutating func vector(_ pattern: UnsafePointer<UInt8>, displacement: Int32) {
    bytes += UnsafeBufferPointer(start: pattern + 1, count: Int(pattern.pointee) - 4)
    doubleword(displacement)
  }

  /// PMOVMSKB of XMM0.
  mutating func moveMask(_ to: HostRegister) { registers(0x0FD7, size: 2, to.rawValue, .rax) }

  mutating func set(_ condition: UInt8, _ register: HostRegister) {
    registers(0x0F90 | UInt16(condition), size: 1, 0, register, byte: register.rawValue)
  }

  mutating func set(_ condition: UInt8, _ to: HostAddress) { memory(0x0F90 | UInt16(condition), size: 1, 0, to) }

  /// Sizes 2, 4 and 8.
  mutating func moveIf(_ condition: UInt8, _ to: HostRegister, _ from: HostRegister, size: Int) {
    registers(0x0F40 | UInt16(condition), size: size, to.rawValue, from)
  }

  /// SF, ZF, AF, PF and CF from AH.
  mutating func loadFlags() { bytes.append(0x9E) }

  mutating func push(_ register: HostRegister) {
    prefixes(size: 4, reg: 0, rm: register.rawValue)
    bytes.append(0x50 | register.low)
  }

  mutating func pop(_ register: HostRegister) {
    prefixes(size: 4, reg: 0, rm: register.rawValue)
    bytes.append(0x58 | register.low)
  }

  mutating func ret() { bytes.append(0xC3) }

  mutating func jump(to register: HostRegister) { registers(0xFF, size: 4, 4, register) }

  mutating func jump(through address: HostAddress) { memory(0xFF, size: 4, 4, address) }

  // Targets of direct jumps are distances from where `bytes` begins.

  mutating func jump(to target: Int) {
    bytes.append(0xE9)
    distance(to: target)
  }

  mutating func call(_ target: Int) {
    bytes.append(0xE8)
    distance(to: target)
  }

  mutating func jump(if condition: UInt8, to target: Int) {
    code(0x0F80 | UInt16(condition))
    distance(to: target)
  }

  /// Through a pointer that stands at `target`.
  mutating func jump(throughPointerAt target: Int) {
    code(0xFF)
    bytes.append(0x25)
    distance(to: target)
  }

  mutating func call(throughPointerAt target: Int) {
    code(0xFF)
    bytes.append(0x15)
    distance(to: target)
  }

  /// LEA of a distance from where `bytes` begins.
  mutating func loadAddress(_ to: HostRegister, relative target: Int) {
    prefixes(size: 8, reg: to.rawValue, rm: 0)
    code(0x8D)
    bytes.append(0x05 | to.low << 3)
    distance(to: target)
  }

  private mutating func distance(to target: Int) { doubleword(Int32(truncatingIfNeeded: target - (count + 4))) }

  /// NOPs up to where the count is `remainder` modulo 4.
  mutating func align(_ remainder: Int) {
    while count & 3 != remainder & 3 { bytes.append(0x90) }
  }

  /// A conditional jump, or with nil another, to where `land` will be. `aligned`: its distance stands at a multiple of
  /// 4 bytes, so that it can be changed later.
  mutating func skip(if condition: UInt8?, aligned: Bool = false) -> Int {
    if aligned { align(condition == nil ? -1 : -2) }
    code(condition.map { 0x0F80 | UInt16($0) } ?? 0xE9)
    doubleword(0)
    return count
  }

  mutating func land(_ skip: Int) { land(skip, at: count) }

  mutating func land(_ skip: Int, at target: Int) {
    let distance = UInt32(truncatingIfNeeded: target - skip)
    for index in 0..<4 { bytes[skip - 4 + index] = UInt8(truncatingIfNeeded: distance >> UInt32(8 * index)) }
  }
}
