import CSoftCPU
import X86

/// What the interpreter implements completely. CPUID may advertise no other features.
enum ImplementedFeatures {
  /// Executed in Swift, or by instructions that every x86-64 host has.
  private static let everywhere: InstructionAttributes = [
    .fpu, .tsc, .msr, .cx8, .cmov, .clfsh, .mmx, .fxsr, .sse, .sse2, .cx16, .popcnt, .movbe, .bmi1, .bmi2, .lzcnt,
    .adx, .xsave, .xsaveopt, .xsavec, .clflushopt, .clwb, .smap, .syscall, .rdtscp,
  ]

  /// Executed by the host's instructions of the same name, which it may lack.
  private static let hosts: [(feature: InstructionAttributes, leaf: UInt32, register: Int, bit: UInt32)] = [
    (.sse3, 1, 2, 0), (.pclmulqdq, 1, 2, 1), (.ssse3, 1, 2, 9), (.sse41, 1, 2, 19), (.sse42, 1, 2, 20),
    (.aes, 1, 2, 25), (.sha, 7, 1, 29),
  ]

  /// On this host.
  static let all: InstructionAttributes = {
    var features = everywhere
    for row in hosts where hostLeaf(row.leaf)[row.register] >> row.bit & 1 != 0 { features.formUnion(row.feature) }
    return features
  }()

  /// EAX, EBX, ECX and EDX of the host's CPUID, subleaf 0.
  private static func hostLeaf(_ leaf: UInt32) -> [UInt32] {
    var registers = InlineArray<4, UInt32>(repeating: 0)
    withUnsafeMutableBytes(of: &registers) {
      soft_host_cpuid(leaf, $0.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt32.self))
    }
    return (0..<4).map { registers[$0] }
  }
}
