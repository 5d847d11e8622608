import CKVM
import Engines

/// A KVM vCPU as the interpreter of its instructions sees it.
struct KVMProcessor: InterpretedProcessor {
  let vcpu: CInt
  let cpuid: [kvm_cpuid_entry2]

  /// Registers that a guest can only read (SDM vol. 4), and that KVM lets be changed from outside: IA32_CORE_CAPABILITIES,
  /// IA32_MTRRCAP, IA32_ARCH_CAPABILITIES, IA32_MCG_CAP, IA32_PERF_CAPABILITIES, IA32_VMX_*.
  private static func isReadOnly(_ number: UInt32) -> Bool {
    switch number {
    case 0xCF, 0xFE, 0x10A, 0x179, 0x345, 0x480...0x493: true
    default: false
    }
  }

  func readMSR(_ number: UInt32) -> UInt64? { VCPUState.read(vcpu, [number]).first?.data }

  func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool {
    !Self.isReadOnly(number) && VCPUState.write(vcpu, number, value)
  }

  /// As KVM finds an entry: above the highest leaf of its range the highest basic one answers (SDM vol. 2, CPUID).
  func cpuid(leaf: UInt32, subleaf: UInt32) -> CPUIDRegisters {
    if let entry = entry(leaf, subleaf) { return CPUIDRegisters(entry) }
    // The topology's levels end with one that still gives the processor's number.
    if leaf == 0xB || leaf == 0x1F, let first = entry(leaf, 0) {
      return CPUIDRegisters(ecx: subleaf & 0xFF, edx: first.edx)
    }
    let highest = entry(leaf & 0xF000_0000, 0)?.eax ?? 0
    guard leaf > highest, let basic = entry(0, 0)?.eax, let entry = entry(basic, subleaf) else {
      return CPUIDRegisters()
    }
    return CPUIDRegisters(entry)
  }

  private func entry(_ leaf: UInt32, _ subleaf: UInt32) -> kvm_cpuid_entry2? {
    cpuid.first {
      $0.function == leaf && ($0.flags & UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == 0 || $0.index == subleaf)
    }
  }
}

extension CPUIDRegisters {
  init(_ entry: kvm_cpuid_entry2) { self.init(eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx) }
}
