import CSoftCPU
import X86

// The commonest floating-point instructions with a memory operand in 64-bit mode, in one operation each.

private typealias Apply = (UnsafeMutableRawPointer, UnsafeRawPointer) -> Void

/// dst = apply(dst, memory).
@inline(__always)
private func applyVector<Width: VectorWidth>(
  _ state: State, _ op: MicroOp, _ width: Width.Type, _ apply: Apply, _ slow: soft_handler
) {
  let linear = Flat.offset(state, op)
  guard !Width.isAligned || linear & 15 == 0,
    let host = lookUp(state, linear, width: Width.isAligned ? 1 : Width.bytes, write: false)
  else {
    state.pointee.linear = linear
    return tail(state, op, slow)
  }
  apply(vectorRegister(state, op.pointee.dst), host)
  return next(state, op)
}

@inline(__always)
private func applyVectorSlow<Width: VectorWidth>(
  _ state: State, _ op: MicroOp, _ width: Width.Type, _ apply: Apply
) {
  let temporary = Slot.xmmTemporary0
  guard readVectorSlowly(state, op, Width.bytes, isAligned: Width.isAligned, to: temporary) else { return }
  apply(vectorRegister(state, op.pointee.dst), vectorRegister(state, temporary))
  return next(state, op)
}

/// The operation that does an instruction's load, too; nil: there is none.
func fusedHandler(_ operation: Operation) -> soft_handler? {
  switch operation {
  case .addsd: softAddsdMemory
  case .subsd: softSubsdMemory
  case .mulsd: softMulsdMemory
  case .divsd: softDivsdMemory
  case .addpd: softAddpdMemory
  case .subpd: softSubpdMemory
  case .mulpd: softMulpdMemory
  case .divpd: softDivpdMemory
  case .addss: softAddssMemory
  case .subss: softSubssMemory
  case .mulss: softMulssMemory
  case .divss: softDivssMemory
  case .addps: softAddpsMemory
  case .subps: softSubpsMemory
  case .mulps: softMulpsMemory
  case .divps: softDivpsMemory
  default: nil
  }
}

@c func softAddsdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Quadword.self, soft_apply_addsd, softAddsdMemorySlow)
}
@inline(never) @c func softAddsdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Quadword.self, soft_apply_addsd)
}
@c func softSubsdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Quadword.self, soft_apply_subsd, softSubsdMemorySlow)
}
@inline(never) @c func softSubsdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Quadword.self, soft_apply_subsd)
}
@c func softMulsdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Quadword.self, soft_apply_mulsd, softMulsdMemorySlow)
}
@inline(never) @c func softMulsdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Quadword.self, soft_apply_mulsd)
}
@c func softDivsdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Quadword.self, soft_apply_divsd, softDivsdMemorySlow)
}
@inline(never) @c func softDivsdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Quadword.self, soft_apply_divsd)
}
@c func softAddpdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_addpd, softAddpdMemorySlow)
}
@inline(never) @c func softAddpdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_addpd)
}
@c func softSubpdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_subpd, softSubpdMemorySlow)
}
@inline(never) @c func softSubpdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_subpd)
}
@c func softMulpdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_mulpd, softMulpdMemorySlow)
}
@inline(never) @c func softMulpdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_mulpd)
}
@c func softDivpdMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_divpd, softDivpdMemorySlow)
}
@inline(never) @c func softDivpdMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_divpd)
}
@c func softAddssMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Doubleword.self, soft_apply_addss, softAddssMemorySlow)
}
@inline(never) @c func softAddssMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Doubleword.self, soft_apply_addss)
}
@c func softSubssMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Doubleword.self, soft_apply_subss, softSubssMemorySlow)
}
@inline(never) @c func softSubssMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Doubleword.self, soft_apply_subss)
}
@c func softMulssMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Doubleword.self, soft_apply_mulss, softMulssMemorySlow)
}
@inline(never) @c func softMulssMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Doubleword.self, soft_apply_mulss)
}
@c func softDivssMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, Doubleword.self, soft_apply_divss, softDivssMemorySlow)
}
@inline(never) @c func softDivssMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, Doubleword.self, soft_apply_divss)
}
@c func softAddpsMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_addps, softAddpsMemorySlow)
}
@inline(never) @c func softAddpsMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_addps)
}
@c func softSubpsMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_subps, softSubpsMemorySlow)
}
@inline(never) @c func softSubpsMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_subps)
}
@c func softMulpsMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_mulps, softMulpsMemorySlow)
}
@inline(never) @c func softMulpsMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_mulps)
}
@c func softDivpsMemory(_ s: State, _ o: MicroOp) {
  return applyVector(s, o, AlignedDoubleQuadword.self, soft_apply_divps, softDivpsMemorySlow)
}
@inline(never) @c func softDivpsMemorySlow(_ s: State, _ o: MicroOp) {
  return applyVectorSlow(s, o, AlignedDoubleQuadword.self, soft_apply_divps)
}
