import CKVM
import Engines

/// What KVM_GET_REGS and KVM_GET_SREGS read: the registers without which no instruction runs.
struct KVMRegisters {
  private var general = kvm_regs()
  var system = kvm_sregs()

  init(vcpu: CInt) throws(EngineFailure) {
    try KVMMachine.check("KVM_GET_REGS", ckvm_get_regs(vcpu, &general))
    try KVMMachine.check("KVM_GET_SREGS", ckvm_get_sregs(vcpu, &system))
  }

  /// The vCPU gets them; what else it has stays.
  func write(vcpu: CInt) throws(EngineFailure) {
    var copy = self
    try KVMMachine.check("KVM_SET_SREGS", ckvm_set_sregs(vcpu, &copy.system))
    try KVMMachine.check("KVM_SET_REGS", ckvm_set_regs(vcpu, &copy.general))
  }

  func read(into state: inout ProcessorState) {
    state.general = [
      general.rax, general.rcx, general.rdx, general.rbx, general.rsp, general.rbp, general.rsi,
      general.rdi, general.r8, general.r9, general.r10, general.r11, general.r12, general.r13,
      general.r14, general.r15,
    ]
    state.rip = general.rip
    state.rflags = general.rflags
    state.segments = [
      Self.segment(system.es), Self.segment(system.cs), Self.segment(system.ss), Self.segment(system.ds),
      Self.segment(system.fs), Self.segment(system.gs), Self.segment(system.ldt), Self.segment(system.tr),
    ]
    state.cpl = system.cr0 & 1 == 0 ? 0 : system.ss.dpl & 3
    state.gdtr = ProcessorState.Table(base: system.gdt.base, limit: system.gdt.limit)
    state.idtr = ProcessorState.Table(base: system.idt.base, limit: system.idt.limit)
    (state.cr0, state.cr2, state.cr3, state.cr4) = (system.cr0, system.cr2, system.cr3, system.cr4)
    state.efer = system.efer
  }

  /// Takes over what `new` has; segments only where they differ from `old`, which these were read into.
  mutating func change(from old: ProcessorState, to new: ProcessorState) {
    let values = new.general
    (general.rax, general.rcx, general.rdx, general.rbx) = (values[0], values[1], values[2], values[3])
    (general.rsp, general.rbp, general.rsi, general.rdi) = (values[4], values[5], values[6], values[7])
    (general.r8, general.r9, general.r10, general.r11) = (values[8], values[9], values[10], values[11])
    (general.r12, general.r13, general.r14, general.r15) = (values[12], values[13], values[14], values[15])
    general.rip = new.rip
    general.rflags = new.rflags
    // Not all that KVM has of a segment is in a `ProcessorState`.
    func update(_ segment: inout kvm_segment, _ index: Int) {
      if new.segments[index] != old.segments[index] { segment = Self.segment(new.segments[index]) }
    }
    update(&system.es, 0)
    update(&system.cs, 1)
    update(&system.ss, 2)
    update(&system.ds, 3)
    update(&system.fs, 4)
    update(&system.gs, 5)
    update(&system.ldt, 6)
    update(&system.tr, 7)
    // KVM takes the privilege level from SS.
    if new.cr0 & 1 != 0 { system.ss.dpl = new.cpl }
    system.gdt.base = new.gdtr.base
    system.gdt.limit = new.gdtr.limit
    system.idt.base = new.idtr.base
    system.idt.limit = new.idtr.limit
    (system.cr0, system.cr2, system.cr3, system.cr4) = (new.cr0, new.cr2, new.cr3, new.cr4)
    system.efer = new.efer
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
