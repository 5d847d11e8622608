import CSoftCPU
import Engines
import X86

/// The state in the form that engines exchange.
extension UnsafeMutablePointer where Pointee == soft_cpu {
  func load(_ new: ProcessorState) {
    powerOn(isBootstrap: true)
    for number in 0..<16 {
      register(self, Slot.general(UInt8(number)), as: UInt64.self).pointee = new.general[number]
    }
    pointee.rip = new.rip
    arithmeticFlags = new.rflags
    pointee.system_flags = new.rflags & ~(RFLAGS.arithmetic | RFLAGS.fixed)
    pointee.cpl = new.cpl & 3
    pointee.cr0 = new.cr0
    pointee.cr2 = new.cr2
    pointee.cr3 = new.cr3
    pointee.cr4 = new.cr4
    pointee.efer = new.efer
    pointee.xcr0 = new.xcr0
    for index in 0..<8 {
      let segment = new.segments[index]
      setSegment(
        index, selector: segment.selector, base: segment.base, limit: segment.limit, attributes: segment.attributes)
    }
    pointee.gdtr = soft_table(base: new.gdtr.base, limit: UInt32(new.gdtr.limit))
    pointee.idtr = soft_table(base: new.idtr.base, limit: UInt32(new.idtr.limit))
    (pointee.dr.0, pointee.dr.1, pointee.dr.2, pointee.dr.3) = (new.debug[0], new.debug[1], new.debug[2], new.debug[3])
    (pointee.dr.6, pointee.dr.7) = (new.debug[4], new.debug[5])
    pointee.sysenter_cs = new.msrs.sysenterCS
    pointee.sysenter_esp = new.msrs.sysenterESP
    pointee.sysenter_eip = new.msrs.sysenterEIP
    pointee.star = new.msrs.star
    pointee.lstar = new.msrs.lstar
    pointee.cstar = new.msrs.cstar
    pointee.sfmask = new.msrs.sfmask
    pointee.kernel_gs_base = new.msrs.kernelGSBase
    pointee.tsc_aux = new.msrs.tscAux
    withExecutor { $0.loadLegacyArea(StateImage(new.legacyArea)) }
    pointee.shadow =
      switch new.shadow {
      case .none: 0
      case .sti: InterruptShadow.sti
      case .movSS: InterruptShadow.stackSegment
      }
    pointee.nmi_blocked = new.isNMIBlocked ? 1 : 0
    pointee.halted = new.isHalted ? 1 : 0
    TLB.flush(self)
    updateMode()
    updateSegments()
    updateBreakpoints()
    if pointee.cr0 & CR0.pg != 0, pointee.cr4 & CR4.pae != 0, !pointee.isLongMode {
      // Where they cannot be read no address is translated, and the instruction faults.
      pointee.pdpte = (0, 0, 0, 0)
      _ = try? loadPageDirectoryPointers(pointee.cr3)
    }
  }

  var processorState: ProcessorState {
    var state = ProcessorState()
    for number in 0..<16 {
      state.general[number] = register(self, Slot.general(UInt8(number)), as: UInt64.self).pointee
    }
    state.rip = pointee.rip
    state.rflags = rflags
    state.cpl = pointee.cpl
    (state.cr0, state.cr2, state.cr3, state.cr4) = (pointee.cr0, pointee.cr2, pointee.cr3, pointee.cr4)
    (state.efer, state.xcr0) = (pointee.efer, pointee.xcr0)
    for index in 0..<8 {
      let segment = segment(index).pointee
      state.segments[index] = ProcessorState.Segment(
        selector: segment.selector, base: segment.base, limit: segment.limit, attributes: segment.attributes)
    }
    state.gdtr = ProcessorState.Table(base: pointee.gdtr.base, limit: UInt16(truncatingIfNeeded: pointee.gdtr.limit))
    state.idtr = ProcessorState.Table(base: pointee.idtr.base, limit: UInt16(truncatingIfNeeded: pointee.idtr.limit))
    state.debug = [pointee.dr.0, pointee.dr.1, pointee.dr.2, pointee.dr.3, pointee.dr.6, pointee.dr.7]
    state.msrs.sysenterCS = pointee.sysenter_cs
    state.msrs.sysenterESP = pointee.sysenter_esp
    state.msrs.sysenterEIP = pointee.sysenter_eip
    state.msrs.star = pointee.star
    state.msrs.lstar = pointee.lstar
    state.msrs.cstar = pointee.cstar
    state.msrs.sfmask = pointee.sfmask
    state.msrs.kernelGSBase = pointee.kernel_gs_base
    state.msrs.tscAux = pointee.tsc_aux
    withExecutor { state.legacyArea = $0.legacyArea().bytes }
    state.shadow =
      switch pointee.shadow {
      case InterruptShadow.sti: .sti
      case InterruptShadow.stackSegment: .movSS
      default: .none
      }
    state.isNMIBlocked = pointee.nmi_blocked != 0
    state.isHalted = pointee.halted != 0
    return state
  }

  /// For what FXSAVE64 and FXRSTOR64 do.
  private func withExecutor(_ body: (Executor) -> Void) {
    var instruction = Instruction()
    instruction.operandSize = 8
    withUnsafePointer(to: instruction) { body(Executor(self, $0)) }
  }
}
