import CSoftCPU
import X86

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Registers after RESET (SDM vol. 3, table 10-1).
  func powerOn(isBootstrap: Bool) {
    pointee.cr0 = CR0.nw | CR0.cd
    pointee.mxcsr = MXCSR.initial
    pointee.x87_live = 0
    pointee.x87 = soft_x87()
    pointee.x87.control = 0x40
    pointee.x87.tag = 0x5555
    pointee.xcr0 = XCR0.x87
    pointee.pat = 0x0007_0406_0007_0406
    pointee.misc_enable = 1
    initialize(isBootstrap: isBootstrap)
  }

  /// What INIT resets; x87, SSE, XCR0, the other MSRs, CR0.CD and CR0.NW stay.
  func initialize(isBootstrap: Bool) {
    for number in 0..<16 { register(self, Slot.general(UInt8(number)), as: UInt64.self).pointee = 0 }
    register(self, Slot.general(General.rdx), as: UInt64.self).pointee = UInt64(CPUIdentity.signature)
    pointee.zero = 0
    pointee.system_flags = 0
    arithmeticFlags = 0
    pointee.cr0 = pointee.cr0 & (CR0.nw | CR0.cd) | CR0.et
    pointee.cr2 = 0
    pointee.cr3 = 0
    pointee.cr4 = 0
    pointee.efer = 0
    pointee.cpl = 0
    pointee.shadow = 0
    pointee.halted = 0
    pointee.nmi_blocked = 0
    pointee.waiting_for_sipi = isBootstrap ? 0 : 1
    for index in 0..<6 { setSegment(index, selector: 0, base: 0, limit: 0xFFFF, attributes: 0x93) }
    setSegment(SegmentRegister.cs, selector: 0xF000, base: 0xFFFF_0000, limit: 0xFFFF, attributes: 0x93)
    setSegment(SegmentRegister.ldtr, selector: 0, base: 0, limit: 0xFFFF, attributes: 0x82)
    setSegment(SegmentRegister.tr, selector: 0, base: 0, limit: 0xFFFF, attributes: 0x8B)
    pointee.gdtr = soft_table(base: 0, limit: 0xFFFF)
    pointee.idtr = soft_table(base: 0, limit: 0xFFFF)
    pointee.rip = 0xFFF0
    (pointee.dr.0, pointee.dr.1, pointee.dr.2, pointee.dr.3) = (0, 0, 0, 0)
    pointee.dr.6 = DR6.fixed
    pointee.dr.7 = DR7.fixed
    pointee.pending_debug = 0
    forgetAnswers()
    updateMode()
    updateSegments()
    updateBreakpoints()
  }
}
