import CSoftCPU

/// End of interrupt through memory (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN): where the processor
/// sets a bit with an interrupt, the guest may clear it in place of writing EOI, which costs it no exit. The processor
/// looks when the next interrupt waits, or the guest asks its APIC for something.
struct SharedEOI {
  static let register: UInt32 = 0x4B56_4D04
  private static let isOn: UInt64 = 1
  private static let reserved: UInt64 = 2
  /// Set in memory: the guest may end the interrupt by clearing it.
  private static let isShared: UInt8 = 1

  /// What the guest wrote: bit 0, and the address of four bytes.
  private(set) var value: UInt64 = 0
  /// The bit was set, and what became of it was not looked at yet.
  private(set) var isOffered = false

  var isEnabled: Bool { value & Self.isOn != 0 }
  private var address: UInt64 { value & ~3 }

  /// WRMSR; false: #GP. Nothing is offered.
  mutating func set(_ new: UInt64) -> Bool {
    guard new & Self.reserved == 0 else { return false }
    value = new
    return true
  }

  /// Sets the bit; false: there is no memory for it.
  mutating func offer(_ map: inout PhysicalMap) -> Bool {
    isOffered = map.exchange(Self.isShared, at: address) != nil
    return isOffered
  }

  /// Clears the bit; true: the guest had done so, the interrupt is over.
  mutating func take(_ map: inout PhysicalMap) -> Bool {
    isOffered = false
    guard let byte = map.exchange(0, at: address) else { return false }
    return byte & Self.isShared == 0
  }
}

extension State {
  /// The INTA cycle, whose end is left to the guest where that is possible.
  func acknowledgeInterrupt(_ controllers: InterruptControllers) -> UInt8? {
    guard context.pointee.msr.sharedEOI.isEnabled else {
      return controllers.acknowledgeInterrupt(of: context.pointee.index)
    }
    var isShared = true
    let vector = controllers.acknowledgeInterrupt(of: context.pointee.index, sharesEOI: &isShared)
    if isShared, !context.pointee.msr.sharedEOI.offer(&context.pointee.map) {
      controllers.settleEOI(of: context.pointee.index, isOver: false)
    }
    return vector
  }

  /// Makes the local APIC know whether the guest has ended its interrupt.
  func settleEOI() {
    guard context.pointee.msr.sharedEOI.isOffered, let controllers = context.pointee.controllers else { return }
    let isOver = context.pointee.msr.sharedEOI.take(&context.pointee.map)
    controllers.settleEOI(of: context.pointee.index, isOver: isOver)
  }
}
