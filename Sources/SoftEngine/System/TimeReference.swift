import CSoftCPU
import LinuxSystem

/// How the host's time-stamp counter and guest time belong together, the same for all processors of a machine.
struct TimeReference: Sendable {
  /// Of the host's and every processor's counter, in hertz.
  let frequency: UInt64
  /// The host's counter at `nanoseconds` of guest time.
  let hostTSC: UInt64
  let nanoseconds: UInt64

  init(clock: () -> UInt64) {
    frequency = Self.hostFrequency
    hostTSC = soft_host_tsc()
    nanoseconds = clock()
  }

  /// What the host says of its counter, else what a hundredth of a second shows.
  static let hostFrequency: UInt64 = {
    let crystal = soft_host_cpuid(0x15, 0)
    if crystal.eax != 0, crystal.ebx != 0, crystal.ecx != 0, soft_host_cpuid(0, 0).eax >= 0x15 {
      return UInt64(crystal.ecx) &* UInt64(crystal.ebx) / UInt64(crystal.eax)
    }
    let hypervisor = soft_host_cpuid(0x4000_0000, 0).eax
    if (0x4000_0010...0x4000_FFFF).contains(hypervisor) {
      let kilohertz = UInt64(soft_host_cpuid(0x4000_0010, 0).eax)
      if kilohertz > 100_000 { return kilohertz &* 1000 }
    }
    return measure(nanoseconds: 10_000_000)
  }()

  private static func measure(nanoseconds: UInt64) -> UInt64 {
    let begin = sample()
    var end = sample()
    while end.nanoseconds &- begin.nanoseconds < nanoseconds { end = sample() }
    let elapsed = max(1, end.nanoseconds &- begin.nanoseconds)
    let product = (end.tsc &- begin.tsc).multipliedFullWidth(by: 1_000_000_000)
    guard product.high < elapsed else { return 1_000_000_000 }
    return max(1_000_000, elapsed.dividingFullWidth(product).quotient)
  }

  /// Both clocks at nearly the same time: the best of a few tries.
  private static func sample() -> (tsc: UInt64, nanoseconds: UInt64) {
    var best = (tsc: UInt64(0), nanoseconds: UInt64(0))
    var width = UInt64.max
    for _ in 0..<4 {
      let before = soft_host_tsc()
      let now = monotonicNanoseconds()
      let after = soft_host_tsc()
      if after &- before < width {
        width = after &- before
        best = (before &+ width / 2, now)
      }
    }
    return best
  }
}
