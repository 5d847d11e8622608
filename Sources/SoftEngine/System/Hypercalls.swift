import CSoftCPU
import X86

/// Calls of the hypervisor as KVM has them (Linux, Documentation/virt/kvm/x86/hypercalls.rst): the number in RAX, up to
/// four arguments in RBX, RCX, RDX and RSI, the result in RAX.
private enum Hypercall {
  static let sendIPI: UInt64 = 10

  /// Results (include/uapi/linux/kvm_para.h), negated.
  static let notPermitted: Int64 = -1
  static let invalid: Int64 = -22
  static let unknown: Int64 = -1000
}

extension Executor {
  /// VMCALL or VMMCALL.
  func callHypervisor() throws(Fault) {
    // Calls of another engine's processor are that engine's.
    guard state.context.pointee.interpreted == nil else { throw .undefined }
    let size = state.pointee.is64BitCode ? 8 : 4
    func argument(_ register: UInt8) -> UInt64 { general(register) & mask(size) }
    let result: Int64
    switch argument(General.rax) {
    case _ where state.pointee.cpl != 0: result = Hypercall.notPermitted
    case Hypercall.sendIPI:
      result = sendIPI(
        bitmap: (argument(General.rbx), argument(General.rcx)), first: argument(General.rdx),
        command: argument(General.rsi), width: UInt64(size * 8))
    default: result = Hypercall.unknown
    }
    setGeneral(General.rax, UInt64(bitPattern: result) & mask(size), size: size)
  }

  /// KVM_HC_SEND_IPI: an interrupt to each APIC ID of a bitmap of two words, whose bit 0 stands for the ID `first`.
  /// Returns how many processors took it.
  private func sendIPI(bitmap: (UInt64, UInt64), first: UInt64, command: UInt64, width: UInt64) -> Int64 {
    guard let controllers = state.context.pointee.controllers else { return Hypercall.unknown }
    // ICR bits 11 (logical), 15 (level) and 19:18 (shorthand) mean nothing here.
    guard command & 0xC_8800 == 0 else { return Hypercall.invalid }
    let low = UInt32(truncatingIfNeeded: command)
    let count =
      controllers.send(low, to: bitmap.0, first: first)
      + controllers.send(low, to: bitmap.1, first: first &+ width)
    soft_request_attention(state, Attention.interrupt)
    return Int64(count)
  }
}

extension InterruptControllers {
  /// Sends a vector and delivery mode (ICR bits 10:0) to the processors whose APIC ID less `first` is a bit of `ids`.
  /// Returns how many took it.
  func send(_ command: UInt32, to ids: UInt64, first: UInt64) -> Int {
    var outbox = Outbox()
    var taken = 0
    var left = ids
    while left != 0 {
      let (id, overflow) = first.addingReportingOverflow(UInt64(left.trailingZeroBitCount))
      left &= left &- 1
      guard !overflow, id < UInt64(processors.count) else { break }
      let message = InterruptMessage(
        vector: UInt8(truncatingIfNeeded: command), mode: DeliveryMode(bits: command),
        destination: UInt32(truncatingIfNeeded: id))
      if deliver(message, &outbox) { taken += 1 }
    }
    tell(outbox)
    return taken
  }
}
