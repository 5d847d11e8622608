import CSoftCPU
import X86

/// Far transfers (SDM vol. 3, 5.8) without call gates, task switches and virtual-8086 mode.
extension Executor {
  /// False: not one of these.
  func executeTransfer() throws(Fault) -> Bool {
    switch i.operation {
    case .jmpf:
      let (selector, target) = try farPointer()
      try jumpFar(selector, target)
    case .callf:
      let (selector, target) = try farPointer()
      let back = (state.segment(SegmentRegister.cs).pointee.selector, state.pointee.rip)
      try pushValue(UInt64(back.0), size)
      try pushValue(back.1, size, depth: size)
      try jumpFar(selector, target)
      adjustStack(-2 * size)
    case .retf: try returnFar()
    case .iret: try returnFromInterrupt()
    case .int: try softwareInterrupt(UInt8(truncatingIfNeeded: i.immediate))
    case .int3: try softwareInterrupt(Vector.breakpoint)
    case .into: if state.overflow { try softwareInterrupt(Vector.overflow) }
    case .les, .lds, .lfs, .lgs, .lss:
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
    case .syscall: try enterSystemCall()
    case .sysret: try returnFromSystemCall()
    default: return false
    }
    return true
  }

  private func farPointer() throws(Fault) -> (UInt16, UInt64) {
    if i.operands[0].kind == .farPointer { return (i.secondImmediate, UInt64(bitPattern: i.immediate)) }
    let target = try readMemory(Int(i.segment), offset, size)
    let selector = try readMemory(Int(i.segment), (offset &+ UInt64(size)) & mask(Int(i.addressSize)), 2)
    return (UInt16(truncatingIfNeeded: selector), target)
  }

  private func jumpFar(_ selector: UInt16, _ target: UInt64) throws(Fault) {
    let target = target & mask(size)
    if state.pointee.hasRealSegments {
      guard target <= UInt64(state.segment(SegmentRegister.cs).pointee.limit) else { throw .protection }
      state.setRealSegment(SegmentRegister.cs, selector)
      state.pointee.rip = target
      return
    }
    guard selector & 0xFFFC != 0 else { throw .protection }
    let descriptor = try state.descriptor(selector)
    guard descriptor.isCode else { throw .protection(selector) }
    let cpl = state.pointee.cpl
    let rpl = UInt8(selector & 3)
    guard descriptor.isConforming ? descriptor.dpl <= cpl : descriptor.dpl == cpl && rpl <= cpl else {
      throw .protection(selector)
    }
    guard descriptor.isPresent else { throw .exception(Vector.segmentNotPresent, errorCode: UInt32(selector & 0xFFFC)) }
    let is64 = state.pointee.isLongMode && descriptor.attributes & SegmentAttributes.long != 0
    guard is64 ? state.isCanonical(target) : target <= UInt64(descriptor.limit) else { throw .protection }
    state.setSegment(SegmentRegister.cs, selector: selector & 0xFFFC | UInt16(cpl), descriptor)
    state.pointee.rip = target
  }

  private func returnFar() throws(Fault) {
    let extra = i.operands[0].kind == .immediate ? Int(i.immediate & 0xFFFF) : 0
    let target = try stackValue(size)
    let selector = UInt16(truncatingIfNeeded: try stackValue(size, depth: size))
    if !state.pointee.hasRealSegments, UInt8(selector & 3) > state.pointee.cpl {
      let rsp = try stackValue(size, depth: 2 * size + extra)
      let ss = UInt16(truncatingIfNeeded: try stackValue(size, depth: 3 * size + extra))
      try state.returnOutward(selector, target, ss, rsp &+ UInt64(extra), size: size)
      return
    }
    try jumpFar(selector, target)
    adjustStack(2 * size + extra)
  }

  private func returnFromInterrupt() throws(Fault) {
    let target = try stackValue(size)
    let selector = UInt16(truncatingIfNeeded: try stackValue(size, depth: size))
    let flags = try stackValue(size, depth: 2 * size)
    state.pointee.nmi_blocked = 0
    if state.pointee.hasRealSegments {
      try jumpFar(selector, target)
      adjustStack(3 * size)
      loadFlags(flags, size: size)
      return
    }
    if flags & RFLAGS.vm != 0, size == 4, state.pointee.cpl == 0, !state.pointee.isLongMode { throw .undefined }
    // 64-bit mode pops SS:RSP in any case (SDM vol. 3, 6.14.4).
    if state.pointee.is64BitCode || UInt8(selector & 3) > state.pointee.cpl {
      let rsp = try stackValue(size, depth: 3 * size)
      let ss = UInt16(truncatingIfNeeded: try stackValue(size, depth: 4 * size))
      let cpl = state.pointee.cpl
      try state.returnOutward(selector, target, ss, rsp, size: size)
      let new = state.pointee.cpl
      // The flags are loaded with the rights of the inner level.
      state.pointee.cpl = cpl
      loadFlags(flags, size: size)
      state.setPrivilege(new)
      return
    }
    try jumpFar(selector, target)
    adjustStack(3 * size)
    loadFlags(flags, size: size)
  }

  private func softwareInterrupt(_ vector: UInt8) throws(Fault) {
    try state.enterGate(vector, errorCode: nil, rip: state.pointee.rip, isSoftware: true)
  }

  private func enterSystemCall() throws(Fault) {
    guard state.pointee.efer & EFER.sce != 0 else { throw .undefined }
    setGeneral(General.rcx, state.pointee.rip)
    setGeneral(11, state.rflags & ~RFLAGS.rf)
    let star = UInt16(truncatingIfNeeded: state.pointee.star >> 32) & 0xFFFC
    state.pointee.rip = state.pointee.is64BitCode ? state.pointee.lstar : state.pointee.cstar
    let flags = state.rflags & ~state.pointee.sfmask & ~RFLAGS.rf
    state.arithmeticFlags = flags
    state.pointee.system_flags = flags & ~RFLAGS.arithmetic & ~RFLAGS.fixed
    state.pointee.cpl = 0
    state.setSegment(SegmentRegister.cs, selector: star, base: 0, limit: .max, attributes: 0xA09B)
    state.setSegment(SegmentRegister.ss, selector: star &+ 8, base: 0, limit: .max, attributes: 0xC093)
    TLB.select(state)
  }

  private func returnFromSystemCall() throws(Fault) {
    guard state.pointee.efer & EFER.sce != 0 else { throw .undefined }
    let target = general(General.rcx)
    guard state.isCanonical(target) else { throw .protection }
    let star = UInt16(truncatingIfNeeded: state.pointee.star >> 48)
    let is64 = size == 8
    let flags = general(11) & 0x3C_7FD7
    state.arithmeticFlags = flags
    state.pointee.system_flags = flags & ~RFLAGS.arithmetic & ~RFLAGS.fixed & ~RFLAGS.rf
    state.pointee.rip = is64 ? target : target & 0xFFFF_FFFF
    state.pointee.cpl = 3
    state.setSegment(
      SegmentRegister.cs, selector: (is64 ? star &+ 16 : star) | 3, base: 0, limit: .max,
      attributes: is64 ? 0xA0FB : 0xC0FB)
    state.setSegment(SegmentRegister.ss, selector: (star &+ 8) | 3, base: 0, limit: .max, attributes: 0xC0F3)
    TLB.select(state)
  }

  /// Loads a data segment register or SS (SDM vol. 2, MOV).
  func loadSegment(_ index: Int, _ selector: UInt16) throws(Fault) {
    if state.pointee.hasRealSegments { return state.setRealSegment(index, selector) }
    let cpl = state.pointee.cpl
    let rpl = UInt8(selector & 3)
    if selector & 0xFFFC == 0 {
      if index == SegmentRegister.ss, !(state.pointee.is64BitCode && cpl != 3 && rpl == cpl) { throw .protection }
      let attributes: UInt16 = index == SegmentRegister.ss ? 0xC013 | UInt16(cpl) << 5 | 0x80 : 0
      return state.setSegment(index, selector: selector, base: 0, limit: 0, attributes: attributes)
    }
    let descriptor = try state.descriptor(selector)
    let isWritable = !descriptor.isCode && descriptor.attributes & SegmentAttributes.writable != 0
    if index == SegmentRegister.ss {
      guard !descriptor.isSystem, isWritable, rpl == cpl, descriptor.dpl == cpl else { throw .protection(selector) }
      guard descriptor.isPresent else { throw .exception(Vector.stackFault, errorCode: UInt32(selector & 0xFFFC)) }
    } else {
      let isReadable = !descriptor.isCode || descriptor.attributes & SegmentAttributes.writable != 0
      guard !descriptor.isSystem, isReadable, descriptor.isConforming || max(rpl, cpl) <= descriptor.dpl else {
        throw .protection(selector)
      }
      guard descriptor.isPresent else {
        throw .exception(Vector.segmentNotPresent, errorCode: UInt32(selector & 0xFFFC))
      }
    }
    try state.markAccessed(selector, descriptor)
    state.setSegment(index, selector: selector, descriptor)
  }

  func loadSystemSegment() throws(Fault) {
    let selector = UInt16(truncatingIfNeeded: try read(0))
    let isTask = i.operation == .ltr
    let index = isTask ? SegmentRegister.tr : SegmentRegister.ldtr
    if selector & 0xFFFC == 0 {
      guard !isTask else { throw .protection }
      return state.setSegment(index, selector: selector, base: 0, limit: 0, attributes: 0)
    }
    guard selector & 4 == 0 else { throw .protection(selector) }
    let descriptor = try state.descriptor(selector)
    guard descriptor.isSystem, isTask ? descriptor.type == 9 || descriptor.type == 1 : descriptor.type == 2 else {
      throw .protection(selector)
    }
    guard descriptor.isPresent else { throw .exception(Vector.segmentNotPresent, errorCode: UInt32(selector & 0xFFFC)) }
    var base = descriptor.base
    let address = state.pointee.gdtr.base &+ UInt64(selector & 0xFFF8)
    if state.pointee.isLongMode { base |= try state.read(address &+ 8, width: 4, .supervisor) << 32 }
    var attributes = descriptor.attributes
    if isTask {
      attributes |= 2
      try state.write(address &+ 5, UInt64(attributes & 0xFF), width: 1, .supervisor)
    }
    state.setSegment(index, selector: selector, base: base, limit: descriptor.limit, attributes: attributes)
  }
}
