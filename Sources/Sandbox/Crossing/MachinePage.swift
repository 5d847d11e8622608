import Buses
import LinuxSystem
import Synchronization

/// What backs a mapping in the shared table, as a number that both processes know.
public enum SharedSource: UInt32, Sendable {
  case ram = 1
  case firmware = 2
  case device = 3
}

/// A mapping that the device process asks the launcher for; the launcher trusts none of it.
public struct SharedMapping: Sendable, Equatable {
  public var guestAddress: UInt64
  public var size: UInt64
  public var source: SharedSource
  public var offset: UInt64
  public var readOnly: Bool

  public init(guestAddress: UInt64, size: UInt64, source: SharedSource, offset: UInt64, readOnly: Bool) {
    self.guestAddress = guestAddress
    self.size = size
    self.source = source
    self.offset = offset
    self.readOnly = readOnly
  }
}

/// The shared memory between the launcher and the device process: one page of machine state, the connections of
/// interrupts and doorbells, the registers that processors access themselves, the mailboxes, then posted interrupts. Beside
/// the map the page says where writes are posted.
///
/// The memory map's slots are written by the device process under a sequence number each (odd while it writes)
/// and read by vCPU threads. `attention` counts what a vCPU must look at before it runs on: map changes and posted events.
// Safety: the mapping outlives every view; all fields that both sides touch are atomics.
public final class MachinePage: @unchecked Sendable {
  /// Slots of the memory map that devices may use.
  public static let slotCount = 48

  struct Slot: ~Copyable {
    let sequence = Atomic<UInt32>(0)
    let source = Atomic<UInt32>(0)
    let guestAddress = Atomic<UInt64>(0)
    let size = Atomic<UInt64>(0)
    let offset = Atomic<UInt64>(0)
    let readOnly = Atomic<Bool>(false)
  }

  struct Header: ~Copyable {
    /// What `Violation.report` records into.
    let violation = Atomic<UInt64>(0)
    /// Events that the device process has sent over the channel.
    let posted = Atomic<UInt32>(0)
    let attention = Atomic<UInt32>(0)
    /// Level-triggered interrupt inputs that are asserted, a bit each, but for sources with shared registers.
    let inputs = Atomic<UInt32>(0)
  }

  /// Addresses at which writes are posted; empty while `count` is 0.
  struct PostedRange: ~Copyable {
    let base = Atomic<UInt64>(0)
    let count = Atomic<UInt64>(0)
    /// The number of the shared registers there, plus one; 0: none.
    let registers = Atomic<UInt32>(0)
    /// Writes are not posted; the range is here for its registers.
    let isWaitedFor = Atomic<Bool>(false)
  }

  /// Ranges of posted writes and shared registers in each address space.
  public static let postedRangeCount = 16
  /// Blocks of shared registers.
  public static let registersCount = 8

  private static let slotsOffset = 64
  private static let rangesOffset = 2048
  private static let orderOffset = 3072
  private static let connectionsOffset = 4096
  private static let registersOffset = connectionsOffset + ConnectionTable.size
  private static let mailboxOffset = registersOffset + registersCount * SharedRegisters.stride
  /// Behind the mailboxes.
  private static func postedOffset(vcpus: Int) -> Int { mailboxOffset + vcpus * MailboxSlot.stride }
  private let mapping: Mapping
  private let header: UnsafeMutablePointer<Header>
  private let slots: UnsafeMutablePointer<Slot>
  /// Of ports, then of memory.
  private let ranges: UnsafeMutablePointer<PostedRange>
  public let mailboxes: [MailboxSlot]
  public let connections: ConnectionTable
  public let registers: [SharedRegisters]
  public let posted: PostedInterrupts
  private let order: UnsafeMutablePointer<PostedOrder>

  /// Bytes of shared memory for a machine.
  public static func size(vcpus: Int) -> Int {
    let end = postedOffset(vcpus: vcpus) + PostedInterrupts.size(processors: vcpus)
    return (end + 4095) & ~4095
  }

  /// Maps the shared memory; the launcher, which makes it, also initialises it.
  public init(_ descriptor: borrowing Descriptor, vcpus: Int, initialize: Bool) throws(SystemError) {
    mapping = try Mapping(sharing: descriptor, count: Self.size(vcpus: vcpus))
    let base = mapping.base
    header = base.assumingMemoryBound(to: Header.self)
    slots = (base + Self.slotsOffset).assumingMemoryBound(to: Slot.self)
    ranges = (base + Self.rangesOffset).assumingMemoryBound(to: PostedRange.self)
    order = (base + Self.orderOffset).assumingMemoryBound(to: PostedOrder.self)
    mailboxes = (0..<vcpus).map { [order] in
      MailboxSlot(base + Self.mailboxOffset + $0 * MailboxSlot.stride, order: order)
    }
    registers = (0..<Self.registersCount).map {
      SharedRegisters(base + Self.registersOffset + $0 * SharedRegisters.stride, index: $0)
    }
    connections = ConnectionTable(base + Self.connectionsOffset)
    posted = PostedInterrupts(base + Self.postedOffset(vcpus: vcpus), processors: vcpus)
    guard initialize else { return }
    header.initialize(to: Header())
    for index in 0..<Self.slotCount { (slots + index).initialize(to: Slot()) }
    for index in 0..<2 * Self.postedRangeCount { (ranges + index).initialize(to: PostedRange()) }
    order.initialize(to: PostedOrder())
    for mailbox in mailboxes { mailbox.initialize() }
  }

  /// Device side, one writer at a time: sets or empties one of the ranges in which writes are posted, or registers are
  /// shared: `registers` is their number.
  public func setPostedRange(
    _ index: Int, ofPorts: Bool, _ range: Range<UInt64>?, registers: Int? = nil, isPosted: Bool = true
  ) {
    guard 0..<Self.postedRangeCount ~= index else { return }
    let entry = ranges + (ofPorts ? index : index + Self.postedRangeCount)
    entry.pointee.count.store(0, ordering: .releasing)
    guard let range else { return }
    entry.pointee.base.store(range.lowerBound, ordering: .relaxed)
    entry.pointee.registers.store(registers.map { UInt32(truncatingIfNeeded: $0) &+ 1 } ?? 0, ordering: .relaxed)
    entry.pointee.isWaitedFor.store(!isPosted, ordering: .relaxed)
    entry.pointee.count.store(UInt64(range.count), ordering: .releasing)
  }

  /// A place at which writes are posted, or registers are shared.
  public struct PostedPlace: Sendable {
    public let isPosted: Bool
    /// The number of the shared registers there, which exist.
    public let registers: Int?
    /// From the start of the range.
    public let offset: UInt64
  }

  /// Launcher side: whether a write of `width` bytes may be posted, or shared registers are there. An answer that a
  /// guest's change of the map has just made wrong does no harm: what answers at the address is found when the write is
  /// performed, and until then a register is where it was.
  @inline(__always)
  public func postedPlace(_ address: UInt64, width: Int, isPort: Bool) -> PostedPlace? {
    let first = isPort ? 0 : Self.postedRangeCount
    for index in first..<first + Self.postedRangeCount {
      let count = ranges[index].count.load(ordering: .acquiring)
      if count == 0 { continue }
      let offset = address &- ranges[index].base.load(ordering: .relaxed)
      if offset < count, UInt64(width) <= count - offset {
        let registers = Int(ranges[index].registers.load(ordering: .relaxed))
        return PostedPlace(
          isPosted: !ranges[index].isWaitedFor.load(ordering: .relaxed),
          registers: 1...Self.registersCount ~= registers ? registers - 1 : nil, offset: offset)
      }
    }
    return nil
  }

  /// Launcher side: whether all posted writes below this number have been performed.
  @inline(__always)
  public func hasPerformed(_ number: UInt64) -> Bool { order.pointee.performed.load(ordering: .acquiring) >= number }

  /// Where a forbidden system call of the device process is recorded.
  public var violationWord: UnsafeMutablePointer<Atomic<UInt64>> {
    // Safety: `violation` is the header's first field.
    UnsafeMutableRawPointer(header).assumingMemoryBound(to: Atomic<UInt64>.self)
  }

  public var violation: UInt64 { header.pointee.violation.load(ordering: .acquiring) }

  /// How many events were sent since power-on, modulo 2^32.
  public var postedEvents: UInt32 { header.pointee.posted.load(ordering: .acquiring) }

  /// Device side: an event has been sent, which vCPUs wait for before they run on.
  public func countEvent() {
    header.pointee.posted.add(1, ordering: .acquiringAndReleasing)
    raiseAttention()
  }

  /// Device side: the level of an interrupt input (0–31).
  public func setInput(_ input: Int, _ asserted: Bool) {
    let bit = UInt32(1) << UInt32(input)
    if asserted {
      header.pointee.inputs.bitwiseOr(bit, ordering: .sequentiallyConsistent)
    } else {
      header.pointee.inputs.bitwiseAnd(~bit, ordering: .sequentiallyConsistent)
    }
  }

  public func isAsserted(_ input: Int) -> Bool {
    header.pointee.inputs.load(ordering: .sequentiallyConsistent) >> UInt32(input) & 1 != 0
      || registers.contains { $0.asserts(input) }
  }

  /// Counts up whenever a vCPU has to look at the map, the connections or an event before it runs on.
  public var attention: UInt32 { header.pointee.attention.load(ordering: .acquiring) }

  public func raiseAttention() { header.pointee.attention.add(1, ordering: .acquiringAndReleasing) }

  /// Device side, one writer at a time: sets or empties a slot.
  public func set(_ index: Int, _ mapping: SharedMapping?) {
    guard 0..<Self.slotCount ~= index else { return }
    let slot = slots + index
    slot.pointee.sequence.add(1, ordering: .acquiringAndReleasing)
    slot.pointee.source.store(mapping?.source.rawValue ?? 0, ordering: .relaxed)
    slot.pointee.guestAddress.store(mapping?.guestAddress ?? 0, ordering: .relaxed)
    slot.pointee.size.store(mapping?.size ?? 0, ordering: .relaxed)
    slot.pointee.offset.store(mapping?.offset ?? 0, ordering: .relaxed)
    slot.pointee.readOnly.store(mapping?.readOnly ?? false, ordering: .relaxed)
    slot.pointee.sequence.add(1, ordering: .acquiringAndReleasing)
    raiseAttention()
  }

  /// Launcher side: one consistent copy of a slot, nil where it is empty, or where the other side keeps changing it.
  public func get(_ index: Int) -> SharedMapping? {
    let slot = slots + index
    for _ in 0..<1000 {
      let before = slot.pointee.sequence.load(ordering: .acquiring)
      let source = slot.pointee.source.load(ordering: .relaxed)
      let guestAddress = slot.pointee.guestAddress.load(ordering: .relaxed)
      let size = slot.pointee.size.load(ordering: .relaxed)
      let offset = slot.pointee.offset.load(ordering: .relaxed)
      let readOnly = slot.pointee.readOnly.load(ordering: .relaxed)
      atomicMemoryFence(ordering: .acquiring)
      guard before & 1 == 0, slot.pointee.sequence.load(ordering: .relaxed) == before else {
        spinHint()
        continue
      }
      guard let source = SharedSource(rawValue: source) else { return nil }
      return SharedMapping(
        guestAddress: guestAddress, size: size, source: source, offset: offset, readOnly: readOnly)
    }
    return nil
  }
}
