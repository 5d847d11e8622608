import CSoftCPU

/// How many bytes of memory a vector operand has, and how they become 16 in a register.
protocol VectorWidth {
  static var bytes: Int { get }
  /// A misaligned access is #GP(0).
  static var isAligned: Bool { get }
  static func load(_ register: UnsafeMutableRawPointer, from memory: UnsafeRawPointer)
  static func store(_ register: UnsafeRawPointer, to memory: UnsafeMutableRawPointer)
}

extension VectorWidth {
  static var isAligned: Bool { false }
}

enum Doubleword: VectorWidth {
  static var bytes: Int { 4 }
  @inline(__always)
  static func load(_ register: UnsafeMutableRawPointer, from memory: UnsafeRawPointer) {
    soft_extend_32(register, memory)
  }
  @inline(__always)
  static func store(_ register: UnsafeRawPointer, to memory: UnsafeMutableRawPointer) {
    memory.storeBytes(of: register.load(as: UInt32.self), as: UInt32.self)
  }
}

enum Quadword: VectorWidth {
  static var bytes: Int { 8 }
  @inline(__always)
  static func load(_ register: UnsafeMutableRawPointer, from memory: UnsafeRawPointer) {
    soft_extend_64(register, memory)
  }
  @inline(__always)
  static func store(_ register: UnsafeRawPointer, to memory: UnsafeMutableRawPointer) {
    memory.storeBytes(of: register.load(as: UInt64.self), as: UInt64.self)
  }
}

enum DoubleQuadword: VectorWidth {
  static var bytes: Int { 16 }
  @inline(__always)
  static func load(_ register: UnsafeMutableRawPointer, from memory: UnsafeRawPointer) {
    soft_copy_vector(register, memory)
  }
  @inline(__always)
  static func store(_ register: UnsafeRawPointer, to memory: UnsafeMutableRawPointer) {
    soft_copy_vector(memory, register)
  }
}

enum AlignedDoubleQuadword: VectorWidth {
  static var bytes: Int { 16 }
  static var isAligned: Bool { true }
  @inline(__always)
  static func load(_ register: UnsafeMutableRawPointer, from memory: UnsafeRawPointer) {
    soft_copy_vector(register, memory)
  }
  @inline(__always)
  static func store(_ register: UnsafeRawPointer, to memory: UnsafeMutableRawPointer) {
    soft_copy_vector(memory, register)
  }
}

/// A vector operand by its offset in units of 8 bytes.
// Safety: slots come from the lowering: XMM registers, the two temporaries behind them, general registers.
@inline(__always)
func vectorRegister(_ state: State, _ slot: UInt8) -> UnsafeMutableRawPointer {
  UnsafeMutableRawPointer(state) + Int(slot) &* 8
}

@inline(__always)
func loadVector<Form: AddressForm, Width: VectorWidth>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ width: Width.Type, _ slow: soft_handler
) {
  guard let linear = Form.linear(state, op, width: Width.bytes, write: false) else {
    return tail(state, op, softSegmentFault)
  }
  guard !Width.isAligned || linear & 15 == 0,
    let host = lookUp(state, linear, width: Width.isAligned ? 1 : Width.bytes, write: false)
  else {
    state.pointee.linear = linear
    return tail(state, op, slow)
  }
  Width.load(vectorRegister(state, op.pointee.dst), from: host)
  return next(state, op)
}

@inline(__always)
func storeVector<Form: AddressForm, Width: VectorWidth>(
  _ state: State, _ op: MicroOp, _ form: Form.Type, _ width: Width.Type, _ slow: soft_handler
) {
  guard let linear = Form.linear(state, op, width: Width.bytes, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  guard !Width.isAligned || linear & 15 == 0,
    let host = lookUp(state, linear, width: Width.isAligned ? 1 : Width.bytes, write: true)
  else {
    state.pointee.linear = linear
    return tail(state, op, slow)
  }
  Width.store(vectorRegister(state, op.pointee.src), to: host)
  return next(state, op)
}

@inline(__always)
func loadVectorSlow<Width: VectorWidth>(_ state: State, _ op: MicroOp, _ width: Width.Type) {
  guard readVectorSlowly(state, op, Width.bytes, isAligned: Width.isAligned) else { return }
  return next(state, op)
}

@inline(__always)
func storeVectorSlow<Width: VectorWidth>(_ state: State, _ op: MicroOp, _ width: Width.Type) {
  guard writeVectorSlowly(state, op, Width.bytes, isAligned: Width.isAligned) else { return }
  return next(state, op)
}

/// Reads at `state.linear` into register `dst`, zero-extended; false: the interpreter must be left.
@inline(never)
private func readVectorSlowly(_ state: State, _ op: MicroOp, _ bytes: Int, isAligned: Bool) -> Bool {
  do throws(Fault) {
    let linear = state.pointee.linear
    if isAligned, linear & 15 != 0 { throw .protection }
    let segment = Int(op.pointee.segment)
    let low = try state.read(linear, width: min(bytes, 8), segment: segment)
    let high = bytes > 8 ? try state.read(state.wrap(linear &+ 8), width: bytes &- 8, segment: segment) : 0
    let register = vectorRegister(state, op.pointee.dst)
    register.storeBytes(of: low, as: UInt64.self)
    register.storeBytes(of: high, toByteOffset: 8, as: UInt64.self)
    state.forgetAnswers()
    return true
  } catch {
    suspend(state, op, error)
    return false
  }
}

/// Writes register `src` at `state.linear`; false: the interpreter must be left.
@inline(never)
private func writeVectorSlowly(_ state: State, _ op: MicroOp, _ bytes: Int, isAligned: Bool) -> Bool {
  do throws(Fault) {
    let linear = state.pointee.linear
    if isAligned, linear & 15 != 0 { throw .protection }
    let segment = Int(op.pointee.segment)
    let register = vectorRegister(state, op.pointee.src)
    try state.probe(linear, bytes, segment: segment)
    try state.write(linear, register.load(as: UInt64.self), width: min(bytes, 8), segment: segment)
    if bytes > 8 {
      let high = register.load(fromByteOffset: 8, as: UInt64.self)
      try state.write(state.wrap(linear &+ 8), high, width: bytes &- 8, segment: segment)
    }
    state.forgetAnswers()
  } catch {
    suspend(state, op, error)
    return false
  }
  // The rest of this block may just have been overwritten. A store is its instruction's last operation.
  if state.pointee.code_changed != 0 {
    state.pointee.rip = instructionPointer(state, op + 1)
    state.pointee.leave = LeaveReason.dispatch
    return false
  }
  return true
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Throws what a write of `bytes` (1 to 4096) bytes would, without writing.
  func probe(_ linear: UInt64, _ bytes: Int, segment: Int) throws(Fault) {
    let last = linear &+ UInt64(bytes &- 1)
    if pointee.isLongMode, !isCanonical(linear) || !isCanonical(last) {
      throw .exception(segment == SegmentRegister.ss ? Vector.stackFault : Vector.generalProtection, errorCode: 0)
    }
    _ = try page(linear, .write)
    if (linear ^ last) & ~0xFFF != 0 { _ = try page(wrap(last) & ~0xFFF, .write) }
  }
}

/// Proves that the operand can be written.
@inline(__always)
func probeWrite<Form: AddressForm>(_ state: State, _ op: MicroOp, _ form: Form.Type) {
  // `dst` is the width.
  let width = Int(op.pointee.dst)
  guard let linear = Form.linear(state, op, width: width, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  guard lookUp(state, linear, width: width, write: true) != nil else {
    state.pointee.linear = linear
    return tail(state, op, softProbeSlow)
  }
  return next(state, op)
}

@inline(never)
private func probeSlowly(_ state: State, _ op: MicroOp) -> Bool {
  do throws(Fault) {
    try state.probe(state.pointee.linear, Int(op.pointee.dst), segment: Int(op.pointee.segment))
    return true
  } catch {
    suspend(state, op, error)
    return false
  }
}

@c func softProbeFlat(_ s: State, _ o: MicroOp) { return probeWrite(s, o, Flat.self) }
@c func softProbeSegmented(_ s: State, _ o: MicroOp) { return probeWrite(s, o, Segmented.self) }
@inline(never) @c func softProbeSlow(_ s: State, _ o: MicroOp) {
  guard probeSlowly(s, o) else { return }
  return next(s, o)
}
