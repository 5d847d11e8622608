import CSoftCPU

// Most calculations set flags that the next one replaces before anything asks for them. With memory accesses between the
// two, only a fault or a device could tell; so translated code defers such flags: an access that misses materialises them,
// of the same operands, before it goes its slow way.

/// What a calculation was, where `aux` of its micro-operation keeps it once the block is translated and its handler is
/// no more to be seen.
struct DeferredFlags {
  let kind: Template.BinaryKind
  let size: Int
  let immediate: Bool

  private static let isPresent: UInt64 = 1 << 63

  var bits: UInt64 {
    UInt64(kind.rawValue) | UInt64(size) << 8 | (immediate ? 1 << 16 : 0) | Self.isPresent
  }

  /// Whether the operands can be told from the result and from what the operation leaves alone.
  func areRecoverable(_ op: soft_op) -> Bool {
    guard Self.stays(op.dst) else { return false }
    switch kind {
    case .or, .and, .xor: return true
    case .cmp, .test: return immediate || Self.stays(op.src)
    case .add, .sub: return immediate || Self.stays(op.src) && op.src != op.dst
    }
  }

  /// Memory has it all the time.
  private static func stays(_ slot: UInt8) -> Bool {
    RegisterCache.holds(slot) && !RegisterCache.isTemporary(slot)
  }

  /// Gives the state the flags of a calculation that was made and whose operands are as they were.
  static func materialise(_ state: State, _ op: MicroOp) {
    guard let flags = DeferredFlags(bits: op.pointee.aux) else { return }
    switch flags.size {
    case 1: flags.materialise(state, op, as: UInt8.self)
    case 2: flags.materialise(state, op, as: UInt16.self)
    case 4: flags.materialise(state, op, as: UInt32.self)
    default: flags.materialise(state, op, as: UInt64.self)
    }
  }

  private func materialise<Value: FixedWidthInteger & UnsignedInteger>(
    _ state: State, _ op: MicroOp, as type: Value.Type
  ) {
    let a = register(state, op.pointee.dst, as: type).pointee
    let b = immediate ? Value(truncatingIfNeeded: op.pointee.imm) : register(state, op.pointee.src, as: type).pointee
    switch kind {
    case .add: _ = Add.apply(state, a &- b, b)
    case .sub: _ = Sub.apply(state, a &+ b, b)
    case .cmp: _ = Cmp.apply(state, a, b)
    case .test: _ = Test.apply(state, a, b)
    case .or, .and, .xor: _ = Or.apply(state, a, a)
    }
  }
}

extension DeferredFlags {
  init?(bits: UInt64) {
    guard bits & Self.isPresent != 0, let kind = Template.BinaryKind(rawValue: Int(bits & 0xFF)) else { return nil }
    self.init(kind: kind, size: Int(truncatingIfNeeded: bits >> 8 & 0xFF), immediate: bits >> 16 & 1 != 0)
  }
}
