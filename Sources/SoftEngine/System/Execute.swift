import CSoftCPU
import X86

/// Executes a whole instruction: those that are rare, or too intricate for a few micro-operations.
@c func softComplex(_ state: State, _ op: MicroOp) {
  guard executeWhole(state, op) else { return }
  return next(state, op)
}

/// The same for instructions after which nothing in this block is to be trusted.
@c func softComplexLast(_ state: State, _ op: MicroOp) {
  guard executeWhole(state, op), state.pointee.system_flags & RFLAGS.tf == 0 else { return }
  if state.pointee.shadow != 0 {
    if state.pointee.shadow == InterruptShadow.sti { return tail(state, op, softDispatchShadowed) }
    return
  }
  return tail(state, op, softDispatch)
}

/// False: the interpreter must be left, `leave` says why.
@inline(never)
private func executeWhole(_ state: State, _ op: MicroOp) -> Bool {
  // Safety: the lowering's; it lives as long as the block.
  guard let instruction = UnsafePointer<Instruction>(bitPattern: UInt(op.pointee.aux)) else { return false }
  state.pointee.instruction_rip = instructionPointer(state, op)
  state.pointee.rip = codeAddress(state, op)
  state.pointee.leave = LeaveReason.dispatch
  do throws(Fault) {
    try Executor(state, instruction).execute()
  } catch {
    suspend(state, op, error)
    return false
  }
  state.forgetAnswers()
  return state.pointee.code_changed == 0 && state.pointee.leave == LeaveReason.dispatch
}

/// An instruction being executed. RIP is the next instruction's; nothing is changed before the last access that may fault.
struct Executor {
  let state: State
  let instruction: UnsafePointer<Instruction>

  @inline(__always)
  init(_ state: State, _ instruction: UnsafePointer<Instruction>) {
    self.state = state
    self.instruction = instruction
  }

  @inline(__always) var i: Instruction { instruction.pointee }
  var size: Int { Int(i.operandSize) }
  var bits: UInt64 { UInt64(i.operandSize) &* 8 }

  func mask(_ size: Int) -> UInt64 { size >= 8 ? .max : (1 << UInt64(8 &* size)) &- 1 }

  func signExtend(_ value: UInt64, _ size: Int) -> UInt64 {
    let shift = Int64(64 &- 8 &* size)
    return UInt64(bitPattern: (Int64(bitPattern: value) << shift) >> shift)
  }

  func general(_ number: UInt8) -> UInt64 { register(state, Slot.general(number), as: UInt64.self).pointee }

  func setGeneral(_ number: UInt8, _ value: UInt64, size: Int = 8) {
    switch size {
    case 1: register(state, Slot.general(number), as: UInt8.self).pointee = UInt8(truncatingIfNeeded: value)
    case 2: register(state, Slot.general(number), as: UInt16.self).pointee = UInt16(truncatingIfNeeded: value)
    case 4: register(state, Slot.general(number), as: UInt64.self).pointee = value & 0xFFFF_FFFF
    default: register(state, Slot.general(number), as: UInt64.self).pointee = value
    }
  }

  /// The offset of the memory operand in its segment.
  var offset: UInt64 {
    var offset = UInt64(bitPattern: i.displacement)
    if i.base == Instruction.instructionPointer {
      offset &+= state.pointee.rip
    } else if i.base != Instruction.noRegister {
      offset &+= general(i.base)
    }
    if i.index != Instruction.noRegister { offset &+= general(i.index) &* UInt64(i.scale) }
    return offset & mask(Int(i.addressSize))
  }

  /// The linear address of an access; throws what the segment forbids.
  func linear(_ segment: Int, _ offset: UInt64, _ width: Int, write: Bool) throws(Fault) -> UInt64 {
    let register = state.segment(segment)
    let low = write ? register.pointee.write_low : register.pointee.read_low
    let high = write ? register.pointee.write_high : register.pointee.read_high
    let last = offset &+ UInt64(width &- 1)
    guard offset >= low, last <= high, offset <= last else {
      throw .exception(segment == SegmentRegister.ss ? Vector.stackFault : Vector.generalProtection, errorCode: 0)
    }
    return (register.pointee.linear_base &+ offset) & state.pointee.linear_mask
  }

  func readMemory(_ segment: Int, _ offset: UInt64, _ width: Int, forWrite: Bool = false) throws(Fault) -> UInt64 {
    let linear = try linear(segment, offset, width, write: forWrite)
    let entry = TLB.entry(state, linear)
    let tag = TLB.tag(state, linear, width: width)
    if width == 4 || width == 8 || width == 1, (forWrite ? entry.pointee.write_tag : entry.pointee.read_tag) == tag {
      let host = TLB.host(entry, linear)
      switch width {
      case 1: return UInt64(host.load(as: UInt8.self))
      case 4: return UInt64(host.loadUnaligned(as: UInt32.self))
      default: return host.loadUnaligned(as: UInt64.self)
      }
    }
    return try state.read(linear, width: width, segment: segment, forWrite: forWrite)
  }

  func writeMemory(_ segment: Int, _ offset: UInt64, _ value: UInt64, _ width: Int) throws(Fault) {
    let linear = try linear(segment, offset, width, write: true)
    let entry = TLB.entry(state, linear)
    if width == 4 || width == 8 || width == 1, entry.pointee.write_tag == TLB.tag(state, linear, width: width) {
      let host = TLB.host(entry, linear)
      switch width {
      case 1: host.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
      case 4: host.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
      default: host.storeBytes(of: value, as: UInt64.self)
      }
      return
    }
    try state.write(linear, value, width: width, segment: segment)
  }

  /// An operand's value, zero-extended from its size.
  func read(_ number: Int, forWrite: Bool = false) throws(Fault) -> UInt64 {
    let operand = i.operands[number]
    switch operand.kind {
    case .register:
      switch operand.registerClass {
      case .general: return general(operand.number) & mask(Int(operand.size))
      case .highByte: return general(operand.number) >> 8 & 0xFF
      case .segment: return UInt64(state.segment(Int(operand.number)).pointee.selector)
      default: throw .undefined
      }
    case .memory:
      return try readMemory(Int(i.segment), offset, Int(operand.size), forWrite: forWrite)
    case .immediate: return UInt64(bitPattern: i.immediate) & mask(Int(operand.size))
    case .secondImmediate: return UInt64(i.secondImmediate)
    default: throw .undefined
    }
  }

  /// Writes an operand.
  func write(_ number: Int, _ value: UInt64) throws(Fault) {
    let operand = i.operands[number]
    switch operand.kind {
    case .register:
      switch operand.registerClass {
      case .general: setGeneral(operand.number, value, size: Int(operand.size))
      case .highByte:
        register(state, Slot.general(operand.number) &+ 1, as: UInt8.self).pointee = UInt8(truncatingIfNeeded: value)
      default: throw .undefined
      }
    case .memory: try writeMemory(Int(i.segment), offset, value, Int(operand.size))
    default: throw .undefined
    }
  }

  var rsp: UInt64 { general(General.rsp) & state.pointee.stack_mask }

  /// Pushes without moving the stack pointer: at `depth` bytes below it.
  func pushValue(_ value: UInt64, _ size: Int, depth: Int = 0) throws(Fault) {
    let offset = (rsp &- UInt64(size &+ depth)) & state.pointee.stack_mask
    try writeMemory(SegmentRegister.ss, offset, value, size)
  }

  /// Reads what stands `depth` bytes above the stack pointer.
  func stackValue(_ size: Int, depth: Int = 0) throws(Fault) -> UInt64 {
    try readMemory(SegmentRegister.ss, (rsp &+ UInt64(depth)) & state.pointee.stack_mask, size)
  }

  func adjustStack(_ bytes: Int) { state.adjustStack(UInt64(bitPattern: Int64(bytes))) }

  func requirePrivilege() throws(Fault) { if state.pointee.cpl != 0 { throw .protection } }

  /// MFENCE, and serialising instructions, which other processors see after all stores before them (SDM vol. 3, 9.2.5
  /// and 9.3).
  private var isFence: Bool {
    switch i.operation {
    case .mfence, .cpuid, .iret, .invd, .invlpg, .invpcid, .lgdt, .lidt, .lldt, .ltr, .wbinvd, .wrmsr: true
    case .mov: [.control, .debug].contains(i.operands[0].registerClass)
    default: false
    }
  }

  func execute() throws(Fault) {
    let attributes = i.attributes
    if isFence { soft_fence() }
    if attributes.contains(.protected), state.pointee.hasRealSegments, i.operation != .sysenter, i.operation != .sysexit
    {
      throw .undefined
    }
    if attributes.contains(.cpl0) { try requirePrivilege() }
    if i.prefixes.contains(.lock) { return try executeLocked() }
    if !attributes.isDisjoint(with: .vector), try executeVector() { return }
    if try executeInteger() { return }
    if try executeString() { return }
    if try executeBits() { return }
    if try executeTransfer() { return }
    if try executeSystem() { return }
    throw .undefined
  }
}
