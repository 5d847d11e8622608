import LinuxSystem
import Synchronization

/// Tables that are on their way to the file: copies, in the order in which they are written.
///
/// 1. new tables, which nothing refers to yet;
/// 2. refcounts that have grown, and new refcount blocks;
/// 3. L2 entries and new L2 tables;
/// 4. refcounts that have shrunk.
///
/// Whatever is written up to some point, no entry refers to a cluster with a refcount that is too low, so a crash leaves
/// at most clusters that nothing refers to.
// Safety: it belongs to the one thread that commits.
final class QCOW2Stage: @unchecked Sendable {
  struct Piece {
    let offset: UInt64
    let bytes: AlignedBuffer
    /// Table and slot that it is from.
    let slot: Int
    let range: Range<Int>
    var buffer: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(rebasing: bytes.bytes[..<range.count]) }
  }

  var newL2: [Piece] = []
  var newBlocks: [Piece] = []
  var raised: [Piece] = []
  var blockPointers: [Int] = []
  var l2: [Piece] = []
  var tablePointers: [Int] = []
  var lowered: [Piece] = []
  /// Values of the L1 table's and the refcount table's entries.
  var values: [UInt64] = []
  var pointerValues: [UInt64] = []
  var needsDataBarrier = false
  /// More frees are waiting than there was room for.
  var hasMore = false
  /// Clusters that have one reference less than before.
  var freed: [UInt64] = []
  /// Tables among them.
  var freedTables: [UInt64] = []
  /// How far the writing has come: 1 to 4.
  var phase = 0

  var isEmpty: Bool {
    newL2.isEmpty && newBlocks.isEmpty && raised.isEmpty && blockPointers.isEmpty && l2.isEmpty && tablePointers.isEmpty
      && lowered.isEmpty
  }
}

extension QCOW2Metadata {
  var hasChanges: Bool {
    l2.dirtyCount > 0 || refcounts.dirtyCount > 0 || !pendingFrees.isEmpty || !dirtyL1.isEmpty
      || !dirtyRefcountTable.isEmpty
  }

  /// Frees that one stage takes.
  private static let stageLimit = 4096

  /// Copies what has to be written, which counts as written from now on.
  mutating func stage(alignment: Int) throws(LayerError) -> QCOW2Stage {
    let stage = QCOW2Stage()
    guard hasChanges else { return stage }
    for slot in 0..<l2.slotCount {
      let offset = l2.offset(of: slot)
      guard let (piece, isNew) = Self.take(&l2, slot, offset, alignment) else { continue }
      if isNew { stage.newL2.append(piece) } else { stage.l2.append(piece) }
    }
    for slot in 0..<refcounts.slotCount {
      let offset = refcounts.offset(of: slot)
      guard let (piece, isNew) = Self.take(&refcounts, slot, offset, alignment) else { continue }
      if isNew { stage.newBlocks.append(piece) } else { stage.raised.append(piece) }
    }
    stage.blockPointers = Array(dirtyRefcountTable)
    stage.pointerValues = stage.blockPointers.map { refcountTable[$0] }
    stage.tablePointers = Array(dirtyL1)
    stage.values = stage.tablePointers.map { l1[$0] }
    dirtyRefcountTable = []
    dirtyL1 = []
    stage.needsDataBarrier = needsDataBarrier
    needsDataBarrier = false
    do throws(LayerError) {
      try lower(stage)
    } catch {
      restore(stage)
      throw error
    }
    for slot in 0..<refcounts.slotCount {
      let offset = refcounts.offset(of: slot)
      if let (piece, _) = Self.take(&refcounts, slot, offset, alignment) { stage.lowered.append(piece) }
    }
    return stage
  }

  private static func take(_ cache: inout TableCache, _ slot: Int, _ offset: UInt64, _ alignment: Int)
    -> (QCOW2Stage.Piece, isNew: Bool)?
  {
    guard offset != 0, let (dirty, isNew) = cache.takeDirty(slot) else { return nil }
    let mask = min(max(alignment, 512), cache.tableSize) - 1
    let range = dirty.lowerBound & ~mask..<(dirty.upperBound + mask) & ~mask
    let copy = AlignedBuffer(count: range.count)
    copy.bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: cache.bytes(slot)[range]))
    return (
      QCOW2Stage.Piece(offset: offset + UInt64(range.lowerBound), bytes: copy, slot: slot, range: range), isNew
    )
  }

  /// Takes references away from clusters that are waiting for it.
  private mutating func lower(_ stage: QCOW2Stage) throws(LayerError) {
    var done = 0
    defer {
      pendingFrees.removeFirst(done)
      stage.hasMore = !pendingFrees.isEmpty
    }
    while done < min(pendingFrees.count, Self.stageLimit) {
      let cluster = pendingFrees[done]
      let (number, index) = place(cluster)
      guard number < refcountTable.count, refcountTable[number] & Self.tableMask != 0 else {
        done += 1
        throw .corrupt("data at \(hex(offset(cluster))) has no refcount")
      }
      let slot: Int
      do throws(MetadataFault) {
        slot = try refcountSlot(block: number)
      } catch {
        if case .failed(let error) = error { throw error }
        return
      }
      let old = block(slot).value(index)
      done += 1
      guard old > 0 else { throw .corrupt("data at \(hex(offset(cluster))) has the refcount 0") }
      setRefcount(slot, index, old - 1)
      stage.freed.append(cluster)
      guard old == 1 else { continue }
      quarantine.insert(cluster)
      if owned.remove(cluster) != nil { stage.freedTables.append(cluster) }
      l2.remove(offset(cluster))
    }
  }

  /// The stage is in the file.
  mutating func finish(_ stage: QCOW2Stage) {
    for piece in stage.newL2 { l2.release(piece.slot) }
    for piece in stage.l2 { l2.release(piece.slot) }
    for piece in stage.newBlocks { refcounts.release(piece.slot) }
    for piece in stage.raised { refcounts.release(piece.slot) }
    for piece in stage.lowered { refcounts.release(piece.slot) }
  }

  /// The stage is not in the file, or not all of it: everything is to be written again.
  mutating func restore(_ stage: QCOW2Stage) {
    for cluster in stage.freed { unfree(cluster) }
    owned.formUnion(stage.freedTables)
    for piece in stage.newL2 {
      // Once something may refer to it, it is a table as others are.
      if stage.phase < 3 { l2.touchAll(piece.slot, isNew: true) } else { l2.touch(piece.slot, piece.range) }
    }
    for piece in stage.newBlocks {
      if stage.phase < 2 {
        refcounts.touchAll(piece.slot, isNew: true)
      } else {
        refcounts.touch(piece.slot, piece.range)
      }
    }
    for piece in stage.l2 { l2.touch(piece.slot, piece.range) }
    for piece in stage.raised { refcounts.touch(piece.slot, piece.range) }
    for piece in stage.lowered { refcounts.touch(piece.slot, piece.range) }
    dirtyRefcountTable.formUnion(stage.blockPointers)
    dirtyL1.formUnion(stage.tablePointers)
    if stage.needsDataBarrier { needsDataBarrier = true }
    finish(stage)
  }
}

extension QCOW2Image {
  /// Writes changed tables in their order; with `sync` all that was written before is on stable storage at the end.
  func commit(sync: Bool) throws(LayerError) {
    guard !isReadOnly else { return }
    let freed = try committing.withLock { state throws(LayerError) -> Set<UInt64> in
      var hasMore = true
      while hasMore {
        let alignment = file.alignment
        let stage = try metadata.withLock { metadata throws(LayerError) in try metadata.stage(alignment: alignment) }
        guard !stage.isEmpty else { break }
        do throws(LayerError) {
          try markDirty(&state)
          try write(stage)
        } catch {
          metadata.withLock { $0.restore(stage) }
          throw error
        }
        metadata.withLock { $0.finish(stage) }
        hasMore = stage.hasMore
      }
      return metadata.withLock { $0.quarantine }
    }
    guard sync else { return }
    try barrier()
    try reuse(freed)
  }

  /// Lets clusters be used again that are free on stable storage, too.
  private func reuse(_ clusters: Set<UInt64>) throws(LayerError) {
    guard !clusters.isEmpty else { return }
    var start: UInt64 = 0
    var end: UInt64 = 0
    for cluster in clusters.sorted() + [.max] {
      if cluster != end {
        // The host has its room back; where it cannot take it nothing is lost.
        if end > start { try? file.discard(at: start << UInt64(bits), (end - start) << UInt64(bits)) }
        start = cluster
      }
      end = cluster &+ 1
    }
    metadata.withLock { $0.endQuarantine(clusters) }
  }

  private func write(_ stage: QCOW2Stage) throws(LayerError) {
    let isVersion3 = header.version >= 3
    stage.phase = 1
    for piece in stage.newL2 { try file.write([piece.buffer], at: piece.offset) }
    for piece in stage.newBlocks { try file.write([piece.buffer], at: piece.offset) }
    if stage.needsDataBarrier || !stage.newL2.isEmpty || !stage.newBlocks.isEmpty { try barrier() }
    stage.phase = 2
    for piece in stage.raised { try file.write([piece.buffer], at: piece.offset) }
    let table = metadata.withLock { $0.refcountTableOffset }
    try writeEntries(stage.blockPointers, stage.pointerValues, at: table)
    // In version 3 the dirty bit says that refcounts are to be checked, but there has to be a block for each; before it
    // their order has to hold.
    if !stage.blockPointers.isEmpty || !isVersion3 && !stage.raised.isEmpty { try barrier() }
    stage.phase = 3
    for piece in stage.l2 { try file.write([piece.buffer], at: piece.offset) }
    try writeEntries(stage.tablePointers, stage.values, at: header.l1Offset)
    if !isVersion3, !stage.lowered.isEmpty { try barrier() }
    stage.phase = 4
    for piece in stage.lowered { try file.write([piece.buffer], at: piece.offset) }
  }

  private func writeEntries(_ indices: [Int], _ values: [UInt64], at table: UInt64) throws(LayerError) {
    for (index, value) in zip(indices, values) { try writeLongs([value], at: table + UInt64(index) * 8) }
  }

  /// Writes big-endian numbers.
  func writeLongs(_ values: [UInt64], at offset: UInt64) throws(LayerError) {
    let buffer = AlignedBuffer(count: values.count * 8)
    for (index, value) in values.enumerated() { buffer.bytes.setEntry(index, value) }
    try file.write([UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<(values.count * 8)])], at: offset)
  }

  func barrier() throws(LayerError) { try file.flush() }

  /// Says in the header that refcounts may be wrong, before any is.
  func markDirty(_ state: inout CommitState) throws(LayerError) {
    guard header.version >= 3, !state.features.contains(.dirty) else { return }
    try writeFeatures(state.features.union(.dirty), &state)
    try barrier()
  }

  private func writeFeatures(_ features: QCOW2Header.Incompatible, _ state: inout CommitState) throws(LayerError) {
    // Unknown autoclear features do not hold any more once the image is written to.
    try writeLongs([features.rawValue, header.compatible, 0], at: QCOW2Header.featureFields)
    state.features = features
  }

  /// Autoclear features that vmrun does not keep up are taken away before the first write.
  func clearAutoclear() throws(LayerError) {
    guard header.version >= 3, header.autoclear != 0 else { return }
    try committing.withLock { state throws(LayerError) in try writeFeatures(state.features, &state) }
  }

  /// The image takes no writes from now on, here and in any other program.
  func markCorrupt() {
    metadata.withLock { $0.isCorrupt = true }
    guard header.version >= 3 else { return }
    committing.withLock { state in try? writeFeatures(state.features.union(.corrupt), &state) }
  }

  func close() throws(LayerError) {
    guard !isReadOnly, !metadata.withLock({ $0.isCorrupt }) else { return }
    try commit(sync: true)
    // What the last commit has freed.
    try committing.withLock { state throws(LayerError) in
      guard state.features.contains(.dirty), !metadata.withLock({ $0.hasChanges }) else { return }
      try writeFeatures(state.features.subtracting(.dirty), &state)
      try barrier()
    }
  }

  /// Makes the refcount table longer: new blocks and the new table lie behind all that the old one could count.
  func growRefcountTable() throws(LayerError) {
    try commit(sync: false)
    try committing.withLock { state throws(LayerError) in
      try markDirty(&state)
      try metadata.withLock { metadata throws(LayerError) in
        // Blocks that are not in the file yet; the caller tries again.
        guard metadata.refcounts.dirtyCount == 0, metadata.dirtyRefcountTable.isEmpty else { return }
        try grow(&metadata)
      }
    }
  }

  private func grow(_ metadata: inout QCOW2Metadata) throws(LayerError) {
    let bits = UInt64(self.bits)
    let size = UInt64(1) << bits
    let old = metadata.refcountTable
    let blockBits = UInt64(metadata.refcountBlockBits)
    let first = UInt64(old.count) << blockBits
    var blocks: UInt64 = 1
    var clusters: UInt64 = 0
    repeat {
      clusters = ((max(UInt64(old.count) * 3 / 2, UInt64(old.count) + blocks + 1)) * 8 + size - 1) >> bits
      blocks += (blocks + clusters) > blocks << blockBits ? 1 : 0
    } while (blocks + clusters) > blocks << blockBits
    guard clusters << bits <= QCOW2Header.maximumRefcountTableBytes,
      (first + blocks + clusters) << bits < 1 << 56, clusters << bits >= (UInt64(old.count) + blocks) * 8
    else { throw .tooLarge("the image has grown to the largest file that its cluster size allows") }

    let block = AlignedBuffer(count: Int(size))
    for number in 0..<blocks {
      let counts = RefcountBlock(bytes: block.bytes, order: metadata.refcountOrder)
      let used = min(UInt64(1) << blockBits, (blocks + clusters) - min(blocks + clusters, number << blockBits))
      for index in 0..<(1 << Int(blockBits)) { counts.set(index, UInt64(index) < used ? 1 : 0) }
      try file.write([block.bytes], at: (first + number) << bits)
    }
    let table = AlignedBuffer(count: Int(clusters << bits))
    var entries = old
    for number in 0..<blocks { entries.append((first + number) << bits) }
    entries.append(contentsOf: repeatElement(0, count: Int(clusters << bits) / 8 - entries.count))
    for (index, entry) in entries.enumerated() { table.bytes.setEntry(index, entry) }
    let offset = (first + blocks) << bits
    try file.write([table.bytes], at: offset)
    try barrier()
    let fields = AlignedBuffer(count: 12)
    fields.bytes.setEntry(0, offset)
    fields.bytes.storeBytes(of: UInt32(clusters).bigEndian, toByteOffset: 8, as: UInt32.self)
    try file.write(
      [UnsafeMutableRawBufferPointer(rebasing: fields.bytes[..<12])], at: QCOW2Header.refcountTableField)
    try barrier()

    let freed = metadata.number(metadata.refcountTableOffset)
    let count = (UInt64(old.count) * 8) >> bits
    metadata.pendingFrees.append(contentsOf: freed..<freed + max(count, 1))
    for cluster in freed..<freed + max(count, 1) { metadata.owned.remove(cluster) }
    metadata.refcountTable = entries
    metadata.refcountTableOffset = offset
    metadata.owned.formUnion(first..<first + blocks + clusters)
    _ = metadata.takeFresh(first..<first + blocks + clusters)
  }
}
