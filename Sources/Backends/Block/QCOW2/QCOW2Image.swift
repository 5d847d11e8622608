import LinuxSystem
import Synchronization

/// A qcow2 image of version 2 or 3 (QEMU's docs/interop/qcow2.txt), read and written.
///
/// Requests to clusters that are there and belong to nothing else only look their place up. Those that change the map
/// take the clusters' range for themselves, so that a cluster is copied or unpacked once.
final class QCOW2Image: ImageLayer {
  /// What committing threads share.
  struct CommitState: Sendable {
    /// The incompatible features as the file has them.
    var features: QCOW2Header.Incompatible
  }

  let header: QCOW2Header
  let file: any ImageStorage
  let backing: (any ImageLayer)?
  let isReadOnly: Bool
  let metadata: Mutex<QCOW2Metadata>
  let committing: Mutex<CommitState>
  let ranges = RangeLocks()
  private let unpacked: UnpackedClusters

  var size: UInt64 { header.size }
  /// Requests within a cluster are kept apart here, where that is needed.
  var granule: Int { file.alignment }
  var features: BlockFeatures { [.discard, .writeZeroes, .unmap] }
  var limits: BlockLimits {
    BlockLimits(physicalBlock: max(512, min(4096, clusterSize)), discardBlock: clusterSize)
  }

  var bits: Int { header.clusterBits }
  var clusterSize: Int { header.clusterSize }
  /// Clusters that one allocation takes at most.
  private static let longestRun = 64

  /// Opens an image; `report` is given lines about what was put right. Without `isReadOnly` leaks and refcounts that
  /// an interrupted run has left are put right before anything else is done.
  init(
    _ file: any ImageStorage, backing: (any ImageLayer)?, isReadOnly: Bool,
    report: (String) -> Void = { _ in }
  ) throws(LayerError) {
    let fileSize = try file.size()
    let header = try Self.readHeader(file)
    self.header = header
    self.file = file
    self.backing = backing
    self.isReadOnly = isReadOnly
    guard isReadOnly || !header.incompatible.contains(.corrupt) else {
      throw .corrupt("the image is marked corrupt: run qemu-img check -r all, or add readonly=on")
    }
    let l1 = try Self.readTable(file, header.l1Offset, header.l1Entries)
    let blocks = try Self.readTable(
      file, header.refcountTableOffset, header.refcountTableClusters << (header.clusterBits - 3))
    let clusters = (fileSize >> UInt64(header.clusterBits)) + 1
    metadata = Mutex(
      QCOW2Metadata(
        header, l1: l1, refcountTable: blocks, file: file,
        // A block device has no end beyond which it is empty.
        freshFrom: file.isEmptyBeyondEnd ? clusters : .max))
    committing = Mutex(CommitState(features: header.incompatible))
    unpacked = UnpackedClusters(header)
    guard !isReadOnly else { return }
    try findOwned()
    try repairIfNeeded(fileSize: fileSize, report)
    try clearAutoclear()
  }

  static func readHeader(_ file: any ImageStorage) throws(LayerError) -> QCOW2Header {
    let start = try readBytes(file, 0, QCOW2Header.longest)
    let size = try file.size()
    let count = try QCOW2Header.bytesToRead(start)
    return try QCOW2Header(parsing: try readBytes(file, 0, Int(min(size, UInt64(count)))))
  }

  static func readBytes(_ file: any ImageStorage, _ offset: UInt64, _ count: Int) throws(LayerError) -> [UInt8] {
    let buffer = AlignedBuffer(count: count)
    let part = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count])
    try file.read([part], at: offset, zeroFill: true)
    return Array(part)
  }

  static func readTable(_ file: any ImageStorage, _ offset: UInt64, _ count: Int) throws(LayerError) -> [UInt64] {
    let buffer = AlignedBuffer(count: count * 8)
    try file.read([UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<(count * 8)])], at: offset, zeroFill: true)
    return (0..<count).map { buffer.bytes.entry($0) }
  }

  // MARK: Looking up

  /// Clusters in a row that are alike: for data, one after the other in the file, too.
  struct Run {
    var entry: QCOW2Entry
    var count: Int
  }

  private enum Lookup {
    case run(Run)
    case load(UInt64, generation: UInt64)
  }

  /// Where `cluster` and up to `limit - 1` clusters after it are.
  func lookup(_ cluster: UInt64, limit: Int) throws(LayerError) -> Run {
    var tries = 0
    while true {
      let step = try metadata.withLock { metadata throws(LayerError) in
        try Self.find(&metadata, cluster, limit, loads: tries > 2)
      }
      switch step {
      case .run(let run): return try checked(run)
      case .load(let offset, let generation): try load(offset, generation)
      }
      tries += 1
    }
  }

  private static func find(_ metadata: inout QCOW2Metadata, _ cluster: UInt64, _ limit: Int, loads: Bool)
    throws(LayerError) -> Lookup
  {
    let index = metadata.l2Index(of: cluster)
    let limit = max(1, min(limit, 1 << metadata.l2Bits - index))
    let table = metadata.l1Entry(of: cluster) & QCOW2Metadata.tableMask
    guard table != 0 else { return .run(Run(entry: .unallocated, count: limit)) }
    let slot: Int
    if let found = metadata.l2.find(table) {
      slot = found
    } else {
      guard loads else { return .load(table, generation: metadata.l2.generation) }
      do throws(MetadataFault) { slot = try metadata.l2Slot(table) } catch {
        if case .failed(let error) = error { throw error }
        return .load(table, generation: metadata.l2.generation)
      }
    }
    let first = metadata.entry(slot, index)
    var count = 1
    let step = UInt64(metadata.clusterSize)
    while count < limit {
      let next = metadata.entry(slot, index + count)
      guard next.kind == first.kind, first.kind != .compressed else { break }
      if first.kind == .data {
        guard next.raw == first.raw &+ UInt64(count) &* step else { break }
      }
      count += 1
    }
    return .run(Run(entry: first, count: count))
  }

  /// Reads an L2 table while others go on.
  private func load(_ offset: UInt64, _ generation: UInt64) throws(LayerError) {
    guard offset & (UInt64(clusterSize) - 1) == 0 else {
      throw .corrupt("an L2 table lies at \(hex(offset)), within a cluster")
    }
    let table = AlignedBuffer(count: clusterSize)
    try file.read([table.bytes], at: offset, zeroFill: true)
    let isPlaced = metadata.withLock { metadata in
      // Since then the table may have been read, changed, written and dropped.
      guard metadata.l2.generation == generation, metadata.l2.find(offset) == nil else { return true }
      guard let slot = metadata.l2.insert(offset) else { return false }
      metadata.l2.bytes(slot).copyMemory(from: UnsafeRawBufferPointer(table.bytes))
      return true
    }
    if !isPlaced { try commit(sync: false) }
  }

  private func checked(_ run: Run) throws(LayerError) -> Run {
    switch run.entry.kind {
    case .data where run.entry.offset & (UInt64(clusterSize) - 1) != 0:
      throw .corrupt("data lies at \(hex(run.entry.offset)), within a cluster")
    case .zero where header.version < 3: throw .corrupt("a zero cluster in an image of version 2")
    default: return run
    }
  }

  /// Changes metadata; where there is no room for it, makes room and tries again.
  func change<Result>(_ body: (inout QCOW2Metadata) throws(MetadataFault) -> Result) throws(LayerError) -> Result {
    while true {
      let fault: MetadataFault
      do throws(MetadataFault) {
        return try metadata.withLock { metadata throws(MetadataFault) in
          guard !metadata.isCorrupt else { throw .failed(.readOnly) }
          return try body(&metadata)
        }
      } catch {
        fault = error
      }
      switch fault {
      case .full: try commit(sync: false)
      case .grow: try growRefcountTable()
      case .failed(let error): throw error
      }
    }
  }

  // MARK: Reading

  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    let total = buffers.reduce(0) { $0 + $1.count }
    var done = 0
    while done < total {
      let (cluster, start, limit) = position(offset + UInt64(done), total - done)
      let run = try lookup(cluster, limit: limit)
      let length = min(total - done, run.count << bits - start)
      let part = length == total ? buffers : slice(buffers, done, length)
      if isReadOnly || isStable(run.entry) {
        try read(run.entry, cluster, start, part, length)
        done += length
      } else {
        done += try ranges.withLock(cluster..<cluster + UInt64(run.count), exclusive: false) { () throws(LayerError) in
          let run = try lookup(cluster, limit: run.count)
          let length = min(length, run.count << bits - start)
          try read(run.entry, cluster, start, slice(buffers, done, length), length)
          return length
        }
      }
    }
  }

  /// The cluster of a place on the disk, where in it, and how many clusters `count` bytes from there touch.
  private func position(_ offset: UInt64, _ count: Int) -> (cluster: UInt64, start: Int, limit: Int) {
    let start = Int(offset & (UInt64(clusterSize) - 1))
    return (offset >> UInt64(bits), start, (start + count + clusterSize - 1) >> bits)
  }

  /// Whether what the entry refers to stays while other parts of its cluster are written.
  private func isStable(_ entry: QCOW2Entry) -> Bool {
    switch entry.kind {
    case .unallocated, .zero: true
    case .data: entry.isCopied
    case .compressed: false
    }
  }

  /// Reads `count` bytes from `start` of a run's first cluster on.
  private func read(
    _ entry: QCOW2Entry, _ cluster: UInt64, _ start: Int, _ buffers: [UnsafeMutableRawBufferPointer], _ count: Int
  ) throws(LayerError) {
    switch entry.kind {
    case .data: try file.read(buffers, at: entry.offset &+ UInt64(start), zeroFill: true)
    case .zero: clear(buffers)
    case .unallocated: try readBacking(buffers, at: cluster << UInt64(bits) + UInt64(start), count)
    case .compressed:
      let cluster = try unpacked.cluster(entry, of: file)
      scatter(UnsafeMutableRawBufferPointer(rebasing: cluster.bytes[start..<start + count]), buffers)
    }
  }

  /// The backing file may be shorter than the disk.
  private func readBacking(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64, _ count: Int)
    throws(LayerError)
  {
    guard let backing, offset < backing.size else { return clear(buffers) }
    let present = Int(min(UInt64(count), backing.size - offset))
    guard present < count else { return try backing.read(buffers, at: offset) }
    try backing.read(slice(buffers, 0, present), at: offset)
    clear(slice(buffers, present, count - present))
  }

  private func clear(_ buffers: [UnsafeMutableRawBufferPointer]) {
    for buffer in buffers { fillWithZeroes(buffer) }
  }

  // MARK: Writing

  /// Does what changes the image; one that turns out to be damaged takes no more of it.
  private func changing<Result>(_ body: () throws(LayerError) -> Result) throws(LayerError) -> Result {
    guard !isReadOnly else { throw .readOnly }
    do throws(LayerError) { return try body() } catch {
      if case .corrupt = error { markCorrupt() }
      throw error
    }
  }

  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    try changing { () throws(LayerError) in
      let total = buffers.reduce(0) { $0 + $1.count }
      var done = 0
      while done < total {
        let (cluster, start, limit) = position(offset + UInt64(done), total - done)
        let run = try lookup(cluster, limit: limit)
        if run.entry.kind == .data, run.entry.isCopied {
          let length = min(total - done, run.count << bits - start)
          try writeInPlace(run, start, length == total ? buffers : slice(buffers, done, length))
          done += length
        } else {
          let count = min(limit, Self.longestRun)
          let length = min(total - done, count << bits - start)
          done += try ranges.withLock(cluster..<cluster + UInt64(count), exclusive: true) { () throws(LayerError) in
            try writeNew(cluster, count, start, slice(buffers, done, length), length)
          }
        }
      }
    }
  }

  private func writeInPlace(_ run: Run, _ start: Int, _ buffers: [UnsafeMutableRawBufferPointer]) throws(LayerError) {
    try metadata.withLock { metadata throws(LayerError) in
      guard !metadata.isCorrupt else { throw .readOnly }
      let first = metadata.number(run.entry.offset)
      for cluster in first..<first + UInt64(run.count) where metadata.owned.contains(cluster) {
        throw .corrupt("data at \(hex(metadata.offset(cluster))) is also metadata")
      }
    }
    try file.write(buffers, at: run.entry.offset &+ UInt64(start))
  }

  /// Host clusters for guest clusters, reserved.
  private struct Plan {
    var host: Range<UInt64>
    var first: QCOW2Entry
    var last: QCOW2Entry
    /// The host clusters read as zero.
    var isFresh: Bool
    /// So do the guest's: where the host loses its power before the data is there, nothing else comes up.
    var replacesZeroes: Bool
  }

  /// Writes to clusters that get a new place, as far as there is one in one piece. Returns the bytes written, 0 where
  /// somebody else has given the first cluster its place meanwhile.
  private func writeNew(
    _ cluster: UInt64, _ count: Int, _ start: Int, _ buffers: [UnsafeMutableRawBufferPointer], _ length: Int
  ) throws(LayerError) -> Int {
    let backed = backing.map { (($0.size &+ UInt64(clusterSize) &- 1) >> UInt64(bits)) } ?? 0
    let plan = try change { (metadata) throws(MetadataFault) in try Self.plan(&metadata, cluster, count, backed) }
    guard let plan else { return 0 }
    let clusters = plan.host.count
    let written = min(length, clusters << bits - start)
    do throws(LayerError) {
      let last = cluster + UInt64(clusters - 1)
      let tail = clusters << bits - start - written
      let head = try oldContent(plan.first, cluster, 0..<start, isFresh: plan.isFresh)
      let rest = try oldContent(plan.last, last, clusterSize - tail..<clusterSize, isFresh: plan.isFresh)
      let data = written == length ? buffers : slice(buffers, 0, written)
      let place = plan.host.lowerBound << UInt64(bits) + UInt64(head == nil ? start : 0)
      try file.write((head?.parts ?? []) + data + (rest?.parts ?? []), at: place)
      try change { (metadata) throws(MetadataFault) in try Self.link(&metadata, cluster, plan) }
    } catch {
      metadata.withLock { $0.release(plan.host) }
      throw error
    }
    try writeFreesIfMany()
    return written
  }

  /// Reserves a place for `cluster` and those after it that need one, in the same L2 table. Behind the first `backed`
  /// clusters the backing file has nothing.
  private static func plan(
    _ metadata: inout QCOW2Metadata, _ cluster: UInt64, _ limit: Int, _ backed: UInt64
  ) throws(MetadataFault) -> Plan? {
    let index = metadata.l2Index(of: cluster)
    let slot = try metadata.writableL2(for: cluster)
    var count = 0
    while count < min(limit, 1 << metadata.l2Bits - index) {
      let entry = metadata.entry(slot, index + count)
      if entry.kind == .data, entry.isCopied { break }
      count += 1
    }
    guard count > 0 else { return nil }
    let host = try metadata.allocate(upTo: count)
    let replacesZeroes = (0..<host.count).allSatisfy { place in
      switch metadata.entry(slot, index + place).kind {
      case .zero: true
      case .unallocated: cluster + UInt64(place) >= backed
      case .data, .compressed: false
      }
    }
    return Plan(
      host: host, first: metadata.entry(slot, index), last: metadata.entry(slot, index + host.count - 1),
      isFresh: metadata.takeFresh(host), replacesZeroes: replacesZeroes)
  }

  private static func link(_ metadata: inout QCOW2Metadata, _ cluster: UInt64, _ plan: Plan) throws(MetadataFault) {
    let host = plan.host
    let slot = try metadata.writableL2(for: cluster)
    _ = try metadata.refcountSlot(block: metadata.place(host.lowerBound).block)
    let index = metadata.l2Index(of: cluster)
    try metadata.count(host)
    for place in 0..<host.count {
      let new = QCOW2Entry(data: metadata.offset(host.lowerBound + UInt64(place)))
      try metadata.replace(slot, index + place, with: new)
    }
    if !plan.isFresh || !plan.replacesZeroes { metadata.needsDataBarrier = true }
  }

  /// What a cluster held around the part that is written; nil where its new place reads the same without being written.
  private func oldContent(_ entry: QCOW2Entry, _ cluster: UInt64, _ range: Range<Int>, isFresh: Bool)
    throws(LayerError) -> (memory: AlignedBuffer, parts: [UnsafeMutableRawBufferPointer])?
  {
    guard !range.isEmpty else { return nil }
    let hasBacking = backing.map { cluster << UInt64(bits) < $0.size } ?? false
    let isZero = entry.kind == .zero || entry.kind == .unallocated && !hasBacking
    if isZero, isFresh { return nil }
    let memory = AlignedBuffer(count: range.count)
    let part = UnsafeMutableRawBufferPointer(rebasing: memory.bytes[..<range.count])
    if !isZero { try read(entry, cluster, range.lowerBound, [part], range.count) }
    return (memory, [part])
  }

  private func writeFreesIfMany() throws(LayerError) {
    let many = metadata.withLock { $0.pendingFrees.count + $0.quarantine.count > QCOW2Metadata.freeLimit }
    if many { try commit(sync: true) }
  }

  // MARK: Discarding and zeroes

  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError) {
    try changing { () throws(LayerError) in
      let whole = wholeClusters(offset, length)
      try forEachTable(whole) { metadata, slot, index throws(MetadataFault) in
        let old = metadata.entry(slot, index)
        switch old.kind {
        case .unallocated: return
        case .zero where old.offset == 0: return
        case .zero, .data, .compressed: break
        }
        // Version 2 has no zero clusters: with a backing file its content would come back.
        guard metadata.isVersion3 || backing == nil else { return }
        try metadata.replace(slot, index, with: metadata.isVersion3 ? .plainZero : .unallocated)
      }
    }
  }

  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) {
    let whole = wholeClusters(offset, length)
    let isVersion3 = header.version >= 3
    guard !whole.isEmpty, isVersion3 || mayUnmap && backing == nil else {
      return try writeZeroData(offset, offset + length)
    }
    let start = whole.lowerBound << UInt64(bits)
    let end = min(whole.upperBound << UInt64(bits), size)
    try writeZeroData(offset, start)
    try changing { () throws(LayerError) in
      try forEachTable(whole, makesTables: backing != nil) { metadata, slot, index throws(MetadataFault) in
        let old = metadata.entry(slot, index)
        if old.kind == .unallocated, backing == nil { return }
        if old.kind == .zero, !mayUnmap || old.offset == 0 { return }
        let keepsPlace = !mayUnmap && old.kind == .data && old.isCopied
        let new = !isVersion3 ? .unallocated : keepsPlace ? QCOW2Entry(raw: old.raw | QCOW2Entry.zero) : .plainZero
        try metadata.replace(slot, index, with: new)
      }
    }
    try writeZeroData(end, offset + length)
  }

  /// The clusters that lie within a range; the last one of the disk may be cut short by its end.
  private func wholeClusters(_ offset: UInt64, _ length: UInt64) -> Range<UInt64> {
    let mask = UInt64(clusterSize) - 1
    let end = offset + length
    let first = (offset + mask) >> UInt64(bits)
    let last = end == size ? (end + mask) >> UInt64(bits) : end >> UInt64(bits)
    return first..<max(first, last)
  }

  /// Calls `body` for the entry of each cluster, in a table that may be changed. Without `makesTables` clusters that have
  /// no table are passed over.
  private func forEachTable(
    _ clusters: Range<UInt64>, makesTables: Bool = false,
    _ body: (inout QCOW2Metadata, _ slot: Int, _ index: Int) throws(MetadataFault) -> Void
  ) throws(LayerError) {
    var next = clusters.lowerBound
    while next < clusters.upperBound {
      next = try change { (metadata) throws(MetadataFault) in
        let index = metadata.l2Index(of: next)
        let left = min(clusters.upperBound - next, UInt64(1 << metadata.l2Bits - index))
        guard makesTables || metadata.l1Entry(of: next) & QCOW2Metadata.tableMask != 0 else { return next + left }
        let slot = try metadata.writableL2(for: next)
        // The lock is not held for long.
        let count = Int(min(left, 4096))
        for place in 0..<count { try body(&metadata, slot, index + place) }
        return next + UInt64(count)
      }
      try writeFreesIfMany()
    }
  }

  /// Writes zeroes as data, except where there are zeroes.
  private func writeZeroData(_ start: UInt64, _ end: UInt64) throws(LayerError) {
    guard start < end else { return }
    let zeroes = AlignedBuffer(count: Int(min(end - start, UInt64(max(clusterSize, 1 << 20)))))
    var position = start
    while position < end {
      let (cluster, inCluster, _) = self.position(position, 1)
      let count = Int(min(end - position, UInt64(clusterSize - inCluster)))
      let entry = try lookup(cluster, limit: 1).entry
      if entry.kind != .zero, entry.kind != .unallocated || backing != nil {
        try write([UnsafeMutableRawBufferPointer(rebasing: zeroes.bytes[..<count])], at: position)
      }
      position += UInt64(count)
    }
  }

  /// Known where the whole range is data that nothing else refers to, in one piece, and its table in memory.
  func place(of request: BlockRequest) -> UInt64? {
    guard request.length > 0, request.length <= 1 << 30 else { return nil }
    let (cluster, start, count) = position(request.offset, Int(request.length))
    let isWrite = request.operation == .write
    let offset = metadata.withLock { metadata -> UInt64? in
      let index = metadata.l2Index(of: cluster)
      guard index + count <= 1 << metadata.l2Bits,
        let slot = metadata.l2.find(metadata.l1Entry(of: cluster) & QCOW2Metadata.tableMask)
      else { return nil }
      let first = metadata.entry(slot, index)
      let mask = UInt64(metadata.clusterSize) - 1
      guard first.kind == .data, first.isCopied || isReadOnly, first.offset & mask == 0 else { return nil }
      let host = metadata.number(first.offset)
      for place in 0..<count {
        guard metadata.entry(slot, index + place).raw == first.raw &+ UInt64(place) * (mask + 1) else { return nil }
        if isWrite, metadata.isCorrupt || metadata.owned.contains(host + UInt64(place)) { return nil }
      }
      return first.offset
    }
    guard let offset, file.takes(request.buffers, at: offset &+ UInt64(start)) else { return nil }
    return offset &+ UInt64(start)
  }

  func flush() throws(LayerError) {
    guard !isReadOnly else { return }
    try commit(sync: true)
  }
}
