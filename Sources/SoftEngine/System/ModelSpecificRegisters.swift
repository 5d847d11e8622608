import CSoftCPU
import X86

extension Executor {
  func readMSR(_ number: UInt32) throws(Fault) -> UInt64 {
    if let controllers = state.context.pointee.controllers, InterruptControllers.handles(msr: number) {
      do { return try controllers.readMSR(of: state.context.pointee.index, number) } catch { throw .protection }
    }
    switch number {
    case 0x10: return state.timeStampCounter
    case 0x1B: return 0xFEE0_0900
    case 0x8B, 0xFE, 0x2FF, 0x250, 0x258, 0x259, 0x200...0x20F, 0x268...0x26F, 0x179, 0x17A: return 0
    case 0x174: return state.pointee.sysenter_cs
    case 0x175: return state.pointee.sysenter_esp
    case 0x176: return state.pointee.sysenter_eip
    case 0x1A0: return state.pointee.misc_enable
    case 0x277: return state.pointee.pat
    case 0xC000_0080: return state.pointee.efer
    case 0xC000_0081: return state.pointee.star
    case 0xC000_0082: return state.pointee.lstar
    case 0xC000_0083: return state.pointee.cstar
    case 0xC000_0084: return state.pointee.sfmask
    case 0xC000_0100: return state.segment(SegmentRegister.fs).pointee.base
    case 0xC000_0101: return state.segment(SegmentRegister.gs).pointee.base
    case 0xC000_0102: return state.pointee.kernel_gs_base
    case 0xC000_0103: return state.pointee.tsc_aux
    default: throw .protection
    }
  }

  func writeMSR(_ number: UInt32, _ value: UInt64) throws(Fault) {
    if let controllers = state.context.pointee.controllers, InterruptControllers.handles(msr: number) {
      do {
        return try controllers.writeMSR(
          of: state.context.pointee.index, number, value, tsc: state.timeStampCounter)
      } catch { throw .protection }
    }
    switch number {
    case 0x10:
      state.pointee.tsc_offset = value &- state.context.pointee.clock()
      state.context.pointee.controllers?.tscChanged(of: state.context.pointee.index, tsc: value)
    case 0x8B, 0x2FF, 0x250, 0x258, 0x259, 0x200...0x20F, 0x268...0x26F, 0x17A: break
    case 0x174: state.pointee.sysenter_cs = value
    case 0x175: state.pointee.sysenter_esp = value
    case 0x176: state.pointee.sysenter_eip = value
    case 0x1A0: state.pointee.misc_enable = value
    case 0x277: state.pointee.pat = value
    case 0xC000_0080:
      guard value & ~(EFER.sce | EFER.lme | EFER.lma | EFER.nxe) == 0 else { throw .protection }
      if state.pointee.cr0 & CR0.pg != 0, (value ^ state.pointee.efer) & EFER.lme != 0 { throw .protection }
      state.pointee.efer = value & ~EFER.lma | state.pointee.efer & EFER.lma
      TLB.flush(state)
    case 0xC000_0081: state.pointee.star = value
    case 0xC000_0082, 0xC000_0083, 0xC000_0102:
      guard state.isCanonical(value) else { throw .protection }
      if number == 0xC000_0082 { state.pointee.lstar = value }
      if number == 0xC000_0083 { state.pointee.cstar = value }
      if number == 0xC000_0102 { state.pointee.kernel_gs_base = value }
    case 0xC000_0084: state.pointee.sfmask = value & 0xFFFF_FFFF
    case 0xC000_0100, 0xC000_0101:
      guard state.isCanonical(value) else { throw .protection }
      let register = state.segment(number == 0xC000_0100 ? SegmentRegister.fs : SegmentRegister.gs)
      register.pointee.base = value
      register.pointee.linear_base = value
    case 0xC000_0103: state.pointee.tsc_aux = value
    default: throw .protection
    }
  }
}
