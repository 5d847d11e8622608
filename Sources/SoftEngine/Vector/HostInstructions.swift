import CSoftCPU
import X86

/// Instructions that are executed by the host's own, which it may lack.
enum HostInstructions {
  private static let all: [(feature: InstructionAttributes, leaf: UInt32, register: Int, bit: UInt32)] = [
    (.sse3, 1, 2, 0), (.pclmulqdq, 1, 2, 1), (.ssse3, 1, 2, 9), (.sse41, 1, 2, 19), (.sse42, 1, 2, 20),
    (.aes, 1, 2, 25), (.sha, 7, 1, 29),
  ]

  /// What this host cannot do: no processor here has it.
  static let missing: InstructionAttributes = {
    var features: InstructionAttributes = []
    for row in all where hostLeaf(row.leaf)[row.register] >> row.bit & 1 == 0 { features.formUnion(row.feature) }
    return features
  }()

  /// EAX, EBX, ECX and EDX of the host's CPUID, subleaf 0.
  private static func hostLeaf(_ leaf: UInt32) -> InlineArray<4, UInt32> {
    var registers = InlineArray<4, UInt32>(repeating: 0)
    withUnsafeMutableBytes(of: &registers) {
      // Safety: 16 bytes, as the function writes.
      soft_host_cpuid(leaf, $0.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt32.self))
    }
    return registers
  }
}
