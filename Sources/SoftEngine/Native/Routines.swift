import CSoftCPU

/// Where translated code finds what it works with. RDI: the state; RSI: the block's first micro-operation; RAX, RCX, RDX
/// and R8 to R10 hold nothing from one micro-operation to the next; the others are `RegisterCache.registers`, which
/// routines leave alone. The stack is as a handler finds it.
enum NativeState {
  static let result = HostAddress(.rdi, soft_result_offset)
  static let carries = HostAddress(.rdi, soft_carries_offset)
  static let tlb = HostAddress(.rdi, soft_tlb_offset)
  static let generation = HostAddress(.rdi, soft_tlb_generation_offset)
  static let jumps = HostAddress(.rdi, soft_jumps_offset)
  static let returns = HostAddress(.rdi, soft_returns_offset)
  static let jumpTag = HostAddress(.rdi, soft_jump_tag_offset)
  static let branchEpoch = HostAddress(.rdi, soft_branch_epoch_offset)
  static let attention = HostAddress(.rdi, soft_attention_offset)
  static let notice = HostAddress(.rdi, soft_notice_offset)
  static let block = HostAddress(.rdi, soft_block_offset)
  static let rip = HostAddress(.rdi, soft_rip_offset)
  static let linear = HostAddress(.rdi, soft_linear_offset)
  static let linearMask = HostAddress(.rdi, soft_linear_mask_offset)
  static let nativeReturn = HostAddress(.rdi, soft_native_return_offset)
  static let nativeValue = HostAddress(.rdi, soft_native_value_offset)
  static let nativeTarget = HostAddress(.rdi, soft_native_target_offset)

  /// What a register of the cache has where code goes on.
  static func nativeRegister(_ index: Int) -> HostAddress {
    HostAddress(.rdi, soft_native_registers_offset + Int32(8 * index))
  }

  static func slot(_ slot: UInt8) -> HostAddress { HostAddress(.rdi, Int32(slot)) }

  static let stackPointer = slot(Slot.general(General.rsp))
  static let codePage = slot(Slot.codePage)
}

/// What blocks call, so that they stay small: offsets in the code.
///
/// A memory access has its linear address, or its offset in the segment, in RAX, the value to be stored in RDX and, if
/// it is not flat, the segment's place in the state in R9. One of a vector has the vector register's address in RDX. An
/// operation has its operands in RAX and RCX, and its result in RAX; those of `binary` leave the guest's arithmetic flags in
/// the host's, too.
final class Routines {
  /// Routines for operands of 1, 2, 4 and 8 bytes, of up to eight kinds.
  struct Table {
    private var places = InlineArray<32, Int>(repeating: 0)

    /// Nil: there is none.
    subscript(_ kind: Int, _ size: Int) -> Int? {
      get {
        let place = places[Self.index(kind, size)]
        return place == 0 ? nil : place
      }
      set { places[Self.index(kind, size)] = newValue ?? 0 }
    }

    private static func index(_ kind: Int, _ size: Int) -> Int { (kind & 7) << 2 | size.trailingZeroBitCount & 3 }

    subscript(_ access: Template.Access) -> Int? {
      get { self[access.isFlat ? 1 : 0, access.size] }
      set { self[access.isFlat ? 1 : 0, access.size] = newValue }
    }
  }

  private(set) var load = Table()
  private(set) var loadForWrite = Table()
  private(set) var store = Table()
  private(set) var loadVector: [Template.VectorAccess: Int] = [:]
  private(set) var storeVector: [Template.VectorAccess: Int] = [:]
  private(set) var push = 0
  /// `push` of a call, which returns to the code whose address is in R9.
  private(set) var pushReturn = 0
  private(set) var pop = 0
  /// Finds so many bytes as RAX says below or above the stack pointer: equal (ZF) if they are on one page of the TLB, with
  /// the address of the lowest in RAX and that of the host in R8.
  private(set) var below = 0
  private(set) var above = 0
  /// By the kind's number.
  private(set) var binary = Table()
  private(set) var withCarry = Table()
  /// By what is added, 1 or -1.
  private(set) var step = Table()
  private(set) var shift = Table()
  /// Gives the host the guest's arithmetic flags but AF.
  private(set) var flags = 0
  /// Finds the block at RIP, which is in RAX: RCX becomes its entry in the jump cache. Goes to `softFindBlock` if it
  /// cannot.
  private(set) var find = 0
  /// The same for a return: RCX may become something else that is like an entry only as far as where it leads.
  private(set) var findReturn = 0
  /// Enters a block by its entry in the jump cache, which learns where its translation is.
  private(set) var enter = 0
  /// Where the pointer to `softDeadBlock` stands.
  let dead: Int
  /// Leaves with the block's first operation to `softBlock`, which attends to what is asked for.
  private(set) var attend = 0
  /// Where the pointers to `softNativeFollow`, `softNativeLeavePage` and `softDivideError` stand.
  let follow: Int
  let leavePage: Int
  let divideError: Int

  /// `place` gives a function's address a place in the table of pointers.
  init(at start: Int, _ a: inout Assembler, place: (UInt) -> Int) {
    func pointer(_ handler: soft_handler) -> Int { place(Template.address(handler)) }
    // `NativeCode.resume`
    for (index, register) in RegisterCache.registers.enumerated() {
      a.load(register, NativeState.nativeRegister(index))
    }
    a.jump(through: NativeState.nativeTarget)
    let fillPointer = place(Template.address(softNativeFill)) - start
    let fills = [false, true].map { write in
      defer { a.fillTLB(write: write, throughPointerAt: fillPointer) }
      return a.count
    }
    /// The slow path: tells where the block was and goes to a handler.
    func miss(_ handler: soft_handler, stores: Bool = false) -> (inout Assembler) -> Void {
      let slot = pointer(handler) - start
      return { a in
        if stores { a.store(.rdx, NativeState.nativeValue) }
        a.pop(.rcx)
        a.store(.rcx, NativeState.nativeReturn)
        a.store(.rsi, NativeState.block)
        a.jump(throughPointerAt: slot)
      }
    }
    follow = pointer(softNativeFollow)
    leavePage = pointer(softNativeLeavePage)
    divideError = pointer(softDivideError)
    dead = pointer(softDeadBlock)
    let loadMiss = miss(softNativeLoadMiss)
    let loadForWriteMiss = miss(softNativeLoadForWriteMiss)
    let storeMiss = miss(softNativeStoreMiss, stores: true)
    let pushMiss = miss(softNativePushMiss, stores: true)
    let popMiss = miss(softNativePopMiss)
    let segmentMiss = miss(softNativeSegmentMiss)

    for size in [1, 2, 4, 8] {
      for isFlat in [true, false] {
        let access = Template.Access(size: size, isFlat: isFlat)
        load[access] = start + a.count
        a.access(access, write: false, fill: fills[0], miss: loadMiss, fault: segmentMiss) { a in
          a.loadIndexed(.rax, .rax, .r8, size: size)
        }
        loadForWrite[access] = start + a.count
        a.access(access, write: true, fill: fills[1], miss: loadForWriteMiss, fault: segmentMiss) { a in
          a.loadIndexed(.rax, .rax, .r8, size: size)
        }
        store[access] = start + a.count
        a.access(access, write: true, fill: fills[1], miss: storeMiss, fault: segmentMiss) { a in
          a.storeIndexed(.rdx, .rax, .r8, size: size)
        }
      }
      for kind in Template.BinaryKind.allCases {
        binary[kind.rawValue, size] = start + a.count
        a.binary(kind, size: size)
      }
      for kind in [HostShift.shl, .shr, .sar] {
        shift[Int(kind.rawValue), size] = start + a.count
        a.shiftAndSetFlags(kind, size: size)
      }
    }
    let loadMisses: [soft_handler] = [
      softNativeLoadVectorMiss32, softNativeLoadVectorMiss64, softNativeLoadVectorMiss128, softNativeLoadAlignedMiss,
    ]
    let storeMisses: [soft_handler] = [
      softNativeStoreVectorMiss32, softNativeStoreVectorMiss64, softNativeStoreVectorMiss128,
      softNativeStoreAlignedMiss,
    ]
    for (access, (loadMissed, storeMissed)) in zip(Template.VectorAccess.all, zip(loadMisses, storeMisses)) {
      loadVector[access] = start + a.count
      a.access(access, write: false, fill: fills[0], miss: miss(loadMissed)) { a in
        a.loadVector(HostAddress(.r8), size: access.size)
        a.storeVector(HostAddress(.rdx), size: 16)
      }
      storeVector[access] = start + a.count
      a.access(access, write: true, fill: fills[1], miss: miss(storeMissed)) { a in
        a.loadVector(HostAddress(.rdx), size: access.size)
        a.storeVector(HostAddress(.r8), size: access.size)
      }
    }
    let quadword = Template.Access(size: 8, isFlat: true)
    for isCall in [false, true] {
      if isCall { pushReturn = start + a.count } else { push = start + a.count }
      a.load(.rax, NativeState.stackPointer)
      a.loadAddress(.rax, .rax, -8)
      a.access(quadword, write: true, fill: fills[1], miss: pushMiss, fault: segmentMiss) { a in
        a.storeIndexed(.rdx, .rax, .r8, size: 8)
        a.store(.rax, NativeState.stackPointer)
        if isCall { a.noteReturn() }
      }
    }
    pop = start + a.count
    a.load(.rax, NativeState.stackPointer)
    a.access(quadword, write: false, fill: fills[0], miss: popMiss, fault: segmentMiss) { a in
      a.loadIndexed(.rcx, .rax, .r8, size: 8)
      a.loadAddress(.rax, .rax, 8)
      a.store(.rax, NativeState.stackPointer)
      a.move(.rax, .rcx)
    }
    below = start + a.count
    a.findStack(write: true)
    above = start + a.count
    a.findStack(write: false)
    for size in [4, 8] {
      for kind in Template.CarryKind.allCases {
        withCarry[kind.rawValue, size] = start + a.count
        a.withCarry(kind, size: size)
      }
      for change in [1, -1] as [Int32] {
        step[Int(change), size] = start + a.count
        a.step(by: change, size: size)
      }
    }
    flags = start + a.count
    a.giveFlags()
    findReturn = start + a.count
    a.findReturn()
    find = start + a.count
    a.findBlock(other: pointer(softFindBlock) - start)
    enter = start + a.count
    a.enterBlock(base: -start)
    attend = start + a.count
    a.jump(throughPointerAt: pointer(softBlock) - start)
  }
}

extension Assembler {
  /// An access by the TLB; `hit` finds the linear address in RAX and what makes it a host address in R8.
  fileprivate mutating func access(
    _ access: Template.Access, write: Bool, fill: Int, miss: (inout Assembler) -> Void,
    fault: (inout Assembler) -> Void, hit: (inout Assembler) -> Void
  ) {
    var faults: [Int] = []
    if !access.isFlat {
      calculate(.add, .r9, .rdi)
      loadAddress(.r8, .rax, Int32(access.size - 1))
      calculate(.cmp, .rax, HostAddress(.r9, write ? soft_write_low_offset : soft_read_low_offset))
      faults.append(skip(if: HostCondition.below))
      calculate(.cmp, .r8, HostAddress(.r9, write ? soft_write_high_offset : soft_read_high_offset))
      faults.append(skip(if: HostCondition.above))
      calculate(.cmp, .rax, .r8)
      faults.append(skip(if: HostCondition.above))
      calculate(.add, .rax, HostAddress(.r9, soft_linear_base_offset))
      calculate(.and, .rax, NativeState.linearMask)
    }
    permitted(access.size, write: write, fill: fill, hit: hit, otherwise: miss)
    guard !faults.isEmpty else { return }
    for skip in faults { land(skip) }
    fault(&self)
  }

  /// One of a vector; `hit` finds the host address in R8.
  fileprivate mutating func access(
    _ access: Template.VectorAccess, write: Bool, fill: Int, miss: (inout Assembler) -> Void,
    hit: (inout Assembler) -> Void
  ) {
    var misaligned: Int?
    if access.isAligned {
      test(.rax, immediate: 15)
      misaligned = skip(if: HostCondition.notEqual)
    }
    permitted(access.size, write: write, fill: fill) { a in
      a.calculate(.add, .r8, .rax)
      hit(&a)
    } otherwise: { a in
      if let misaligned {
        a.land(misaligned)
        a.store(.rax, NativeState.linear)
      }
      miss(&a)
    }
  }

  /// Looks up so many bytes at RAX, which the TLB is made to permit if it can; `hit` finds in R8 what makes RAX a host
  /// address.
  private mutating func permitted(
    _ size: Int, write: Bool, fill: Int, hit: (inout Assembler) -> Void, otherwise: (inout Assembler) -> Void
  ) {
    let start = count
    loadAddress(.r8, .rax, Int32(size - 1))
    compareTag(write: write)
    let missed = skip(if: HostCondition.notEqual)
    load(.r8, HostAddress(.rcx, soft_addend_offset))
    hit(&self)
    ret()
    land(missed)
    move(.rcx, immediate: UInt64(size))
    call(fill)
    jump(if: HostCondition.notEqual, to: start)
    otherwise(&self)
  }

  /// Has the TLB permit an access of RCX bytes at RAX; not equal: it does. All else that the access needs stays.
  fileprivate mutating func fillTLB(write: Bool, throughPointerAt pointer: Int) {
    store(.rax, NativeState.linear)
    // An odd number of them aligns the stack.
    let kept: [HostRegister] = [.rdi, .rsi, .r11, .rax, .rcx, .rdx, .r9]
    for register in kept { push(register) }
    move(.rsi, .rcx)
    move(.rdx, immediate: write ? 1 : 0)
    call(throughPointerAt: pointer)
    test(.rax, .rax, size: 1)
    for register in kept.reversed() { pop(register) }
    ret()
  }

  /// Looks up the linear address in RAX, with that of the access's last byte in R8: RCX becomes the entry; equal if it
  /// permits the access.
  private mutating func compareTag(write: Bool) {
    // `TLB.entry`: (linear ^ linear >> 12) >> 12, modulo the number of entries of 32 bytes.
    move(.rcx, .rax)
    shift(.shr, .rcx, by: 12)
    calculate(.xor, .rcx, .rax)
    shift(.shr, .rcx, by: 7)
    calculate(.and, .rcx, immediate: Int32((TLB.count - 1) << 5), size: 4)
    calculate(.add, .rcx, NativeState.tlb)
    // `TLB.tag`
    calculate(.and, .r8, immediate: -4096)
    calculate(.or, .r8, NativeState.generation)
    calculate(.cmp, .r8, HostAddress(.rcx, write ? soft_write_tag_offset : soft_read_tag_offset))
  }

  fileprivate mutating func findStack(write: Bool) {
    load(.rdx, NativeState.stackPointer)
    if write {
      loadAddress(.r8, .rdx, -1)
      calculate(.sub, .rdx, .rax)
    } else {
      loadAddress(.r8, .rdx, .rax, scale: 0, -1)
    }
    move(.rax, .rdx)
    compareTag(write: write)
    let missed = skip(if: HostCondition.notEqual)
    load(.r8, HostAddress(.rcx, soft_addend_offset))
    loadAddress(.r8, .r8, .rax, scale: 0, 0)
    land(missed)
    ret()
  }

  /// The carries out of the bits of an operand in RDX, as `Carries.vector` makes of them; changes R8.
  private mutating func storeCarries(size: Int) {
    if size == 8 {
      move(.r8, immediate: Carries.cfAndOF | Carries.af)
      calculate(.and, .rdx, .r8)
    } else {
      move(.r8, .rdx, size: 4)
      calculate(.and, .r8, immediate: Int32(Carries.af), size: 4)
      shift(.shl, .rdx, by: UInt8(64 - 8 * size))
      calculate(.or, .rdx, .r8)
    }
    store(.rdx, NativeState.carries)
  }

  private mutating func storeResult(_ register: HostRegister, size: Int) {
    if size < 8 { signExtend(register, size: size) }
    store(register, NativeState.result)
  }

  fileprivate mutating func binary(_ kind: Template.BinaryKind, size: Int) {
    switch kind {
    case .add, .sub, .cmp:
      // The exclusive or of operands and result has the bits that a carry came into. Operands are zero-extended: the carry
      // out of them is in the bit above.
      move(.rdx, .rax)
      calculate(.xor, .rdx, .rcx)
      move(.r9, .rax)
      calculate(kind == .add ? .add : .sub, .r9, .rcx)
      if size == 8 { spreadCarry(.r8) }
      calculate(.xor, .rdx, .r9)
      if size == 8 {
        shiftRightOnce(.rdx, from: .r8)
        move(.r8, immediate: Carries.cfAndOF | Carries.af)
        calculate(.and, .rdx, .r8)
      } else {
        move(.r8, .rdx, size: 4)
        shift(.shr, .r8, by: 1, size: 4)
        calculate(.and, .r8, immediate: Int32(Carries.af), size: 4)
        shift(.shl, .rdx, by: UInt8(63 - 8 * size))
        calculate(.or, .rdx, .r8)
      }
      store(.rdx, NativeState.carries)
      storeResult(.r9, size: size)
      calculate(kind == .add ? .add : kind == .sub ? .sub : .cmp, .rax, .rcx, size: size)
    case .and, .test, .or, .xor:
      calculate(kind == .or ? .or : kind == .xor ? .xor : .and, .rax, .rcx, size: max(4, size))
      move(.r9, .rax)
      storeResult(.r9, size: size)
      store(immediate: 0, NativeState.carries)
      test(.rax, .rax, size: size)
    }
    ret()
  }

  /// ADC and SBB, which leave nothing of the flags in the host's.
  fileprivate mutating func withCarry(_ kind: Template.CarryKind, size: Int) {
    move(.r9, .rax)
    // CF is the sign of the carries.
    load(.r10, NativeState.carries)
    calculate(.add, .r10, .r10)
    calculate(kind == .add ? .adc : .sbb, .r9, .rcx, size: size)
    move(.rdx, .rax)
    move(.r10, .r9)
    if kind == .add { complement(.r10) } else { complement(.rdx) }
    move(.r8, .rdx)
    calculate(.and, .rdx, .rcx)
    calculate(.or, .r8, .rcx)
    calculate(.and, .r8, .r10)
    calculate(.or, .rdx, .r8)
    storeCarries(size: size)
    move(.rax, .r9)
    storeResult(.r9, size: size)
    ret()
  }

  /// INC and DEC: CF stays. As `Inc` and `Dec` do it.
  fileprivate mutating func step(by change: Int32, size: Int) {
    move(.rdx, .rax)
    move(.r9, .rax)
    calculate(.add, .r9, immediate: change, size: size)
    if change > 0 {
      move(.rcx, .r9)
      complement(.rcx)
      calculate(.and, .rdx, .rcx)
    } else {
      complement(.rdx)
      calculate(.and, .rdx, .r9)
    }
    move(.r8, .rdx, size: 4)
    calculate(.and, .r8, immediate: Int32(Carries.af), size: 4)
    if size == 4 { shift(.shl, .rdx, by: 32) }
    loadAddress(.rcx, .rdx, .rdx, scale: 0, 0)
    calculate(.xor, .rcx, .rdx)
    shift(.shr, .rcx, by: 63)
    load(.r10, NativeState.carries)
    shift(.shr, .r10, by: 63)
    calculate(.xor, .rcx, .r10)
    shift(.shl, .rcx, by: 62)
    shift(.shl, .r10, by: 63)
    calculate(.or, .rcx, .r10)
    calculate(.or, .rcx, .r8)
    store(.rcx, NativeState.carries)
    move(.rax, .r9)
    storeResult(.r9, size: size)
    ret()
  }

  /// By CL, which is neither 0 nor the operand's width or more. As `Shl`, `Shr` and `Sar` do it: bit 62 of the carries is
  /// CF ^ OF.
  fileprivate mutating func shiftAndSetFlags(_ kind: HostShift, size: Int) {
    shiftByCL(kind, .rax, size: size)
    spreadCarry(.rdx)
    move(.r9, .rax)
    storeResult(.r9, size: size)
    switch kind {
    case .shl:
      shift(.shl, .rdx, by: 63)
      shift(.shr, .r9, by: 63)
      shift(.shl, .r9, by: 62)
      calculate(.or, .rdx, .r9)
    case .shr:
      shift(.shl, .r9, by: UInt8(64 - 8 * size + 1))
      shift(.shr, .r9, by: 63)
      calculate(.and, .rdx, immediate: 1, size: 4)
      calculate(.xor, .r9, .rdx)
      shift(.shl, .r9, by: 62)
      shift(.shl, .rdx, by: 63)
      calculate(.or, .rdx, .r9)
    case .sar:
      shift(.shl, .rdx, by: 62)
    }
    store(.rdx, NativeState.carries)
    ret()
  }

  /// From `result` and `carries`, as Flags.swift explains them.
  fileprivate mutating func giveFlags() {
    load(.rcx, NativeState.result)
    load(.rdx, NativeState.carries)
    // AH: SF, ZF, PF and CF where SAHF wants them.
    move(.rax, .rdx)
    shift(.shr, .rax, by: 63)
    move(.r8, .rdx)
    shift(.shl, .r8, by: 63)
    calculate(.xor, .r8, .rcx)
    shift(.shr, .r8, by: 63)
    shift(.shl, .r8, by: 7)
    calculate(.or, .rax, .r8)
    test(.rcx, .rcx)
    set(HostCondition.equal, .r8)
    shift(.shl, .r8, by: 6)
    calculate(.and, .r8, immediate: 0x40, size: 4)
    calculate(.or, .rax, .r8)
    move(.r8, .rdx)
    shift(.shr, .r8, by: 8)
    calculate(.xor, .r8, .rcx, size: 1)
    set(HostCondition.parity, .r8)
    shift(.shl, .r8, by: 2)
    calculate(.and, .r8, immediate: 4, size: 4)
    calculate(.or, .rax, .r8)
    shift(.shl, .rax, by: 8)
    // OF: 1 + 127 overflows in a byte, 0 + 127 does not.
    loadAddress(.rcx, .rdx, .rdx, scale: 0, 0)
    calculate(.xor, .rcx, .rdx)
    shift(.shr, .rcx, by: 63)
    move(.rdx, immediate: 127)
    calculate(.add, .rcx, .rdx, size: 1)
    loadFlags()
    ret()
  }

  /// Puts a return to RDX, whose code's address is in R9, on top of `soft_returns`.
  fileprivate mutating func noteReturn() {
    load(.r8, NativeState.returns)
    load(.rcx, HostAddress(.r8))
    loadAddress(.rcx, .rcx, soft_return_entry_size)
    calculate(.and, .rcx, immediate: soft_return_entries_size - 1, size: 4)
    store(.rcx, HostAddress(.r8))
    calculate(.add, .r8, .rcx)
    calculate(.xor, .rdx, NativeState.jumpTag)
    store(.rdx, HostAddress(.r8, soft_return_entries_offset))
    store(.r9, HostAddress(.r8, soft_return_entries_offset + 8))
  }

  /// Takes the last return; goes on where it is not the one to RAX. Pages begin where `code_page` is, as there is no base.
  fileprivate mutating func findReturn() {
    load(.r8, NativeState.returns)
    load(.rcx, HostAddress(.r8))
    loadAddress(.rdx, .rcx, -soft_return_entry_size)
    calculate(.and, .rdx, immediate: soft_return_entries_size - 1, size: 4)
    store(.rdx, HostAddress(.r8))
    loadAddress(.rcx, .rcx, .r8, scale: 0, soft_return_entries_offset)
    move(.rdx, .rax)
    calculate(.xor, .rdx, NativeState.jumpTag)
    calculate(.cmp, .rdx, HostAddress(.rcx))
    let other = skip(if: HostCondition.notEqual)
    loadAddress(.rcx, .rcx, 8 - soft_jump_native_offset)
    calculate(.and, .rax, immediate: -4096)
    store(.rax, NativeState.codePage)
    ret()
    land(other)
  }

  /// As `softDispatch` does it; `other` is where the pointer to `softFindBlock` stands.
  fileprivate mutating func findBlock(other: Int) {
    // `JumpCache.pair`
    move(.rcx, .rax)
    shift(.shr, .rcx, by: 8)
    calculate(.xor, .rcx, .rax)
    calculate(.and, .rcx, immediate: Int32(JumpCache.size - JumpCache.groupSize), size: 4)
    move(.rdx, .rax)
    shift(.shl, .rdx, by: 6)
    calculate(.xor, .rdx, .rax)
    calculate(.and, .rdx, immediate: Int32(JumpCache.groupSize - JumpCache.pairSize), size: 4)
    calculate(.or, .rcx, .rdx)
    calculate(.add, .rcx, NativeState.jumps)
    calculate(.xor, .rax, NativeState.jumpTag)
    calculate(.cmp, .rax, HostAddress(.rcx, soft_jump_entry_tag_offset))
    let second = skip(if: HostCondition.notEqual)
    let found = count
    load(.rax, HostAddress(.rcx, soft_jump_code_page_offset))
    store(.rax, NativeState.codePage)
    ret()
    land(second)
    loadAddress(.rcx, .rcx, Int32(MemoryLayout<soft_jump>.stride))
    calculate(.cmp, .rax, HostAddress(.rcx, soft_jump_entry_tag_offset))
    jump(if: HostCondition.equal, to: found)
    calculate(.xor, .rax, NativeState.jumpTag)
    store(.rax, NativeState.rip)
    // Past the block.
    loadAddress(.rsp, .rsp, 8)
    jump(throughPointerAt: other)
  }

  /// `base` is where the code begins.
  fileprivate mutating func enterBlock(base: Int) {
    load(.rsi, HostAddress(.rcx, soft_jump_target_offset))
    load(.rax, HostAddress(.rsi))
    loadAddress(.rdx, relative: base)
    move(.r8, .rax)
    calculate(.sub, .r8, .rdx)
    calculate(.cmp, .r8, immediate: Int32(NativeCode.capacity))
    let handler = skip(if: HostCondition.aboveOrEqual)
    loadAddress(.rax, .rax, -Int32(NativeCode.prologueSize))
    store(.rax, HostAddress(.rcx, soft_jump_native_offset))
    land(handler)
    jump(to: .rax)
  }
}
