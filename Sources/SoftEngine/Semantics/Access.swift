import CSoftCPU

/// How a linear address is made.
protocol AddressForm {
  /// Nil: the segment does not permit the access.
  static func linear(_ state: State, _ op: MicroOp, width: Int, write: Bool) -> UInt64?
}

/// A 64-bit address without a segment base.
enum Flat: AddressForm {
  @inline(__always)
  static func linear(_ state: State, _ op: MicroOp, width: Int, write: Bool) -> UInt64? {
    offset(state, op)
  }

  @inline(__always)
  static func offset(_ state: State, _ op: MicroOp) -> UInt64 {
    register(state, op.pointee.base, as: UInt64.self).pointee
      &+ register(state, op.pointee.index, as: UInt64.self).pointee &<< UInt64(op.pointee.shift)
      &+ UInt64(bitPattern: op.pointee.imm)
  }
}

/// An address of the size that `aux` masks, checked against and based on a segment.
enum Segmented: AddressForm {
  @inline(__always)
  static func linear(_ state: State, _ op: MicroOp, width: Int, write: Bool) -> UInt64? {
    let offset = Flat.offset(state, op) & op.pointee.aux
    let segment = state.segment(Int(op.pointee.segment))
    let last = offset &+ UInt64(width &- 1)
    let low = write ? segment.pointee.write_low : segment.pointee.read_low
    let high = write ? segment.pointee.write_high : segment.pointee.read_high
    guard offset >= low, last <= high, offset <= last else { return nil }
    return (segment.pointee.linear_base &+ offset) & state.pointee.linear_mask
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  @inline(__always)
  func segment(_ index: Int) -> UnsafeMutablePointer<soft_segment> {
    soft_segment_at(self, UInt32(truncatingIfNeeded: index))
  }
}

/// What handlers of memory operands keep in `soft_op.shift`.
enum AccessShape {
  /// The scale's logarithm in the low bits, which are all that shifts see; the width's above them, for the slow paths.
  static func make(scale: UInt8, width: UInt8) -> UInt8 { scale & 3 | UInt8(width.trailingZeroBitCount & 3) &<< 6 }

  @inline(__always)
  static func width(_ op: MicroOp) -> Int { 1 &<< Int(op.pointee.shift &>> 6) }
}

/// Where an access goes if its page is in the TLB with the rights it needs.
@inline(__always)
func lookUp(_ state: State, _ linear: UInt64, width: Int, write: Bool) -> UnsafeMutableRawPointer? {
  let entry = TLB.entry(state, linear)
  guard (write ? entry.pointee.write_tag : entry.pointee.read_tag) == TLB.tag(state, linear, width: width) else {
    return nil
  }
  return TLB.host(entry, linear)
}

@inline(__always)
func load<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: false) else {
    return tail(state, op, softSegmentFault)
  }
  guard let host = lookUp(state, linear, width: width, write: false) else {
    state.pointee.linear = linear
    return tail(state, op, softLoadSlow)
  }
  setRegister(state, op.pointee.dst, host.loadUnaligned(as: Value.self))
  return next(state, op)
}

@inline(__always)
func loadForWrite<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  guard let host = lookUp(state, linear, width: width, write: true) else {
    state.pointee.linear = linear
    return tail(state, op, softLoadForWriteSlow)
  }
  setRegister(state, op.pointee.dst, host.loadUnaligned(as: Value.self))
  return next(state, op)
}

@inline(__always)
func store<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  guard let host = lookUp(state, linear, width: width, write: true) else {
    state.pointee.linear = linear
    return tail(state, op, softStoreSlow)
  }
  host.storeBytes(of: register(state, op.pointee.src, as: Value.self).pointee, as: Value.self)
  return next(state, op)
}

/// Writes the low `width` bytes of `value` to the register `dst`.
@inline(__always)
func setRegister(_ state: State, _ op: MicroOp, _ value: UInt64, width: Int) {
  switch width {
  case 1: setRegister(state, op.pointee.dst, UInt8(truncatingIfNeeded: value))
  case 2: setRegister(state, op.pointee.dst, UInt16(truncatingIfNeeded: value))
  case 4: setRegister(state, op.pointee.dst, UInt32(truncatingIfNeeded: value))
  default: setRegister(state, op.pointee.dst, value)
  }
}

@inline(never) @c func softLoadSlow(_ state: State, _ op: MicroOp) {
  if fillTLB(state, width: AccessShape.width(op), .read) { return goto(state, op) }
  return tail(state, op, softLoadSlowly)
}

@inline(never) @c func softLoadForWriteSlow(_ state: State, _ op: MicroOp) {
  if fillTLB(state, width: AccessShape.width(op), .write) { return goto(state, op) }
  return tail(state, op, softLoadForWriteSlowly)
}

@inline(never) @c func softStoreSlow(_ state: State, _ op: MicroOp) {
  if fillTLB(state, width: AccessShape.width(op), .write) { return goto(state, op) }
  return tail(state, op, softStoreSlowly)
}

// What the TLB cannot permit: faults, devices, page crossings, what must be noticed.

@inline(never) @c func softLoadSlowly(_ state: State, _ op: MicroOp) {
  guard let value = readSlowly(state, op, forWrite: false) else { return }
  setRegister(state, op, value, width: AccessShape.width(op))
  return next(state, op)
}

@inline(never) @c func softLoadForWriteSlowly(_ state: State, _ op: MicroOp) {
  guard let value = readSlowly(state, op, forWrite: true) else { return }
  setRegister(state, op, value, width: AccessShape.width(op))
  return next(state, op)
}

@inline(never) @c func softStoreSlowly(_ state: State, _ op: MicroOp) {
  guard writeSlowly(state, op) else { return }
  // The rest of this block may just have been overwritten. Where a store is not its instruction's last operation, that
  // one looks.
  if state.pointee.code_changed != 0, op[1].offset != op.pointee.offset {
    state.pointee.rip = instructionPointer(state, op + 1)
    state.pointee.leave = LeaveReason.dispatch
    return
  }
  return next(state, op)
}

/// Translates the page at `state.linear`; true: the TLB now permits the access, which may be tried again.
@inline(never)
func fillTLB(_ state: State, width: Int, _ access: Access) -> Bool {
  let linear = state.pointee.linear
  guard linear & 0xFFF &+ UInt64(width) <= 4096, state.pointee.device_done == 0,
    !state.pointee.isLongMode || state.isCanonical(linear)
  else { return false }
  // A fault is raised by the slow access, which meets it again.
  guard (try? state.page(linear, access)) != nil else { return false }
  return lookUp(state, linear, width: width, write: access == .write) != nil
}

/// What stands at `state.linear`; nil: the interpreter must be left.
@inline(never)
func readSlowly(_ state: State, _ op: MicroOp, forWrite: Bool) -> UInt64? {
  do throws(Fault) {
    let value = try state.read(
      state.pointee.linear, width: AccessShape.width(op), segment: Int(op.pointee.segment), forWrite: forWrite)
    state.forgetAnswers()
    return value
  } catch {
    suspend(state, op, error)
    return nil
  }
}

/// Writes `src` at `state.linear`; false: the interpreter must be left.
@inline(never)
func writeSlowly(_ state: State, _ op: MicroOp) -> Bool {
  do throws(Fault) {
    try state.write(
      state.pointee.linear, register(state, op.pointee.src, as: UInt64.self).pointee, width: AccessShape.width(op),
      segment: Int(op.pointee.segment))
    state.forgetAnswers()
    return true
  } catch {
    suspend(state, op, error)
    return false
  }
}

/// Leaves with the exception, or to come back to `op` with a device's answer.
@inline(never)
func suspend(_ state: State, _ op: MicroOp, _ fault: Fault) {
  state.context.pointee.resumption = op
  leave(state, op, fault)
}

/// The exception of an access outside its segment.
@inline(never) @c func softSegmentFault(_ state: State, _ op: MicroOp) {
  let isStack = Int(op.pointee.segment) == SegmentRegister.ss
  leave(state, op, .exception(isStack ? Vector.stackFault : Vector.generalProtection, errorCode: 0))
}
