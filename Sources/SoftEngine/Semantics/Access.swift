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

@inline(__always)
func load<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type, _ slow: soft_handler
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: false) else {
    return tail(state, op, softSegmentFault)
  }
  let entry = TLB.entry(state, linear)
  guard entry.pointee.read_tag == TLB.tag(state, linear, width: width), let host = TLB.host(entry, linear) else {
    state.pointee.linear = linear
    return tail(state, op, slow)
  }
  setRegister(state, op.pointee.dst, host.loadUnaligned(as: Value.self))
  return next(state, op)
}

@inline(__always)
func loadForWrite<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type, _ slow: soft_handler
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  let entry = TLB.entry(state, linear)
  guard entry.pointee.write_tag == TLB.tag(state, linear, width: width), let host = TLB.host(entry, linear) else {
    state.pointee.linear = linear
    return tail(state, op, slow)
  }
  setRegister(state, op.pointee.dst, host.loadUnaligned(as: Value.self))
  return next(state, op)
}

@inline(__always)
func store<Form: AddressForm, Value: FixedWidthInteger & UnsignedInteger>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ type: Value.Type, _ slow: soft_handler
) {
  let width = MemoryLayout<Value>.size
  guard let linear = Form.linear(state, op, width: width, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  let entry = TLB.entry(state, linear)
  guard entry.pointee.write_tag == TLB.tag(state, linear, width: width), let host = TLB.host(entry, linear) else {
    state.pointee.linear = linear
    return tail(state, op, slow)
  }
  host.storeBytes(of: register(state, op.pointee.src, as: Value.self).pointee, as: Value.self)
  return next(state, op)
}

@inline(__always)
func loadSlow<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  guard readSlowly(state, op, MemoryLayout<Value>.size, forWrite: false) else { return }
  setRegister(state, op.pointee.dst, register(state, Slot.sink, as: Value.self).pointee)
  return next(state, op)
}

@inline(__always)
func loadForWriteSlow<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  guard readSlowly(state, op, MemoryLayout<Value>.size, forWrite: true) else { return }
  setRegister(state, op.pointee.dst, register(state, Slot.sink, as: Value.self).pointee)
  return next(state, op)
}

@inline(__always)
func storeSlow<Value: FixedWidthInteger & UnsignedInteger>(_ state: State, _ op: MicroOp, _ type: Value.Type) {
  guard
    writeSlowly(
      state, op, UInt64(truncatingIfNeeded: register(state, op.pointee.src, as: Value.self).pointee),
      MemoryLayout<Value>.size)
  else { return }
  return next(state, op)
}

/// Reads at `state.linear` into the sink; false: the interpreter must be left.
@inline(never)
func readSlowly(_ state: State, _ op: MicroOp, _ width: Int, forWrite: Bool) -> Bool {
  do throws(Fault) {
    state.pointee.sink = try state.read(
      state.pointee.linear, width: width, segment: Int(op.pointee.segment), forWrite: forWrite)
    state.forgetAnswers()
    return true
  } catch {
    suspend(state, op, error)
    return false
  }
}

/// Writes at `state.linear`; false: the interpreter must be left.
@inline(never)
func writeSlowly(_ state: State, _ op: MicroOp, _ value: UInt64, _ width: Int, goesOn: Bool = true) -> Bool {
  do throws(Fault) {
    try state.write(state.pointee.linear, value, width: width, segment: Int(op.pointee.segment))
    state.forgetAnswers()
  } catch {
    suspend(state, op, error)
    return false
  }
  // The rest of this block may just have been overwritten. A store is its instruction's last operation.
  if state.pointee.code_changed != 0, goesOn {
    state.pointee.rip = instructionPointer(state, op + 1)
    state.pointee.leave = LeaveReason.dispatch
    return false
  }
  return true
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
