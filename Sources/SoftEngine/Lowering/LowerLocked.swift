import CSoftCPU
import X86

extension Lowering {
  /// Instructions that read, change and write memory at once, and tests of bits in memory.
  mutating func lowerLocked(_ i: Instruction) -> Bool {
    guard is64, i.addressSize == 8, i.operands[0].kind == .memory, let handler = Self.lockedHandler(i) else {
      return complex(i)
    }
    var src = Slot.zero
    if i.operands[1].kind == .immediate {
      src = Slot.temporary0
      // The bits that BT and its like count are those of the operand.
      let isBit = [.bt, .bts, .btr, .btc].contains(i.operation)
      let value = isBit ? i.immediate & (Int64(i.operandSize) * 8 - 1) : i.immediate
      emit(softMoveImmediate64) {
        $0.dst = src
        $0.imm = value
      }
    } else if i.operands[1].kind != .none {
      guard let register = slot(i.operands[1]) else { return complex(i) }
      src = register
    }
    let place = place
    emit(softAddress64) {
      _ = place.setAddress(&$0, i)
      $0.dst = Slot.temporary1
    }
    complex(i, handler) {
      $0.src = src
      $0.base = Slot.temporary1
      $0.segment = i.segment
    }
    return false
  }

  private static func lockedHandler(_ i: Instruction) -> soft_handler? {
    let handlers: (soft_handler, soft_handler)
    switch i.operation {
    case .cmpxchg: handlers = (softCompareExchange32, softCompareExchange64)
    case .cmpxchg16b where i.operandSize == 8: return softCompareExchange16B
    case .xadd: handlers = (softExchangeAdd32, softExchangeAdd64)
    case .xchg: handlers = (softExchangeMemory32, softExchangeMemory64)
    case .add: handlers = (softLockAdd32, softLockAdd64)
    case .sub: handlers = (softLockSub32, softLockSub64)
    case .and: handlers = (softLockAnd32, softLockAnd64)
    case .or: handlers = (softLockOr32, softLockOr64)
    case .xor: handlers = (softLockXor32, softLockXor64)
    case .inc: handlers = (softLockInc32, softLockInc64)
    case .dec: handlers = (softLockDec32, softLockDec64)
    case .bt: handlers = (softTestMemoryBit32, softTestMemoryBit64)
    case .bts: handlers = (softSetMemoryBit32, softSetMemoryBit64)
    case .btr: handlers = (softResetMemoryBit32, softResetMemoryBit64)
    case .btc: handlers = (softComplementMemoryBit32, softComplementMemoryBit64)
    default: return nil
    }
    switch i.operands[0].size {
    case 4: return handlers.0
    case 8: return handlers.1
    default: return nil
    }
  }
}
