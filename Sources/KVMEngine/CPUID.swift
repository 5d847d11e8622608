import CKVM

/// The CPUID that KVM supports, cut to what the machine offers and given its topology:
/// one package of `count` cores with one thread each, APIC IDs in order.
///
/// Leaves and bits: Intel SDM vol. 2A, CPUID; AMD APM vol. 3 appendix E.
struct GuestCPUID {
  /// Entries of struct kvm_cpuid2, at most what one page-sized request returns.
  static let capacity = 256

  var entries: [kvm_cpuid_entry2]

  init(supported: [kvm_cpuid_entry2], hasTSCDeadline: Bool) {
    // Left out: SGX (12H), guest state encryption (8000001FH), nested virtualisation (8000000AH).
    entries = supported.filter { ![0x12, 0x8000_001F, 0x8000_000A].contains($0.function) }
    for index in entries.indices {
      switch entries[index].function {
      case 1:
        entries[index].ecx &= ~(1 << 5)  // VMX
        entries[index].ecx |= 1 << 31  // a hypervisor is present
        if hasTSCDeadline { entries[index].ecx |= 1 << 24 }
      case 7 where entries[index].index == 0:
        entries[index].ebx &= ~(1 << 2)  // SGX
      case 0x8000_0001:
        entries[index].ecx &= ~(1 << 2)  // SVM
      default: break
      }
    }
  }

  /// The entries for one of `count` vCPUs.
  func topology(apicID: Int, count: Int) -> [kvm_cpuid_entry2] {
    let id = UInt32(truncatingIfNeeded: apicID)
    let cores = UInt32(truncatingIfNeeded: count)
    let coreBits = UInt32(truncatingIfNeeded: Int.bitWidth - (count - 1).leadingZeroBitCount)
    var result = entries.filter { $0.function != 0xB && $0.function != 0x1F }
    for index in result.indices {
      switch result[index].function {
      case 1:
        result[index].ebx = result[index].ebx & 0x0000_FFFF | id << 24 | min(1 << coreBits, 255) << 16
        if count > 1 { result[index].edx |= 1 << 28 } else { result[index].edx &= ~(1 << 28) }
      case 4 where result[index].eax & 0x1F != 0:
        let level = result[index].eax >> 5 & 0x7
        let sharing = level >= 3 ? cores - 1 : 0
        result[index].eax = result[index].eax & 0x3FFF | sharing << 14 | min(cores - 1, 63) << 26
      case 0x8000_0001:
        if count > 1 { result[index].ecx |= 1 << 1 } else { result[index].ecx &= ~(1 << 1) }
      case 0x8000_0008:
        result[index].ecx = result[index].ecx & ~0xF0FF | (cores - 1) & 0xFF | coreBits << 12
      case 0x8000_001D where result[index].eax & 0x1F != 0:
        let level = result[index].eax >> 5 & 0x7
        result[index].eax = result[index].eax & ~0x03FF_C000 | (level >= 3 ? cores - 1 : 0) << 14
      case 0x8000_001E:
        result[index].eax = id
        result[index].ebx = id
        result[index].ecx = 0
      default: break
      }
    }
    let highest = result.first { $0.function == 0 }?.eax ?? 0
    for leaf: UInt32 in [0xB, 0x1F] where leaf <= highest {
      result.append(Self.topologyLevel(leaf, 0, shift: 0, processors: 1, type: 1, id))
      result.append(Self.topologyLevel(leaf, 1, shift: coreBits, processors: cores, type: 2, id))
      result.append(Self.topologyLevel(leaf, 2, shift: 0, processors: 0, type: 0, id))
    }
    return result
  }

  private static func topologyLevel(
    _ leaf: UInt32, _ level: UInt32, shift: UInt32, processors: UInt32, type: UInt32, _ id: UInt32
  ) -> kvm_cpuid_entry2 {
    var entry = kvm_cpuid_entry2()
    entry.function = leaf
    entry.index = level
    entry.flags = UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX)
    entry.eax = shift
    entry.ebx = processors
    entry.ecx = type << 8 | level
    entry.edx = id
    return entry
  }
}
