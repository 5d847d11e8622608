/// What is remembered of address spaces that are not the current one, by PCID (SDM vol. 3, 4.10.1).
struct AddressSpaces {
  struct Space {
    /// Generations of tags in the TLB and in the user's jump cache; 0: none.
    var translations: UInt64 = 0
    var jumps: UInt64 = 0
  }

  /// Its PCID; 0 while there are none.
  var current: UInt64 = 0
  /// The last generations given out.
  var lastGeneration: UInt64 = 1
  var lastJumps: UInt64 = 1
  /// Generations of the supervisor's and of the user's jump cache.
  var supervisorJumps: UInt64 = 1
  var userJumps: UInt64 = 1
  /// `soft_cpu.branch_epoch` in supervisor mode.
  var branchEpoch = BranchEpoch.first
  /// 2 MiB regions that were translated by large pages since the last complete flush.
  var largeRegions = RegionFilter(bits: 21)
  /// 1 GiB regions that were translated by one page.
  var hugeRegions = RegionFilter(bits: 30)
  /// The supervisor executed code from a page that is not global since its jump cache was flushed.
  var supervisorCodeIsLocal = false

  /// Few are in use at a time: the oldest makes room.
  private var pcids = InlineArray<16, UInt64>(repeating: .max)
  private var spaces = InlineArray<16, Space>(repeating: Space())
  private var oldest = 0

  func find(_ pcid: UInt64) -> Space? {
    for index in pcids.indices where pcids[index] == pcid && spaces[index].translations != 0 { return spaces[index] }
    return nil
  }

  /// Remembers the generations of the current space, which is left.
  mutating func leave(_ translations: UInt64) {
    let space = Space(translations: translations, jumps: userJumps)
    for index in pcids.indices where pcids[index] == current {
      spaces[index] = space
      return
    }
    pcids[oldest] = current
    spaces[oldest] = space
    oldest = (oldest + 1) & 15
  }

  mutating func forget(_ pcid: UInt64) {
    for index in pcids.indices where pcids[index] == pcid { pcids[index] = .max }
  }

  mutating func forgetAll() {
    for index in pcids.indices { pcids[index] = .max }
    largeRegions.removeAll()
    hugeRegions.removeAll()
  }

  mutating func forgetJumps() {
    for index in spaces.indices { spaces[index].jumps = 0 }
  }
}

/// A set of regions of linear memory that may claim to hold others, too. The two halves of the address space are kept apart:
/// a kernel maps all of memory by large pages, which must not make each page of a program look like one.
struct RegionFilter {
  private let bits: UInt64
  private var words = InlineArray<128, UInt64>(repeating: 0)

  /// - Parameter bits: of an address within its region.
  init(bits: UInt64) { self.bits = bits }

  private func place(_ linear: UInt64) -> UInt64 {
    let number = linear >> bits
    return (number ^ number >> 12 ^ number >> 24) & 4095 | (linear >> 63) << 12
  }

  mutating func insert(_ linear: UInt64) {
    let place = place(linear)
    words[Int(place >> 6)] |= 1 << (place & 63)
  }

  func contains(_ linear: UInt64) -> Bool {
    let place = place(linear)
    return words[Int(place >> 6)] >> (place & 63) & 1 != 0
  }

  mutating func removeAll() {
    for index in words.indices { words[index] = 0 }
  }
}

/// Numbers that `soft_cpu.branch_epoch` has.
enum BranchEpoch {
  /// What code has that was never connected; no processor's.
  static let none: UInt32 = 0
  /// The supervisor's first.
  static let first: UInt32 = 1
  /// User mode's, in which no branch is connected.
  static let user = UInt32.max
}
