/// A register that CPUID returns.
public enum CPUIDRegister: UInt8, Sendable {
  case eax, ebx, ecx, edx
}

/// What CPUID can say that a processor has, with Linux's names. `table` says where, and what it lets
/// through.
public enum CPUFeature: String, Sendable, CaseIterable {
  case fpu, de, pse, tsc, msr, pae, mce, cx8, apic, sep, mtrr, pge, mca, cmov, pat, pse36, clflush, mmx, fxsr, sse,
    sse2
  case sse3, pclmulqdq, ssse3, cx16, pcid
  case sse41 = "sse4_1"
  case sse42 = "sse4_2"
  case x2apic, movbe, popcnt
  case tscDeadline = "tsc_deadline"
  case aes, xsave, rdrand, hypervisor, fsgsbase
  case tscAdjust = "tsc_adjust"
  case bmi1, smep, bmi2, erms, invpcid, rdseed, adx, smap, clflushopt, clwb, sha, umip, rdpid, fsrm
  case speculationControl = "spec_ctrl"
  case architecturalCapabilities = "arch_capabilities"
  case branchHistoryControl = "bhi_ctrl"
  case xsaveopt, xsavec, xgetbv1, xsaves
  case lahfLM = "lahf_lm"
  case lzcnt, prefetchw, syscall, nx, pdpe1gb, rdtscp, lm, invtsc, arat

  /// The leaf, subleaf and bit of a feature.
  public struct Flag: Sendable {
    public let leaf: UInt32
    public let subleaf: UInt32
    public let register: CPUIDRegister
    public let bit: UInt32
  }

  struct Row: Sendable {
    let feature: CPUFeature
    let flag: Flag
    /// What the decoder lets through.
    let instructions: InstructionAttributes
    let level: CPUModel.Level
    /// Features without which this one is not there either.
    let needs: [CPUFeature]
  }

  static let table: [Row] = rows

  /// Where a feature stands in the table, which has all of them.
  static func place(of feature: CPUFeature) -> Int { table.firstIndex { $0.feature == feature } ?? 0 }

  /// Where CPUID shows it.
  public var flag: Flag { Self.table[Self.place(of: self)].flag }
}

extension CPUFeature {
  private typealias Place = (leaf: UInt32, subleaf: UInt32, register: CPUIDRegister)
  private static let basicECX: Place = (1, 0, .ecx)
  private static let basicEDX: Place = (1, 0, .edx)
  private static let structuredEBX: Place = (7, 0, .ebx)
  private static let structuredECX: Place = (7, 0, .ecx)
  private static let structuredEDX: Place = (7, 0, .edx)
  private static let xsaveEAX: Place = (0xD, 1, .eax)
  private static let extendedECX: Place = (0x8000_0001, 0, .ecx)
  private static let extendedEDX: Place = (0x8000_0001, 0, .edx)

  private static func row(
    _ feature: CPUFeature, _ place: Place, _ bit: UInt32, _ level: CPUModel.Level = .v1,
    _ instructions: InstructionAttributes = [], needs: [CPUFeature] = []
  ) -> Row {
    Row(
      feature: feature,
      flag: Flag(leaf: place.leaf, subleaf: place.subleaf, register: place.register, bit: bit),
      instructions: instructions, level: level, needs: needs)
  }

  /// Bits: SDM vol. 2, CPUID. Levels: x86-64 psABI, table 3.1; features that only an operating system sees are in all.
  private static let rows: [Row] = [
    row(.fpu, basicEDX, 0, .v1, .fpu),
    row(.de, basicEDX, 2),
    row(.pse, basicEDX, 3),
    row(.tsc, basicEDX, 4, .v1, .tsc),
    row(.msr, basicEDX, 5, .v1, .msr),
    row(.pae, basicEDX, 6),
    row(.mce, basicEDX, 7),
    row(.cx8, basicEDX, 8, .v1, .cx8),
    row(.apic, basicEDX, 9),
    row(.sep, basicEDX, 11, .v1, .sep),
    row(.mtrr, basicEDX, 12),
    row(.pge, basicEDX, 13),
    row(.mca, basicEDX, 14),
    row(.cmov, basicEDX, 15, .v1, .cmov),
    row(.pat, basicEDX, 16),
    row(.pse36, basicEDX, 17),
    row(.clflush, basicEDX, 19, .v1, .clfsh),
    row(.mmx, basicEDX, 23, .v1, .mmx, needs: [.fpu]),
    row(.fxsr, basicEDX, 24, .v1, .fxsr, needs: [.fpu]),
    row(.sse, basicEDX, 25, .v1, .sse, needs: [.fxsr]),
    row(.sse2, basicEDX, 26, .v1, .sse2, needs: [.sse]),

    row(.sse3, basicECX, 0, .v2, .sse3, needs: [.sse2]),
    row(.pclmulqdq, basicECX, 1, .max, .pclmulqdq, needs: [.sse2]),
    row(.ssse3, basicECX, 9, .v2, .ssse3, needs: [.sse3]),
    row(.cx16, basicECX, 13, .v2, .cx16),
    row(.pcid, basicECX, 17, needs: [.lm]),
    row(.sse41, basicECX, 19, .v2, .sse41, needs: [.ssse3]),
    row(.sse42, basicECX, 20, .v2, .sse42, needs: [.sse41]),
    row(.x2apic, basicECX, 21, needs: [.apic]),
    row(.movbe, basicECX, 22, .max, .movbe),
    row(.popcnt, basicECX, 23, .v2, .popcnt),
    row(.tscDeadline, basicECX, 24, needs: [.apic, .tsc]),
    row(.aes, basicECX, 25, .max, .aes, needs: [.sse2]),
    row(.xsave, basicECX, 26, .max, .xsave, needs: [.fxsr]),
    row(.rdrand, basicECX, 30, .max, .rdrand),
    // Calls of the hypervisor by either vendor's instruction.
    row(.hypervisor, basicECX, 31, .v1, [.vmx, .svm]),

    row(.fsgsbase, structuredEBX, 0, .v1, .fsgsbase, needs: [.lm]),
    row(.tscAdjust, structuredEBX, 1, needs: [.tsc]),
    row(.bmi1, structuredEBX, 3, .max, .bmi1),
    row(.smep, structuredEBX, 7),
    row(.bmi2, structuredEBX, 8, .max, .bmi2),
    row(.erms, structuredEBX, 9),
    row(.invpcid, structuredEBX, 10, .v1, .invpcid),
    row(.rdseed, structuredEBX, 18, .max, .rdseed),
    row(.adx, structuredEBX, 19, .max, .adx),
    row(.smap, structuredEBX, 20, .v1, .smap),
    row(.clflushopt, structuredEBX, 23, .v1, .clflushopt),
    row(.clwb, structuredEBX, 24, .v1, .clwb),
    row(.sha, structuredEBX, 29, .max, .sha, needs: [.sse2]),
    row(.umip, structuredECX, 2),
    row(.rdpid, structuredECX, 22, .max, .rdpid),
    row(.fsrm, structuredEDX, 4),
    row(.speculationControl, structuredEDX, 26),
    row(.architecturalCapabilities, structuredEDX, 29),
    row(.branchHistoryControl, (7, 2, .edx), 4, needs: [.speculationControl]),

    row(.xsaveopt, xsaveEAX, 0, .max, .xsaveopt, needs: [.xsave]),
    row(.xsavec, xsaveEAX, 1, .max, .xsavec, needs: [.xsave]),
    row(.xgetbv1, xsaveEAX, 2, .max, needs: [.xsave]),
    row(.xsaves, xsaveEAX, 3, .max, .xsaves, needs: [.xsavec]),

    row(.lahfLM, extendedECX, 0, .v2, needs: [.lm]),
    row(.lzcnt, extendedECX, 5, .max, .lzcnt),
    row(.prefetchw, extendedECX, 8),
    row(.syscall, extendedEDX, 11, .v1, .syscall, needs: [.lm]),
    row(.nx, extendedEDX, 20),
    row(.pdpe1gb, extendedEDX, 26, needs: [.lm]),
    row(.rdtscp, extendedEDX, 27, .v1, .rdtscp, needs: [.tsc]),
    row(.lm, extendedEDX, 29, needs: [.pae]),
    row(.invtsc, (0x8000_0007, 0, .edx), 8, needs: [.tsc]),
    row(.arat, (6, 0, .eax), 2, needs: [.apic]),
  ]
}
