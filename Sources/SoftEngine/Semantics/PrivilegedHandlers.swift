import CSoftCPU

// What kernels execute most of the privileged instructions, at CPL 0; `softComplex` does what is not the common case.

@c func softCLI(_ state: State, _ op: MicroOp) {
  guard state.pointee.cpl == 0 else { return tail(state, op, softComplex) }
  state.pointee.system_flags &= ~RFLAGS.if
  return next(state, op)
}

@c func softSTI(_ state: State, _ op: MicroOp) {
  guard state.pointee.cpl == 0, state.pointee.system_flags & RFLAGS.tf == 0 else {
    return tail(state, op, softComplexLast)
  }
  state.pointee.rip = codeAddress(state, op)
  state.pointee.leave = LeaveReason.dispatch
  if state.pointee.system_flags & RFLAGS.if != 0 { return tail(state, op, softDispatch) }
  state.pointee.system_flags |= RFLAGS.if
  state.pointee.shadow = InterruptShadow.sti
  return tail(state, op, softDispatchShadowed)
}

@c func softReadFlags(_ state: State, _ op: MicroOp) {
  setRegister(state, op.pointee.dst, state.rflags & ~(RFLAGS.rf | RFLAGS.vm))
  return next(state, op)
}

@c func softRDTSC(_ state: State, _ op: MicroOp) {
  guard state.pointee.cr4 & CR4.tsd == 0 else { return tail(state, op, softComplex) }
  readTimeStampCounter(state)
  return next(state, op)
}

@c func softRDTSCP(_ state: State, _ op: MicroOp) {
  guard state.pointee.cr4 & CR4.tsd == 0 else { return tail(state, op, softComplex) }
  readTimeStampCounter(state)
  setRegister(state, Slot.general(General.rcx), state.pointee.tsc_aux & 0xFFFF_FFFF)
  return next(state, op)
}

@inline(never)
private func readTimeStampCounter(_ state: State) {
  let count = state.timeStampCounter
  setRegister(state, Slot.general(General.rax), count & 0xFFFF_FFFF)
  setRegister(state, Slot.general(General.rdx), count >> 32)
}

@c func softCLAC(_ state: State, _ op: MicroOp) {
  guard state.pointee.cpl == 0, state.pointee.checks_accesses == 0 else { return tail(state, op, softComplex) }
  state.pointee.system_flags &= ~RFLAGS.ac
  TLB.selectSupervisor(state, suspendsSMAP: false)
  return next(state, op)
}

@c func softSTAC(_ state: State, _ op: MicroOp) {
  guard state.pointee.cpl == 0, state.pointee.checks_accesses == 0 else { return tail(state, op, softComplex) }
  state.pointee.system_flags |= RFLAGS.ac
  TLB.selectSupervisor(state, suspendsSMAP: true)
  return next(state, op)
}

@c func softSwapGS(_ state: State, _ op: MicroOp) {
  guard state.pointee.cpl == 0 else { return tail(state, op, softComplex) }
  let gs = state.segment(SegmentRegister.gs)
  let base = gs.pointee.base
  gs.pointee.base = state.pointee.kernel_gs_base
  gs.pointee.linear_base = state.pointee.kernel_gs_base
  state.pointee.kernel_gs_base = base
  return next(state, op)
}
