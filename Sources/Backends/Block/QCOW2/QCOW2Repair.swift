import LinuxSystem

extension QCOW2Image {
  /// An L1 table: the disk's own, or a snapshot's.
  private struct L1Table {
    var offset: UInt64
    var entries: [UInt64]
  }

  private static let advice = "run qemu-img check -r all"
  /// Bytes of L2 tables that are read to count references, and clusters whose references are counted.
  private static let readLimit: UInt64 = 4 << 30
  private static let countLimit: UInt64 = 1 << 26
  /// Clusters beyond the end of the file that may have references: room that was allocated and never written.
  private static let slack: UInt64 = 1 << 20

  // MARK: Where metadata is

  /// Finds the clusters of metadata. No two tables may share one.
  func findOwned() throws(LayerError) {
    var owned: Set<UInt64> = [0]
    func own(_ offset: UInt64, bytes: UInt64, _ what: String) throws(LayerError) {
      guard offset & (UInt64(clusterSize) - 1) == 0 else {
        throw .corrupt("\(what) at \(hex(offset)) lies within a cluster: \(Self.advice)")
      }
      let first = offset >> UInt64(bits)
      for cluster in first..<first + (bytes + UInt64(clusterSize) - 1) >> UInt64(bits) {
        guard owned.insert(cluster).inserted else {
          throw .corrupt("\(what) at \(hex(cluster << UInt64(bits))) lies on other metadata: \(Self.advice)")
        }
      }
    }
    let (l1, blocks) = metadata.withLock { ($0.l1, $0.refcountTable) }
    try own(header.l1Offset, bytes: UInt64(header.l1Entries) * 8, "the L1 table")
    try own(
      header.refcountTableOffset, bytes: UInt64(header.refcountTableClusters) << UInt64(bits), "the refcount table")
    for entry in blocks where entry & QCOW2Metadata.tableMask != 0 {
      try own(entry & QCOW2Metadata.tableMask, bytes: UInt64(clusterSize), "a refcount block")
    }
    for entry in l1 where entry & QCOW2Metadata.tableMask != 0 {
      try own(entry & QCOW2Metadata.tableMask, bytes: UInt64(clusterSize), "an L2 table")
    }
    let snapshots = try readSnapshots()
    if header.snapshotCount > 0 { try own(header.snapshotsOffset, bytes: snapshots.bytes, "the snapshot table") }
    for table in snapshots.tables where table.count > 0 {
      try own(table.offset, bytes: UInt64(table.count) * 8, "a snapshot's L1 table")
    }
    metadata.withLock { $0.owned = owned }
  }

  /// The L1 tables of the snapshots and the length of their table (qcow2 specification, "Snapshots").
  private func readSnapshots() throws(LayerError) -> (tables: [(offset: UInt64, count: Int)], bytes: UInt64) {
    var tables: [(offset: UInt64, count: Int)] = []
    var length: UInt64 = 0
    for _ in 0..<header.snapshotCount {
      let fields = QCOW2Header.Fields(try Self.readBytes(file, header.snapshotsOffset &+ length, 40))
      let entries = UInt64(fields.word(at: 8))
      let offset = fields.long(at: 0)
      guard entries * 8 <= QCOW2Header.maximumL1Bytes,
        entries == 0 || QCOW2Header.isTable(offset, UInt64(clusterSize) - 1)
      else { throw .corrupt("a snapshot's L1 table is impossible: \(Self.advice)") }
      tables.append((offset, Int(entries)))
      let names = UInt64(fields.short(at: 12)) + UInt64(fields.short(at: 14))
      length += (40 + UInt64(fields.word(at: 36)) + names + 7) & ~7
      guard length <= 64 << 20 else { throw .corrupt("the snapshot table is impossible: \(Self.advice)") }
    }
    return (tables, length)
  }

  // MARK: What an interrupted run has left

  /// Counts references and puts refcounts right that differ: where the image says that they may, and in version 2, which
  /// cannot say so.
  func repairIfNeeded(fileSize: UInt64, _ report: (String) -> Void) throws(LayerError) {
    let isDirty = header.incompatible.contains(.dirty)
    guard isDirty || header.version == 2 else { return }
    guard fileSize >> UInt64(bits) < Self.countLimit else {
      guard isDirty else { return }
      throw .corrupt("the image was not closed and is too large to be checked here: \(Self.advice)")
    }
    let counts = try countReferences(limit: (fileSize >> UInt64(bits)) + Self.slack)
    if let last = counts.lastIndex(where: { $0 > 0 }), last >= Int(fileSize >> UInt64(bits)) {
      // Clusters whose data never reached the file read as zero; the file has to be as long as it is said to be.
      let end = UInt64(last + 1) << UInt64(bits)
      if end > fileSize { try writeLongs([0], at: end - 8) }
    }
    let (raised, lowered) = try compare(counts)
    try close()
    if raised + lowered > 0 {
      report(
        "the image was not closed by its last user; \(lowered) leaked clusters are free again"
          + (raised > 0 ? ", \(raised) refcounts were too low" : ""))
    }
  }

  private func countReferences(limit: UInt64) throws(LayerError) -> [UInt32] {
    var counts: [UInt32] = []
    func count(_ offset: UInt64, bytes: UInt64) throws(LayerError) {
      guard bytes > 0 else { return }
      let first = offset >> UInt64(bits)
      let last = (offset &+ (bytes - 1)) >> UInt64(bits)
      guard first <= last, last < limit else {
        throw .corrupt("something lies at \(hex(offset)), far beyond the file's end: \(Self.advice)")
      }
      if last >= counts.count {
        counts.append(contentsOf: repeatElement(0, count: max(Int(last) + 1, counts.count * 3 / 2) - counts.count))
      }
      for cluster in first...last { counts[Int(cluster)] &+= 1 }
    }
    let size = UInt64(clusterSize)
    try count(0, bytes: size)
    let (l1, blocks) = metadata.withLock { ($0.l1, $0.refcountTable) }
    try count(header.refcountTableOffset, bytes: UInt64(header.refcountTableClusters) * size)
    for entry in blocks where entry & QCOW2Metadata.tableMask != 0 {
      try count(entry & QCOW2Metadata.tableMask, bytes: size)
    }
    let snapshots = try readSnapshots()
    if header.snapshotCount > 0 { try count(header.snapshotsOffset, bytes: snapshots.bytes) }
    var tables = [L1Table(offset: header.l1Offset, entries: l1)]
    for table in snapshots.tables where table.count > 0 {
      tables.append(L1Table(offset: table.offset, entries: try Self.readTable(file, table.offset, table.count)))
    }
    var read: UInt64 = 0
    for table in tables {
      try count(table.offset, bytes: UInt64(table.entries.count) * 8)
      for entry in table.entries where entry & QCOW2Metadata.tableMask != 0 {
        let offset = entry & QCOW2Metadata.tableMask
        read += size
        guard read <= Self.readLimit else {
          throw .corrupt("the image has too many tables to be checked here: \(Self.advice)")
        }
        try count(offset, bytes: size)
        for raw in try Self.readTable(file, offset, clusterSize / 8) where raw != 0 {
          let entry = QCOW2Entry(raw: raw)
          if entry.kind == .compressed {
            let (start, bytes) = entry.compressedRange(clusterBits: bits)
            try count(start, bytes: UInt64(bytes))
          } else if entry.offset != 0 {
            try count(entry.offset, bytes: size)
          }
        }
      }
    }
    // What is written in place may belong to nothing else.
    for entry in l1 where entry & QCOW2Metadata.tableMask != 0 {
      for raw in try Self.readTable(file, entry & QCOW2Metadata.tableMask, clusterSize / 8) {
        let entry = QCOW2Entry(raw: raw)
        guard entry.kind == .data, entry.isCopied, counts[Int(entry.offset >> UInt64(bits))] > 1 else { continue }
        throw .corrupt("the cluster at \(hex(entry.offset)) is used twice: \(Self.advice)")
      }
    }
    return counts
  }

  /// Makes the refcounts what they are to be.
  private func compare(_ counts: [UInt32]) throws(LayerError) -> (raised: Int, lowered: Int) {
    let blocks = metadata.withLock { $0.refcountTable }
    let perBlock = metadata.withLock { 1 << $0.refcountBlockBits }
    for start in stride(from: 0, to: counts.count, by: perBlock) {
      let number = start / perBlock
      if number < blocks.count, blocks[number] & QCOW2Metadata.tableMask != 0 { continue }
      guard counts[start..<min(start + perBlock, counts.count)].allSatisfy({ $0 == 0 }) else {
        throw .corrupt("a refcount block is missing: \(Self.advice)")
      }
    }
    var raised = 0
    var lowered = 0
    // Bitmaps that vmrun does not know have clusters, too.
    let lowers = !header.hasBitmaps
    for (number, entry) in blocks.enumerated() where entry & QCOW2Metadata.tableMask != 0 {
      let change = try change { (metadata) throws(MetadataFault) -> (raised: Int, lowered: Int) in
        let slot = try metadata.refcountSlot(block: number)
        var change = (raised: 0, lowered: 0)
        for index in 0..<perBlock {
          let cluster = number * perBlock + index
          let wanted = cluster < counts.count ? UInt64(counts[cluster]) : 0
          let stored = metadata.block(slot).value(index)
          guard stored != wanted, stored < wanted || lowers else { continue }
          guard wanted <= metadata.block(slot).limit else {
            throw .failed(.corrupt("a cluster has more references than can be counted: \(Self.advice)"))
          }
          metadata.setRefcount(slot, index, wanted)
          if stored < wanted { change.raised += 1 } else { change.lowered += 1 }
        }
        return change
      }
      raised += change.raised
      lowered += change.lowered
    }
    return (raised, lowered)
  }
}
