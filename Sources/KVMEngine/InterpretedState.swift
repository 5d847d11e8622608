import CKVM
import Engines

/// A vCPU's state on its way to an interpreter and back. What the interpreter does not know stays as KVM has it.
struct InterpretedState {
  private var registers: KVMRegisters
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
    registers = try KVMRegisters(vcpu: vcpu)
    try KVMMachine.check("KVM_GET_XSAVE", ckvm_get_xsave(vcpu, &extended))
    try KVMMachine.check("KVM_GET_DEBUGREGS", ckvm_get_debugregs(vcpu, &debug))
    try KVMMachine.check("KVM_GET_VCPU_EVENTS", ckvm_get_vcpu_events(vcpu, &events))
    var xcrs = kvm_xcrs()
    let hasXCR0 = ckvm_get_xcrs(vcpu, &xcrs) == 0 && xcrs.nr_xcrs > 0
    msrs = VCPUState.read(vcpu, Self.msrIndices)

    var state = ProcessorState()
    registers.read(into: &state)
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
    registers.change(from: state, to: new)
    // WRMSR has written this in the meantime, if anything.
    var now = kvm_sregs()
    try KVMMachine.check("KVM_GET_SREGS", ckvm_get_sregs(vcpu, &now))
    registers.system.apic_base = now.apic_base
    try registers.write(vcpu: vcpu)
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
}
