import CKVM
import Testing

@testable import KVMEngine

/// A processor's CPUID as KVM reports it, with everything set that the machine must not pass on.
private let host: [kvm_cpuid_entry2] = {
  func entry(_ leaf: UInt32, _ index: UInt32 = 0, eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0, edx: UInt32 = 0)
    -> kvm_cpuid_entry2
  {
    var entry = kvm_cpuid_entry2()
    (entry.function, entry.index) = (leaf, index)
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx)
    return entry
  }
  // Caches: L1 data, L1 code, L2, L3, and the end of the list. All say that 64 processors share them.
  let caches: [UInt32] = [0x21, 0x22, 0x43, 0x63, 0x00].map { $0 == 0 ? 0 : $0 | 63 << 14 | 31 << 26 }
  var entries = [
    entry(0, eax: 0x1F), entry(1, ebx: 0xAB12_0800, ecx: .max & ~(1 << 24 | 1 << 31), edx: .max),
    entry(7, 0, ebx: .max), entry(7, 1, ebx: .max), entry(0xB, 0, eax: 1, ebx: 2, edx: 77), entry(0x12, eax: .max),
    entry(0x1F, 0, eax: 1, ebx: 2, edx: 77), entry(0x8000_0000, eax: 0x8000_001F), entry(0x8000_0001, ecx: .max),
    entry(0x8000_0008, eax: 0x3030, ecx: 0x0003_503F), entry(0x8000_000A, eax: 1), entry(0x8000_001E, eax: 9, ebx: 9),
    entry(0x8000_001F, eax: .max),
  ]
  for leaf in [UInt32(4), 0x8000_001D] {
    for (index, cache) in caches.enumerated() { entries.append(entry(leaf, UInt32(index), eax: cache)) }
  }
  return entries
}()

@Suite struct GuestCPUIDTests {
  private func topology(_ id: Int, of count: Int, hasTSCDeadline: Bool = true) -> [kvm_cpuid_entry2] {
    GuestCPUID(supported: host, hasTSCDeadline: hasTSCDeadline).topology(apicID: id, count: count)
  }

  private func leaf(_ entries: [kvm_cpuid_entry2], _ function: UInt32, _ index: UInt32 = 0) throws -> kvm_cpuid_entry2 {
    try #require(entries.first { $0.function == function && $0.index == index })
  }

  struct Package: Sendable {
    let count: Int
    let coreBits: UInt32
    /// Leaf 1 EBX[23:16]: APIC IDs in the package.
    let addressable: UInt32
  }

  private static let packages = [
    Package(count: 1, coreBits: 0, addressable: 1), Package(count: 2, coreBits: 1, addressable: 2),
    Package(count: 3, coreBits: 2, addressable: 4), Package(count: 64, coreBits: 6, addressable: 64),
  ]

  @Test(arguments: packages)
  func everyLeafTellsOfOnePackageOfSingleThreadedCores(_ package: Package) throws {
    let cores = UInt32(package.count)
    for id in Set([0, package.count / 2, package.count - 1]) {
      let entries = topology(id, of: package.count)
      let apicID = UInt32(id)

      let features = try leaf(entries, 1)
      #expect(features.ebx == apicID << 24 | package.addressable << 16 | 0x0800)
      #expect(features.edx >> 28 & 1 == (cores > 1 ? 1 : 0))

      let levels = try (0..<4).map { try leaf(entries, 4, $0).eax }
      #expect(levels.map { $0 >> 26 } == Array(repeating: cores - 1, count: 4))
      #expect(levels.map { $0 >> 14 & 0xFFF } == [0, 0, 0, cores - 1])
      #expect(levels.map { $0 & 0x3FFF } == [0x21, 0x22, 0x43, 0x63])
      #expect(try leaf(entries, 4, 4).eax == 0)

      for function: UInt32 in [0xB, 0x1F] {
        let found = try (0..<3).map { try leaf(entries, function, $0) }
        #expect(found.map(\.eax) == [0, package.coreBits, 0])
        #expect(found.map(\.ebx) == [1, cores, 0])
        #expect(found.map { $0.ecx & 0xFF } == [0, 1, 2])
        #expect(found.map { $0.ecx >> 8 } == [1, 2, 0])
        #expect(found.allSatisfy { $0.edx == apicID && $0.flags & UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0 })
        #expect(entries.count { $0.function == function } == 3)
      }

      #expect(try leaf(entries, 0x8000_0001).ecx >> 1 & 1 == (cores > 1 ? 1 : 0))
      let sizes = try leaf(entries, 0x8000_0008)
      #expect(sizes.ecx == 0x0003_0000 | package.coreBits << 12 | cores - 1)
      #expect(sizes.eax == 0x3030)
      #expect(try (0..<4).map { try leaf(entries, 0x8000_001D, $0).eax >> 14 & 0xFFF } == [0, 0, 0, cores - 1])
      let extended = try leaf(entries, 0x8000_001E)
      #expect([extended.eax, extended.ebx, extended.ecx] == [apicID, apicID, 0])
    }
  }

  @Test func whatTheMachineDoesNotOfferIsGone() throws {
    let entries = topology(0, of: 2)
    let features = try leaf(entries, 1).ecx
    #expect(features >> 5 & 1 == 0, "VMX")
    #expect(features >> 31 & 1 == 1, "hypervisor present")
    #expect(features >> 24 & 1 == 1, "TSC deadline")
    #expect(try leaf(entries, 7).ebx == .max & ~(1 << 2), "SGX and nothing else")
    #expect(try leaf(entries, 7, 1).ebx == .max)
    #expect(try leaf(entries, 0x8000_0001).ecx >> 2 & 1 == 0, "SVM")
    for function: UInt32 in [0x12, 0x8000_000A, 0x8000_001F] { #expect(!entries.contains { $0.function == function }) }
  }

  @Test func theDeadlineTimerIsOfferedOnlyWhereKVMHasIt() throws {
    #expect(try leaf(topology(0, of: 1, hasTSCDeadline: false), 1).ecx >> 24 & 1 == 0)
  }

  @Test func leavesBeyondTheHighestAreNotMade() {
    let short = host.filter { $0.function < 0xB }.map { entry in
      var entry = entry
      if entry.function == 0 { entry.eax = 7 }
      return entry
    }
    let entries = GuestCPUID(supported: short, hasTSCDeadline: true).topology(apicID: 0, count: 2)
    #expect(!entries.contains { [0xB, 0x1F].contains($0.function) })
  }
}
