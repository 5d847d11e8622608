import Engines
import X86

/// What CPUID says of one processor (SDM vol. 2, CPUID).
struct ProcessorIdentity {
  typealias Leaf = CPUIDRegisters

  private struct Key: Equatable {
    var leaf: UInt32
    var subleaf: UInt32
  }

  /// A dozen or two, in no order.
  private var leaves: [(key: Key, leaf: Leaf)] = []
  /// Leaves whose ECX selects.
  private static let indexed: [UInt32] = [4, 7, 0xB, 0xD]
  private static let highestBasic: UInt32 = 0xD
  private static let highestHypervisor: UInt32 = 0x4000_0010
  private static let highestExtended: UInt32 = 0x8000_0008

  /// Above the highest leaf it is the highest basic one that answers.
  func leaf(_ number: UInt32, _ subleaf: UInt32) -> Leaf {
    var number = number
    let isKnown =
      number <= Self.highestBasic || (0x4000_0000...Self.highestHypervisor).contains(number)
      || (0x8000_0000...Self.highestExtended).contains(number)
    if !isKnown { number = Self.highestBasic }
    let isIndexed = Self.indexed.contains(number)
    if let leaf = self[Key(leaf: number, subleaf: isIndexed ? subleaf : 0)] { return leaf }
    // The topology's levels end with one that still gives the processor's number.
    guard number == 0xB, let first = self[Key(leaf: 0xB, subleaf: 0)] else { return Leaf() }
    return Leaf(ecx: subleaf & 0xFF, edx: first.edx)
  }

  /// Processor `index` of `count`; `tscFrequency` in hertz.
  init(_ model: CPUModel, index: Int, count: Int, tscFrequency: UInt64) {
    addFeatures(model)
    addBasic(model, index: index, count: count)
    addCaches(count)
    addTopology(index, count)
    addHypervisor(model, tscFrequency)
    addExtended(model)
  }

  private mutating func set(_ number: UInt32, _ subleaf: UInt32 = 0, _ change: (inout Leaf) -> Void) {
    let key = Key(leaf: number, subleaf: subleaf)
    let index = leaves.firstIndex { $0.key == key } ?? leaves.count
    if index == leaves.count { leaves.append((key, Leaf())) }
    change(&leaves[index].leaf)
  }

  private subscript(key: Key) -> Leaf? { leaves.first { $0.key == key }?.leaf }

  private mutating func addFeatures(_ model: CPUModel) {
    for flag in model.flags {
      set(flag.leaf, flag.subleaf) {
        switch flag.register {
        case .eax: $0.eax |= 1 << flag.bit
        case .ebx: $0.ebx |= 1 << flag.bit
        case .ecx: $0.ecx |= 1 << flag.bit
        case .edx: $0.edx |= 1 << flag.bit
        }
      }
    }
  }

  private mutating func addBasic(_ model: CPUModel, index: Int, count: Int) {
    // "GenuineIntel".
    set(0) { $0 = Leaf(eax: Self.highestBasic, ebx: 0x756E_6547, ecx: 0x6C65_746E, edx: 0x4965_6E69) }
    set(1) {
      $0.eax = CPUIdentity.signature
      $0.ebx = UInt32(truncatingIfNeeded: index) << 24 | (1 << Self.bits(count)) << 16 | 8 << 8
      if count > 1 { $0.edx |= 1 << 28 }
    }
    // The x87 data pointer is kept on exceptions only; FCS and FDS are not.
    set(7, 0) {
      $0.eax = 2
      $0.ebx |= 1 << 6 | 1 << 13
    }
    // Descriptor FFH: the caches are in leaf 4.
    set(2) { $0 = Leaf(eax: 0x0000_FF01) }
    if model.has(.xsave) {
      set(0xD, 0) { $0 = Leaf(eax: 3, ebx: 576, ecx: 576) }
      set(0xD, 1) { $0.ebx = 576 }
    }
  }

  private mutating func addCaches(_ count: Int) {
    // Type (data, instruction, unified), level, ways, sets; lines are of 64 bytes.
    let caches: [(type: UInt32, level: UInt32, ways: UInt32, sets: UInt32)] = [
      (1, 1, 8, 64), (2, 1, 8, 64), (3, 2, 8, 512), (3, 3, 16, 8192),
    ]
    let others = (UInt32(1) << Self.bits(count)) &- 1
    for (subleaf, cache) in caches.enumerated() {
      set(4, UInt32(subleaf)) {
        $0.eax =
          cache.type | cache.level << 5 | 1 << 8 | (cache.level == 3 ? others : 0) << 14 | min(others, 63) << 26
        $0.ebx = 63 | (cache.ways &- 1) << 22
        $0.ecx = cache.sets &- 1
      }
    }
  }

  /// One package, a core for each processor.
  private mutating func addTopology(_ index: Int, _ count: Int) {
    let id = UInt32(truncatingIfNeeded: index)
    set(0xB, 0) { $0 = Leaf(eax: 0, ebx: 1, ecx: 1 << 8, edx: id) }
    set(0xB, 1) { $0 = Leaf(eax: Self.bits(count), ebx: UInt32(truncatingIfNeeded: count), ecx: 2 << 8 | 1, edx: id) }
  }

  /// KVM's interface (Linux, Documentation/virt/kvm/x86/cpuid.rst) as far as it is here: the clock, that no I/O delays
  /// are needed, steal time (5), EOI by memory (6), flushes of halted processors' TLBs by it (9), interprocessor interrupts by hypercall
  /// (11), and poll control (12).
  private mutating func addHypervisor(_ model: CPUModel, _ tscFrequency: UInt64) {
    guard model.has(.hypervisor) else { return }
    // "KVMKVMKVM".
    set(0x4000_0000) { $0 = Leaf(eax: Self.highestHypervisor, ebx: 0x4B4D_564B, ecx: 0x564B_4D56, edx: 0x0000_004D) }
    if model.has(.tsc) {
      set(0x4000_0001) { $0.eax = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 24 }
    }
    // Kilohertz: the TSC's, and the local APIC timer's.
    set(0x4000_0010) { $0 = Leaf(eax: UInt32(clamping: tscFrequency / 1000), ebx: 1_000_000) }
  }

  private mutating func addExtended(_ model: CPUModel) {
    set(0x8000_0000) { $0.eax = Self.highestExtended }
    var brand = [UInt8](CPUIdentity.brand.utf8.prefix(47))
    brand += [UInt8](repeating: 0, count: 48 - brand.count)
    let words = stride(from: 0, to: 48, by: 4).map { at in
      (0..<4).reduce(UInt32(0)) { $0 | UInt32(brand[at + $1]) << UInt32(8 * $1) }
    }
    for part in 0..<3 {
      set(0x8000_0002 + UInt32(part)) {
        $0 = Leaf(eax: words[4 * part], ebx: words[4 * part + 1], ecx: words[4 * part + 2], edx: words[4 * part + 3])
      }
    }
    // 256 KiB of second-level cache, 8 ways, lines of 64 bytes.
    set(0x8000_0006) { $0.ecx = 256 << 16 | 6 << 12 | 64 }
    set(0x8000_0008) {
      $0.eax =
        UInt32(CPUIdentity.physicalAddressBits) | UInt32(model.has(.lm) ? CPUIdentity.linearAddressBits : 32) << 8
    }
  }

  /// Bits of an APIC ID that tell `count` processors apart.
  private static func bits(_ count: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: Int.bitWidth &- max(0, count &- 1).leadingZeroBitCount)
  }
}
