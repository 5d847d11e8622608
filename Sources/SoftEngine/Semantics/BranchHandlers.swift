import CSoftCPU

// Jcc by condition number; the body is in Branches.swift.

@c func softJcc0(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionO.self) }
@c func softJcc1(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionO>.self) }
@c func softJcc2(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionB.self) }
@c func softJcc3(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionB>.self) }
@c func softJcc4(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionZ.self) }
@c func softJcc5(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionZ>.self) }
@c func softJcc6(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionBE.self) }
@c func softJcc7(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionBE>.self) }
@c func softJcc8(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionS.self) }
@c func softJcc9(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionS>.self) }
@c func softJcc10(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionP.self) }
@c func softJcc11(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionP>.self) }
@c func softJcc12(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionL.self) }
@c func softJcc13(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionL>.self) }
@c func softJcc14(_ s: State, _ o: MicroOp) { return branch(s, o, ConditionLE.self) }
@c func softJcc15(_ s: State, _ o: MicroOp) { return branch(s, o, Not<ConditionLE>.self) }

/// The handler of Jcc with condition tttn.
func branchHandler(_ condition: UInt8) -> soft_handler {
  switch condition & 15 {
  case 0: softJcc0
  case 1: softJcc1
  case 2: softJcc2
  case 3: softJcc3
  case 4: softJcc4
  case 5: softJcc5
  case 6: softJcc6
  case 7: softJcc7
  case 8: softJcc8
  case 9: softJcc9
  case 10: softJcc10
  case 11: softJcc11
  case 12: softJcc12
  case 13: softJcc13
  case 14: softJcc14
  default: softJcc15
  }
}
