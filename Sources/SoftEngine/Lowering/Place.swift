import CSoftCPU
import X86

/// Where an instruction stands, and what follows from it.
struct Place {
  /// `soft_cpu.mode` of the code.
  let mode: UInt8
  /// Where the block starts in its page. All code addresses here are relative to the page's start.
  let start: UInt64
  /// Of the instruction, from the block's first.
  var offset: UInt16 = 0

  var is64: Bool { mode & 3 == 2 }
  var wrapMask: UInt64 { is64 ? .max : 0xFFFF_FFFF }
  var stackMask: UInt64 { is64 ? .max : mode & 4 != 0 ? 0xFFFF_FFFF : 0xFFFF }

  func next(_ i: Instruction) -> UInt64 { start &+ UInt64(offset) &+ UInt64(i.length) }

  /// Fills in the address of the instruction's memory operand; true: flat.
  func setAddress(_ op: inout soft_op, _ i: Instruction) -> Bool {
    op.imm = i.displacement
    if i.base == Instruction.instructionPointer {
      op.base = Slot.codePage
      op.imm = Int64(bitPattern: next(i) &+ UInt64(bitPattern: i.displacement))
    } else if i.base != Instruction.noRegister {
      op.base = Slot.general(i.base)
    }
    if i.index != Instruction.noRegister {
      op.index = Slot.general(i.index)
      op.shift = UInt8(truncatingIfNeeded: i.scale.trailingZeroBitCount)
    }
    op.segment = i.segment
    op.aux = offsetMask(i.addressSize)
    return is64 && i.addressSize == 8 && i.segment < 4
  }

  func offsetMask(_ size: UInt8) -> UInt64 { size == 2 ? 0xFFFF : size == 4 ? 0xFFFF_FFFF : .max }

  func target(_ i: Instruction) -> UInt64 { next(i) &+ UInt64(bitPattern: i.immediate) }

  /// `size` is what RIP is cut to.
  func setTarget(_ op: inout soft_op, _ target: UInt64, _ size: UInt8) {
    op.imm = Int64(bitPattern: target)
    op.shift = size
    // 16-bit targets may wrap within the page.
    op.aux = target < 4096 && size > 2 ? Link.wanted : Link.never
  }

  /// How wide RIP is where no operand says so.
  var instructionPointerSize: UInt8 { is64 ? 8 : 4 }
}
