import CSoftCPU
import X86

extension Executor {
  /// RDRAND and RDSEED: the host's, else from its kernel.
  func readRandom() throws(Fault) {
    let isSeed = i.operation == .rdseed
    let has = state.context.pointee.hostRandom
    var value: UInt64 = 0
    var isValid = true
    if has & (isSeed ? 2 : 1) != 0 {
      isValid = (isSeed ? soft_host_rdseed(&value) : soft_host_rdrand(&value)) != 0
    } else {
      var generator = SystemRandomNumberGenerator()
      value = generator.next()
    }
    setGeneral(i.operands[0].number, isValid ? value & mask(size) : 0, size: size)
    state.arithmeticFlags = isValid ? RFLAGS.cf : 0
  }
}
