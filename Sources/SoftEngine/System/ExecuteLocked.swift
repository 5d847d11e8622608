import CSoftCPU
import X86

extension Executor {
  /// Of a cache line, within which the host's locked instructions are used.
  private static let lineSize: UInt64 = 64

  /// Replaces memory by what `change` makes of it, atomically for all processors; gives the old value.
  func atomically(_ offset: UInt64, _ size: Int, _ change: (UInt64) -> UInt64) throws(Fault) -> UInt64 {
    let segment = Int(i.segment)
    let linear = try linear(segment, offset, size, write: true)
    // The host would lock its whole bus, or refuse: hosts may end a program that does it (split_lock_detect=fatal).
    if linear & (Self.lineSize &- 1) > Self.lineSize &- UInt64(size) {
      guard state.context.pointee.isAlone || state.context.pointee.peers == nil else { throw state.askToBeAlone() }
      return try plainly(linear, size, change)
    }
    let page = try lockedPage(linear, size, segment)
    guard let host = page.host else { return try plainly(linear, size, change) }
    defer { state.context.pointee.blocks.didWrite(state, page.physical, size) }
    switch size {
    case 1:
      return UInt64(
        Self.exchange(host.load(as: UInt8.self), change) { soft_compare_exchange_8(host, $0, $1) })
    case 2:
      return UInt64(
        Self.exchange(host.loadUnaligned(as: UInt16.self), change) { soft_compare_exchange_16(host, $0, $1) })
    case 4:
      return UInt64(
        Self.exchange(host.loadUnaligned(as: UInt32.self), change) { soft_compare_exchange_32(host, $0, $1) })
    default:
      return Self.exchange(host.loadUnaligned(as: UInt64.self), change) { soft_compare_exchange_64(host, $0, $1) }
    }
  }

  /// The page of an access that may be made.
  private func lockedPage(_ linear: UInt64, _ size: Int, _ segment: Int) throws(Fault) -> Page {
    // Reading meets every other reason to refuse it.
    if state.pointee.checks_accesses != 0 || state.pointee.isLongMode && !state.isCanonical(linear) {
      _ = try state.read(linear, width: size, segment: segment, forWrite: true)
      state.pointee.device_next = 0
    }
    return try state.page(linear, .write)
  }

  private static func exchange<Value: FixedWidthInteger & UnsignedInteger>(
    _ first: Value, _ change: (UInt64) -> UInt64, _ compareExchange: (Value, Value) -> Value
  ) -> Value {
    var old = first
    while true {
      let seen = compareExchange(old, Value(truncatingIfNeeded: change(UInt64(old))))
      if seen == old { return old }
      old = seen
    }
  }

  /// Atomic only while no other processor executes anything; device memory.
  private func plainly(_ linear: UInt64, _ size: Int, _ change: (UInt64) -> UInt64) throws(Fault) -> UInt64 {
    let old = try state.read(linear, width: size, segment: Int(i.segment), forWrite: true)
    try state.write(linear, change(old) & mask(size), width: size, segment: Int(i.segment))
    return old
  }

  /// Instructions with LOCK, and XCHG with memory, which locks without (SDM vol. 3, 9.1.2.1).
  func executeLocked() throws(Fault) {
    let size = Int(i.operands[0].size)
    switch i.operation {
    case .add: try locked(Add.self, size)
    case .adc: try locked(Adc.self, size)
    case .sub: try locked(Sub.self, size)
    case .sbb: try locked(Sbb.self, size)
    case .and: try locked(And.self, size)
    case .or: try locked(Or.self, size)
    case .xor: try locked(Xor.self, size)
    case .inc:
      let old = try atomically(offset, size) { $0 &+ 1 }
      flagsKeepingCarry(Add.self, old, size)
    case .dec:
      let old = try atomically(offset, size) { $0 &- 1 }
      flagsKeepingCarry(Sub.self, old, size)
    case .not: _ = try atomically(offset, size) { ~$0 }
    case .neg:
      let old = try atomically(offset, size) { 0 &- $0 }
      flags(Sub.self, 0, old, size)
    case .xchg:
      // The assembler's order of the operands does not matter; memory is the first.
      let value = try read(1)
      try write(1, try atomically(offset, size) { _ in value })
    case .xadd:
      let value = try read(1)
      let old = try atomically(offset, size) { $0 &+ value }
      try write(1, old)
      flags(Add.self, old, value, size)
    case .cmpxchg:
      let value = try read(1)
      let accumulator = general(General.rax) & mask(size)
      let old = try atomically(offset, size) { $0 == accumulator ? value : $0 }
      if old != accumulator { setGeneral(General.rax, old, size: size) }
      flags(Sub.self, accumulator, old, size)
    case .cmpxchg8b, .cmpxchg16b: try compareExchangePair()
    case .bts, .btr, .btc: try lockedBitTest()
    default: throw .undefined
    }
  }

  private func locked<Operation: BinaryOperation>(_ operation: Operation.Type, _ size: Int) throws(Fault) {
    let value = try read(1)
    let carry = state.carry
    let old = try atomically(offset, size) { old in
      switch i.operation {
      case .add: old &+ value
      case .adc: old &+ value &+ (carry ? 1 : 0)
      case .sub: old &- value
      case .sbb: old &- value &- (carry ? 1 : 0)
      case .and: old & value
      case .or: old | value
      default: old ^ value
      }
    }
    flags(operation, old, value, size)
  }

  private func flagsKeepingCarry<Operation: BinaryOperation>(_ operation: Operation.Type, _ old: UInt64, _ size: Int) {
    let carry = state.carry
    flags(operation, old, 1, size)
    state.setCarry(carry)
  }

  /// CMPXCHG8B and CMPXCHG16B.
  func compareExchangePair() throws(Fault) {
    let half = size == 8 ? 8 : 4
    let segment = Int(i.segment)
    let offset = offset
    var equal: Bool
    if half == 4 {
      let expected = general(General.rdx) << 32 | general(General.rax) & 0xFFFF_FFFF
      let desired = general(General.rcx) << 32 | general(General.rbx) & 0xFFFF_FFFF
      let old = try atomically(offset, 8) { $0 == expected ? desired : $0 }
      equal = old == expected
      if !equal {
        setGeneral(General.rax, old & 0xFFFF_FFFF)
        setGeneral(General.rdx, old >> 32)
      }
    } else {
      let linear = try linear(segment, offset, 16, write: true)
      guard linear & 15 == 0 else { throw .protection }
      let page = try lockedPage(linear, 8, segment)
      guard let host = page.host else { throw .protection }
      defer { state.context.pointee.blocks.didWrite(state, page.physical, 16) }
      var (low, high) = (general(General.rax), general(General.rdx))
      equal =
        soft_compare_exchange_128(host, &low, &high, general(General.rbx), general(General.rcx)) != 0
      if !equal {
        setGeneral(General.rax, low)
        setGeneral(General.rdx, high)
      }
    }
    let flags = state.arithmeticFlags
    state.arithmeticFlags = equal ? flags | RFLAGS.zf : flags & ~RFLAGS.zf
  }
}
