import CSoftCPU
import X86

/// SYSCALL, SYSENTER and the ways back (SDM vol. 2 and vol. 3, 5.8.7 and 5.8.8).
extension Executor {
  /// Flat segments, as they are loaded without descriptors.
  private enum Flat {
    static let code32: UInt16 = 0xC09B
    static let code64: UInt16 = 0xA09B
    static let data: UInt16 = 0xC093
    static let user: UInt16 = 3 << 5
  }

  private func setFlatSegments(code: UInt16, _ codeAttributes: UInt16, stack: UInt16, isUser: Bool) {
    let level: UInt16 = isUser ? Flat.user : 0
    state.pointee.cpl = isUser ? 3 : 0
    state.setSegment(
      SegmentRegister.cs, selector: code, base: 0, limit: .max, attributes: codeAttributes | level)
    state.setSegment(SegmentRegister.ss, selector: stack, base: 0, limit: .max, attributes: Flat.data | level)
    state.flagsChanged()
  }

  func enterSystemCall() throws(Fault) {
    guard state.pointee.efer & EFER.sce != 0 else { throw .undefined }
    let flags = state.rflags
    setGeneral(General.rcx, state.pointee.rip)
    setGeneral(11, flags & ~RFLAGS.rf)
    let star = UInt16(truncatingIfNeeded: state.pointee.star >> 32) & 0xFFFC
    state.pointee.rip = state.pointee.lstar
    setFlags(flags & ~state.pointee.sfmask & ~RFLAGS.rf)
    state.pointee.step_suppressed = 1
    setFlatSegments(code: star, Flat.code64, stack: star &+ 8, isUser: false)
  }

  func returnFromSystemCall() throws(Fault) {
    guard state.pointee.efer & EFER.sce != 0 else { throw .undefined }
    let is64 = size == 8
    let target = general(General.rcx)
    guard !is64 || state.isCanonical(target) else { throw .protection }
    let star = UInt16(truncatingIfNeeded: state.pointee.star >> 48)
    setFlags(general(11) & 0x3C_7FD7 & ~RFLAGS.rf)
    state.pointee.rip = is64 ? target : target & 0xFFFF_FFFF
    setFlatSegments(
      code: (is64 ? star &+ 16 : star) | 3, is64 ? Flat.code64 : Flat.code32, stack: (star &+ 8) | 3, isUser: true)
  }

  func enterFast() throws(Fault) {
    let cs = UInt16(truncatingIfNeeded: state.pointee.sysenter_cs) & 0xFFFC
    guard state.pointee.isProtected, cs != 0 else { throw .protection }
    let isLong = state.pointee.isLongMode
    let mask: UInt64 = isLong ? .max : 0xFFFF_FFFF
    state.pointee.system_flags &= ~(RFLAGS.vm | RFLAGS.if | RFLAGS.rf)
    setGeneral(General.rsp, state.pointee.sysenter_esp & mask)
    state.pointee.rip = state.pointee.sysenter_eip & mask
    state.pointee.step_suppressed = 1
    setFlatSegments(code: cs, isLong ? Flat.code64 : Flat.code32, stack: cs &+ 8, isUser: false)
  }

  func exitFast() throws(Fault) {
    let cs = UInt16(truncatingIfNeeded: state.pointee.sysenter_cs) & 0xFFFC
    guard state.pointee.isProtected, cs != 0 else { throw .protection }
    let is64 = size == 8
    let (rip, rsp) = (general(General.rdx), general(General.rcx))
    guard !is64 || state.isCanonical(rip) && state.isCanonical(rsp) else { throw .protection }
    state.pointee.rip = is64 ? rip : rip & 0xFFFF_FFFF
    setGeneral(General.rsp, is64 ? rsp : rsp & 0xFFFF_FFFF)
    setFlatSegments(
      code: (cs &+ (is64 ? 32 : 16)) | 3, is64 ? Flat.code64 : Flat.code32, stack: (cs &+ (is64 ? 40 : 24)) | 3,
      isUser: true)
  }

  private func setFlags(_ flags: UInt64) {
    state.arithmeticFlags = flags
    state.pointee.system_flags = flags & ~RFLAGS.arithmetic & ~RFLAGS.fixed
  }
}
