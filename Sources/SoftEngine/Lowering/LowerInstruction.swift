import CSoftCPU
import X86

extension Lowering {
  /// The micro-operations of an instruction; true: the block ends.
  mutating func lower(_ i: Instruction) -> Bool {
    if i.prefixes.contains(.lock) { return lowerLocked(i) }
    if !i.attributes.isDisjoint(with: .vector), let ends = lowerVector(i) { return ends }
    let place = place
    switch i.operation {
    case .add: return binary(i, .add)
    case .or: return binary(i, .or)
    case .adc: return binary(i, .adc)
    case .sbb: return binary(i, .sbb)
    case .and: return binary(i, .and)
    case .sub: return binary(i, .sub)
    case .xor: return binary(i, .xor)
    case .cmp: return binary(i, .cmp, writes: false)
    case .test: return binary(i, .test, writes: false)
    case .inc: return unary(i, .inc)
    case .dec: return unary(i, .dec)
    case .not: return unary(i, .not)
    case .neg: return unary(i, .neg)
    case .rol: return shift(i, .rol)
    case .ror: return shift(i, .ror)
    case .rcl: return shift(i, .rcl)
    case .rcr: return shift(i, .rcr)
    case .shl: return shift(i, .shl)
    case .shr: return shift(i, .shr)
    case .sar: return shift(i, .sar)
    case .mov: return move(i)
    case .movzx: return extend(i, signed: false)
    case .movsx, .movsxd: return extend(i, signed: true)
    case .lea:
      guard i.operands[1].kind == .memory, let dst = slot(i.operands[0]) else { return complex(i) }
      sized(.address, i.operandSize) {
        _ = place.setAddress(&$0, i)
        $0.dst = dst
      }
      return false
    case .cmpxchg, .cmpxchg16b, .xadd: return lowerLocked(i)
    case .xchg:
      guard let dst = slot(i.operands[0]), let src = slot(i.operands[1]) else { return lowerLocked(i) }
      sized(.exchange, i.operands[0].size) {
        $0.dst = dst
        $0.src = src
      }
      return false
    case .cmovcc:
      guard let dst = slot(i.operands[0]), let src = source(i, 1) else { return complex(i) }
      sized(.moveIf, i.operandSize) {
        $0.dst = dst
        $0.src = src
        $0.base = i.condition
      }
      return false
    case .setcc:
      let dst = slot(i.operands[0])
      emit(softSetIf) {
        $0.dst = dst ?? Slot.temporary0
        $0.base = i.condition
      }
      if dst == nil { store(i, 1, from: Slot.temporary0) }
      return false
    case .imul where i.operands[1].kind != .none: return multiply(i)
    case .mul: return wide(i, softMultiplyWide32, softMultiplyWide64)
    case .div: return wide(i, softDivide32, softDivide64)
    case .bswap:
      guard i.operandSize >= 4, let dst = slot(i.operands[0]) else { return complex(i) }
      emit(i.operandSize == 8 ? softByteSwap64 : softByteSwap32) { $0.dst = dst }
      return false
    case .cbw, .cwde, .cdqe:
      guard let handler = extensionHandler(signed: true, from: i.operandSize / 2, to: i.operandSize) else {
        return complex(i)
      }
      emit(handler) {
        $0.dst = Slot.general(General.rax)
        $0.src = Slot.general(General.rax)
      }
      return false
    case .cwd, .cdq, .cqo:
      sized(.signFill, i.operandSize) {
        $0.dst = Slot.general(General.rdx)
        $0.src = Slot.general(General.rax)
      }
      return false
    case .bt, .bts, .btr, .btc: return bitTest(i)
    case .shld, .shrd: return doubleShift(i)
    case .shlx, .shrx, .sarx: return shiftFreely(i)
    case .bsf, .bsr: return scanBits(i)
    case .clc: return plain(softClearCarry)
    case .stc: return plain(softSetCarry)
    case .cmc: return plain(softComplementCarry)
    case .cld: return plain(softClearDirection)
    case .std: return plain(softSetDirection)
    // The host keeps loads in order anyway.
    case .lfence: return plain(softNop)
    case .nop, .endbr32, .endbr64, .pause, .prefetchnta, .prefetcht0, .prefetcht1, .prefetcht2, .prefetchw:
      return plain(softNop)
    case .push: return push(i)
    case .pop:
      guard let dst = slot(i.operands[0]) else { return complex(i, ends: i.operands[0].kind == .register) }
      popValue(i.operandSize, to: dst)
      return false
    case .leave: return leave(i)
    case .movs, .stos, .lods: return string(i)
    case .cli, .clac, .stac, .swapgs, .sti: return privileged(i)
    case .rdtsc, .rdtscp:
      complex(i, i.operation == .rdtsc ? softRDTSC : softRDTSCP)
      return false
    case .pushf:
      guard is64, i.operandSize == 8 else { return complex(i) }
      emit(softReadFlags) { $0.dst = Slot.temporary0 }
      pushValue(8, from: Slot.temporary0)
      return false
    default: return lowerBranch(i)
    }
  }

  private mutating func lowerBranch(_ i: Instruction) -> Bool {
    let place = place
    switch i.operation {
    case .jmp:
      if i.operands[0].kind == .relative {
        jump(to: place.target(i), i.operandSize)
        return true
      }
      guard let src = source(i, 0) else { return complex(i, ends: true) }
      jump(through: src, i.operandSize)
      return true
    case .jcc:
      emit(branchHandler(i.condition)) { place.setTarget(&$0, place.target(i), i.operandSize) }
      jump(to: place.next(i), place.instructionPointerSize)
      return true
    case .loop, .loope, .loopne, .jcxz:
      let kind: UInt8 =
        switch i.operation {
        case .loop: LoopKind.loop
        case .loope: LoopKind.loope
        case .loopne: LoopKind.loopne
        default: LoopKind.jcxz
        }
      emit(softLoop) {
        place.setTarget(&$0, place.target(i), i.operandSize)
        $0.src = i.addressSize
        $0.base = kind
      }
      jump(to: place.next(i), place.instructionPointerSize)
      return true
    case .call: return call(i)
    case .ret:
      popValue(i.operandSize, to: Slot.temporary0)
      if i.operands[0].kind == .immediate { emit(softAdjustStack) { $0.imm = i.immediate & 0xFFFF } }
      jump(through: Slot.temporary0, i.operandSize)
      return true
    default: return complex(i, ends: Self.endsBlock(i.operation))
    }
  }

  private mutating func plain(_ handler: soft_handler) -> Bool {
    emit(handler)
    return false
  }

  private mutating func binary(_ i: Instruction, _ handlers: BinaryHandlers, writes: Bool = true) -> Bool {
    let destination = i.operands[0]
    let size = destination.size
    var dst = Slot.temporary0
    if let register = slot(destination) {
      dst = register
    } else if destination.kind == .memory {
      if writes { loadForWrite(i, size, to: dst) } else { load(i, size, to: dst) }
    } else {
      return complex(i)
    }
    if i.operands[1].kind == .immediate {
      emit(Self.pick(handlers.immediate, size)) {
        $0.dst = dst
        $0.imm = i.immediate
      }
    } else if let src = source(i, 1, temporary: Slot.temporary1) {
      emit(Self.pick(handlers.register, size)) {
        $0.dst = dst
        $0.src = src
      }
    }
    if destination.kind == .memory, writes { store(i, size, from: dst) }
    return false
  }

  /// Instructions that read and write their first operand.
  private mutating func modify(_ i: Instruction, _ handlers: SizedHandlers, _ fill: (inout soft_op) -> Void) -> Bool {
    let destination = i.operands[0]
    if let dst = slot(destination) {
      sized(handlers, destination.size) {
        fill(&$0)
        $0.dst = dst
      }
      return false
    }
    guard destination.kind == .memory else { return complex(i) }
    loadForWrite(i, destination.size, to: Slot.temporary0)
    sized(handlers, destination.size) {
      fill(&$0)
      $0.dst = Slot.temporary0
    }
    store(i, destination.size, from: Slot.temporary0)
    return false
  }

  private mutating func unary(_ i: Instruction, _ handlers: SizedHandlers) -> Bool { modify(i, handlers) { _ in } }

  private mutating func shift(_ i: Instruction, _ handlers: SizedHandlers) -> Bool {
    let isRegister = i.operands[1].kind == .register
    return modify(i, handlers) {
      if isRegister { $0.src = Slot.general(General.rcx) } else { $0.imm = i.immediate & 0xFF }
    }
  }

  private mutating func move(_ i: Instruction) -> Bool {
    let (to, from) = (i.operands[0], i.operands[1])
    if let dst = slot(to) {
      if from.kind == .immediate {
        sized(.moveImmediate, to.size) {
          $0.dst = dst
          $0.imm = i.immediate
        }
        return false
      }
      if let src = slot(from) {
        sized(.moveRegister, to.size) {
          $0.dst = dst
          $0.src = src
        }
        return false
      }
      guard from.kind == .memory, from.size == to.size else { return complex(i) }
      load(i, to.size, to: dst)
      return false
    }
    guard to.kind == .memory else { return complex(i, ends: true) }
    if from.kind == .immediate {
      emit(softMoveImmediate64) {
        $0.dst = Slot.temporary0
        $0.imm = i.immediate
      }
      store(i, to.size, from: Slot.temporary0)
      return false
    }
    guard let src = slot(from) else { return complex(i) }
    store(i, to.size, from: src)
    return false
  }

  private mutating func extend(_ i: Instruction, signed: Bool) -> Bool {
    let from = i.operands[1].size
    guard let dst = slot(i.operands[0]) else { return complex(i) }
    // MOVSXD without REX.W, and MOVZX to a register of the same size, only move.
    let handler = extensionHandler(signed: signed, from: from, to: i.operandSize)
    guard handler != nil || from == i.operandSize, let src = source(i, 1) else { return complex(i) }
    emit(handler ?? Self.pick(SizedHandlers.moveRegister.handlers, i.operandSize)) {
      $0.dst = dst
      $0.src = src
    }
    return false
  }

  private mutating func multiply(_ i: Instruction) -> Bool {
    guard let dst = slot(i.operands[0]), let src = source(i, 1) else { return complex(i) }
    sized(i.operands[2].kind == .immediate ? .multiplyImmediate : .multiply, i.operandSize) {
      $0.dst = dst
      $0.src = src
      $0.imm = i.immediate
    }
    return false
  }

  /// An instruction on RDX:RAX and its operand.
  private mutating func wide(_ i: Instruction, _ handler32: soft_handler, _ handler64: soft_handler) -> Bool {
    guard i.operandSize >= 4, i.operands[0].size == i.operandSize, let src = source(i, 0) else { return complex(i) }
    emit(i.operandSize == 8 ? handler64 : handler32) { $0.src = src }
    return false
  }

  private mutating func bitTest(_ i: Instruction) -> Bool {
    guard i.operandSize >= 4, let dst = slot(i.operands[0]) else { return lowerLocked(i) }
    let handlers: (soft_handler, soft_handler) =
      switch i.operation {
      case .bt: (softBT32, softBT64)
      case .bts: (softBTS32, softBTS64)
      case .btr: (softBTR32, softBTR64)
      default: (softBTC32, softBTC64)
      }
    let src = slot(i.operands[1])
    emit(i.operandSize == 8 ? handlers.1 : handlers.0) {
      $0.dst = dst
      $0.src = src ?? Slot.zero
      $0.imm = i.immediate
    }
    return false
  }

  private mutating func doubleShift(_ i: Instruction) -> Bool {
    guard i.operandSize >= 4, let dst = slot(i.operands[0]), let src = slot(i.operands[1]) else { return complex(i) }
    let handlers: (soft_handler, soft_handler) =
      i.operation == .shld ? (softSHLD32, softSHLD64) : (softSHRD32, softSHRD64)
    emit(i.operandSize == 8 ? handlers.1 : handlers.0) {
      $0.dst = dst
      $0.src = src
      $0.base = i.operands[2].kind == .immediate ? Slot.zero : Slot.general(General.rcx)
      $0.imm = i.immediate
    }
    return false
  }

  private mutating func shiftFreely(_ i: Instruction) -> Bool {
    guard let dst = slot(i.operands[0]), let count = slot(i.operands[2]), let src = source(i, 1) else {
      return complex(i)
    }
    let handlers: (soft_handler, soft_handler) =
      switch i.operation {
      case .shlx: (softSHLX32, softSHLX64)
      case .shrx: (softSHRX32, softSHRX64)
      default: (softSARX32, softSARX64)
      }
    emit(i.operandSize == 8 ? handlers.1 : handlers.0) {
      $0.dst = dst
      $0.src = src
      $0.base = count
    }
    return false
  }

  private mutating func scanBits(_ i: Instruction) -> Bool {
    guard i.operandSize >= 4, let dst = slot(i.operands[0]), let src = source(i, 1) else { return complex(i) }
    let handlers: (soft_handler, soft_handler) =
      i.operation == .bsf ? (softBSF32, softBSF64) : (softBSR32, softBSR64)
    emit(i.operandSize == 8 ? handlers.1 : handlers.0) {
      $0.dst = dst
      $0.src = src
    }
    return false
  }

  private mutating func privileged(_ i: Instruction) -> Bool {
    let handler: soft_handler =
      switch i.operation {
      case .cli: softCLI
      case .clac: softCLAC
      case .stac: softSTAC
      case .swapgs: softSwapGS
      default: softSTI
      }
    complex(i, handler)
    return i.operation == .sti
  }

  private mutating func push(_ i: Instruction) -> Bool {
    if i.operands[0].kind == .immediate {
      emit(softMoveImmediate64) {
        $0.dst = Slot.temporary0
        $0.imm = i.immediate
      }
      pushValue(i.operandSize, from: Slot.temporary0)
      return false
    }
    guard let src = source(i, 0) else { return complex(i) }
    pushValue(i.operandSize, from: src)
    return false
  }

  /// LEAVE loads first: it may fault before RSP changes.
  private mutating func leave(_ i: Instruction) -> Bool {
    guard is64, i.operandSize == 8 else { return complex(i) }
    emit(softLoadFlat64) {
      $0.base = Slot.general(General.rbp)
      $0.dst = Slot.temporary0
      $0.segment = 2
      $0.shift = AccessShape.make(scale: 0, width: 8)
    }
    emit(softAddress64) {
      $0.base = Slot.general(General.rbp)
      $0.imm = 8
      $0.aux = .max
      $0.dst = Slot.general(General.rsp)
    }
    emit(softMoveRegister64) {
      $0.dst = Slot.general(General.rbp)
      $0.src = Slot.temporary0
    }
    return false
  }

  /// MOVS, STOS and LODS without a REP prefix.
  private mutating func string(_ i: Instruction) -> Bool {
    let size = i.opcode & 1 == 0 ? 1 : i.operandSize
    guard i.prefixes.isDisjoint(with: [.rep, .repne]) else { return repeated(i, size) }
    let accumulator = Slot.general(General.rax)
    let value = i.operation == .movs ? Slot.temporary0 : accumulator
    if i.operation != .stos {
      stringAccess(i, size, load: true, at: General.rsi, segment: i.segment) { $0.dst = value }
    }
    if i.operation != .lods {
      stringAccess(i, size, load: false, at: General.rdi, segment: UInt8(SegmentRegister.es)) { $0.src = value }
    }
    emit(softStepString) {
      $0.imm = Int64(size)
      $0.src = i.operation == .stos ? Slot.sink : Slot.general(General.rsi)
      $0.dst = i.operation == .lods ? Slot.sink : Slot.general(General.rdi)
      $0.shift = i.addressSize
    }
    return false
  }

  private mutating func repeated(_ i: Instruction, _ size: UInt8) -> Bool {
    guard is64, i.addressSize == 8, i.segment < 4, i.operation != .lods else { return complex(i) }
    complex(i, i.operation == .movs ? softRepeatMove : softRepeatStore) {
      $0.shift = UInt8(truncatingIfNeeded: size.trailingZeroBitCount)
    }
    return false
  }

  private mutating func stringAccess(
    _ i: Instruction, _ size: UInt8, load: Bool, at pointer: UInt8, segment: UInt8, _ fill: (inout soft_op) -> Void
  ) {
    let isFlat = is64 && i.addressSize == 8 && segment < 4
    let mask = place.offsetMask(i.addressSize)
    let handlers: SizedHandlers =
      load ? isFlat ? .loadFlat : .loadSegmented : isFlat ? .storeFlat : .storeSegmented
    sized(handlers, size) {
      $0.base = Slot.general(pointer)
      $0.segment = segment
      $0.aux = mask
      $0.shift = AccessShape.make(scale: 0, width: size)
      fill(&$0)
    }
  }

  private mutating func call(_ i: Instruction) -> Bool {
    let isDirect = i.operands[0].kind == .relative
    var through = Slot.zero
    if !isDirect {
      guard let src = source(i, 0) else { return complex(i, ends: true) }
      through = src
      // CALL RSP goes to what RSP was before the push.
      if src == Slot.general(General.rsp) {
        through = Slot.temporary0
        emit(softMoveRegister64) {
          $0.dst = Slot.temporary0
          $0.src = src
        }
      }
    }
    let place = place
    emit(softAddress64) {
      $0.dst = Slot.temporary1
      $0.base = Slot.codePage
      $0.imm = Int64(bitPattern: place.next(i))
      $0.aux = place.wrapMask
    }
    pushValue(i.operandSize, from: Slot.temporary1)
    if isDirect { jump(to: place.target(i), i.operandSize) } else { jump(through: through, i.operandSize) }
    // On the next page it is not known to be there.
    if is64, place.next(i) < 4096 {
      emit(softReturnPlace) { place.setTarget(&$0, place.next(i), i.operandSize) }
    }
    return true
  }

  /// Instructions after which RIP, the mode, the privilege level, translations or pending interrupts may be others.
  private static func endsBlock(_ operation: Operation) -> Bool {
    switch operation {
    case .callf, .jmpf, .retf, .iret, .int, .int1, .int3, .into, .syscall, .sysret, .sysenter, .sysexit, .hlt,
      .popf, .wrmsr, .lmsw, .clts, .invlpg, .invpcid, .lgdt, .lidt, .lldt, .ltr, .lds, .les, .lfs, .lgs, .lss, .xsetbv,
      .ud0, .ud1, .ud2, .monitor, .mwait, .rsm, .invd, .wbinvd, .in, .out:
      true
    default: false
    }
  }
}
