import CSoftCPU

// What each micro-operation with a template becomes. RAX, RCX, RDX and R8 to R10 hold nothing from one to the next.
extension Translator {
  func place(_ slot: UInt8) -> HostAddress { NativeState.slot(slot) }

  /// A host register with the 64 bits of a slot that the cache can hold.
  mutating func use(_ slot: UInt8) -> HostRegister {
    if let register = cache.find(slot) { return register }
    let register = take(slot)
    a.load(register, place(slot))
    return register
  }

  /// A host register for a slot that is about to be written wholly.
  mutating func define(_ slot: UInt8) -> HostRegister { cache.find(slot) ?? take(slot) }

  /// A host register for a slot of which `size` bytes are about to be written. What else a temporary has does not matter.
  private mutating func destination(_ slot: UInt8, size: Int) -> HostRegister {
    size >= 4 || RegisterCache.isTemporary(slot) ? define(slot) : use(slot)
  }

  private mutating func take(_ slot: UInt8) -> HostRegister {
    let (register, lost) = cache.take(slot)
    if let lost { a.store(register, place(lost)) }
    return register
  }

  /// A slot's register has a new value. Temporaries live for an instruction, most of them without memory.
  mutating func written(_ slot: UInt8) {
    if RegisterCache.isTemporary(slot) { return cache.setDirty(slot) }
    if let register = cache.find(slot) { a.store(register, place(slot)) }
  }

  /// Memory gets the temporaries that it does not have.
  mutating func storeTemporaries(but kept: UInt8? = nil) {
    for (slot, register) in cache.takeDirty(but: kept) { a.store(register, place(slot)) }
  }

  /// Puts an operand, zero-extended, into a register that is not the cache's.
  private mutating func fetch(_ to: HostRegister, _ slot: UInt8, size: Int) {
    guard RegisterCache.holds(slot) else { return a.load(to, place(slot), size: size) }
    let register = use(slot)
    if size == 8 { a.move(to, register) } else { a.extend(to, register, signed: false, from: size, to: 4) }
  }

  /// Writes a register operand from RAX, whose upper half is clear if it has 4 bytes.
  private mutating func setRegister(_ slot: UInt8, size: Int) {
    guard RegisterCache.holds(slot) else {
      a.store(.rax, place(slot), size: size == 4 ? 8 : size)
      return cache.drop(slot & ~7)
    }
    let whole = size >= 4 || RegisterCache.isTemporary(slot)
    a.move(destination(slot, size: size), .rax, size: whole ? 8 : size)
    written(slot)
  }

  /// A register operand that is changed where it is; nil: the cache cannot hold it.
  private mutating func change(_ slot: UInt8) -> HostRegister? { RegisterCache.holds(slot) ? use(slot) : nil }

  /// Emits the code of an operation that has a template.
  mutating func emit(_ index: Int) {
    guard let template = templates[index] else { return }
    let op = operations[index]
    switch template {
    case .block:
      // `NativeCode.remove` changes these 16 bytes.
      a.move(.rsi, quadword: UInt64(UInt(bitPattern: operations)))
      a.calculate(.cmp, NativeState.attention, immediate: 0, size: 4)
      leaveForAttention()
    case .nothing: break
    case .move(let size): emitMove(op, size)
    case .moveImmediate(let size):
      let value = Self.immediate(op, size: size)
      if size >= 4, RegisterCache.holds(op.dst) {
        a.move(define(op.dst), immediate: value)
        written(op.dst)
      } else {
        a.move(.rax, immediate: value)
        setRegister(op.dst, size: size)
      }
    case .extend(let signed, let from, let to): emitExtension(op, signed, from, to)
    case .address(let size): emitLoadAddress(op, size)
    case .load(let access):
      emitAddress(op, access)
      call(routines.load[access])
      setRegister(op.dst, size: access.size)
    case .loadForWrite(let access):
      emitAddress(op, access)
      call(routines.loadForWrite[access])
      setRegister(op.dst, size: access.size)
    case .store(let access):
      fetchStored(op.src, size: access.size)
      emitAddress(op, access, stored: op.src)
      call(routines.store[access])
    case .push:
      flagsAreInHost = false
      storeTemporaries(but: op.src)
      fetchStored(op.src, size: 8)
      if isCall(index) {
        a.loadAddress(.r9, relative: 0)
        returnPlace = a.count
        call(routines.pushReturn)
      } else {
        call(routines.push)
      }
      cache.drop(Slot.general(General.rsp))
    case .pop:
      flagsAreInHost = false
      storeTemporaries()
      call(routines.pop)
      cache.drop(Slot.general(General.rsp))
      setRegister(op.dst, size: 8)
    case .binary(let kind, let size, let immediate): emitBinary(index, kind, size, immediate)
    case .withCarry(let kind, let size, let immediate): emitWithCarry(index, kind, size, immediate)
    case .negate(let size):
      if size >= 4, flagsAreDead(after: index), let register = change(op.dst) {
        a.negate(register, size: size)
        flagsAreInHost = false
        return written(op.dst)
      }
      fetch(.rcx, op.dst, size: size)
      a.move(.rax, immediate: 0)
      call(routines.binary[Template.BinaryKind.sub.rawValue, size])
      flagsAreInHost = true
      setRegister(op.dst, size: size)
    case .byteSwap(let size):
      guard let register = change(op.dst) else { return call(nil) }
      a.swapBytes(register, size: size)
      written(op.dst)
    case .step(let amount, let size):
      if flagsAreDead(after: index), let register = change(op.dst) {
        a.calculate(.add, register, immediate: amount, size: size)
        flagsAreInHost = false
        return written(op.dst)
      }
      fetch(.rax, op.dst, size: size)
      call(routines.step[Int(amount), size])
      flagsAreInHost = false
      setRegister(op.dst, size: size)
    case .complement(let size):
      guard let register = change(op.dst) else { return call(nil) }
      a.complement(register, size: size)
      written(op.dst)
    case .shift(let kind, let size): emitShift(index, kind, size)
    case .shiftFreely(let kind, let size):
      fetch(.rax, op.src, size: size)
      fetch(.rcx, op.base, size: 4)
      a.shiftByCL(kind, .rax, size: size)
      flagsAreInHost = false
      setRegister(op.dst, size: size)
    case .rotate(let kind, let size):
      guard let register = change(op.dst) else { return call(nil) }
      a.rotate(kind, register, by: Template.shiftCount(op, size: size), size: size)
      flagsAreInHost = false
      written(op.dst)
    case .multiply(let size, let immediate): emitMultiply(index, size, immediate)
    case .multiplyWide(let size):
      fetch(.rcx, op.src, size: size)
      fetch(.rax, Slot.general(General.rax), size: size)
      a.multiplyWide(by: .rcx, size: size)
      storeMultiplyFlags(index, size)
      setPair()
    case .divideWide(let size):
      fetch(.rcx, op.src, size: size)
      fetch(.rdx, Slot.general(General.rdx), size: size)
      fetch(.rax, Slot.general(General.rax), size: size)
      // The quotient fits exactly when the dividend's upper half is below the divisor.
      a.calculate(.cmp, .rdx, .rcx, size: size)
      divideError(index, if: HostCondition.aboveOrEqual)
      a.divideWide(by: .rcx, size: size)
      flagsAreInHost = false
      setPair()
    case .vector(let number):
      // A temporary may be the source.
      storeTemporaries()
      a.loadVector(wide(op.dst), size: 16)
      a.vector(soft_vector_code_at(number).pointee.code, displacement: Int32(op.src) * 8)
      a.storeVector(wide(op.dst), size: 16)
    case .vectorMove:
      a.loadVector(wide(op.src), size: 16)
      a.storeVector(wide(op.dst), size: 16)
    case .moveMask:
      a.loadVector(wide(op.src), size: 16)
      a.moveMask(.rax)
      setRegister(op.dst &* 8, size: 4)
    case .loadVector(let access): emitVectorAccess(op, op.dst, access, routines.loadVector[access])
    case .storeVector(let access): emitVectorAccess(op, op.src, access, routines.storeVector[access])
    case .setIf:
      let condition = hostCondition(op.base)
      if let register = change(op.dst) {
        a.set(condition, register)
        written(op.dst)
      } else {
        a.set(condition, place(op.dst))
        cache.drop(op.dst & ~7)
      }
    case .moveIf(let size):
      let condition = hostCondition(op.base)
      let source = use(op.src)
      a.moveIf(condition, use(op.dst), source, size: size)
      written(op.dst)
    case .branch(let condition): emitBranch(index, if: hostCondition(condition))
    case .jump: emitBranch(index, if: nil)
    case .jumpIndirect:
      fetch(.rax, op.src, size: 8)
      emitMask(op.aux)
      emitFind(isReturn: isReturn(index))
    case .returnPlace:
      // A call that a handler does has left it to the jump cache.
      guard let returnPlace else { return }
      a.land(returnPlace)
      a.move(.rsi, quadword: UInt64(UInt(bitPattern: operations)))
      emitBranch(index, if: nil)
    }
  }

  /// A push of where a call returns to.
  private func isCall(_ index: Int) -> Bool {
    guard index + 2 < count, case .returnPlace = templates[index + 2] else { return false }
    return true
  }

  /// A jump to what was just popped.
  private func isReturn(_ index: Int) -> Bool {
    guard case .pop = templates[index - 1] else { return false }
    let (pop, jump) = (operations[index - 1], operations[index])
    return pop.dst == jump.src && pop.offset == jump.offset && jump.aux == .max
  }

  private mutating func emitMove(_ op: soft_op, _ size: Int) {
    guard RegisterCache.holds(op.dst) else {
      fetch(.rax, op.src, size: size)
      return setRegister(op.dst, size: size)
    }
    if RegisterCache.holds(op.src) {
      let source = use(op.src)
      a.move(destination(op.dst, size: size), source, size: size)
    } else {
      a.load(.rax, place(op.src), size: size)
      a.move(destination(op.dst, size: size), .rax, size: size)
    }
    written(op.dst)
  }

  private mutating func emitExtension(_ op: soft_op, _ signed: Bool, _ from: Int, _ to: Int) {
    guard RegisterCache.holds(op.src) else {
      if signed {
        a.loadSigned(.rax, place(op.src), size: from)
        if to == 4 { a.move(.rax, .rax, size: 4) }
      } else {
        a.load(.rax, place(op.src), size: from)
      }
      return setRegister(op.dst, size: to)
    }
    let source = use(op.src)
    let register = destination(op.dst, size: to)
    a.extend(register, source, signed: signed, from: from, to: signed ? to : min(to, 4))
    written(op.dst)
  }

  /// What `aux` cuts an address to: 16, 32 or 64 bits.
  private static func mask(_ op: soft_op, size: Int) -> UInt64 { size == 4 ? op.aux & 0xFFFF_FFFF : op.aux }

  private mutating func emitLoadAddress(_ op: soft_op, _ size: Int) {
    let mask = Self.mask(op, size: size)
    guard size >= 4, mask >= 0xFFFF_FFFF, RegisterCache.holds(op.dst) else {
      emitOffset(op, to: .rax)
      emitMask(mask)
      return setRegister(op.dst, size: size)
    }
    // The destination may be an operand: it gets its register, and with it loses its value, last.
    let base = op.base == Slot.zero ? nil : use(op.base)
    let index = op.index == Slot.zero ? nil : use(op.index)
    emitOffset(op, base, index, to: define(op.dst), size: mask == .max ? 8 : 4)
    written(op.dst)
  }

  /// Cuts RAX; flags stay.
  private mutating func emitMask(_ mask: UInt64) {
    switch mask {
    case .max: break
    case 0xFFFF_FFFF: a.move(.rax, .rax, size: 4)
    default: a.zeroExtend16(.rax)
    }
  }

  /// Base + index << scale + displacement; flags stay.
  private mutating func emitOffset(_ op: soft_op, to register: HostRegister) {
    let base = op.base == Slot.zero ? nil : use(op.base)
    let index = op.index == Slot.zero ? nil : use(op.index)
    emitOffset(op, base, index, to: register, size: 8)
  }

  /// The same of registers, cut to `size`, 4 or 8; changes RCX.
  private mutating func emitOffset(
    _ op: soft_op, _ base: HostRegister?, _ index: HostRegister?, to register: HostRegister, size: Int
  ) {
    let scale = op.shift & 3
    guard let displacement = Int32(exactly: op.imm) else {
      // An absolute address, which has neither, or a branch's.
      a.move(.rcx, immediate: UInt64(bitPattern: op.imm))
      if let index { a.loadAddress(.rcx, .rcx, index, scale: scale, 0) }
      if let base { return a.loadAddress(register, base, .rcx, scale: 0, 0, size: size) }
      return a.move(register, .rcx, size: size)
    }
    if let index {
      a.loadAddress(register, base, index, scale: scale, displacement, size: size)
    } else if let base {
      if displacement == 0 {
        a.move(register, base, size: size)
      } else {
        a.loadAddress(register, base, displacement, size: size)
      }
    } else {
      a.move(register, immediate: size == 4 ? UInt64(UInt32(bitPattern: displacement)) : UInt64(bitPattern: op.imm))
    }
  }

  /// What a memory routine wants. Memory has all temporaries but the one that is `stored`, which the routine has.
  private mutating func emitAddress(_ op: soft_op, _ access: Template.Access, stored: UInt8? = nil) {
    storeTemporaries(but: stored)
    emitOffset(op, to: .rax)
    flagsAreInHost = false
    if access.isFlat { return }
    emitMask(op.aux)
    let offset = Int(soft_segment_offset) + Int(op.segment & 7) * MemoryLayout<soft_segment>.stride
    a.move(.r9, immediate: UInt64(offset))
  }

  /// A vector register by its offset in units of 8 bytes.
  private func wide(_ slot: UInt8) -> HostAddress { HostAddress(.rdi, Int32(slot) * 8) }

  private mutating func emitVectorAccess(
    _ op: soft_op, _ slot: UInt8, _ access: Template.VectorAccess, _ routine: Int?
  ) {
    emitAddress(op, Template.Access(size: access.size, isFlat: true))
    a.loadAddress(.rdx, .rdi, Int32(slot) * 8)
    call(routine)
  }

  /// What is stored or pushed goes into RDX, from where `softNativeStoreMiss` takes a temporary.
  private mutating func fetchStored(_ slot: UInt8, size: Int) {
    if RegisterCache.holds(slot) { a.move(.rdx, use(slot)) } else { a.load(.rdx, place(slot), size: size) }
  }

  /// Puts both operands where routines have them.
  private mutating func fetchOperands(_ op: soft_op, size: Int, _ immediate: Bool) {
    fetch(.rax, op.dst, size: size)
    fetchSource(op, size: size, immediate)
  }

  /// The second of them only.
  private mutating func fetchSource(_ op: soft_op, size: Int, _ immediate: Bool) {
    if immediate {
      a.move(.rcx, immediate: Self.immediate(op, size: size))
    } else {
      fetch(.rcx, op.src, size: size)
    }
  }

  private mutating func emitBinary(_ index: Int, _ kind: Template.BinaryKind, _ size: Int, _ immediate: Bool) {
    let op = operations[index]
    let calculation = DeferredFlags(kind: kind, size: size, immediate: immediate)
    if !kind.writes || RegisterCache.holds(op.dst), let use = flagsUse(after: index, calculation) {
      for distance in use.accesses { flagsDistances[index + distance] = distance }
      if !use.accesses.isEmpty { operations[index].aux = calculation.bits }
      if let operation = Self.hostOperation(kind) {
        emitWithoutFlags(op, operation, size, immediate)
      } else if use.isInHost {
        emitComparison(op, kind, size, immediate)
      }
      flagsAreInHost = use.isInHost
      return
    }
    flagsAreInHost = true
    if size >= 4, RegisterCache.holds(op.dst), emitLogic(op, kind, size, immediate) { return }
    fetchOperands(op, size: size, immediate)
    call(routines.binary[kind.rawValue, size])
    if kind.writes { setRegister(op.dst, size: size) }
  }

  /// AND, OR, XOR and TEST, whose carries are none; false: it is another.
  private mutating func emitLogic(_ op: soft_op, _ kind: Template.BinaryKind, _ size: Int, _ immediate: Bool) -> Bool {
    var result = HostRegister.r9
    switch kind {
    case .and, .or, .xor:
      guard let operation = Self.hostOperation(kind) else { return false }
      emitWithoutFlags(op, operation, size, immediate)
      result = use(op.dst)
    case .test where !immediate && op.src == op.dst:
      result = use(op.dst)
      a.test(result, result, size: size)
    case .test:
      fetchOperands(op, size: size, immediate)
      a.move(.r9, .rax)
      a.calculate(.and, .r9, .rcx, size: size)
    case .add, .sub, .cmp: return false
    }
    if size == 4 {
      a.extend(.r9, result, signed: true, from: 4, to: 8)
      result = .r9
    }
    a.store(result, NativeState.result)
    a.store(immediate: 0, NativeState.carries)
    return true
  }

  /// CMP and TEST whose flags only the host gets.
  private mutating func emitComparison(_ op: soft_op, _ kind: Template.BinaryKind, _ size: Int, _ immediate: Bool) {
    let value = size == 4 ? Int32(truncatingIfNeeded: op.imm) : Int32(exactly: op.imm)
    if kind == .cmp, immediate, size >= 4, let value, RegisterCache.holds(op.dst) {
      return a.calculate(.cmp, use(op.dst), immediate: value, size: size)
    }
    fetchOperands(op, size: size, immediate)
    if kind == .cmp { a.calculate(.cmp, .rax, .rcx, size: size) } else { a.test(.rax, .rcx, size: size) }
  }

  private mutating func emitWithoutFlags(_ op: soft_op, _ operation: HostOperation, _ size: Int, _ immediate: Bool) {
    if !immediate, op.src == op.dst, operation == .xor, size >= 4 {
      let register = define(op.dst)
      a.calculate(.xor, register, register, size: 4)
      return written(op.dst)
    }
    let value = size == 4 ? Int32(truncatingIfNeeded: op.imm) : Int32(exactly: op.imm)
    if immediate, size >= 4, let value {
      a.calculate(operation, use(op.dst), immediate: value, size: size)
    } else if immediate {
      a.move(.rcx, immediate: Self.immediate(op, size: size))
      a.calculate(operation, use(op.dst), .rcx, size: size)
    } else if RegisterCache.holds(op.src) {
      let source = use(op.src)
      a.calculate(operation, use(op.dst), source, size: size)
    } else {
      a.load(.rcx, place(op.src), size: size)
      a.calculate(operation, use(op.dst), .rcx, size: size)
    }
    written(op.dst)
  }

  /// The immediate operand, cut to its size.
  private static func immediate(_ op: soft_op, size: Int) -> UInt64 {
    UInt64(bitPattern: op.imm) & (.max >> UInt64(64 - 8 * size))
  }

  private static func hostOperation(_ kind: Template.BinaryKind) -> HostOperation? {
    switch kind {
    case .add: .add
    case .or: .or
    case .and: .and
    case .sub: .sub
    case .xor: .xor
    case .cmp, .test: nil
    }
  }

  /// Whether an operation that replaces all arithmetic flags follows before one that may look at them or fault.
  func flagsAreDead(after index: Int) -> Bool {
    flagsUse(after: index, nil).map { !$0.isInHost && $0.accesses.isEmpty } ?? false
  }

  /// What becomes of flags that an operation replaces before the block ends.
  struct FlagsUse {
    /// Conditions ask for them while the host still has them.
    var isInHost = false
    /// The accesses before they are replaced, by how many operations they stand behind.
    var accesses: [Int] = []
  }

  /// Nil: the state must have the flags of the operation. `calculation`: of what an access could make them, if of
  /// anything.
  private func flagsUse(after index: Int, _ calculation: DeferredFlags?) -> FlagsUse? {
    let op = operations[index]
    var result = FlagsUse()
    var areRecoverable = calculation?.areRecoverable(op) ?? false
    var hostHasThem = calculation != nil
    for next in index + 1..<count {
      guard let template = templates[next] else { return nil }
      switch template {
      case .binary, .negate, .multiply, .multiplyWide, .shift: return result
      case .nothing: continue
      case .store, .load, .loadForWrite, .loadVector, .storeVector:
        guard areRecoverable, next - index <= NativeEntry.farthest else { return nil }
        result.accesses.append(next - index)
        hostHasThem = false
        // Vector registers are no operands.
        switch template {
        case .load, .loadForWrite: break
        default: continue
        }
      case .vector, .vectorMove: continue
      case .moveMask:
        let changed = operations[next].dst &* 8
        if changed == op.dst || changed == op.src { areRecoverable = false }
        continue
      case .setIf, .moveIf:
        guard hostHasThem else { return nil }
        result.isInHost = true
      case .shiftFreely, .rotate: hostHasThem = false
      case .step:
        // It keeps CF, and is calculated without flags, too, if all others are replaced before an access.
        hostHasThem = false
        areRecoverable = false
      case .move, .moveImmediate, .extend, .address, .complement, .byteSwap: break
      case .block, .push, .pop, .withCarry, .divideWide, .branch, .jump, .jumpIndirect, .returnPlace: return nil
      }
      let changed = operations[next].dst & ~7
      if changed == op.dst || changed == op.src { areRecoverable = false }
    }
    return nil
  }

  private mutating func emitShift(_ index: Int, _ kind: HostShift, _ size: Int) {
    let op = operations[index]
    let count = Template.shiftCount(op, size: size)
    if size >= 4, flagsAreDead(after: index), let register = change(op.dst) {
      a.shift(kind, register, by: count, size: size)
      flagsAreInHost = false
      return written(op.dst)
    }
    fetch(.rax, op.dst, size: size)
    a.move(.rcx, immediate: UInt64(count))
    call(routines.shift[Int(kind.rawValue), size])
    flagsAreInHost = false
    setRegister(op.dst, size: size)
  }

  private mutating func emitMultiply(_ index: Int, _ size: Int, _ immediate: Bool) {
    let op = operations[index]
    if immediate {
      a.move(.rax, immediate: Self.immediate(op, size: size))
    } else {
      fetch(.rax, op.dst, size: size)
    }
    a.multiply(.rax, use(op.src), size: size)
    storeMultiplyFlags(index, size)
    setRegister(op.dst, size: size)
  }

  /// Of a multiplication with the lower half of its product in RAX: CF is OF.
  private mutating func storeMultiplyFlags(_ index: Int, _ size: Int) {
    flagsAreInHost = false
    if flagsAreDead(after: index) { return }
    a.spreadCarry(.r8)
    a.shift(.shl, .r8, by: 63)
    a.store(.r8, NativeState.carries)
    a.move(.r9, .rax)
    if size == 4 { a.signExtend(.r9, size: 4) }
    a.store(.r9, NativeState.result)
  }

  /// Writes the guest's RAX and RDX from the host's, whose upper halves are clear if the operands have 4 bytes.
  private mutating func setPair() {
    for (slot, register) in [(Slot.general(General.rax), HostRegister.rax), (Slot.general(General.rdx), .rdx)] {
      a.move(define(slot), register)
      written(slot)
    }
  }

  private mutating func emitWithCarry(_ index: Int, _ kind: Template.CarryKind, _ size: Int, _ immediate: Bool) {
    let op = operations[index]
    defer { flagsAreInHost = false }
    guard flagsAreDead(after: index), RegisterCache.holds(op.dst) else {
      fetchOperands(op, size: size, immediate)
      call(routines.withCarry[kind.rawValue, size])
      return setRegister(op.dst, size: size)
    }
    fetchSource(op, size: size, immediate)
    let register = use(op.dst)
    if !flagsAreInHost {
      // CF is the sign of the carries.
      a.load(.rax, NativeState.carries)
      a.calculate(.add, .rax, .rax)
    }
    a.calculate(kind == .add ? .adc : .sbb, register, .rcx, size: size)
    written(op.dst)
  }

  /// Emits what gives the host flags by which a condition of the guest can be told, and says by which of the host's.
  private mutating func hostCondition(_ condition: UInt8) -> UInt8 {
    if flagsAreInHost { return condition }
    switch condition >> 1 {
    case HostCondition.equal >> 1:
      a.calculate(.cmp, NativeState.result, immediate: 0)
      return condition
    case HostCondition.below >> 1:
      // CF is the sign of the carries.
      a.calculate(.cmp, NativeState.carries, immediate: 0)
      return HostCondition.less | condition & 1
    default:
      call(routines.flags)
      flagsAreInHost = true
      return condition
    }
  }
}
