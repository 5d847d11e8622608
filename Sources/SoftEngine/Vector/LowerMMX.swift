import CSoftCPU
import X86

extension Lowering {
  /// Instructions with MMX registers: these are read into temporaries and written back.
  mutating func lowerMMX(_ i: Instruction) -> Bool {
    let (to, from) = (i.operands[0], i.operands[1])
    let (dst, src) = (Slot.xmmTemporary1, Slot.xmmTemporary0)
    switch i.operation {
    case .emms: emit(soft_mmx_empty)
    case .movd, .movq, .movntq:
      if to.kind == .memory {
        readMMX(from, to: src)
        storeVector(i, to.size, from: src, isAligned: false)
      } else if to.registerClass == .general {
        readMMX(from, to: src)
        vector(to.size == 8 ? soft_copy_64 : soft_copy_32, Slot.wide(Slot.general(to.number)), src)
      } else {
        guard loadMMX(i) else { return complex(i) }
        writeMMX(to, from: src)
      }
    case .movdq2q:
      vector(soft_copy_64, src, vectorSlot(from))
      writeMMX(to, from: src)
    case .movq2dq:
      readMMX(from, to: src)
      vector(soft_xmm_movq, vectorSlot(to), src)
    case .pmovmskb:
      readMMX(from, to: src)
      vector(soft_mmx_pmovmskb, Slot.wide(Slot.general(to.number)), src)
    case .cvtpi2ps, .cvtpi2pd:
      guard loadMMX(i) else { return complex(i) }
      checked(isFloat: true, dst: vectorSlot(to)) {
        $0.vector(i.operation == .cvtpi2ps ? soft_cvtpi2ps : soft_cvtpi2pd, $0.vectorSlot(to), src)
      }
    case .cvtps2pi, .cvttps2pi, .cvtpd2pi, .cvttpd2pi:
      guard let operand = vectorSource(i, 1) else { return complex(i) }
      let handler: soft_handler =
        switch i.operation {
        case .cvtps2pi: soft_cvtps2pi
        case .cvttps2pi: soft_cvttps2pi
        case .cvtpd2pi: soft_cvtpd2pi
        default: soft_cvttpd2pi
        }
      emit(soft_mmx_enter)
      checked(isFloat: true, dst: dst) { $0.vector(handler, dst, operand) }
      writeMMX(to, from: dst)
    default:
      guard let row = VectorTable.shared.find(i, isMMX: true) else { return complex(i) }
      switch row.form {
      case soft_form_extract:
        readMMX(from, to: src)
        emit(row.handler) {
          $0.dst = Slot.wide(Slot.general(to.number))
          $0.src = src
          $0.aux = Self.code(row, i.immediate)
        }
        return false
      case soft_form_insert:
        guard let operand = generalSource(i, 1) else { return complex(i) }
        vector(soft_copy_64, src, operand)
      case soft_form_shift: break
      default:
        guard loadMMX(i) else { return complex(i) }
      }
      readMMX(to, to: dst)
      emit(row.handler) {
        $0.dst = dst
        $0.src = src
        $0.aux = Self.code(row, i.immediate)
      }
      writeMMX(to, from: dst)
    }
    return false
  }

  /// Loads the second operand, an MMX or general register or memory, into the first temporary.
  private mutating func loadMMX(_ i: Instruction) -> Bool {
    let operand = i.operands[1]
    if operand.kind == .register, operand.registerClass == .mmx {
      readMMX(operand, to: Slot.xmmTemporary0)
      return true
    }
    if operand.kind == .memory, operand.size >= 4 {
      loadVector(i, operand.size, to: Slot.xmmTemporary0, isAligned: operand.size == 16)
      emit(soft_x87_put_away)
      return true
    }
    guard let slot = slot(operand) else { return false }
    vector(operand.size == 8 ? soft_copy_64 : soft_copy_32, Slot.xmmTemporary0, Slot.wide(slot))
    return true
  }

  private mutating func readMMX(_ operand: Operand, to slot: UInt8) {
    emit(soft_mmx_read) {
      $0.dst = slot
      $0.src = operand.number
    }
  }

  private mutating func writeMMX(_ operand: Operand, from slot: UInt8) {
    emit(soft_mmx_write) {
      $0.dst = operand.number
      $0.src = slot
    }
  }
}
