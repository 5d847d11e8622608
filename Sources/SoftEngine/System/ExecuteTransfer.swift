import CSoftCPU
import X86

/// Far transfers (SDM vol. 3, 5.8).
extension Executor {
  /// False: not one of these.
  func executeTransfer() throws(Fault) -> Bool {
    switch i.operation {
    case .jmpf:
      let (selector, target) = try farPointer()
      try jumpFar(selector, target)
    case .callf:
      let (selector, target) = try farPointer()
      try callFar(selector, target)
    case .retf: try returnFar()
    case .iret: try returnFromInterrupt()
    case .int:
      if state.pointee.isVirtual8086 { try requireIOPL() }
      try softwareInterrupt(UInt8(truncatingIfNeeded: i.immediate))
    case .int1: try state.enterGate(Vector.debug, errorCode: nil, rip: state.pointee.rip, .hardware)
    case .int3: try softwareInterrupt(Vector.breakpoint)
    case .into: if state.overflow { try softwareInterrupt(Vector.overflow) }
    case .les, .lds, .lfs, .lgs, .lss: try loadFarPointer()
    case .syscall: try enterSystemCall()
    case .sysret: try returnFromSystemCall()
    case .sysenter: try enterFast()
    case .sysexit: try exitFast()
    default: return false
    }
    return true
  }

  private func loadFarPointer() throws(Fault) {
    let width = Int(i.operands[0].size)
    let value = try readMemory(Int(i.segment), offset, width)
    let selector = try readMemory(Int(i.segment), (offset &+ UInt64(width)) & mask(Int(i.addressSize)), 2)
    let segment: Int =
      switch i.operation {
      case .les: SegmentRegister.es
      case .lds: SegmentRegister.ds
      case .lfs: SegmentRegister.fs
      case .lgs: SegmentRegister.gs
      default: SegmentRegister.ss
      }
    try loadSegment(segment, UInt16(truncatingIfNeeded: selector))
    try write(0, value)
  }

  private func farPointer() throws(Fault) -> (UInt16, UInt64) {
    if i.operands[0].kind == .farPointer { return (i.secondImmediate, UInt64(bitPattern: i.immediate)) }
    let target = try readMemory(Int(i.segment), offset, size)
    let selector = try readMemory(Int(i.segment), (offset &+ UInt64(size)) & mask(Int(i.addressSize)), 2)
    return (UInt16(truncatingIfNeeded: selector), target)
  }

  private func softwareInterrupt(_ vector: UInt8) throws(Fault) {
    try state.enterGate(vector, errorCode: nil, rip: state.pointee.rip, .software)
  }

  /// A far transfer of real-address and virtual-8086 mode.
  private func transferReal(_ selector: UInt16, _ target: UInt64) throws(Fault) {
    guard target <= UInt64(state.segment(SegmentRegister.cs).pointee.limit) else { throw .protection }
    state.setRealSegment(SegmentRegister.cs, selector)
    state.pointee.rip = target
  }

  /// A code segment that JMP and CALL may name, and its offset.
  private func checkCode(_ selector: UInt16, _ descriptor: Descriptor, _ target: UInt64) throws(Fault) {
    let cpl = state.pointee.cpl
    guard descriptor.isConforming ? descriptor.dpl <= cpl : descriptor.dpl == cpl && UInt8(selector & 3) <= cpl else {
      throw .protection(selector)
    }
    guard descriptor.isPresent else { throw .notPresent(selector) }
    try checkTarget(selector, descriptor, target)
  }

  private func checkTarget(_ selector: UInt16, _ descriptor: Descriptor, _ target: UInt64) throws(Fault) {
    let is64 = state.pointee.isLongMode && descriptor.attributes & SegmentAttributes.long != 0
    if is64, descriptor.attributes & SegmentAttributes.big != 0 { throw .protection(selector) }
    guard is64 ? state.isCanonical(target) : target <= UInt64(descriptor.limit) else { throw .protection }
  }

  private func enterCode(_ selector: UInt16, _ descriptor: Descriptor, _ target: UInt64) {
    state.setSegment(SegmentRegister.cs, selector: selector & 0xFFFC | UInt16(state.pointee.cpl), descriptor)
    state.pointee.rip = target
  }

  private func jumpFar(_ selector: UInt16, _ target: UInt64) throws(Fault) {
    let target = target & mask(size)
    if state.pointee.hasRealSegments { return try transferReal(selector, target) }
    guard selector & 0xFFFC != 0 else { throw .protection }
    let descriptor = try state.descriptor(selector)
    if descriptor.isSystem { return try transferSystem(selector, descriptor, isCall: false) }
    guard descriptor.isCode else { throw .protection(selector) }
    try checkCode(selector, descriptor, target)
    try state.markAccessed(selector, descriptor)
    enterCode(selector, descriptor, target)
  }

  private func callFar(_ selector: UInt16, _ target: UInt64) throws(Fault) {
    let target = target & mask(size)
    var stack = state.currentStack()
    if state.pointee.hasRealSegments {
      guard target <= UInt64(state.segment(SegmentRegister.cs).pointee.limit) else { throw .protection }
      try pushReturn(&stack, size)
      try transferReal(selector, target)
      return setStackPointer(stack)
    }
    guard selector & 0xFFFC != 0 else { throw .protection }
    let descriptor = try state.descriptor(selector)
    if descriptor.isSystem { return try transferSystem(selector, descriptor, isCall: true) }
    guard descriptor.isCode else { throw .protection(selector) }
    try checkCode(selector, descriptor, target)
    try pushReturn(&stack, size)
    try state.markAccessed(selector, descriptor)
    enterCode(selector, descriptor, target)
    setStackPointer(stack)
  }

  private func pushReturn(_ stack: inout InnerStack, _ width: Int) throws(Fault) {
    try stack.push(state, UInt64(state.segment(SegmentRegister.cs).pointee.selector), width: width)
    try stack.push(state, state.pointee.rip, width: width)
  }

  private func setStackPointer(_ stack: InnerStack) { setGeneral(General.rsp, stack.pointer) }

  /// Through a call gate, a task gate or a task state segment.
  private func transferSystem(_ selector: UInt16, _ descriptor: Descriptor, isCall: Bool) throws(Fault) {
    let isLong = state.pointee.isLongMode
    let type = descriptor.type
    guard type == 12 || !isLong && [1, 4, 5, 9].contains(type) else { throw .protection(selector) }
    guard descriptor.dpl >= max(state.pointee.cpl, UInt8(selector & 3)) else { throw .protection(selector) }
    guard descriptor.isPresent else { throw .notPresent(selector) }
    let source: TaskSwitchSource = isCall ? .call : .jump
    switch type {
    case 1, 9: try state.switchTask(to: selector, source)
    case 5: try state.switchTask(to: UInt16(truncatingIfNeeded: descriptor.low >> 16), source)
    default: try transferThroughGate(selector, descriptor, isCall: isCall)
    }
  }

  private func transferThroughGate(_ gateSelector: UInt16, _ gate: Descriptor, isCall: Bool) throws(Fault) {
    let isLong = state.pointee.isLongMode
    let high = isLong ? try state.descriptorHigh(gateSelector) : 0
    // The upper half has a type field, which is 0.
    if high >> 40 & 0x1F != 0 { throw .protection(gateSelector) }
    let selector = UInt16(truncatingIfNeeded: gate.low >> 16)
    guard selector & 0xFFFC != 0 else { throw .protection }
    let code = try state.descriptor(selector)
    let cpl = state.pointee.cpl
    let mayEnter = code.dpl <= cpl && (isCall || code.isConforming || code.dpl == cpl)
    guard code.isCode, mayEnter else { throw .protection(selector) }
    if isLong, code.attributes & SegmentAttributes.long == 0 { throw .protection(selector) }
    guard code.isPresent else { throw .notPresent(selector) }
    let width = isLong ? 8 : gate.type == 12 ? 4 : 2
    let target = gate.low & 0xFFFF | (width == 2 ? 0 : gate.low >> 32 & 0xFFFF_0000) | (high & 0xFFFF_FFFF) << 32
    try checkTarget(selector, code, target)
    guard isCall else {
      try state.markAccessed(selector, code)
      return enterCode(selector, code, target)
    }
    guard !code.isConforming, code.dpl < cpl else {
      var stack = state.currentStack()
      try pushReturn(&stack, width)
      try state.markAccessed(selector, code)
      enterCode(selector, code, target)
      return setStackPointer(stack)
    }
    var stack = try isLong ? state.longModeStack(code.dpl, table: 0) : state.innerStack(code.dpl)
    try stack.push(state, UInt64(state.segment(SegmentRegister.ss).pointee.selector), width: width)
    try stack.push(state, general(General.rsp), width: width)
    let parameters = isLong ? 0 : Int(gate.low >> 32 & 31)
    for number in stride(from: parameters - 1, through: 0, by: -1) {
      try stack.push(state, try stackValue(width, depth: number * width), width: width)
    }
    try pushReturn(&stack, width)
    try state.markAccessed(selector, code)
    state.pointee.cpl = code.dpl
    enterCode(selector, code, target)
    state.take(stack)
  }

  private func returnFar() throws(Fault) {
    let extra = i.operands[0].kind == .immediate ? Int(i.immediate & 0xFFFF) : 0
    let target = try stackValue(size)
    let selector = UInt16(truncatingIfNeeded: try stackValue(size, depth: size))
    if state.pointee.hasRealSegments {
      try transferReal(selector, target)
      return adjustStack(2 * size + extra)
    }
    guard UInt8(selector & 3) > state.pointee.cpl else {
      try state.returnTo(selector, target, stack: nil, size: size)
      return adjustStack(2 * size + extra)
    }
    let rsp = try stackValue(size, depth: 2 * size + extra)
    let ss = UInt16(truncatingIfNeeded: try stackValue(size, depth: 3 * size + extra))
    try state.returnTo(selector, target, stack: (ss, rsp &+ UInt64(extra)), size: size)
  }

  private func returnFromInterrupt() throws(Fault) {
    let nt = state.pointee.system_flags & RFLAGS.nt != 0
    if state.pointee.isProtected, !state.pointee.isVirtual8086, nt {
      if state.pointee.isLongMode { throw .protection }
      let link = UInt16(truncatingIfNeeded: try state.taskWord(0, width: 2))
      return try state.switchTask(to: link, .interruptReturn)
    }
    if state.pointee.isVirtual8086 { try requireIOPL() }
    let target = try stackValue(size)
    let selector = UInt16(truncatingIfNeeded: try stackValue(size, depth: size))
    let flags = try stackValue(size, depth: 2 * size)
    defer { state.pointee.nmi_blocked = 0 }
    if state.pointee.hasRealSegments {
      try transferReal(selector, target)
      adjustStack(3 * size)
      return loadFlags(flags, size: size)
    }
    let isLong = state.pointee.isLongMode
    if flags & RFLAGS.vm != 0, size == 4, state.pointee.cpl == 0, !isLong {
      return try returnToVirtual8086(selector, target, flags)
    }
    let cpl = state.pointee.cpl
    // 64-bit mode pops SS:RSP in any case (SDM vol. 3, 6.14.4).
    if state.pointee.is64BitCode || UInt8(selector & 3) > cpl {
      let rsp = try stackValue(size, depth: 3 * size)
      let ss = UInt16(truncatingIfNeeded: try stackValue(size, depth: 4 * size))
      try state.returnTo(selector, target, stack: (ss, rsp), size: size)
    } else {
      try state.returnTo(selector, target, stack: nil, size: size)
      adjustStack(3 * size)
    }
    loadFlags(flags, size: size, privilege: cpl)
  }

  private func returnToVirtual8086(_ selector: UInt16, _ target: UInt64, _ flags: UInt64) throws(Fault) {
    let rsp = try stackValue(4, depth: 12)
    var selectors = InlineArray<6, UInt16>(repeating: 0)
    selectors[SegmentRegister.cs] = selector
    for (position, index) in [
      SegmentRegister.ss, SegmentRegister.es, SegmentRegister.ds, SegmentRegister.fs, SegmentRegister.gs,
    ].enumerated() {
      selectors[index] = UInt16(truncatingIfNeeded: try stackValue(4, depth: 16 + 4 * position))
    }
    guard target <= 0xFFFF else { throw .protection }
    loadFlags(flags, size: 4, privilege: 0)
    state.pointee.system_flags |= RFLAGS.vm
    state.pointee.cpl = 3
    for index in 0..<6 { state.setRealSegment(index, selectors[index]) }
    setGeneral(General.rsp, rsp)
    state.pointee.rip = target
    state.updateMode()
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// RETF and IRET in protected mode to the same or an outer level, with SS:RSP where the stack changes.
  func returnTo(_ cs: UInt16, _ target: UInt64, stack: (selector: UInt16, pointer: UInt64)?, size: Int) throws(Fault) {
    guard cs & 0xFFFC != 0 else { throw .protection }
    let code = try descriptor(cs)
    let level = UInt8(cs & 3)
    guard code.isCode, level >= pointee.cpl, code.isConforming ? code.dpl <= level : code.dpl == level else {
      throw .protection(cs)
    }
    guard code.isPresent else { throw .notPresent(cs) }
    let is64 = pointee.isLongMode && code.attributes & SegmentAttributes.long != 0
    if is64, code.attributes & SegmentAttributes.big != 0 { throw .protection(cs) }
    guard is64 ? isCanonical(target) : target <= UInt64(code.limit) else { throw .protection }
    var ss: Descriptor?
    if let stack {
      if stack.selector & 0xFFFC == 0 {
        guard is64, level != 3, UInt8(stack.selector & 3) == level else { throw .protection }
      } else {
        let descriptor = try self.descriptor(stack.selector)
        guard descriptor.isWritableData, descriptor.dpl == level, UInt8(stack.selector & 3) == level else {
          throw .protection(stack.selector)
        }
        guard descriptor.isPresent else { throw .stack(stack.selector) }
        try markAccessed(stack.selector, descriptor)
        ss = descriptor
      }
    }
    try markAccessed(cs, code)
    let goesOutward = level > pointee.cpl
    pointee.cpl = level
    setSegment(SegmentRegister.cs, selector: cs, code)
    if let stack {
      if let ss {
        setSegment(SegmentRegister.ss, selector: stack.selector, ss)
      } else {
        setSegment(
          SegmentRegister.ss, selector: stack.selector, base: 0, limit: .max, attributes: 0xC093 | UInt16(level) << 5)
      }
      let slot = register(self, Slot.general(General.rsp), as: UInt64.self)
      slot.pointee = size == 8 ? stack.pointer : slot.pointee & ~pointee.stack_mask | stack.pointer & pointee.stack_mask
    }
    pointee.rip = target
    TLB.select(self)
    if goesOutward { dropInnerSegments() }
  }

  /// Data segments that an outer level may not use become null (SDM vol. 2, RET).
  func dropInnerSegments() {
    for index in [SegmentRegister.es, SegmentRegister.ds, SegmentRegister.fs, SegmentRegister.gs] {
      let register = segment(index).pointee
      let isConforming = register.attributes & 0xC == 0xC
      if register.attributes & SegmentAttributes.present != 0, SegmentAttributes.dpl(register.attributes) < pointee.cpl,
        !isConforming
      {
        setSegment(index, selector: 0, base: register.base, limit: 0, attributes: 0)
      }
    }
  }

  /// Flags changed that let interrupts through.
  func flagsChanged() {
    TLB.select(self)
    // RF holds off a breakpoint of the next instruction only.
    let resumes = pointee.code_breakpoints != 0 && pointee.system_flags & RFLAGS.rf != 0
    if pointee.events_waiting != 0 || resumes { soft_request_attention(self, Attention.interrupt) }
  }
}
