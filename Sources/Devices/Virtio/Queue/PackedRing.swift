import GuestMemory
import Synchronization

/// A packed virtqueue (virtio 1.2 §2.8) from the device's side.
struct PackedRing {
  /// Event suppression structures (§2.8.10): an offset with the wrap counter in bit 15, then flags.
  private enum Event {
    static let position = 0
    static let flags = 2
    static let enable: UInt16 = 0
    static let disable: UInt16 = 1
    static let descriptor: UInt16 = 2
  }
  private static let flagsOffset = 14

  private let ring: RingMemory
  private let driver: RingMemory
  private let device: RingMemory
  private let size: Int
  private let usesEventIndex: Bool
  private let allowsIndirect: Bool
  /// The next descriptor that the driver makes available, and the wrap counter of this lap (§2.8.1).
  private var nextAvailable = 0
  private var availableWrap = true
  /// Where the next used descriptor goes.
  private var nextUsed = 0
  private var usedWrap = true
  /// Descriptors used since the last `publish`.
  private var unpublished = 0
  /// Offset and flags of the first of them, which are stored last: a driver that sees one sees them all, as the buffers
  /// of one frame need it (§5.1.6.4.1).
  private var first: (offset: Int, flags: UInt16) = (0, 0)

  init?(_ memory: GuestMemory, _ layout: VirtqueueLayout, _ features: VirtioFeatures) {
    let size = Int(layout.size)
    // §2.8: at most 32768, not necessarily a power of two; §2.8.10: the structures' alignment.
    guard 1...32768 ~= size,
      let ring = RingMemory(memory, layout.descriptors, count: size * RingDescriptor.size, alignment: 16),
      let driver = RingMemory(memory, layout.driver, count: 4, alignment: 4),
      let device = RingMemory(memory, layout.device, count: 4, alignment: 4)
    else { return nil }
    self.ring = ring
    self.driver = driver
    self.device = device
    self.size = size
    usesEventIndex = features.contains(.eventIndex)
    allowsIndirect = features.contains(.indirectDescriptors)
  }

  /// A descriptor is available when its AVAIL bit is the wrap counter and its USED bit is not (§2.8.1).
  private func isAvailable(_ flags: UInt16) -> Bool {
    (flags & DescriptorFlag.available != 0) == availableWrap && (flags & DescriptorFlag.used != 0) != availableWrap
  }

  var hasAvailable: Bool {
    isAvailable(ring.load16(nextAvailable * RingDescriptor.size + Self.flagsOffset))
  }

  /// Takes the next chain into `chain`. nil: there is none.
  mutating func take(
    _ memory: GuestMemory, into chain: inout ChainBuilder, canTake: Bool
  ) throws(VirtqueueFault) -> BufferToken? {
    // The flags of a chain's first descriptor are written last, so the rest may be read once they are seen (§2.8.14).
    guard hasAvailable else { return nil }
    guard canTake else { throw .index }
    chain.clear()
    var index = nextAvailable
    for count in 1...size {
      let descriptor = ring.descriptor(index * RingDescriptor.size)
      let flags = descriptor.packedFlags
      index = index + 1 == size ? 0 : index + 1
      if flags & DescriptorFlag.indirect != 0 {
        // §2.8.8: alone, never chained.
        guard allowsIndirect, count == 1, flags & DescriptorFlag.next == 0 else { throw .indirect }
        let (inner, entries) = try IndirectTable.open(memory, descriptor)
        for entry in 0..<entries {
          let element = inner.descriptor(entry * RingDescriptor.size)
          guard element.packedFlags & DescriptorFlag.indirect == 0 else { throw .indirect }
          // In a table only the WRITE flag counts: descriptors follow each other.
          let isWritable = element.packedFlags & DescriptorFlag.write != 0
          if let fault = chain.add(memory, element, isWritable: isWritable) { throw fault }
        }
      } else if let fault = chain.add(memory, descriptor, isWritable: flags & DescriptorFlag.write != 0) {
        throw fault
      }
      guard flags & DescriptorFlag.next == 0 else { continue }
      nextAvailable += count
      if nextAvailable >= size {
        nextAvailable -= size
        availableWrap.toggle()
      }
      return BufferToken(id: descriptor.bufferID, descriptors: UInt16(truncatingIfNeeded: count))
    }
    throw .loop
  }

  /// Gives a buffer back: one used descriptor, which stands for all of the chain (§2.8.7).
  @inline(__always)
  mutating func put(_ token: BufferToken, written: UInt32) {
    let offset = nextUsed * RingDescriptor.size
    var flags: UInt16 = usedWrap ? DescriptorFlag.available | DescriptorFlag.used : 0
    if written > 0 { flags |= DescriptorFlag.write }
    ring.store32(written, offset + 8)
    ring.store16(token.id, offset + 12)
    if unpublished == 0 {
      first = (offset + Self.flagsOffset, flags)
    } else {
      ring.store16(flags, offset + Self.flagsOffset)
    }
    nextUsed += Int(token.descriptors)
    if nextUsed >= size {
      nextUsed -= size
      usedWrap.toggle()
    }
    unpublished += Int(token.descriptors)
  }

  /// True: the driver wants an interrupt for what was given back (§2.8.10).
  mutating func publish() -> Bool {
    guard unpublished > 0 else { return false }
    ring.store16(first.flags, first.offset)
    let start = nextUsed - unpublished
    unpublished = 0
    // The used descriptors must be seen before the driver's wish is looked at.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    switch driver.load16(Event.flags) & 3 {
    case Event.disable: return false
    case Event.descriptor where usesEventIndex:
      let position = driver.load16(Event.position)
      var event = Int(position & 0x7FFF)
      // Of the lap before.
      if (position & 0x8000 != 0) != usedWrap { event -= size }
      return start <= event && event < nextUsed
    default: return true
    }
  }

  /// Asks the driver to notify of new buffers, or lets it know that it need not. When it has been asked, look again.
  mutating func setNotifications(_ enabled: Bool) {
    guard enabled else { return device.store16(Event.disable, Event.flags) }
    if usesEventIndex {
      device.store16(UInt16(truncatingIfNeeded: nextAvailable) | (availableWrap ? 0x8000 : 0), Event.position)
    }
    device.store16(usesEventIndex ? Event.descriptor : Event.enable, Event.flags)
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }
}
