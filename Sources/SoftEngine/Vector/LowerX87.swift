import CSoftCPU
import X86

/// Fields of the x87 status and control words (SDM vol. 1, 8.1.3 and 8.1.5).
enum X87 {
  static let errorSummary: UInt16 = 1 << 7
  static let busy: UInt16 = 1 << 15
  /// The exceptions, stack fault, error summary, and the copy of that.
  static let exceptions: UInt16 = 0x80FF
  /// Invalid operation to underflow: exceptions after which a store does not write, unmasked.
  static let preventsStore: UInt16 = 0x1F
  static let initialControl: UInt16 = 0x37F
}

extension Lowering {
  /// x87 instructions: the host's FPU executes them on the guest's state.
  mutating func lowerX87(_ i: Instruction) -> Bool {
    switch i.operation {
    case .fwait:
      emit(checksX87 ? softCheckWait : softNop)
      return false
    case .fninit, .fnclex, .fldenv, .fnstenv, .frstor, .fnsave:
      return complex(i, ends: Self.mayChangeVectorChecks(i.operation))
    case .fldcw: return loadControl(i)
    case .fnstsw, .fnstcw, .fneni, .fndisi, .fnsetpm:
      if checksX87 { emit(softCheckX87NoWait) }
      storeWord(i)
      return false
    default: break
    }
    if checksX87 { emit(softCheckX87) }
    if i.operation == .fnop {
      if checksX87 { emit(softPutAwayX87) }
      return false
    }
    if i.modRM >= 0xC0 {
      registerForm(i)
    } else if Self.storesX87(i.operation) {
      storeForm(i)
    } else {
      loadForm(i)
    }
    return false
  }

  private static func storesX87(_ operation: Operation) -> Bool {
    switch operation {
    case .fst, .fstp, .fist, .fistp, .fisttp, .fbstp: true
    default: false
    }
  }

  /// FNSTSW and FNSTCW; the others do nothing.
  private mutating func storeWord(_ i: Instruction) {
    let handler: soft_handler
    switch i.operation {
    case .fnstsw: handler = soft_x87_store_status
    case .fnstcw: handler = soft_x87_store_control
    default: return
    }
    let isMemory = i.operands[0].kind == .memory
    emit(handler) { $0.dst = Slot.wide(isMemory ? Slot.temporary0 : Slot.general(General.rax)) }
    if isMemory { store(i, 2, from: Slot.temporary0) }
  }

  private mutating func loadControl(_ i: Instruction) -> Bool {
    if checksX87 { emit(softCheckX87) }
    load(i, 2, to: Slot.temporary0)
    let next = place.next(i)
    emit(softLoadControlWord) { $0.imm = Int64(bitPattern: next) }
    return false
  }

  /// Executes the piece of code of a table with `stride` bytes for each encoding.
  private mutating func execute(
    _ i: Instruction, _ handler: soft_handler, _ table: UnsafePointer<UInt8>, _ index: UInt8, stride: Int
  ) {
    let start = place.start &+ UInt64(place.offset)
    emit(handler) {
      $0.aux = UInt64(UInt(bitPattern: table + Int(index) &* stride))
      $0.imm = Int64(bitPattern: start)
      $0.src = Slot.wide(Slot.temporary0)
      $0.base = i.modRM
      $0.index = i.opcode
    }
    if checksX87 { emit(softPutAwayX87) }
  }

  private mutating func registerForm(_ i: Instruction) {
    let number = Int(i.opcode & 7) * 64 + Int(i.modRM & 63)
    switch i.operation {
    case .fcomi, .fucomi, .fcomip, .fucomip:
      let table = soft_x87_comparison_code()
      execute(i, soft_x87_compare, table, (i.opcode == 0xDF ? 16 : 0) &+ (i.modRM &- 0xE8), stride: 8)
    case .fcmovb, .fcmove, .fcmovbe, .fcmovu, .fcmovnb, .fcmovne, .fcmovnbe, .fcmovnu:
      let table = soft_x87_conditional_code()
      execute(i, softMoveIfX87, table, (i.opcode == 0xDB ? 32 : 0) &+ (i.modRM &- 0xC0), stride: 8)
    default:
      execute(i, soft_x87_execute, soft_x87_register_code() + number * 4, 0, stride: 4)
    }
  }

  private mutating func executeMemory(_ i: Instruction) {
    execute(i, soft_x87_execute, soft_x87_memory_code(), (i.opcode & 7) &* 8 &+ (i.modRM >> 3 & 7), stride: 4)
  }

  private mutating func loadForm(_ i: Instruction) {
    if i.operands[0].size == 10 {
      address(i, softLoadExtended)
    } else {
      load(i, i.operands[0].size, to: Slot.temporary0)
    }
    point(i)
    executeMemory(i)
  }

  private mutating func storeForm(_ i: Instruction) {
    let size = i.operands[0].size
    let place = place
    emit(softNop) {
      $0.handler = place.setAddress(&$0, i) ? softProbeFlat : softProbeSegmented
      $0.dst = size
    }
    point(i)
    executeMemory(i)
    if checksX87 {
      let next = place.next(i)
      emit(softCheckStoreX87) { $0.imm = Int64(bitPattern: next) }
    }
    if size == 10 { address(i, softStoreExtended) } else { store(i, size, from: Slot.temporary0) }
  }

  private mutating func address(_ i: Instruction, _ handler: soft_handler) {
    let place = place
    emit(handler) { _ = place.setAddress(&$0, i) }
  }

  /// FDP is kept where exceptions are not masked (CPUID.(07H,0):EBX[6]).
  private mutating func point(_ i: Instruction) {
    if checksX87 { address(i, soft_x87_point) }
  }
}

/// FLDCW of the first temporary. The exceptions that it unmasks may be pending, or need checks from here on.
@c func softLoadControlWord(_ state: State, _ op: MicroOp) {
  soft_x87_set_control(state, register(state, Slot.temporary0, as: UInt16.self).pointee)
  let checks = VectorChecks.needed(state)
  if checks & VectorChecks.x87 != 0 { soft_x87_unload(state) }
  if state.context.pointee.ignoredExceptions != 0 {
    soft_x87_unload(state)
    state.restoreIgnored()
    state.normalizeX87()
  }
  guard checks != state.pointee.mode & (VectorChecks.sse | VectorChecks.x87) else { return next(state, op) }
  state.updateMode()
  state.pointee.rip = codeAddress(state, op)
  return tail(state, op, softDispatch)
}

@c func softMoveIfX87(_ state: State, _ op: MicroOp) {
  soft_x87_move_if(state, op, state.arithmeticFlags | RFLAGS.fixed)
  return next(state, op)
}

/// After an instruction with exceptions unmasked: the host must not meet them.
@c func softPutAwayX87(_ state: State, _ op: MicroOp) {
  soft_x87_unload(state)
  state.restoreIgnored()
  state.pointee.x87_selector = state.segment(SegmentRegister.cs).pointee.selector
  return next(state, op)
}

/// An unmasked exception keeps a store from writing memory.
@c func softCheckStoreX87(_ state: State, _ op: MicroOp) {
  guard state.pointee.x87.status & ~state.pointee.x87.control & X87.preventsStore != 0 else { return next(state, op) }
  state.pointee.rip = codeAddress(state, op)
  return tail(state, op, softDispatch)
}

/// Loads 80 bits into the first two temporaries.
@c func softLoadExtended(_ state: State, _ op: MicroOp) {
  guard let linear = Segmented.linear(state, op, width: 10, write: false) else {
    return tail(state, op, softSegmentFault)
  }
  guard accessExtended(state, op, linear, write: false) else { return }
  return next(state, op)
}

/// Stores 80 bits from the first two temporaries.
@c func softStoreExtended(_ state: State, _ op: MicroOp) {
  guard let linear = Segmented.linear(state, op, width: 10, write: true) else {
    return tail(state, op, softSegmentFault)
  }
  guard accessExtended(state, op, linear, write: true) else { return }
  return next(state, op)
}

@inline(never)
private func accessExtended(_ state: State, _ op: MicroOp, _ linear: UInt64, write: Bool) -> Bool {
  let segment = Int(op.pointee.segment)
  let low = register(state, Slot.temporary0, as: UInt64.self)
  let high = register(state, Slot.temporary1, as: UInt64.self)
  do throws(Fault) {
    if write {
      try state.write(linear, low.pointee, width: 8, segment: segment)
      try state.write(state.wrap(linear &+ 8), high.pointee, width: 2, segment: segment)
    } else {
      let first = try state.read(linear, width: 8, segment: segment)
      high.pointee = try state.read(state.wrap(linear &+ 8), width: 2, segment: segment)
      low.pointee = first
    }
    state.forgetAnswers()
  } catch {
    suspend(state, op, error)
    return false
  }
  if write, state.pointee.code_changed != 0 {
    state.pointee.rip = instructionPointer(state, op + 1)
    state.pointee.leave = LeaveReason.dispatch
    return false
  }
  return true
}
