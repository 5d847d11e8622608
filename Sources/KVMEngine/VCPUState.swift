import CKVM
import Engines

/// Everything a machine reset puts back: a vCPU's state as KVM created it.
struct VCPUState {
  let registers: KVMRegisters
  private var fpu = kvm_fpu()
  private var debug = kvm_debugregs()
  private var extended: kvm_xcrs?
  private var lapic = kvm_lapic_state()
  private var events = kvm_vcpu_events()
  private var runState = kvm_mp_state()
  private var msrs: [kvm_msr_entry] = []

  /// IA32_TIME_STAMP_COUNTER goes on across a reset, so that the host's and the guest's clocks keep their relation.
  private static let kept: [UInt32] = [0x10]

  init(vcpu: CInt, msrs indices: [UInt32]) throws(EngineFailure) {
    registers = try KVMRegisters(vcpu: vcpu)
    try KVMMachine.check("KVM_GET_FPU", ckvm_get_fpu(vcpu, &fpu))
    try KVMMachine.check("KVM_GET_DEBUGREGS", ckvm_get_debugregs(vcpu, &debug))
    var xcrs = kvm_xcrs()
    if ckvm_get_xcrs(vcpu, &xcrs) == 0 { extended = xcrs }
    try KVMMachine.check("KVM_GET_LAPIC", ckvm_get_lapic(vcpu, &lapic))
    try KVMMachine.check("KVM_GET_VCPU_EVENTS", ckvm_get_vcpu_events(vcpu, &events))
    try KVMMachine.check("KVM_GET_MP_STATE", ckvm_get_mp_state(vcpu, &runState))
    msrs = Self.read(vcpu, indices.filter { !Self.kept.contains($0) })
  }

  func restore(vcpu: CInt) throws(EngineFailure) {
    var copy = self
    // The APIC base in the system registers enables the local APIC before its own state is set.
    try registers.write(vcpu: vcpu)
    try KVMMachine.check("KVM_SET_FPU", ckvm_set_fpu(vcpu, &copy.fpu))
    if var extended = copy.extended { try KVMMachine.check("KVM_SET_XCRS", ckvm_set_xcrs(vcpu, &extended)) }
    Self.write(vcpu, msrs)
    try KVMMachine.check("KVM_SET_LAPIC", ckvm_set_lapic(vcpu, &copy.lapic))
    try KVMMachine.check("KVM_SET_DEBUGREGS", ckvm_set_debugregs(vcpu, &copy.debug))
    copy.events.flags = UInt32(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR)
    try KVMMachine.check("KVM_SET_VCPU_EVENTS", ckvm_set_vcpu_events(vcpu, &copy.events))
    try KVMMachine.check("KVM_SET_MP_STATE", ckvm_set_mp_state(vcpu, &copy.runState))
  }

  /// Reads the MSRs that this KVM lets be read, one request as far as it goes.
  static func read(_ vcpu: CInt, _ indices: [UInt32]) -> [kvm_msr_entry] {
    var result: [kvm_msr_entry] = []
    var next = 0
    while next < indices.count {
      let wanted = indices[next...].map { kvm_msr_entry(index: $0, reserved: 0, data: 0) }
      let (count, entries) = transfer(wanted) { ckvm_get_msrs(vcpu, $0) }
      result.append(contentsOf: entries.prefix(count))
      // The one that KVM stopped at cannot be read: it is not part of the state.
      next += count + 1
    }
    return result
  }

  static func write(_ vcpu: CInt, _ msrs: [kvm_msr_entry]) {
    var next = 0
    while next < msrs.count {
      let (count, _) = transfer(Array(msrs[next...])) { ckvm_set_msrs(vcpu, $0) }
      next += count + 1
    }
  }

  /// Whether KVM takes the value.
  static func write(_ vcpu: CInt, _ index: UInt32, _ value: UInt64) -> Bool {
    transfer([kvm_msr_entry(index: index, reserved: 0, data: value)]) { ckvm_set_msrs(vcpu, $0) }.0 == 1
  }

  private static func transfer(
    _ entries: [kvm_msr_entry], _ call: (UnsafeMutablePointer<kvm_msrs>) -> CInt
  ) -> (Int, [kvm_msr_entry]) {
    let size = MemoryLayout<kvm_msrs>.size + entries.count * MemoryLayout<kvm_msr_entry>.stride
    let raw = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
    defer { raw.deallocate() }
    raw.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    // Safety: `size` covers the header and `entries.count` entries, which is what `nmsrs` says.
    let header = raw.bindMemory(to: kvm_msrs.self, capacity: 1)
    header.pointee.nmsrs = UInt32(entries.count)
    let storage = ckvm_msr_entries(header)!
    for (index, entry) in entries.enumerated() { storage[index] = entry }
    let count = max(0, Int(call(header)))
    return (min(count, entries.count), Array(UnsafeBufferPointer(start: storage, count: entries.count)))
  }
}
