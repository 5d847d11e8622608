/// Tables of one cluster each, in memory: the L2 tables or refcount blocks that were used last.
///
/// A table that was changed stays until it has been written. What was changed is kept by the range of its bytes.
struct TableCache: ~Copyable {
  private struct Slot {
    /// Where the table is in the file; 0: the slot is free.
    var offset: UInt64 = 0
    var memory: AlignedBuffer?
    /// Bytes that differ from the file.
    var dirty = 0..<0
    /// Nothing of it is in the file yet.
    var isNew = false
    /// Being written, or in use by a change.
    var holds = 0
    /// Used since the search for a victim came by.
    var isRecent = false
  }

  private var slots: [Slot]
  private var index: [UInt64: Int] = [:]
  private var hand = 0
  let tableSize: Int
  /// Changes when a table leaves: what was read from the file before may be old.
  private(set) var generation: UInt64 = 0
  private(set) var dirtyCount = 0

  init(tableSize: Int, capacity: Int) {
    self.tableSize = tableSize
    slots = Array(repeating: Slot(), count: capacity)
  }

  /// The slot of the table at this offset.
  mutating func find(_ offset: UInt64) -> Int? {
    guard let slot = index[offset] else { return nil }
    slots[slot].isRecent = true
    return slot
  }

  /// A slot for a table that is not there yet, its content to be filled in; nil: all others have to be written first.
  mutating func insert(_ offset: UInt64) -> Int? {
    // Each is passed twice: once for its recent use.
    for _ in 0..<2 * slots.count {
      let candidate = hand
      hand = (hand + 1) % slots.count
      if slots[candidate].offset != 0 {
        guard slots[candidate].dirty.isEmpty, slots[candidate].holds == 0 else { continue }
        if slots[candidate].isRecent {
          slots[candidate].isRecent = false
          continue
        }
        index[slots[candidate].offset] = nil
        generation &+= 1
      }
      if slots[candidate].memory == nil { slots[candidate].memory = AlignedBuffer(count: tableSize) }
      slots[candidate].offset = offset
      slots[candidate].isNew = false
      slots[candidate].isRecent = true
      index[offset] = candidate
      return candidate
    }
    return nil
  }

  /// Drops a table, changed or not: its cluster is no longer one.
  mutating func remove(_ offset: UInt64) {
    guard let slot = index.removeValue(forKey: offset) else { return }
    if !slots[slot].dirty.isEmpty { dirtyCount -= 1 }
    slots[slot].dirty = 0..<0
    slots[slot].offset = 0
    generation &+= 1
  }

  func offset(of slot: Int) -> UInt64 { slots[slot].offset }

  // Safety: the memory lives as long as the cache; it is only touched under the lock that guards the cache.
  func bytes(_ slot: Int) -> UnsafeMutableRawBufferPointer {
    slots[slot].memory?.bytes ?? UnsafeMutableRawBufferPointer(start: nil, count: 0)
  }

  func isNew(_ slot: Int) -> Bool { slots[slot].isNew }

  /// Says that these bytes have changed.
  mutating func touch(_ slot: Int, _ range: Range<Int>) {
    let old = slots[slot].dirty
    if old.isEmpty { dirtyCount += 1 }
    slots[slot].dirty =
      old.isEmpty ? range : min(old.lowerBound, range.lowerBound)..<max(old.upperBound, range.upperBound)
  }

  /// Says that the table is not in the file yet.
  mutating func touchAll(_ slot: Int, isNew: Bool) {
    touch(slot, 0..<tableSize)
    slots[slot].isNew = isNew
  }

  mutating func hold(_ slot: Int) { slots[slot].holds += 1 }
  mutating func release(_ slot: Int) { slots[slot].holds -= 1 }

  /// Takes what has to be written of a table, which counts as written from now on and is held.
  mutating func takeDirty(_ slot: Int) -> (range: Range<Int>, isNew: Bool)? {
    let result = (slots[slot].dirty, slots[slot].isNew)
    guard !result.0.isEmpty else { return nil }
    slots[slot].dirty = 0..<0
    slots[slot].isNew = false
    slots[slot].holds += 1
    dirtyCount -= 1
    return result
  }

  var slotCount: Int { slots.count }
}

extension UnsafeMutableRawBufferPointer {
  /// Entry `index` of a table of big-endian 64-bit numbers.
  func entry(_ index: Int) -> UInt64 { UInt64(bigEndian: loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)) }

  func setEntry(_ index: Int, _ value: UInt64) {
    storeBytes(of: value.bigEndian, toByteOffset: index * 8, as: UInt64.self)
  }
}
