import CSoftCPU
import X86

extension Executor {
  /// False: not one of these.
  func executeInteger() throws(Fault) -> Bool {
    switch i.operation {
    case .mul, .imul: try multiply(signed: i.operation == .imul)
    case .div: try divide()
    case .idiv: try divideSigned()
    case .bt, .bts, .btr, .btc: try bitTest()
    case .bsf, .bsr, .tzcnt, .lzcnt, .popcnt: try bitScan()
    case .shld, .shrd: try doubleShift()
    case .xchg:
      let a = try read(0, forWrite: true)
      let b = try read(1)
      if i.operands[0].kind == .memory { return try exchangeMemory() }
      try write(0, b)
      try write(1, a)
    case .xadd:
      let a = try read(0, forWrite: true)
      let b = try read(1)
      let sum = a &+ b
      if i.operands[0].kind == .memory {
        try write(0, sum)
        try write(1, a)
      } else {
        try write(1, a)
        try write(0, sum)
      }
      flags(Add.self, a, b, Int(i.operands[0].size))
    case .cmpxchg:
      let size = Int(i.operands[0].size)
      let destination = try read(0, forWrite: true)
      let accumulator = general(General.rax) & mask(size)
      // The destination is written in any case (SDM vol. 2, CMPXCHG).
      if destination == accumulator {
        try write(0, try read(1))
      } else {
        if i.operands[0].kind == .memory { try write(0, destination) }
        setGeneral(General.rax, destination, size: size)
      }
      flags(Sub.self, accumulator, destination, size)
    case .cmpxchg8b, .cmpxchg16b: try compareExchangePair()
    case .setcc: try write(0, conditionHolds(i.condition, state) ? 1 : 0)
    case .pop:
      let value = try stackValue(size)
      if i.operands[0].registerClass == .segment, i.operands[0].kind == .register {
        try loadSegment(Int(i.operands[0].number), UInt16(truncatingIfNeeded: value))
        adjustStack(size)
        if Int(i.operands[0].number) == SegmentRegister.ss { state.pointee.shadow = InterruptShadow.stackSegment }
      } else {
        // The address of a destination with RSP is computed after the increment.
        let saved = general(General.rsp)
        adjustStack(size)
        do throws(Fault) { try write(0, value) } catch {
          setGeneral(General.rsp, saved)
          throw error
        }
      }
    case .push:
      try pushValue(try read(0), size)
      adjustStack(-size)
    case .mov:
      guard i.operands[0].kind != .register || i.operands[0].registerClass == .general,
        i.operands[1].kind != .register || i.operands[1].registerClass == .segment
      else { return false }
      // A selector stored in a register is zero-extended to the operand size.
      let value = try read(1)
      if i.operands[0].kind == .register {
        setGeneral(i.operands[0].number, value, size: size)
      } else {
        try write(0, value)
      }
    case .pusha:
      for number in 0..<8 {
        try pushValue(general(UInt8(number)), size, depth: number * size)
      }
      adjustStack(-8 * size)
    case .popa:
      var values: [UInt64] = []
      for number in 0..<8 { values.append(try stackValue(size, depth: number * size)) }
      for number in 0..<8 where number != 3 { setGeneral(UInt8(7 - number), values[number], size: size) }
      adjustStack(8 * size)
    case .pushf:
      if state.pointee.isVirtual8086, state.pointee.system_flags & RFLAGS.iopl != RFLAGS.iopl { throw .protection }
      try pushValue(state.rflags & ~(RFLAGS.rf | RFLAGS.vm), size)
      adjustStack(-size)
    case .popf:
      if state.pointee.isVirtual8086, state.pointee.system_flags & RFLAGS.iopl != RFLAGS.iopl { throw .protection }
      let value = try stackValue(size)
      adjustStack(size)
      loadFlags(value & ~RFLAGS.rf, size: size)
    case .lahf:
      register(state, 1, as: UInt8.self).pointee = UInt8(truncatingIfNeeded: state.rflags)
    case .sahf:
      let kept: UInt64 = RFLAGS.of
      let new = UInt64(register(state, 1, as: UInt8.self).pointee) & RFLAGS.arithmetic & ~kept
      state.arithmeticFlags = state.arithmeticFlags & kept | new
    case .enter: try enter()
    case .leave:
      let frame = general(General.rbp) & state.pointee.stack_mask
      let value = try readMemory(SegmentRegister.ss, frame, size)
      setGeneral(General.rsp, general(General.rsp) & ~state.pointee.stack_mask | frame)
      adjustStack(size)
      setGeneral(General.rbp, value, size: size)
    case .xlat:
      let offset = (general(General.rbx) &+ general(General.rax) & 0xFF) & mask(Int(i.addressSize))
      setGeneral(General.rax, try readMemory(Int(i.segment), offset, 1), size: 1)
    case .bswap: setGeneral(i.operands[0].number, 0, size: 2)
    case .movbe:
      let value = try read(1)
      try write(0, value.byteSwapped >> (64 &- bits))
    case .movnti: try write(0, try read(1))
    case .bound:
      let index = signExtend(try read(0), size)
      let lower = signExtend(try readMemory(Int(i.segment), offset, size), size)
      let second = (offset &+ UInt64(size)) & mask(Int(i.addressSize))
      let upper = signExtend(try readMemory(Int(i.segment), second, size), size)
      if Int64(bitPattern: index) < Int64(bitPattern: lower) || Int64(bitPattern: index) > Int64(bitPattern: upper) {
        throw .exception(Vector.boundRange, errorCode: nil)
      }
    case .salc: setGeneral(General.rax, state.carry ? 0xFF : 0, size: 1)
    case .daa, .das: decimalAdjust(subtract: i.operation == .das)
    case .aaa, .aas: asciiAdjust(subtract: i.operation == .aas)
    case .aam:
      let base = UInt64(bitPattern: i.immediate) & 0xFF
      guard base != 0 else { throw .exception(Vector.divideError, errorCode: nil) }
      let al = general(General.rax) & 0xFF
      setGeneral(General.rax, al / base << 8 | al % base, size: 2)
      state.setFlags(UInt8(truncatingIfNeeded: al % base), vector: 0)
    case .aad:
      let ax = general(General.rax)
      let al =
        UInt8(truncatingIfNeeded: ax) &+ UInt8(truncatingIfNeeded: ax >> 8) &* UInt8(truncatingIfNeeded: i.immediate)
      setGeneral(General.rax, UInt64(al), size: 2)
      state.setFlags(al, vector: 0)
    case .andn:
      let result = ~(try read(1)) & (try read(2))
      try write(0, result)
      logicFlags(result)
    case .lfence, .mfence, .sfence, .clflush, .clflushopt, .clwb: break
    default: return false
    }
    return true
  }

  func logicFlags(_ result: UInt64) {
    state.setFlags(result << (64 &- bits), vector: 0)
    state.pointee.result = Int64(bitPattern: signExtend(result, size))
  }

  /// Sets the flags of `a` op `b` for operands of `size` bytes.
  @discardableResult
  func flags<Operation: BinaryOperation>(_ operation: Operation.Type, _ a: UInt64, _ b: UInt64, _ size: Int) -> UInt64 {
    switch size {
    case 1: UInt64(Operation.apply(state, UInt8(truncatingIfNeeded: a), UInt8(truncatingIfNeeded: b)))
    case 2: UInt64(Operation.apply(state, UInt16(truncatingIfNeeded: a), UInt16(truncatingIfNeeded: b)))
    case 4: UInt64(Operation.apply(state, UInt32(truncatingIfNeeded: a), UInt32(truncatingIfNeeded: b)))
    default: Operation.apply(state, a, b)
    }
  }

  private func exchangeMemory() throws(Fault) -> Bool {
    try executeLocked()
    return true
  }

  private func multiply(signed: Bool) throws(Fault) {
    let size = Int(i.operands[0].size)
    let b = try read(0)
    let a = general(General.rax) & mask(size)
    var high: UInt64
    var low: UInt64
    if signed {
      let product = Int64(bitPattern: signExtend(a, size)).multipliedFullWidth(
        by: Int64(bitPattern: signExtend(b, size)))
      (high, low) = (UInt64(bitPattern: product.high), product.low)
    } else {
      (high, low) = a.multipliedFullWidth(by: b)
    }
    if size < 8 { high = low >> UInt64(8 &* size) & mask(size) }
    low &= mask(size)
    let overflows = signed ? high != (signExtend(low, size) >> 63 == 0 ? 0 : mask(size)) : high != 0
    if size == 1 {
      setGeneral(General.rax, high << 8 | low, size: 2)
    } else {
      setGeneral(General.rax, low, size: size)
      setGeneral(General.rdx, high, size: size)
    }
    state.pointee.result = Int64(bitPattern: signExtend(low, size))
    state.pointee.carries = Carries.flags(cf: overflows, of: overflows)
  }

  private var dividend: (high: UInt64, low: UInt64) {
    let size = Int(i.operands[0].size)
    if size == 1 { return (general(General.rax) >> 8 & 0xFF, general(General.rax) & 0xFF) }
    return (general(General.rdx) & mask(size), general(General.rax) & mask(size))
  }

  private func setQuotient(_ quotient: UInt64, _ remainder: UInt64, _ size: Int) {
    if size == 1 {
      setGeneral(General.rax, (remainder & 0xFF) << 8 | quotient & 0xFF, size: 2)
    } else {
      setGeneral(General.rax, quotient, size: size)
      setGeneral(General.rdx, remainder, size: size)
    }
  }

  private func divide() throws(Fault) {
    let size = Int(i.operands[0].size)
    let divisor = try read(0)
    let (high, low) = dividend
    // The quotient fits exactly when the dividend's upper half is below the divisor.
    guard high < divisor else { throw .exception(Vector.divideError, errorCode: nil) }
    if size == 8 {
      let (quotient, remainder) = SoftEngine.divide(high, low, by: divisor)
      setQuotient(quotient, remainder, size)
    } else {
      let value = high << UInt64(8 &* size) | low
      setQuotient(value / divisor, value % divisor, size)
    }
  }

  private func divideSigned() throws(Fault) {
    let size = Int(i.operands[0].size)
    let divisor = signExtend(try read(0), size)
    var (high, low) = dividend
    if size < 8 {
      let value = signExtend(high << UInt64(8 &* size) | low, size &* 2)
      (high, low) = (UInt64(bitPattern: Int64(bitPattern: value) >> 63), value)
    }
    let isNegative = high >> 63 != 0
    if isNegative {
      low = 0 &- low
      high = ~high &+ (low == 0 ? 1 : 0)
    }
    let negativeDivisor = divisor >> 63 != 0
    let magnitude = negativeDivisor ? 0 &- divisor : divisor
    guard high < magnitude else { throw .exception(Vector.divideError, errorCode: nil) }
    let (quotient, remainder) = SoftEngine.divide(high, low, by: magnitude)
    let limit: UInt64 = 1 << UInt64(8 &* size &- 1)
    let negative = isNegative != negativeDivisor
    guard quotient < limit || negative && quotient == limit else {
      throw .exception(Vector.divideError, errorCode: nil)
    }
    setQuotient(negative ? 0 &- quotient : quotient, isNegative ? 0 &- remainder : remainder, size)
  }

  /// Where a bit string in memory has bit `index`: the offset of the operand that holds it.
  private func bitOffset(_ index: UInt64) -> UInt64 {
    let displacement = Int64(bitPattern: signExtend(index, size)) >> Int64(size == 8 ? 6 : size == 4 ? 5 : 4)
    return (offset &+ UInt64(bitPattern: displacement) &* UInt64(size)) & mask(Int(i.addressSize))
  }

  private func bitTest() throws(Fault) {
    let index = try read(1)
    let bit: UInt64 = 1 << (index & (bits &- 1))
    let writes = i.operation != .bt
    let isMemory = i.operands[0].kind == .memory
    let place = isMemory ? (i.operands[1].kind == .register ? bitOffset(index) : offset) : 0
    let old = isMemory ? try readMemory(Int(i.segment), place, size, forWrite: writes) : try read(0)
    let new: UInt64 =
      switch i.operation {
      case .bts: old | bit
      case .btr: old & ~bit
      case .btc: old ^ bit
      default: old
      }
    if writes {
      if !isMemory {
        try write(0, new)
      } else if i.prefixes.contains(.lock) {
        let found = try atomically(place, size) { old in
          switch i.operation {
          case .bts: old | bit
          case .btr: old & ~bit
          default: old ^ bit
          }
        }
        state.setCarry(found & bit != 0)
        return
      } else {
        try writeMemory(Int(i.segment), place, new, size)
      }
    }
    state.setCarry(old & bit != 0)
  }

  func lockedBitTest() throws(Fault) { try bitTest() }

  private func bitScan() throws(Fault) {
    let value = try read(1)
    let result: UInt64
    switch i.operation {
    case .bsf, .bsr:
      // Zero leaves the destination alone, as processors do, though a 32-bit one loses its upper half on none.
      state.pointee.result = value == 0 ? 0 : 1
      state.pointee.carries = 0
      guard value != 0 else { return }
      result = UInt64(i.operation == .bsf ? value.trailingZeroBitCount : 63 &- value.leadingZeroBitCount)
      try write(0, result)
      return
    case .tzcnt: result = value == 0 ? bits : UInt64(value.trailingZeroBitCount)
    case .lzcnt: result = UInt64(value.leadingZeroBitCount) &- (64 &- bits)
    default:
      result = UInt64(value.nonzeroBitCount)
      state.pointee.result = Int64(value == 0 ? 0 : 1 << 8)
      state.pointee.carries = value == 0 ? 1 << 8 : 1 << 8
      try write(0, result)
      return
    }
    state.pointee.result = Int64(bitPattern: result)
    state.pointee.carries = value == 0 ? Carries.flags(cf: true, of: false) : 0
    try write(0, result)
  }

  private func doubleShift() throws(Fault) {
    let count =
      (i.operands[2].kind == .immediate ? UInt64(bitPattern: i.immediate) : general(General.rcx))
      & (size == 8 ? 63 : 31)
    let destination = try read(0, forWrite: true)
    let source = try read(1)
    guard count != 0 else {
      try write(0, destination)
      return
    }
    let result: UInt64
    let cf: Bool
    if i.operation == .shld {
      // Beyond 16 a 16-bit operand is undefined: processors go on with the destination's bits.
      if count <= bits {
        result = (count == bits ? source : destination << count | source >> (bits &- count)) & mask(size)
        cf = destination >> (bits &- count) & 1 != 0
      } else {
        let rest = count &- bits
        result = (source << rest | destination >> (bits &- rest)) & mask(size)
        cf = source >> (bits &- rest) & 1 != 0
      }
    } else if count <= bits {
      result = (count == bits ? source : destination >> count | source << (bits &- count)) & mask(size)
      cf = destination >> (count &- 1) & 1 != 0
    } else {
      let rest = count &- bits
      result = (source >> rest | destination << (bits &- rest)) & mask(size)
      cf = source >> (rest &- 1) & 1 != 0
    }
    try write(0, result)
    let top = bits &- 1
    state.pointee.result = Int64(bitPattern: signExtend(result, size))
    let of: Bool =
      i.operation == .shld
      ? (result >> top & 1 != 0) != cf : (result >> top ^ result >> (top &- 1)) & 1 != 0
    state.pointee.carries = Carries.flags(cf: cf, of: of)
  }

  private func enter() throws(Fault) {
    let level = Int(i.secondImmediate & 31)
    let frame = (rsp &- UInt64(size)) & state.pointee.stack_mask
    try pushValue(general(General.rbp), size)
    for step in stride(from: 1, to: level, by: 1) {
      let link = (general(General.rbp) &- UInt64(step &* size)) & state.pointee.stack_mask
      try pushValue(try readMemory(SegmentRegister.ss, link, size), size, depth: step &* size)
    }
    if level > 0 { try pushValue(frame, size, depth: level &* size) }
    // The last byte of the new frame must be writable (SDM vol. 2, ENTER).
    let bytes = Int(i.immediate & 0xFFFF) &+ size &* (level &+ 1)
    _ = try readMemory(
      SegmentRegister.ss, (rsp &- UInt64(bytes)) & state.pointee.stack_mask, size, forWrite: true)
    adjustStack(-bytes)
    setGeneral(General.rbp, frame, size: size)
  }

  private func decimalAdjust(subtract: Bool) {
    let old = UInt8(truncatingIfNeeded: general(General.rax))
    var al = old
    let carry = state.carry
    let adjust = old & 15 > 9 || state.adjust
    var cf = false
    if adjust {
      cf = carry || (subtract ? old < 6 : old > 0xF9)
      al = subtract ? al &- 6 : al &+ 6
    }
    if old > 0x99 || carry {
      al = subtract ? al &- 0x60 : al &+ 0x60
      cf = true
    }
    setGeneral(General.rax, UInt64(al), size: 1)
    state.setFlags(al, vector: Carries.flags(cf: cf, of: false) | (adjust ? Carries.af : 0))
  }

  private func asciiAdjust(subtract: Bool) {
    var ax = UInt16(truncatingIfNeeded: general(General.rax))
    let adjust = ax & 15 > 9 || state.adjust
    if adjust { ax = subtract ? ax &- 0x106 : ax &+ 0x106 }
    ax &= 0xFF0F
    setGeneral(General.rax, UInt64(ax), size: 2)
    state.setFlags(
      UInt8(truncatingIfNeeded: ax), vector: Carries.flags(cf: adjust, of: false) | (adjust ? Carries.af : 0))
  }
}
