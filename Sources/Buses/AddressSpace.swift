import Synchronization

/// Two claims on the same addresses, or one on addresses that do not exist.
public struct BusConflict: Error, Equatable, Sendable, CustomStringConvertible {
  public let space: String
  public let base: UInt64
  public let count: UInt64

  public var description: String {
    "\(space) 0x\(String(base, radix: 16))+0x\(String(count, radix: 16)) is already claimed or does not exist"
  }
}

/// Is told where writes are posted, and where processors reach registers themselves.
public protocol PostedRanges: AnyObject, Sendable {
  /// Reserves a slot for a range with `registers`, from `makeRegisters`, or one whose writes are posted; nil when there is
  /// none left, and then the device performs all accesses and writes are waited for.
  func reserve(_ registers: SharedRegisters?, isPosted: Bool) -> Int?
  /// Registers that processors reach; nil when there are no more.
  func makeRegisters() -> SharedRegisters?
  /// Sets a reserved slot, or empties it.
  func set(_ slot: Int, _ range: Range<UInt64>?)
}

/// The port or memory addresses of a machine and who answers each.
///
/// Lookup takes no lock: a slot, once handed out, stays where it is, and moving or disabling it changes two
/// atomic words. A guest that moves a BAR while another vCPU uses it may reach the device at a wrong offset,
/// as on a real bus; devices check offsets. Claims made earlier win where ranges overlap.
public final class AddressSpace: Sendable {
  /// A claim on a range that can be moved and disabled.
  public struct Claim: Sendable, Equatable {
    @usableFromInline let index: Int
  }

  @usableFromInline
  struct Slot: ~Copyable {
    @usableFromInline let base = Atomic<UInt64>(0)
    /// Bytes; 0 while disabled.
    @usableFromInline let count = Atomic<UInt64>(0)
    // Safety: `targets` keeps a strong reference as long as the space lives.
    @usableFromInline var target: Unmanaged<BusTarget>
    @usableFromInline var region: Int
    /// The claim's slot in `postedRanges`.
    let posted: Int?

    init(_ target: BusTarget, _ region: Int, posted: Int?) {
      self.target = .passUnretained(target)
      self.region = region
      self.posted = posted
    }
  }

  public let name: String
  /// Addresses at and above the limit do not exist.
  public let limit: UInt64
  private static let capacity = 256
  // Safety: allocated once for `capacity` slots; the first `used` are initialised and never move.
  @usableFromInline nonisolated(unsafe) let slots: UnsafeMutablePointer<Slot>
  @usableFromInline let used = Atomic<Int>(0)
  private let targets = Mutex<[BusTarget]>([])
  private let postedRanges: (any PostedRanges)?

  public init(name: String, limit: UInt64, postedRanges: (any PostedRanges)? = nil) {
    self.name = name
    self.limit = limit
    self.postedRanges = postedRanges
    slots = .allocate(capacity: Self.capacity)
  }

  /// The 64 Ki I/O ports.
  public static func ports(postedRanges: (any PostedRanges)? = nil) -> AddressSpace {
    AddressSpace(name: "port", limit: 0x1_0000, postedRanges: postedRanges)
  }
  /// Guest physical addresses that are not RAM.
  public static func mmio(postedRanges: (any PostedRanges)? = nil) -> AddressSpace {
    AddressSpace(name: "memory", limit: 1 << 52, postedRanges: postedRanges)
  }

  deinit {
    for index in 0..<used.load(ordering: .relaxed) { (slots + index).deinitialize(count: 1) }
    slots.deallocate()
  }

  /// Claims a fixed range for the life of the machine; it is an error if any enabled claim overlaps it or if it
  /// does not fit below the limit.
  ///
  /// Posted writes are performed in their order, before any access that a processor begins later, but processors do not
  /// wait for them; doorbells overtake them. The range's writes must change nothing that a processor sees without an
  /// access or an interrupt: no memory map, no place of a doorbell, no event of the machine (PCI 3.0 §3.2.5).
  @discardableResult
  public func claim(
    _ base: UInt64, _ count: UInt64, for target: BusTarget, region: Int = 0, isPosted: Bool = false,
    registers: SharedRegisters? = nil
  ) throws(BusConflict) -> Claim {
    guard count > 0, base < limit, count <= limit - base else {
      throw BusConflict(space: name, base: base, count: count)
    }
    for index in 0..<used.load(ordering: .acquiring) {
      let start = slots[index].base.load(ordering: .relaxed)
      let size = slots[index].count.load(ordering: .relaxed)
      // Neither sum overflows: `place` keeps every enabled claim below the limit.
      if size > 0, base < start + size, start < base + count {
        throw BusConflict(space: name, base: base, count: count)
      }
    }
    return try claimMovable(target, region: region, at: base, count, isPosted: isPosted, registers: registers)
  }

  /// Claims a range that starts where `place` puts it, such as a BAR. Without a base it is disabled.
  ///
  /// Processors that reach `registers` may do so before writes of other ranges are performed that were posted earlier. No
  /// posted write of another range may change them, and of this range only those for which they wait.
  public func claimMovable(
    _ target: BusTarget, region: Int = 0, at base: UInt64? = nil, _ count: UInt64 = 0, isPosted: Bool = false,
    registers: SharedRegisters? = nil
  ) throws(BusConflict) -> Claim {
    let index = targets.withLock { targets -> Int? in
      let index = used.load(ordering: .relaxed)
      guard index < Self.capacity else { return nil }
      targets.append(target)
      let isKnown = isPosted || registers != nil
      (slots + index).initialize(
        to: Slot(target, region, posted: isKnown ? postedRanges?.reserve(registers, isPosted: isPosted) : nil))
      used.store(index + 1, ordering: .releasing)
      return index
    }
    guard let index else { throw BusConflict(space: name, base: base ?? 0, count: count) }
    let claim = Claim(index: index)
    place(claim, at: base, count)
    return claim
  }

  /// Registers for a claim in this space, which processors reach if they can at all.
  public func makeRegisters(_ declared: [SharedRegister]) -> SharedRegisters {
    let registers = postedRanges?.makeRegisters() ?? SharedRegisters()
    registers.declare(declared)
    return registers
  }

  /// Moves a claim, or disables it when `base` is nil. A range that does not fit below the limit is disabled.
  public func place(_ claim: Claim, at base: UInt64?, _ count: UInt64) {
    slots[claim.index].count.store(0, ordering: .relaxed)
    var range: Range<UInt64>?
    if let base, count > 0, base < limit, count <= limit - base {
      slots[claim.index].base.store(base, ordering: .relaxed)
      slots[claim.index].count.store(count, ordering: .releasing)
      range = base..<base + count
    }
    if let posted = slots[claim.index].posted { postedRanges?.set(posted, range) }
  }

  @inlinable
  func find(_ address: UInt64) -> (Int, UInt64)? {
    for index in 0..<used.load(ordering: .acquiring) {
      let offset = address &- slots[index].base.load(ordering: .relaxed)
      if offset < slots[index].count.load(ordering: .relaxed) { return (index, offset) }
    }
    return nil
  }

  /// Whether some device answers at the address.
  public func answers(_ address: UInt64) -> Bool { find(address) != nil }

  /// Reads; an address nobody claims reads as all ones.
  @inlinable
  public func read(_ address: UInt64, _ width: AccessWidth) -> UInt64 {
    guard let (index, offset) = find(address) else { return width.mask }
    let region = slots[index].region
    return slots[index].target._withUnsafeGuaranteedRef { $0.read(region: region, offset: offset, width: width) }
      & width.mask
  }

  /// Writes; an address nobody claims takes it and does nothing.
  @inlinable
  public func write(_ address: UInt64, _ width: AccessWidth, _ value: UInt64) {
    guard let (index, offset) = find(address) else { return }
    let region = slots[index].region
    slots[index].target._withUnsafeGuaranteedRef {
      $0.write(region: region, offset: offset, width: width, value: value & width.mask)
    }
  }

  /// Reads one address `buffer.count / width` times.
  @inlinable
  public func readString(_ address: UInt64, _ width: AccessWidth, into buffer: UnsafeMutableRawBufferPointer) {
    guard let (index, offset) = find(address) else {
      buffer.initializeMemory(as: UInt8.self, repeating: 0xFF)
      return
    }
    let region = slots[index].region
    slots[index].target._withUnsafeGuaranteedRef {
      $0.readString(region: region, offset: offset, width: width, into: buffer)
    }
  }

  /// Writes one address `buffer.count / width` times.
  @inlinable
  public func writeString(_ address: UInt64, _ width: AccessWidth, from buffer: UnsafeRawBufferPointer) {
    guard let (index, offset) = find(address) else { return }
    let region = slots[index].region
    slots[index].target._withUnsafeGuaranteedRef {
      $0.writeString(region: region, offset: offset, width: width, from: buffer)
    }
  }
}
