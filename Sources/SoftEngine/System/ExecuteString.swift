import CSoftCPU
import X86

extension Executor {
  /// String instructions (SDM vol. 1, 7.3.9). An exception or a device leaves the registers at the iteration it is in.
  func executeString() throws(Fault) -> Bool {
    switch i.operation {
    case .movs, .cmps, .stos, .lods, .scas, .ins, .outs: break
    default: return false
    }
    let repeats = i.prefixes.contains(.rep) || i.prefixes.contains(.repne)
    let width = Int(
      i.opcode & 1 == 0 ? 1 : i.operation == .ins || i.operation == .outs ? min(i.operandSize, 4) : i.operandSize)
    if i.operation == .ins || i.operation == .outs {
      try checkPort(UInt16(truncatingIfNeeded: general(General.rdx)), width)
    }
    let addressSize = Int(i.addressSize)
    let counterMask = mask(addressSize)
    // Bounded: interrupts are taken between iterations.
    var budget = 4096
    while true {
      if repeats, general(General.rcx) & counterMask == 0 { return true }
      try iterate(width, addressSize)
      state.forgetAnswers()
      guard repeats else { return true }
      let count = (general(General.rcx) &- 1) & counterMask
      setGeneral(General.rcx, count, size: addressSize)
      if count == 0 { return true }
      if i.operation == .cmps || i.operation == .scas, state.zero != i.prefixes.contains(.rep) { return true }
      budget &-= 1
      if budget == 0 || soft_attention(state) != 0 || state.pointee.code_changed != 0 {
        // Back to this instruction, by way of the outer loop.
        state.pointee.rip = state.pointee.instruction_rip
        state.pointee.code_changed = 1
        return true
      }
    }
  }

  private func step(_ number: UInt8, _ width: Int, _ addressSize: Int) {
    let delta = state.pointee.system_flags & RFLAGS.df != 0 ? 0 &- UInt64(width) : UInt64(width)
    setGeneral(number, (general(number) &+ delta) & mask(addressSize), size: addressSize)
  }

  private func iterate(_ width: Int, _ addressSize: Int) throws(Fault) {
    let source = general(General.rsi) & mask(addressSize)
    let destination = general(General.rdi) & mask(addressSize)
    let segment = Int(i.segment)
    let es = SegmentRegister.es
    switch i.operation {
    case .movs:
      try writeMemory(es, destination, try readMemory(segment, source, width), width)
      step(General.rsi, width, addressSize)
      step(General.rdi, width, addressSize)
    case .stos:
      try writeMemory(es, destination, general(General.rax), width)
      step(General.rdi, width, addressSize)
    case .lods:
      setGeneral(General.rax, try readMemory(segment, source, width), size: width)
      step(General.rsi, width, addressSize)
    case .scas:
      flags(Sub.self, general(General.rax), try readMemory(es, destination, width), width)
      step(General.rdi, width, addressSize)
    case .cmps:
      let a = try readMemory(segment, source, width)
      flags(Sub.self, a, try readMemory(es, destination, width), width)
      step(General.rsi, width, addressSize)
      step(General.rdi, width, addressSize)
    case .ins:
      // The destination is proved writable before the device is read.
      let linear = try linear(es, destination, width, write: true)
      _ = try state.page(linear, .write)
      let value = try portIn(UInt16(truncatingIfNeeded: general(General.rdx)), width)
      try writeMemory(es, destination, value, width)
      step(General.rdi, width, addressSize)
    default:
      try portOut(UInt16(truncatingIfNeeded: general(General.rdx)), try readMemory(segment, source, width), width)
      step(General.rsi, width, addressSize)
    }
  }
}
