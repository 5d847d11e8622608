import CSoftCPU
import X86

/// Turns decoded instructions into micro-operations. Memory sources become a load into a temporary and the register form;
/// memory destinations a load that proves the store possible, the register form, and the store. What is rare is one
/// micro-operation that executes the instruction as a whole: `Execute.swift`.
struct Lowering {
  private(set) var place: Place
  private(set) var operations: [soft_op] = []
  private(set) var instructions: [Instruction] = []

  var mode: UInt8 { place.mode }
  var start: UInt64 { place.start }
  var offset: UInt16 { place.offset }
  var is64: Bool { place.is64 }

  /// `dst` of an operation whose `aux` is an instruction; C functions cannot be compared.
  static let wholeMark: UInt8 = 0xFF

  /// `start` is where the block begins in its page. Entered `hot` times, it is translated.
  init(mode: UInt8, start: UInt64, hot: UInt8) {
    place = Place(mode: mode, start: start)
    operations.reserveCapacity(Block.maximum * 3)
    emit(softBlock) {
      $0.imm = Int64(bitPattern: start)
      $0.index = 0 &- hot
    }
  }

  @inline(__always)
  mutating func emit(_ handler: soft_handler, _ fill: (inout soft_op) -> Void = { _ in }) {
    var op = soft_op(
      handler: handler, imm: 0, aux: 0, dst: Slot.sink, src: Slot.zero, base: Slot.zero, index: Slot.zero, shift: 0,
      segment: 3, offset: offset)
    fill(&op)
    operations.append(op)
  }

  mutating func sized(_ handlers: SizedHandlers, _ size: UInt8, _ fill: (inout soft_op) -> Void) {
    emit(Self.pick(handlers.handlers, size), fill)
  }

  /// Ends a block that no branch ends.
  mutating func finish() { jump(to: start &+ UInt64(offset), place.instructionPointerSize) }

  /// Adds an instruction; true: nothing can follow it in this block.
  mutating func add(_ i: Instruction) -> Bool {
    let ends = lower(i)
    place.offset &+= UInt16(i.length)
    return ends
  }

  /// The instruction as one operation.
  mutating func complex(_ i: Instruction, ends: Bool = false) -> Bool {
    complex(i, ends ? softComplexLast : softComplex)
    return ends
  }

  /// The instruction as one operation, of whose common case `handler` knows more.
  mutating func complex(_ i: Instruction, _ handler: soft_handler, _ fill: (inout soft_op) -> Void = { _ in }) {
    let next = place.next(i)
    instructions.append(i)
    emit(handler) {
      fill(&$0)
      $0.imm = Int64(bitPattern: next)
      $0.dst = Self.wholeMark
    }
  }

  /// Slot of a register operand; nil: not a general register.
  func slot(_ operand: Operand) -> UInt8? {
    guard operand.kind == .register else { return nil }
    switch operand.registerClass {
    case .general: return Slot.general(operand.number)
    case .highByte: return Slot.general(operand.number) &+ 1
    default: return nil
    }
  }

  static func pick(_ handlers: (soft_handler, soft_handler, soft_handler, soft_handler), _ size: UInt8) -> soft_handler
  {
    switch size {
    case 1: handlers.0
    case 2: handlers.1
    case 4: handlers.2
    default: handlers.3
    }
  }

  private static func isInteger(_ size: UInt8) -> Bool { size == 1 || size == 2 || size == 4 || size == 8 }

  private mutating func access(
    _ i: Instruction, size: UInt8, flat: SizedHandlers, segmented: SizedHandlers, dst: UInt8 = Slot.sink,
    src: UInt8 = Slot.zero
  ) {
    let place = place
    emit(softNop) {
      let isFlat = place.setAddress(&$0, i)
      $0.shift = AccessShape.make(scale: $0.shift, width: size)
      $0.handler = Self.pick((isFlat ? flat : segmented).handlers, size)
      $0.dst = dst
      $0.src = src
    }
  }

  mutating func load(_ i: Instruction, _ size: UInt8, to slot: UInt8) {
    access(i, size: size, flat: .loadFlat, segmented: .loadSegmented, dst: slot)
  }

  mutating func loadForWrite(_ i: Instruction, _ size: UInt8, to slot: UInt8) {
    access(i, size: size, flat: .loadForWriteFlat, segmented: .loadForWriteSegmented, dst: slot)
  }

  mutating func store(_ i: Instruction, _ size: UInt8, from slot: UInt8) {
    access(i, size: size, flat: .storeFlat, segmented: .storeSegmented, src: slot)
  }

  /// The slot of a source operand, loaded into `temporary` when it is memory; nil: neither register nor memory.
  mutating func source(_ i: Instruction, _ number: Int, temporary: UInt8 = Slot.temporary0) -> UInt8? {
    let operand = i.operands[number]
    if let slot = slot(operand) { return slot }
    guard operand.kind == .memory, Self.isInteger(operand.size) else { return nil }
    load(i, operand.size, to: temporary)
    return temporary
  }

  mutating func pushValue(_ size: UInt8, from slot: UInt8) {
    let isFlat = is64 && size == 8
    let stackMask = place.stackMask
    emit(isFlat ? softPushFlat64 : Self.pick(SizedHandlers.push.handlers, size)) {
      $0.src = slot
      $0.base = Slot.general(General.rsp)
      $0.imm = 0 &- Int64(size)
      $0.aux = stackMask
      $0.segment = 2
      $0.shift = AccessShape.make(scale: 0, width: size)
    }
  }

  mutating func popValue(_ size: UInt8, to slot: UInt8) {
    let isFlat = is64 && size == 8
    let stackMask = place.stackMask
    emit(isFlat ? softPopFlat64 : Self.pick(SizedHandlers.pop.handlers, size)) {
      $0.dst = slot
      $0.base = Slot.general(General.rsp)
      $0.aux = stackMask
      $0.segment = 2
      $0.shift = AccessShape.make(scale: 0, width: size)
    }
  }

  mutating func jump(to target: UInt64, _ size: UInt8) {
    let place = place
    emit(softJump) { place.setTarget(&$0, target, size) }
  }

  mutating func jump(through slot: UInt8, _ size: UInt8) {
    let mask = place.offsetMask(size)
    emit(softJumpIndirect) {
      $0.src = slot
      $0.aux = mask
    }
  }
}
