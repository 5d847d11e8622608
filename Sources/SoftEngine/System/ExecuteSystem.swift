import CSoftCPU
import X86

/// `soft_cpu.shadow`: why interrupts are held off for an instruction.
enum InterruptShadow {
  static let sti: UInt8 = 1
  /// MOV SS and POP SS hold off debug exceptions too.
  static let stackSegment: UInt8 = 2
}

extension Executor {
  /// Privileged and system instructions. False: not one of these.
  func executeSystem() throws(Fault) -> Bool {
    switch i.operation {
    case .in, .out: try executeIO()
    case .hlt: state.pointee.leave = LeaveReason.halt
    case .cli:
      try requireIOPL()
      state.pointee.system_flags &= ~RFLAGS.if
    case .sti:
      try requireIOPL()
      if state.pointee.system_flags & RFLAGS.if == 0 { state.pointee.shadow = InterruptShadow.sti }
      state.pointee.system_flags |= RFLAGS.if
    case .mov: try moveSystemRegister()
    case .lgdt, .lidt:
      let limit = try readMemory(Int(i.segment), offset, 2)
      let width = state.pointee.is64BitCode ? 8 : 4
      var base = try readMemory(Int(i.segment), (offset &+ 2) & mask(Int(i.addressSize)), width)
      if i.operandSize == 2, width == 4 { base &= 0xFF_FFFF }
      guard state.isCanonical(base) else { throw .protection }
      let table = soft_table(base: base, limit: UInt32(limit))
      if i.operation == .lgdt { state.pointee.gdtr = table } else { state.pointee.idtr = table }
    case .sgdt, .sidt:
      try requireUMIP()
      let table = i.operation == .sgdt ? state.pointee.gdtr : state.pointee.idtr
      let width = state.pointee.is64BitCode ? 8 : 4
      try writeMemory(Int(i.segment), offset, UInt64(table.limit), 2)
      try writeMemory(Int(i.segment), (offset &+ 2) & mask(Int(i.addressSize)), table.base, width)
    case .smsw:
      try requireUMIP()
      if i.operands[0].kind == .register {
        setGeneral(i.operands[0].number, state.pointee.cr0, size: size)
      } else {
        try writeMemory(Int(i.segment), offset, state.pointee.cr0, 2)
      }
    case .lmsw:
      let value = try read(0)
      // LMSW cannot clear PE.
      try writeControl0(state.pointee.cr0 & ~0xE | value & 0xF | state.pointee.cr0 & 1)
    case .clts:
      state.pointee.cr0 &= ~CR0.ts
      state.updateMode()
    case .clac, .stac:
      let isSet = i.operation == .stac
      state.pointee.system_flags = state.pointee.system_flags & ~RFLAGS.ac | (isSet ? RFLAGS.ac : 0)
      TLB.select(state)
    case .invlpg: TLB.flush(state, page: state.wrap(state.segment(Int(i.segment)).pointee.linear_base &+ offset))
    case .invpcid: try invalidatePCID()
    case .invd, .wbinvd: break
    case .lldt, .ltr: try loadSystemSegment()
    case .sldt, .str:
      try requireUMIP()
      let selector = state.segment(i.operation == .str ? SegmentRegister.tr : SegmentRegister.ldtr).pointee.selector
      if i.operands[0].kind == .register {
        setGeneral(i.operands[0].number, UInt64(selector), size: size)
      } else {
        try writeMemory(Int(i.segment), offset, UInt64(selector), 2)
      }
    case .rdtsc, .rdtscp:
      if state.pointee.cr4 & CR4.tsd != 0 { try requirePrivilege() }
      let tsc = state.timeStampCounter
      setGeneral(General.rax, tsc & 0xFFFF_FFFF)
      setGeneral(General.rdx, tsc >> 32)
      if i.operation == .rdtscp { setGeneral(General.rcx, state.pointee.tsc_aux & 0xFFFF_FFFF) }
    case .cpuid: identify()
    case .vmcall, .vmmcall: try callHypervisor()
    case .rdmsr:
      let value = try readMSR(UInt32(truncatingIfNeeded: general(General.rcx)))
      setGeneral(General.rax, value & 0xFFFF_FFFF)
      setGeneral(General.rdx, value >> 32)
    case .wrmsr:
      let value = general(General.rdx) << 32 | general(General.rax) & 0xFFFF_FFFF
      try writeMSR(UInt32(truncatingIfNeeded: general(General.rcx)), value)
    case .swapgs:
      let gs = state.segment(SegmentRegister.gs)
      swap(&gs.pointee.base, &state.pointee.kernel_gs_base)
      gs.pointee.linear_base = gs.pointee.base
    case .lar, .lsl: try loadAccessRightsOrLimit()
    case .verr, .verw: try verifySegment()
    case .arpl: try adjustRequestedPrivilege()
    case .rdfsbase, .rdgsbase, .wrfsbase, .wrgsbase: try accessSegmentBase()
    case .rdrand, .rdseed: try readRandom()
    case .rdpid: setGeneral(i.operands[0].number, state.pointee.tsc_aux)
    // There are no performance counters.
    case .rdpmc: throw .protection
    default: return false
    }
    return true
  }

  func requireIOPL() throws(Fault) {
    guard state.pointee.isProtected else { return }
    let iopl = UInt8(truncatingIfNeeded: state.pointee.system_flags >> 12 & 3)
    if state.pointee.cpl > iopl { throw .protection }
  }

  private func requireUMIP() throws(Fault) {
    if state.pointee.cr4 & CR4.umip != 0 { try requirePrivilege() }
  }

  /// POPF's and IRET's way to RFLAGS: what CPL and IOPL permit.
  func loadFlags(_ value: UInt64, size: Int, privilege: UInt8? = nil) {
    var permitted = RFLAGS.loadable
    if state.pointee.isProtected {
      let privilege = privilege ?? state.pointee.cpl
      if privilege != 0 { permitted &= ~RFLAGS.iopl }
      if privilege > UInt8(truncatingIfNeeded: state.pointee.system_flags >> 12 & 3) { permitted &= ~RFLAGS.if }
    }
    if size == 2 { permitted &= 0xFFFF }
    state.pointee.system_flags = state.pointee.system_flags & ~permitted | value & permitted
    state.arithmeticFlags = value
    state.flagsChanged()
  }

  private func moveSystemRegister() throws(Fault) {
    let (to, from) = (i.operands[0], i.operands[1])
    if to.registerClass == .control || from.registerClass == .control { return try moveControlRegister() }
    if to.registerClass == .debug || from.registerClass == .debug { return try moveDebugRegister() }
    guard to.registerClass == .segment else { throw .undefined }
    let selector = UInt16(truncatingIfNeeded: try read(1))
    try loadSegment(Int(to.number), selector)
    if Int(to.number) == SegmentRegister.ss { state.pointee.shadow = InterruptShadow.stackSegment }
  }

  private func identify() {
    let number = UInt32(truncatingIfNeeded: general(General.rax))
    let subleaf = UInt32(truncatingIfNeeded: general(General.rcx))
    let context = state.context
    var leaf =
      context.pointee.interpreted?.cpuid(leaf: number, subleaf: subleaf)
      ?? context.pointee.identity.leaf(number, subleaf)
    if number == 1 {
      let osxsave: UInt32 = 1 << 27
      leaf.ecx = leaf.ecx & ~osxsave | (state.pointee.cr4 & CR4.osxsave != 0 ? osxsave : 0)
    }
    setGeneral(General.rax, UInt64(leaf.eax))
    setGeneral(General.rbx, UInt64(leaf.ebx))
    setGeneral(General.rcx, UInt64(leaf.ecx))
    setGeneral(General.rdx, UInt64(leaf.edx))
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// IA32_TIME_STAMP_COUNTER.
  var timeStampCounter: UInt64 {
    if let processor = context.pointee.interpreted { return processor.readMSR(MSR.tsc) ?? 0 }
    return context.pointee.clock() &+ pointee.tsc_offset
  }
}
