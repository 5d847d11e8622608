import CSoftCPU

/// The stack that a gate leads to, which is pushed on before it becomes the current one.
struct InnerStack {
  var base: UInt64 = 0
  var mask: UInt64 = .max
  /// Offsets that may be written.
  var low: UInt64 = 0
  var high: UInt64 = .max
  var pointer: UInt64
  var selector: UInt16
  /// Nil: SS stays as it is, or becomes null in long mode.
  var descriptor: Descriptor?
  /// Of a stack that is switched to, for the error code.
  var errorSelector: UInt16 = 0
  var privilege = Privilege.supervisor

  /// Pushes the low `width` bytes of a value.
  mutating func push(_ state: State, _ value: UInt64, width: Int) throws(Fault) {
    let offset = (pointer &- UInt64(width)) & mask
    let last = offset &+ UInt64(width &- 1)
    guard offset >= low, last <= high, offset <= last else { throw .stack(errorSelector) }
    try state.write(
      mask == .max ? base &+ offset : (base &+ offset) & 0xFFFF_FFFF, value, width: width,
      segment: SegmentRegister.ss, privilege)
    pointer = pointer & ~mask | offset
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// The stack in use.
  func currentStack() -> InnerStack {
    let ss = segment(SegmentRegister.ss).pointee
    return InnerStack(
      base: ss.linear_base, mask: pointee.stack_mask, low: ss.write_low, high: ss.write_high,
      pointer: register(self, Slot.general(General.rsp), as: UInt64.self).pointee, selector: ss.selector,
      privilege: .current)
  }

  /// `width` bytes of the task state segment.
  func taskWord(_ offset: UInt64, width: Int) throws(Fault) -> UInt64 {
    let tr = segment(SegmentRegister.tr).pointee
    guard offset &+ UInt64(width &- 1) <= UInt64(tr.limit) else { throw .invalidTSS(tr.selector) }
    return try read(wrap(tr.base &+ offset), width: width, .supervisor)
  }

  /// The stack of an inner level in long mode: from the interrupt stack table, or of the level.
  func longModeStack(_ level: UInt8, table: UInt64) throws(Fault) -> InnerStack {
    let pointer =
      table != 0 ? try taskWord(36 &+ (table &- 1) &* 8, width: 8) : try taskWord(4 &+ UInt64(level) &* 8, width: 8)
    guard isCanonical(pointer) else { throw .stack(0) }
    return InnerStack(pointer: pointer, selector: UInt16(level))
  }

  /// SS:ESP of an inner level from the task state segment.
  func innerStack(_ level: UInt8) throws(Fault) -> InnerStack {
    let is32 = segment(SegmentRegister.tr).pointee.attributes & 8 != 0
    let pointer = try is32 ? taskWord(4 &+ UInt64(level) &* 8, width: 4) : taskWord(2 &+ UInt64(level) &* 4, width: 2)
    let selector = UInt16(
      truncatingIfNeeded: try is32
        ? taskWord(8 &+ UInt64(level) &* 8, width: 2) : taskWord(4 &+ UInt64(level) &* 4, width: 2))
    guard selector & 0xFFFC != 0 else { throw .invalidTSS(0) }
    let descriptor = try self.descriptor(selector, Vector.invalidTSS)
    guard descriptor.isWritableData, descriptor.dpl == level, UInt8(selector & 3) == level else {
      throw .invalidTSS(selector)
    }
    guard descriptor.isPresent else { throw .stack(selector) }
    try markAccessed(selector, descriptor)
    let isBig = descriptor.attributes & SegmentAttributes.big != 0
    var stack = InnerStack(
      base: descriptor.base, mask: isBig ? 0xFFFF_FFFF : 0xFFFF, low: 0, high: UInt64(descriptor.limit),
      pointer: pointer, selector: selector, descriptor: descriptor, errorSelector: selector)
    if descriptor.attributes & SegmentAttributes.expandDown != 0 {
      stack.low = UInt64(descriptor.limit) &+ 1
      stack.high = isBig ? 0xFFFF_FFFF : 0xFFFF
    }
    return stack
  }

  /// Makes the stack of a more privileged level the current one; CPL is the new one.
  func take(_ stack: InnerStack) {
    if let descriptor = stack.descriptor {
      setSegment(SegmentRegister.ss, selector: stack.selector, descriptor)
    } else {
      setSegment(
        SegmentRegister.ss, selector: stack.selector, base: 0, limit: .max,
        attributes: 0xC093 | UInt16(pointee.cpl) << 5)
    }
    register(self, Slot.general(General.rsp), as: UInt64.self).pointee = stack.pointer
  }
}

extension Descriptor {
  var isWritableData: Bool { !isSystem && !isCode && attributes & SegmentAttributes.writable != 0 }
  var isReadable: Bool { !isSystem && (!isCode || attributes & SegmentAttributes.writable != 0) }
}
