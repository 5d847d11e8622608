import CSoftCPU
import X86

extension Lowering {
  /// MMX and SSE instructions; nil: not one of these.
  mutating func lowerVector(_ i: Instruction) -> Bool? {
    switch i.operation {
    // Instructions of these features that use no vector register.
    case .movnti, .lfence, .mfence, .sfence, .crc32, .pause, .popcnt: return nil
    case .ldmxcsr, .stmxcsr, .fxsave, .fxrstor, .xsave, .xsaveopt, .xsavec, .xsaves, .xrstor, .xrstors, .xgetbv,
      .xsetbv, .maskmovq,
      .maskmovdqu:
      return complex(i, ends: Self.mayChangeVectorChecks(i.operation))
    default: break
    }
    if i.attributes.contains(.fpu) { return lowerX87(i) }
    let namesMMX = (0..<2).contains { i.operands[$0].registerClass == .mmx } || i.operation == .emms
    if checksSSE, (0..<2).contains(where: { i.operands[$0].registerClass == .xmm }) { emit(softCheckSSE) }
    if checksX87, namesMMX { emit(softCheckMMX) }
    // With memory operands these leave the x87 state alone.
    let usesMMX = namesMMX || i.operation == .cvtpi2ps || i.operation == .cvtpi2pd
    if usesMMX { return lowerMMX(i) }
    if let ends = lowerVectorMove(i) { return ends }
    if let ends = lowerConversion(i) { return ends }
    if lowerFused(i) { return false }
    guard let row = VectorTable.shared.find(i, isMMX: false) else { return complex(i) }
    switch row.form {
    case soft_form_extract:
      extract(i, row, from: vectorSlot(i.operands[1]))
    case soft_form_insert:
      guard let src = generalSource(i, 1) else { return complex(i) }
      emit(row.handler) {
        $0.dst = Self.vectorSlot(i.operands[0])
        $0.src = src
        $0.aux = Self.code(row, i.immediate)
      }
    case soft_form_shift:
      emit(row.handler) {
        $0.dst = Self.vectorSlot(i.operands[0])
        $0.src = $0.dst
        $0.aux = Self.code(row, i.immediate)
      }
    default:
      guard let src = vectorSource(i, 1, isAligned: row.form != soft_form_string) else { return complex(i) }
      // INSERTPS from memory has only one element to choose.
      let isElement = i.operation == .insertps && i.operands[1].kind == .memory
      let immediate = isElement ? i.immediate & 0x3F : i.immediate
      checked(isFloat: row.is_float != 0, dst: Self.vectorSlot(i.operands[0])) {
        $0.emit(row.handler) {
          $0.dst = Self.vectorSlot(i.operands[0])
          $0.src = src
          $0.aux = Self.code(row, immediate)
          $0.base = i.rex & 8
          $0.index = i.operation == .pcmpestrm || i.operation == .pcmpistrm ? 1 : 0
        }
      }
    }
    return false
  }

  /// An instruction whose operation does its load, too; false: none of these.
  private mutating func lowerFused(_ i: Instruction) -> Bool {
    let place = place
    guard !checksSSE, i.operands[1].kind == .memory, place.isFlat(i), let handler = fusedHandler(i.operation) else {
      return false
    }
    emit(handler) {
      _ = place.setAddress(&$0, i)
      $0.dst = Self.vectorSlot(i.operands[0])
    }
    return true
  }

  /// CR0, CR4, MXCSR or the x87 control word ask for checks that are made where none is needed otherwise.
  var checksSSE: Bool { mode & VectorChecks.sse != 0 }
  var checksX87: Bool { mode & VectorChecks.x87 != 0 }

  static func mayChangeVectorChecks(_ operation: Operation) -> Bool {
    switch operation {
    case .ldmxcsr, .fxrstor, .xrstor, .xrstors, .fninit, .fldcw, .fldenv, .frstor, .fnsave, .fnclex: true
    default: false
    }
  }

  static func code(_ row: soft_vector_instruction, _ immediate: Int64) -> UInt64 {
    guard let code = row.code else { return 0 }
    return UInt64(UInt(bitPattern: code + Int(immediate & 0xFF) * 8))
  }

  static func vectorSlot(_ operand: Operand) -> UInt8 { Slot.xmm(operand.number) }
  func vectorSlot(_ operand: Operand) -> UInt8 { Self.vectorSlot(operand) }

  /// The slot of an XMM or memory source. Nil: no such operand.
  mutating func vectorSource(_ i: Instruction, _ number: Int, isAligned: Bool = true) -> UInt8? {
    let operand = i.operands[number]
    if operand.kind == .register { return operand.registerClass == .xmm ? Slot.xmm(operand.number) : nil }
    guard operand.kind == .memory else { return nil }
    if operand.size < 4 {
      // PMOVSXBQ and PMOVZXBQ.
      load(i, operand.size, to: Slot.temporary0)
      return Slot.wide(Slot.temporary0)
    }
    loadVector(i, operand.size, to: Slot.xmmTemporary0, isAligned: isAligned)
    return Slot.xmmTemporary0
  }

  /// The slot of a general register or memory source.
  mutating func generalSource(_ i: Instruction, _ number: Int) -> UInt8? {
    source(i, number).map { Slot.wide($0) }
  }

  mutating func loadVector(_ i: Instruction, _ size: UInt8, to slot: UInt8, isAligned: Bool) {
    let place = place
    emit(softNop) {
      let isFlat = place.setAddress(&$0, i)
      $0.handler = (isAligned ? VectorAccessHandlers.loadAligned : .load).pick(size, isFlat: isFlat)
      $0.dst = slot
    }
  }

  mutating func storeVector(_ i: Instruction, _ size: UInt8, from slot: UInt8, isAligned: Bool) {
    let place = place
    emit(softNop) {
      let isFlat = place.setAddress(&$0, i)
      $0.handler = (isAligned ? VectorAccessHandlers.storeAligned : .store).pick(size, isFlat: isFlat)
      $0.src = slot
    }
  }

  /// An operation that may raise SIMD floating-point exceptions, with what finds unmasked ones.
  mutating func checked(isFloat: Bool, dst: UInt8, _ body: (inout Lowering) -> Void) {
    guard isFloat, checksSSE else { return body(&self) }
    emit(softBeginFloat) { $0.dst = dst }
    body(&self)
    emit(softEndFloat) { $0.dst = dst }
  }

  private mutating func extract(_ i: Instruction, _ row: soft_vector_instruction, from src: UInt8) {
    let isMemory = i.operands[0].kind == .memory
    let dst = isMemory ? Slot.temporary0 : Slot.general(i.operands[0].number)
    emit(row.handler) {
      $0.dst = Slot.wide(dst)
      $0.src = src
      $0.aux = Self.code(row, i.immediate)
    }
    if isMemory { store(i, i.operands[0].size, from: Slot.temporary0) }
  }

  /// Moves between XMM registers, memory and general registers; nil: none of these.
  private mutating func lowerVectorMove(_ i: Instruction) -> Bool? {
    let (to, from) = (i.operands[0], i.operands[1])
    switch i.operation {
    case .movaps, .movapd, .movdqa, .movups, .movupd, .movdqu, .lddqu, .movntdqa, .movntps, .movntpd, .movntdq:
      let isAligned = ![.movups, .movupd, .movdqu, .lddqu].contains(i.operation)
      if to.kind == .memory {
        storeVector(i, 16, from: vectorSlot(from), isAligned: isAligned)
      } else if from.kind == .memory {
        loadVector(i, 16, to: vectorSlot(to), isAligned: isAligned)
      } else {
        vector(soft_xmm_move, vectorSlot(to), vectorSlot(from))
      }
    case .movss, .movsd:
      if to.kind == .memory {
        storeVector(i, to.size, from: vectorSlot(from), isAligned: false)
      } else if from.kind == .memory {
        loadVector(i, from.size, to: vectorSlot(to), isAligned: false)
      } else {
        vector(i.operation == .movss ? soft_xmm_movss : soft_xmm_movsd, vectorSlot(to), vectorSlot(from))
      }
    case .movd, .movq:
      if to.kind == .memory {
        storeVector(i, to.size, from: vectorSlot(from), isAligned: false)
      } else if to.registerClass == .general {
        vector(to.size == 8 ? soft_copy_64 : soft_copy_32, Slot.wide(Slot.general(to.number)), vectorSlot(from))
      } else if from.kind == .memory {
        loadVector(i, from.size, to: vectorSlot(to), isAligned: false)
      } else if from.registerClass == .xmm {
        vector(soft_xmm_movq, vectorSlot(to), vectorSlot(from))
      } else {
        vector(
          from.size == 8 ? soft_xmm_movq : soft_xmm_movd, vectorSlot(to), Slot.wide(Slot.general(from.number)))
      }
    case .movlps, .movlpd, .movhps, .movhpd:
      let isHigh = i.operation == .movhps || i.operation == .movhpd
      if to.kind == .memory {
        storeVector(i, 8, from: vectorSlot(from) &+ (isHigh ? 1 : 0), isAligned: false)
      } else {
        loadVector(i, 8, to: Slot.xmmTemporary0, isAligned: false)
        vector(isHigh ? soft_xmm_movhps : soft_xmm_movlps, vectorSlot(to), Slot.xmmTemporary0)
      }
    case .movhlps: vector(soft_xmm_movlps, vectorSlot(to), vectorSlot(from) &+ 1)
    case .movlhps: vector(soft_xmm_movhps, vectorSlot(to), vectorSlot(from))
    default: return nil
    }
    return false
  }

  mutating func vector(_ handler: soft_handler, _ dst: UInt8, _ src: UInt8) {
    emit(handler) {
      $0.dst = dst
      $0.src = src
    }
  }

  /// What connects XMM with general registers and flags; nil: none of these.
  private mutating func lowerConversion(_ i: Instruction) -> Bool? {
    let isWide = i.operandSize == 8
    let handler: soft_handler
    switch i.operation {
    case .cvtsi2sd, .cvtsi2ss:
      guard let src = generalSource(i, 1) else { return complex(i) }
      let dst = vectorSlot(i.operands[0])
      let conversion: soft_handler =
        switch (i.operation, isWide) {
        case (.cvtsi2sd, true): soft_xmm_cvtsi2sdq
        case (.cvtsi2sd, false): soft_xmm_cvtsi2sdl
        case (_, true): soft_xmm_cvtsi2ssq
        default: soft_xmm_cvtsi2ssl
        }
      checked(isFloat: true, dst: dst) { $0.vector(conversion, dst, src) }
      return false
    case .cvtss2si: handler = isWide ? soft_cvtss2si64 : soft_cvtss2si32
    case .cvttss2si: handler = isWide ? soft_cvttss2si64 : soft_cvttss2si32
    case .cvtsd2si: handler = isWide ? soft_cvtsd2si64 : soft_cvtsd2si32
    case .cvttsd2si: handler = isWide ? soft_cvttsd2si64 : soft_cvttsd2si32
    case .movmskps: handler = soft_movmskps
    case .movmskpd: handler = soft_movmskpd
    case .pmovmskb: handler = soft_pmovmskb
    case .comiss, .ucomiss, .comisd, .ucomisd, .ptest:
      guard let src = vectorSource(i, 1) else { return complex(i) }
      let dst = vectorSlot(i.operands[0])
      let comparison: soft_handler =
        switch i.operation {
        case .comiss: soft_comiss
        case .ucomiss: soft_ucomiss
        case .comisd: soft_comisd
        case .ucomisd: soft_ucomisd
        default: soft_ptest
        }
      checked(isFloat: i.operation != .ptest, dst: dst) { $0.vector(comparison, dst, src) }
      return false
    default: return nil
    }
    guard let src = vectorSource(i, 1) else { return complex(i) }
    let dst = Slot.wide(Slot.general(i.operands[0].number))
    checked(isFloat: true, dst: dst) { $0.vector(handler, dst, src) }
    return false
  }
}
