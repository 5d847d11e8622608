import CKVM
import Engines

/// A vCPU's state on its way to an interpreter and back. What the interpreter does not know stays as KVM has it.
struct InterpretedState {
  private var registers = kvm_regs()
  private var system = kvm_sregs()
  private var extended = kvm_xsave()
  private var debug = kvm_debugregs()
  private var events = kvm_vcpu_events()
  private var msrs: [kvm_msr_entry]

  /// In the order of `ProcessorState.Registers`.
  private static let msrIndices: [UInt32] = [
    0x174, 0x175, 0x176, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102, 0xC000_0103,
  ]
  private static let msrFields: [WritableKeyPath<ProcessorState.Registers, UInt64> & Sendable] = [
    \.sysenterCS, \.sysenterESP, \.sysenterEIP, \.star, \.lstar, \.cstar, \.sfmask, \.kernelGSBase, \.tscAux,
  ]
  private static let legacySize = 512

  let state: ProcessorState

  init(vcpu: CInt) throws(EngineFailure) {
    try KVMMachine.check("KVM_GET_REGS", ckvm_get_regs(vcpu, &registers))
    try KVMMachine.check("KVM_GET_SREGS", ckvm_get_sregs(vcpu, &system))
    try KVMMachine.check("KVM_GET_XSAVE", ckvm_get_xsave(vcpu, &extended))
    try KVMMachine.check("KVM_GET_DEBUGREGS", ckvm_get_debugregs(vcpu, &debug))
    try KVMMachine.check("KVM_GET_VCPU_EVENTS", ckvm_get_vcpu_events(vcpu, &events))
    var xcrs = kvm_xcrs()
    let hasXCR0 = ckvm_get_xcrs(vcpu, &xcrs) == 0 && xcrs.nr_xcrs > 0
    msrs = VCPUState.read(vcpu, Self.msrIndices)

    var state = ProcessorState()
    state.general = [
      registers.rax, registers.rcx, registers.rdx, registers.rbx, registers.rsp, registers.rbp, registers.rsi,
      registers.rdi, registers.r8, registers.r9, registers.r10, registers.r11, registers.r12, registers.r13,
      registers.r14, registers.r15,
    ]
    state.rip = registers.rip
    state.rflags = registers.rflags
    state.segments = [
      Self.segment(system.es), Self.segment(system.cs), Self.segment(system.ss), Self.segment(system.ds),
      Self.segment(system.fs), Self.segment(system.gs), Self.segment(system.ldt), Self.segment(system.tr),
    ]
    state.cpl = system.cr0 & 1 == 0 ? 0 : system.ss.dpl & 3
    state.gdtr = ProcessorState.Table(base: system.gdt.base, limit: system.gdt.limit)
    state.idtr = ProcessorState.Table(base: system.idt.base, limit: system.idt.limit)
    (state.cr0, state.cr2, state.cr3, state.cr4) = (system.cr0, system.cr2, system.cr3, system.cr4)
    state.efer = system.efer
    if hasXCR0 { state.xcr0 = xcrs.xcrs.0.value }
    state.debug = [debug.db.0, debug.db.1, debug.db.2, debug.db.3, debug.dr6, debug.dr7]
    for entry in msrs {
      guard let index = Self.msrIndices.firstIndex(of: entry.index) else { continue }
      state.msrs[keyPath: Self.msrFields[index]] = entry.data
    }
    state.legacyArea = withUnsafeBytes(of: &extended) { Array($0.prefix(Self.legacySize)) }
    state.shadow =
      switch Int32(events.interrupt.shadow) {
      case let shadow where shadow & KVM_X86_SHADOW_INT_MOV_SS != 0: .movSS
      case let shadow where shadow & KVM_X86_SHADOW_INT_STI != 0: .sti
      default: .none
      }
    state.isNMIBlocked = events.nmi.masked != 0
    self.state = state
  }

  /// Makes the vCPU what an instruction made of it.
  mutating func apply(_ new: ProcessorState, to vcpu: CInt) throws(EngineFailure) {
    let general = new.general
    (registers.rax, registers.rcx, registers.rdx, registers.rbx) = (general[0], general[1], general[2], general[3])
    (registers.rsp, registers.rbp, registers.rsi, registers.rdi) = (general[4], general[5], general[6], general[7])
    (registers.r8, registers.r9, registers.r10, registers.r11) = (general[8], general[9], general[10], general[11])
    (registers.r12, registers.r13, registers.r14, registers.r15) = (general[12], general[13], general[14], general[15])
    registers.rip = new.rip
    registers.rflags = new.rflags
    applySegments(new)
    system.gdt.base = new.gdtr.base
    system.gdt.limit = new.gdtr.limit
    system.idt.base = new.idtr.base
    system.idt.limit = new.idtr.limit
    (system.cr0, system.cr2, system.cr3, system.cr4) = (new.cr0, new.cr2, new.cr3, new.cr4)
    system.efer = new.efer
    // WRMSR has written this in the meantime, if anything.
    var now = kvm_sregs()
    try KVMMachine.check("KVM_GET_SREGS", ckvm_get_sregs(vcpu, &now))
    system.apic_base = now.apic_base
    try KVMMachine.check("KVM_SET_SREGS", ckvm_set_sregs(vcpu, &system))
    try KVMMachine.check("KVM_SET_REGS", ckvm_set_regs(vcpu, &registers))
    if new.legacyArea != state.legacyArea {
      withUnsafeMutableBytes(of: &extended) { area in
        area.copyBytes(from: new.legacyArea.prefix(Self.legacySize))
        // XSTATE_BV: the x87 and SSE state are not in their initial configuration.
        area[Self.legacySize] |= 3
      }
      try KVMMachine.check("KVM_SET_XSAVE", ckvm_set_xsave(vcpu, &extended))
    }
    debug.db = (new.debug[0], new.debug[1], new.debug[2], new.debug[3])
    (debug.dr6, debug.dr7) = (new.debug[4], new.debug[5])
    try KVMMachine.check("KVM_SET_DEBUGREGS", ckvm_set_debugregs(vcpu, &debug))
    if new.msrs != state.msrs {
      for index in msrs.indices {
        guard let field = Self.msrIndices.firstIndex(of: msrs[index].index) else { continue }
        msrs[index].data = new.msrs[keyPath: Self.msrFields[field]]
      }
      VCPUState.write(vcpu, msrs)
    }
    // KVM has queued #UD for the instruction that it could not emulate.
    events.exception.injected = 0
    events.exception.pending = 0
    events.interrupt.shadow =
      switch new.shadow {
      case .none: 0
      case .sti: UInt8(KVM_X86_SHADOW_INT_STI)
      case .movSS: UInt8(KVM_X86_SHADOW_INT_MOV_SS)
      }
    events.nmi.masked = new.isNMIBlocked ? 1 : 0
    events.flags = UInt32(KVM_VCPUEVENT_VALID_SHADOW)
    try KVMMachine.check("KVM_SET_VCPU_EVENTS", ckvm_set_vcpu_events(vcpu, &events))
    guard new.isHalted else { return }
    var halted = kvm_mp_state(mp_state: UInt32(KVM_MP_STATE_HALTED))
    try KVMMachine.check("KVM_SET_MP_STATE", ckvm_set_mp_state(vcpu, &halted))
  }

  private mutating func applySegments(_ new: ProcessorState) {
    let fields: [WritableKeyPath<kvm_sregs, kvm_segment>] = [\.es, \.cs, \.ss, \.ds, \.fs, \.gs, \.ldt, \.tr]
    for (index, field) in fields.enumerated() where new.segments[index] != state.segments[index] {
      system[keyPath: field] = Self.segment(new.segments[index])
    }
    // KVM takes the privilege level from SS.
    if new.cr0 & 1 != 0 { system.ss.dpl = new.cpl }
  }

  private static func segment(_ segment: kvm_segment) -> ProcessorState.Segment {
    var attributes = UInt16(segment.type & 15) | UInt16(segment.s & 1) << 4 | UInt16(segment.dpl & 3) << 5
    attributes |= UInt16(segment.present & 1) << 7 | UInt16(segment.avl & 1) << 12 | UInt16(segment.l & 1) << 13
    attributes |= UInt16(segment.db & 1) << 14 | UInt16(segment.g & 1) << 15
    return ProcessorState.Segment(
      selector: segment.selector, base: segment.base, limit: segment.limit,
      attributes: segment.unusable != 0 ? 0 : attributes)
  }

  private static func segment(_ segment: ProcessorState.Segment) -> kvm_segment {
    let attributes = segment.attributes
    func bit(_ number: UInt16) -> UInt8 { UInt8(attributes >> number & 1) }
    var result = kvm_segment()
    result.base = segment.base
    result.limit = segment.limit
    result.selector = segment.selector
    result.type = UInt8(attributes & 15)
    result.s = bit(4)
    result.dpl = UInt8(attributes >> 5 & 3)
    result.present = bit(7)
    result.avl = bit(12)
    result.l = bit(13)
    result.db = bit(14)
    result.g = bit(15)
    result.unusable = 1 - result.present
    return result
  }
}
