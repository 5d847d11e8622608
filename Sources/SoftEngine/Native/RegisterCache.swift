/// Which registers of the guest a block's code has in registers of the host, those that neither handlers nor routines
/// change. All but temporaries are in memory as well, so an operation may go to its handler at any time.
struct RegisterCache {
  static let registers: [HostRegister] = [.rbx, .rbp, .r12, .r13, .r14, .r15, .r11]

  /// By index in `registers`; 0: free, else the slot's number plus 1.
  private var numbers = InlineArray<7, UInt8>(repeating: 0)
  /// When each was used last.
  private var times = InlineArray<7, Int>(repeating: 0)
  private var time = 0
  /// Bits by index: what the current operation works with, and what memory does not have.
  private var pinned: UInt8 = 0
  private var dirty: UInt8 = 0

  /// General registers, temporaries and `code_page`: whole words, not AH to BH.
  static func holds(_ slot: UInt8) -> Bool { slot & 7 == 0 && slot <= Slot.codePage }

  static func isTemporary(_ slot: UInt8) -> Bool { slot == Slot.temporary0 || slot == Slot.temporary1 }

  /// The next operation may take any register.
  mutating func unpin() { pinned = 0 }

  /// The host's register that holds a slot, which the operation keeps.
  mutating func find(_ slot: UInt8) -> HostRegister? {
    guard let index = index(of: slot) else { return nil }
    touch(index)
    return Self.registers[index]
  }

  private func index(of slot: UInt8) -> Int? { numbers.indices.first { numbers[$0] == Self.number(slot) } }

  private static func number(_ slot: UInt8) -> UInt8 { slot >> 3 &+ 1 }
  private static func slot(_ number: UInt8) -> UInt8 { (number &- 1) << 3 }

  private mutating func touch(_ index: Int) {
    time &+= 1
    times[index] = time
    pinned |= 1 << UInt8(index)
  }

  /// Gives a slot a register. `lost`: what was there and memory does not have yet.
  mutating func take(_ slot: UInt8) -> (register: HostRegister, lost: UInt8?) {
    var victim = 0
    var oldest = Int.max
    for index in numbers.indices where pinned >> UInt8(index) & 1 == 0 {
      let time = numbers[index] == 0 ? -1 : times[index]
      if time < oldest { (victim, oldest) = (index, time) }
    }
    let bit: UInt8 = 1 << UInt8(victim)
    let lost = dirty & bit != 0 ? Self.slot(numbers[victim]) : nil
    dirty &= ~bit
    numbers[victim] = Self.number(slot)
    touch(victim)
    return (Self.registers[victim], lost)
  }

  /// Memory does not have it.
  mutating func setDirty(_ slot: UInt8) {
    if let index = index(of: slot) { dirty |= 1 << UInt8(index) }
  }

  /// The slots that memory does not have, which it is about to get.
  mutating func takeDirty(but kept: UInt8? = nil) -> [(slot: UInt8, register: HostRegister)] {
    guard dirty != 0 else { return [] }
    var taken: [(slot: UInt8, register: HostRegister)] = []
    for index in numbers.indices where dirty >> UInt8(index) & 1 != 0 {
      let slot = Self.slot(numbers[index])
      if slot == kept { continue }
      taken.append((slot, Self.registers[index]))
      dirty &= ~(1 << UInt8(index))
    }
    return taken
  }

  /// Forgets a slot that has changed in memory.
  mutating func drop(_ slot: UInt8) {
    guard let index = index(of: slot) else { return }
    numbers[index] = 0
    dirty &= ~(1 << UInt8(index))
  }

  /// Forgets the temporaries of an instruction that is done.
  mutating func dropTemporaries() {
    drop(Slot.temporary0)
    drop(Slot.temporary1)
  }

  mutating func removeAll() { self = RegisterCache() }

  var contents: Contents {
    var bits: UInt64 = 0
    for index in numbers.indices { bits |= UInt64(numbers[index]) << UInt64(5 * index) }
    return Contents(bits: bits)
  }

  /// What each register holds, in 35 bits.
  struct Contents: Equatable {
    let bits: UInt64

    var isEmpty: Bool { bits == 0 }

    /// The slot in a register by its index.
    @inline(__always)
    func slot(_ index: Int) -> UInt8? {
      let number = UInt8(truncatingIfNeeded: bits >> UInt64(5 * index)) & 31
      return number == 0 ? nil : RegisterCache.slot(number)
    }
  }
}
