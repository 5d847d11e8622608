import CSoftCPU
import X86

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
      if state.pointee.system_flags & RFLAGS.if == 0 { state.pointee.shadow = 1 }
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
    case .invlpg: TLB.flush(state, page: state.segment(Int(i.segment)).pointee.linear_base &+ offset)
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
  func loadFlags(_ value: UInt64, size: Int) {
    var permitted = RFLAGS.loadable
    if state.pointee.isProtected {
      if state.pointee.cpl != 0 { permitted &= ~RFLAGS.iopl }
      if state.pointee.cpl > UInt8(truncatingIfNeeded: state.pointee.system_flags >> 12 & 3) { permitted &= ~RFLAGS.if }
    }
    if size == 2 { permitted &= 0xFFFF }
    state.pointee.system_flags = state.pointee.system_flags & ~permitted | value & permitted
    state.arithmeticFlags = value
    TLB.select(state)
    if state.pointee.events_waiting != 0 { soft_request_attention(state, Attention.interrupt) }
  }

  private func moveSystemRegister() throws(Fault) {
    let (to, from) = (i.operands[0], i.operands[1])
    switch (to.registerClass, from.registerClass) {
    case (.segment, _):
      let selector = UInt16(truncatingIfNeeded: try read(1))
      try loadSegment(Int(to.number), selector)
      if Int(to.number) == SegmentRegister.ss { state.pointee.shadow = 1 }
    case (_, .control):
      let value: UInt64
      switch from.number {
      case 0: value = state.pointee.cr0
      case 2: value = state.pointee.cr2
      case 3: value = state.pointee.cr3
      case 4: value = state.pointee.cr4
      default: value = UInt64(state.context.pointee.controllers?.taskPriority(of: state.context.pointee.index) ?? 0)
      }
      setGeneral(to.number, value, size: state.pointee.is64BitCode ? 8 : 4)
    case (.control, _):
      let value = general(from.number) & (state.pointee.is64BitCode ? .max : 0xFFFF_FFFF)
      switch to.number {
      case 0: try writeControl0(value)
      case 2: state.pointee.cr2 = value
      case 3: try state.loadControlRegister3(value & ~(1 << 63))
      case 4: try writeControl4(value)
      default:
        guard value < 16 else { throw .protection }
        state.context.pointee.controllers?.setTaskPriority(of: state.context.pointee.index, UInt8(value))
      }
    case (_, .debug):
      let number = from.number == 4 || from.number == 5 ? from.number &+ 2 : from.number
      let value = withUnsafeBytes(of: &state.pointee.dr) {
        $0.load(fromByteOffset: Int(number & 7) * 8, as: UInt64.self)
      }
      setGeneral(to.number, value, size: state.pointee.is64BitCode ? 8 : 4)
    case (.debug, _):
      let number = to.number == 4 || to.number == 5 ? to.number &+ 2 : to.number
      let value = general(from.number)
      withUnsafeMutableBytes(of: &state.pointee.dr) {
        $0.storeBytes(of: value, toByteOffset: Int(number & 7) * 8, as: UInt64.self)
      }
    default: throw .undefined
    }
  }

  func writeControl0(_ value: UInt64) throws(Fault) {
    let old = state.pointee.cr0
    let new = value & 0xE005_003F | CR0.et
    if new & CR0.pg != 0, new & CR0.pe == 0 { throw .protection }
    if new & CR0.nw != 0, new & CR0.cd == 0 { throw .protection }
    if new & CR0.pg != 0, old & CR0.pg == 0 {
      if state.pointee.efer & EFER.lme != 0 {
        guard state.pointee.cr4 & CR4.pae != 0 else { throw .protection }
        state.pointee.efer |= EFER.lma
      } else if state.pointee.cr4 & CR4.pae != 0 {
        try state.loadPageDirectoryPointers()
      }
    }
    if new & CR0.pg == 0, old & CR0.pg != 0 {
      if state.pointee.is64BitCode { throw .protection }
      state.pointee.efer &= ~EFER.lma
    }
    state.pointee.cr0 = new
    if new & CR0.pe == 0 { state.pointee.cpl = 0 }
    TLB.flush(state)
    state.updateMode()
    state.updateSegments()
  }

  private func writeControl4(_ value: UInt64) throws(Fault) {
    guard value & ~state.context.pointee.permittedCR4 == 0 else { throw .protection }
    if state.pointee.isLongMode, value & CR4.pae == 0 { throw .protection }
    let old = state.pointee.cr4
    state.pointee.cr4 = value
    if value & CR4.pae != 0, old & CR4.pae == 0, state.pointee.cr0 & CR0.pg != 0, !state.pointee.isLongMode {
      try state.loadPageDirectoryPointers()
    }
    TLB.flush(state)
    state.updateMode()
  }

  private func identify() {
    let number = UInt32(truncatingIfNeeded: general(General.rax))
    let leaf = state.context.pointee.identity.leaf(number, UInt32(truncatingIfNeeded: general(General.rcx)))
    var ecx = leaf.ecx
    // OSXSAVE.
    if number == 1, state.pointee.cr4 & CR4.osxsave != 0 { ecx |= 1 << 27 }
    setGeneral(General.rax, UInt64(leaf.eax))
    setGeneral(General.rbx, UInt64(leaf.ebx))
    setGeneral(General.rcx, UInt64(ecx))
    setGeneral(General.rdx, UInt64(leaf.edx))
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// IA32_TIME_STAMP_COUNTER.
  var timeStampCounter: UInt64 { context.pointee.clock() &+ pointee.tsc_offset }

  func raiseSingleStep() {
    pointee.dr.6 |= 1 << 14
    record(self, .exception(Vector.debug, errorCode: nil))
  }

  func loadControlRegister3(_ value: UInt64) throws(Fault) {
    pointee.cr3 = value
    if pointee.cr0 & CR0.pg != 0, pointee.cr4 & CR4.pae != 0, !pointee.isLongMode { try loadPageDirectoryPointers() }
    TLB.flush(self)
  }

  /// Loads the four entries of PAE paging's first level (SDM vol. 3, 4.4.1).
  func loadPageDirectoryPointers() throws(Fault) {
    let table = pointee.cr3 & 0xFFFF_FFE0
    guard let host = context.pointee.map.host(table) else { throw .protection }
    withUnsafeMutableBytes(of: &pointee.pdpte) {
      $0.copyMemory(from: UnsafeRawBufferPointer(start: host, count: 32))
    }
  }
}
