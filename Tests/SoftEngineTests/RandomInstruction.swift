/// A random user-level integer instruction with the registers it needs to stay inside the test's memory.
struct RandomInstruction {
  var bytes: [UInt8] = []
  var registers = [UInt64](repeating: 0, count: 16)

  /// Encodings after the prefixes; `m`: ModRM with a register or memory; `g`: ModRM of a group with that /digit;
  /// then the immediate's size, z for 2 or 4.
  private static let plain: [(opcode: [UInt8], immediate: Int)] = {
    var list: [(opcode: [UInt8], immediate: Int)] = []
    for base in stride(from: UInt8(0), to: 0x40, by: 8) { for form in UInt8(0)..<4 { list.append(([base + form], 0)) } }
    for opcode: UInt8 in [0x63, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B] { list.append(([opcode], 0)) }
    list += [([0x69], -1), ([0x6B], 1)]
    for condition in UInt8(0)..<16 { list += [([0x0F, 0x40 + condition], 0), ([0x0F, 0x90 + condition], 0)] }
    for opcode: UInt8 in [0xA3, 0xAB, 0xB3, 0xBB, 0xAF, 0xB0, 0xB1, 0xC0, 0xC1, 0xB6, 0xB7, 0xBE, 0xBF, 0xBC, 0xBD] {
      list.append(([0x0F, opcode], 0))
    }
    for opcode: UInt8 in [0xA4, 0xAC] { list.append(([0x0F, opcode], 1)) }
    for opcode: UInt8 in [0xA5, 0xAD] { list.append(([0x0F, opcode], 0)) }
    return list
  }()

  private static let groups: [(opcode: [UInt8], digits: [UInt8], immediate: Int)] = [
    ([0x80], Array(0..<8), 1), ([0x81], Array(0..<8), -1), ([0x83], Array(0..<8), 1), ([0xC0], Array(0..<8), 1),
    ([0xC1], Array(0..<8), 1), ([0xD0], Array(0..<8), 0), ([0xD1], Array(0..<8), 0), ([0xD2], Array(0..<8), 0),
    ([0xD3], Array(0..<8), 0), ([0xF6], [0, 1], 1), ([0xF7], [0, 1], -1), ([0xF6], [2, 3, 4, 5, 6, 7], 0),
    ([0xF7], [2, 3, 4, 5, 6, 7], 0), ([0xFE], [0, 1], 0), ([0xFF], [0, 1, 6], 0), ([0xC6], [0], 1), ([0xC7], [0], -1),
    ([0x0F, 0xBA], [4, 5, 6, 7], 1), ([0x8F], [0], 0),
  ]

  private static let bare: [[UInt8]] = [
    [0x98], [0x99], [0x9F], [0x9E], [0xF5], [0xF8], [0xF9], [0x50], [0x51], [0x57], [0x58], [0x5F], [0x90], [0x91],
    [0x95],
    [0xC9], [0xA4], [0xA5], [0xAA], [0xAB], [0xAC], [0xAD], [0xA6], [0xA7], [0xAE], [0xAF], [0x0F, 0xC8], [0x0F, 0xCB],
    [0x0F, 0xCF],
  ]

  init(memory: UInt64, _ random: inout SplitMix) {
    for index in 0..<16 { registers[index] = random.value() }
    registers[4] = memory + 0x8000 + random.next() % 512
    if random.next() % 8 == 0 {
      bare(memory, &random)
      return
    }
    var opcode: [UInt8]
    var immediate: Int
    var digit: UInt8?
    if random.next() % 2 == 0 {
      (opcode, immediate) = Self.plain[Int(random.next() % UInt64(Self.plain.count))]
    } else {
      let group = Self.groups[Int(random.next() % UInt64(Self.groups.count))]
      (opcode, immediate) = (group.opcode, group.immediate)
      digit = group.digits[Int(random.next() % UInt64(group.digits.count))]
    }
    let has16 = random.next() % 4 == 0
    if has16 { bytes.append(0x66) }
    let rex: UInt8 = random.next() % 2 == 0 ? 0x40 | UInt8(random.next() & 15) : 0
    let reg = digit ?? UInt8(random.next() & 7)
    let fullReg = Int(reg | (rex & 4) << 1)
    if rex != 0 { bytes.append(rex) }
    bytes += opcode
    if random.next() % 2 == 0 {
      bytes.append(0xC0 | reg << 3 | UInt8(random.next() & 7))
    } else {
      let isBitString = opcode.count == 2 && [0xA3, 0xAB, 0xB3, 0xBB].contains(opcode[1])
      if isBitString, digit == nil { registers[fullReg] = (random.next() % 8192) &- 4096 }
      address(memory, reg, rex, isBitString ? fullReg : nil, &random)
    }
    let size = immediate < 0 ? (has16 && rex & 8 == 0 ? 2 : 4) : immediate
    for _ in 0..<size { bytes.append(UInt8(truncatingIfNeeded: random.next())) }
  }

  private mutating func address(
    _ memory: UInt64, _ reg: UInt8, _ rex: UInt8, _ reserved: Int?, _ random: inout SplitMix
  ) {
    let wide = random.next() % 2 == 0
    let mod: UInt8 = wide ? 0x80 : 0x40
    let displacement = Int64(
      wide ? Int32(truncatingIfNeeded: random.next() % 2048) - 1024 : Int32(Int8(truncatingIfNeeded: random.next())))
    var base = UInt8(random.next() & 7)
    if base == 4 {
      // SIB.
      base = UInt8(random.next() & 7)
      var index = UInt8(random.next() & 7)
      let fullIndex = { Int(index | (rex & 2) << 2) }
      while fullIndex() == Int(base | (rex & 1) << 3) || fullIndex() == reserved { index = (index + 1) & 7 }
      bytes += [mod | reg << 3 | 4, UInt8(random.next() & 3) << 6 | index << 3 | base]
      if fullIndex() != 4 { registers[fullIndex()] = random.next() % 512 }
    } else {
      bytes.append(mod | reg << 3 | base)
    }
    let full = Int(base | (rex & 1) << 3)
    if full == reserved { registers[full] = 0 }
    registers[full] = memory + 0x8000 + random.next() % 512 * (random.next() % 4 == 0 ? 8 : 1)
    let raw = UInt64(bitPattern: displacement)
    for byte in 0..<(wide ? 4 : 1) { bytes.append(UInt8(truncatingIfNeeded: raw >> UInt64(8 * byte))) }
  }

  private mutating func bare(_ memory: UInt64, _ random: inout SplitMix) {
    let opcode = Self.bare[Int(random.next() % UInt64(Self.bare.count))]
    registers[5] = memory + 0x9000 + random.next() % 512
    if opcode.count == 1, opcode[0] >= 0xA4, opcode[0] <= 0xAF {
      registers[6] = memory + 0x6000 + random.next() % 64
      registers[7] = memory + 0x6000 + random.next() % 64
      registers[1] = random.next() % 64
      if random.next() % 2 == 0 { bytes.append(random.next() % 2 == 0 ? 0xF3 : 0xF2) }
    }
    if random.next() % 4 == 0 { bytes.append(0x66) }
    if random.next() % 2 == 0 { bytes.append(0x48) }
    bytes += opcode
  }
}

struct SplitMix {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }

  /// Often a value near a boundary.
  mutating func value() -> UInt64 {
    switch next() % 8 {
    case 0: 0
    case 1: .max
    case 2: 1 << (next() & 63)
    case 3: (1 << (next() & 63)) &- 1
    case 4: next() & 0xFF
    default: next()
    }
  }
}
