import GuestMemory
import Synchronization

/// A split virtqueue (virtio 1.2 §2.7) from the device's side.
struct SplitRing {
  private enum Offset {
    /// Of the available and used rings (§2.7.6, §2.7.8).
    static let flags = 0
    static let index = 2
    static let ring = 4
  }
  private static let noNotify: UInt16 = 1
  private static let noInterrupt: UInt16 = 1

  private let table: RingMemory
  private let available: RingMemory
  private let used: RingMemory
  private let size: Int
  private let mask: Int
  private let usesEventIndex: Bool
  private let allowsIndirect: Bool
  /// Index of the next available buffer to take.
  private var nextAvailable: UInt16 = 0
  /// The used ring's index as the driver knows it.
  private var usedIndex: UInt16 = 0
  /// Used elements that are written, but not yet published.
  private var unpublished: UInt16 = 0

  init?(_ memory: GuestMemory, _ layout: VirtqueueLayout, _ features: VirtioFeatures) {
    let size = Int(layout.size)
    // §2.7: a power of two, at most 32768; §2.7: the parts' alignment.
    guard size > 0, size.nonzeroBitCount == 1, size <= 32768,
      let table = RingMemory(memory, layout.descriptors, count: size * RingDescriptor.size, alignment: 16),
      let available = RingMemory(memory, layout.driver, count: 6 + 2 * size, alignment: 2),
      let used = RingMemory(memory, layout.device, count: 6 + 8 * size, alignment: 4)
    else { return nil }
    self.table = table
    self.available = available
    self.used = used
    self.size = size
    mask = size - 1
    usesEventIndex = features.contains(.eventIndex)
    allowsIndirect = features.contains(.indirectDescriptors)
  }

  var hasAvailable: Bool { available.load16(Offset.index) != nextAvailable }

  /// Buffers that the driver has made available and that are not taken yet; at most the ring's size unless it is broken.
  private func waiting() -> Int { Int(available.load16(Offset.index) &- nextAvailable) }

  /// Takes the next chain into `chain`. nil: there is none.
  mutating func take(
    _ memory: GuestMemory, into chain: inout ChainBuilder, canTake: Bool
  ) throws(VirtqueueFault) -> BufferToken? {
    let waiting = waiting()
    guard waiting > 0 else { return nil }
    guard waiting <= size, canTake else { throw .index }
    let head = available.load16(Offset.ring + 2 * (Int(nextAvailable) & mask))
    nextAvailable &+= 1
    chain.clear()
    try walk(memory, table, size, head, allowsTable: allowsIndirect, &chain)
    return BufferToken(id: head, descriptors: 1)
  }

  /// Follows a chain through a table of `count` descriptors.
  private func walk(
    _ memory: GuestMemory, _ table: RingMemory, _ count: Int, _ first: UInt16, allowsTable: Bool,
    _ chain: inout ChainBuilder
  ) throws(VirtqueueFault) {
    var index = Int(first)
    for _ in 0..<count {
      guard index < count else { throw .descriptor }
      let descriptor = table.descriptor(index * RingDescriptor.size)
      let flags = descriptor.splitFlags
      if flags & DescriptorFlag.indirect != 0 {
        guard allowsTable, flags & DescriptorFlag.next == 0 else { throw .indirect }
        let (inner, entries) = try IndirectTable.open(memory, descriptor)
        return try walk(memory, inner, entries, 0, allowsTable: false, &chain)
      }
      if let fault = chain.add(memory, descriptor, isWritable: flags & DescriptorFlag.write != 0) { throw fault }
      guard flags & DescriptorFlag.next != 0 else { return }
      index = Int(descriptor.next)
    }
    throw .loop
  }

  /// Gives a buffer back; the driver sees it when it is published.
  @inline(__always)
  mutating func put(_ token: BufferToken, written: UInt32) {
    let offset = Offset.ring + 8 * (Int(usedIndex &+ unpublished) & mask)
    used.store32(UInt32(token.id), offset)
    used.store32(written, offset + 4)
    unpublished &+= 1
  }

  /// Shows the driver what was given back. True: it wants an interrupt (§2.7.7, §2.7.10).
  mutating func publish() -> Bool {
    guard unpublished > 0 else { return false }
    let old = usedIndex
    usedIndex &+= unpublished
    unpublished = 0
    used.store16(usedIndex, Offset.index)
    // The index must be seen before the driver's wish is looked at.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    guard usesEventIndex else { return available.load16(Offset.flags) & Self.noInterrupt == 0 }
    let event = available.load16(Offset.ring + 2 * size)
    return usedIndex &- event &- 1 < usedIndex &- old
  }

  /// Asks the driver to notify of new buffers, or lets it know that it need not. When it has been asked, look again.
  mutating func setNotifications(_ enabled: Bool) {
    if usesEventIndex {
      // Where it is not moved on, the driver passes it once and then is silent (§2.7.10).
      if enabled { used.store16(nextAvailable, Offset.ring + 8 * size) }
    } else {
      used.store16(enabled ? 0 : Self.noNotify, Offset.flags)
    }
    if enabled { atomicMemoryFence(ordering: .sequentiallyConsistent) }
  }
}

/// A table of descriptors that a descriptor refers to (virtio 1.2 §2.7.5.3, §2.8.8).
enum IndirectTable {
  static func open(
    _ memory: GuestMemory, _ descriptor: RingDescriptor
  ) throws(VirtqueueFault) -> (RingMemory, entries: Int) {
    let length = Int(descriptor.length)
    let entries = length / RingDescriptor.size
    guard length % RingDescriptor.size == 0, 1...ChainBuilder.capacity ~= entries else { throw .length }
    guard let table = RingMemory(memory, descriptor.address, count: length, alignment: 1) else { throw .address }
    return (table, entries)
  }
}
