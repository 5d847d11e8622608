import CSoftCPU
import X86

// BMI1, BMI2, ADX and CRC32.
extension Executor {
  /// False: not one of these.
  func executeBits() throws(Fault) -> Bool {
    // A 66 that selects the instruction is no operand-size prefix.
    let size = Int(max(i.operandSize, 4))
    let bits = UInt64(size) &* 8
    switch i.operation {
    case .blsr, .blsmsk, .blsi:
      let source = try read(1)
      let result: UInt64 =
        switch i.operation {
        case .blsr: source & (source &- 1)
        case .blsmsk: (source ^ (source &- 1)) & mask(size)
        default: source & (0 &- source)
        }
      try write(0, result)
      setBitFlags(result, size, carry: (source == 0) != (i.operation == .blsi))
    case .bextr:
      let source = try read(1)
      let control = try read(2)
      let start = control & 0xFF
      let length = control >> 8 & 0xFF
      let shifted = start < 64 ? source >> start : 0
      let result = length < 64 ? shifted & ((1 << length) &- 1) : shifted
      try write(0, result)
      setBitFlags(result, size, carry: false)
    case .bzhi:
      let source = try read(1)
      let count = try read(2) & 0xFF
      let result = count < bits ? source & ((1 << count) &- 1) : source
      try write(0, result)
      setBitFlags(result, size, carry: count >= bits)
    case .pext: try write(0, Self.extract(try read(1), try read(2)))
    case .pdep: try write(0, Self.deposit(try read(1), try read(2)))
    case .mulx:
      let (high, low) = (general(General.rdx) & mask(size)).multipliedFullWidth(by: try read(2))
      try write(1, low & mask(size))
      try write(0, size == 8 ? high : low >> 32)
    case .shlx: try write(0, try read(1) << (try read(2) & (bits &- 1)) & mask(size))
    case .shrx: try write(0, try read(1) >> (try read(2) & (bits &- 1)))
    case .sarx:
      let count = Int64(bitPattern: try read(2) & (bits &- 1))
      let value = Int64(bitPattern: signExtend(try read(1), size))
      try write(0, UInt64(bitPattern: value >> count) & mask(size))
    case .rorx:
      let value = try read(1)
      let count = UInt64(bitPattern: i.immediate) & (bits &- 1)
      try write(0, count == 0 ? value : (value >> count | value << (bits &- count)) & mask(size))
    case .adcx, .adox:
      let isCarry = i.operation == .adcx
      let (a, b) = (try read(0), try read(1))
      let carry: UInt64 = (isCarry ? state.carry : state.overflow) ? 1 : 0
      let (sum, first) = a.addingReportingOverflow(b)
      let (result, second) = sum.addingReportingOverflow(carry)
      try write(0, result & mask(size))
      let out = size == 8 ? first || second : result >> 32 != 0
      state.arithmeticFlags =
        isCarry
        ? state.arithmeticFlags & ~RFLAGS.cf | (out ? RFLAGS.cf : 0)
        : state.arithmeticFlags & ~RFLAGS.of | (out ? RFLAGS.of : 0)
    case .crc32:
      var crc = UInt32(truncatingIfNeeded: try read(0))
      let value = try read(1)
      for index in 0..<Int(i.operands[1].size) {
        crc ^= UInt32(truncatingIfNeeded: value >> UInt64(8 &* index) & 0xFF)
        // The Castagnoli polynomial, reflected.
        for _ in 0..<8 { crc = crc >> 1 ^ (crc & 1 != 0 ? 0x82F6_3B78 : 0) }
      }
      try write(0, UInt64(crc))
    default: return false
    }
    return true
  }

  /// ZF, SF and CF; OF is cleared. ZF of BLSMSK comes out clear because its result never is 0.
  private func setBitFlags(_ result: UInt64, _ size: Int, carry: Bool) {
    state.pointee.result = Int64(bitPattern: signExtend(result, size))
    state.pointee.carries = Carries.flags(cf: carry, of: false)
  }

  private static func extract(_ value: UInt64, _ mask: UInt64) -> UInt64 {
    var (result, rest, place) = (UInt64(0), mask, UInt64(0))
    while rest != 0 {
      let lowest = rest & (0 &- rest)
      if value & lowest != 0 { result |= 1 << place }
      rest ^= lowest
      place &+= 1
    }
    return result
  }

  private static func deposit(_ value: UInt64, _ mask: UInt64) -> UInt64 {
    var (result, rest, place) = (UInt64(0), mask, UInt64(0))
    while rest != 0 {
      let lowest = rest & (0 &- rest)
      if value >> place & 1 != 0 { result |= lowest }
      rest ^= lowest
      place &+= 1
    }
    return result
  }
}
