import CSoftCPU
import X86

/// Features whose instructions the host's instructions of the same name execute. What every x86-64 host has is not here.
enum HostInstructions {
  /// Of leaves 1 and 7.
  private static let needed: [(feature: CPUFeature, leaf: UInt32, register: Int, bit: UInt32)] = [
    (.sse3, 1, 2, 0), (.pclmulqdq, 1, 2, 1), (.ssse3, 1, 2, 9), (.sse41, 1, 2, 19), (.sse42, 1, 2, 20),
    (.aes, 1, 2, 25), (.sha, 7, 1, 29),
  ]

  /// What no processor on this host can have.
  static let missing: [CPUFeature] = {
    // In a virtual machine CPUID takes microseconds: each leaf is asked for once.
    let (basic, structured) = (hostLeaf(1), hostLeaf(7))
    return needed.filter { ($0.leaf == 1 ? basic : structured)[$0.register] >> $0.bit & 1 == 0 }.map(\.feature)
  }()

  /// EAX, EBX, ECX and EDX of the host's CPUID, subleaf 0.
  private static func hostLeaf(_ leaf: UInt32) -> [UInt32] {
    var registers: [UInt32] = [0, 0, 0, 0]
    registers.withUnsafeMutableBufferPointer { buffer in
      if let first = buffer.baseAddress { soft_host_cpuid(leaf, first) }
    }
    return registers
  }
}
