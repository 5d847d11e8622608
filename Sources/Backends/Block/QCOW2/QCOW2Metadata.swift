import LinuxSystem

/// Why a change of metadata has to wait or fail. Nothing was changed.
enum MetadataFault: Error {
  /// Tables have to be written before others fit into memory.
  case full
  /// The refcount table has to become longer.
  case grow
  case failed(LayerError)
}

/// The tables of an image that is in use. Its users hold one lock; what it reads of the file is a table at a time.
///
/// A cluster is `reserved` from its allocation until an L2 entry refers to it: only then it gets its refcount, so that
/// a commit always sees both. A cluster that is no longer referred to waits in `pendingFrees` for the commit that
/// writes that, and in `quarantine` until this is on stable storage; only then it may hold something else.
struct QCOW2Metadata: ~Copyable {
  let clusterBits: Int
  let refcountOrder: Int
  let isVersion3: Bool
  private let file: any ImageStorage

  let l1Offset: UInt64
  private(set) var l1: [UInt64]
  var refcountTableOffset: UInt64
  var refcountTable: [UInt64]
  var l2: TableCache
  var refcounts: TableCache
  var dirtyL1: Set<Int> = []
  var dirtyRefcountTable: Set<Int> = []

  /// Clusters that hold metadata: data is never written there.
  var owned: Set<UInt64> = []
  private var reserved: Set<UInt64> = []
  var pendingFrees: [UInt64] = []
  var quarantine: Set<UInt64> = []
  /// No cluster before this one is free.
  private var nextFree: UInt64 = 0
  /// From here on the file has never held anything: it reads as zero.
  private var freshFrom: UInt64
  /// New clusters whose data is not known to be on stable storage hold what the guest did not read there before.
  var needsDataBarrier = false
  var isCorrupt = false

  static let tableMask: UInt64 = 0x00FF_FFFF_FFFF_FE00
  /// A pending free or quarantined cluster costs a few words: beyond this many they are written out.
  static let freeLimit = 1 << 16

  var clusterSize: Int { 1 << clusterBits }
  var l2Bits: Int { clusterBits - 3 }
  /// Refcounts in a block, as a power of two.
  var refcountBlockBits: Int { clusterBits + 3 - refcountOrder }

  init(
    _ header: QCOW2Header, l1: [UInt64], refcountTable: [UInt64], file: any ImageStorage,
    freshFrom: UInt64
  ) {
    clusterBits = header.clusterBits
    refcountOrder = header.refcountOrder
    isVersion3 = header.version >= 3
    self.file = file
    l1Offset = header.l1Offset
    self.l1 = l1
    refcountTableOffset = header.refcountTableOffset
    self.refcountTable = refcountTable
    self.freshFrom = freshFrom
    let size = header.clusterSize
    l2 = TableCache(tableSize: size, capacity: max(8, (16 << 20) / size))
    refcounts = TableCache(tableSize: size, capacity: max(8, (4 << 20) / size))
  }

  func number(_ offset: UInt64) -> UInt64 { offset >> UInt64(clusterBits) }
  func offset(_ cluster: UInt64) -> UInt64 { cluster << UInt64(clusterBits) }
  private func isAligned(_ offset: UInt64) -> Bool { offset & (UInt64(clusterSize) - 1) == 0 }

  // MARK: L2 tables

  /// The table at this offset.
  mutating func l2Slot(_ offset: UInt64) throws(MetadataFault) -> Int {
    guard isAligned(offset) else { throw .failed(.corrupt("an L2 table lies at \(hex(offset)), within a cluster")) }
    if let slot = l2.find(offset) { return slot }
    guard let slot = l2.insert(offset) else { throw .full }
    do throws(LayerError) {
      try file.read([l2.bytes(slot)], at: offset, zeroFill: true)
    } catch {
      l2.remove(offset)
      throw .failed(error)
    }
    return slot
  }

  func l1Entry(of cluster: UInt64) -> UInt64 {
    let index = cluster >> UInt64(l2Bits)
    return index < UInt64(l1.count) ? l1[Int(index)] : 0
  }

  func l2Index(of cluster: UInt64) -> Int { Int(cluster & (UInt64(1) << UInt64(l2Bits) - 1)) }

  /// A table for the cluster's entry that nothing else refers to, made if need be.
  mutating func writableL2(for cluster: UInt64) throws(MetadataFault) -> Int {
    let index = Int(cluster >> UInt64(l2Bits))
    guard index < l1.count else { throw .failed(.corrupt("cluster \(cluster) is beyond the L1 table")) }
    let old = l1[index] & Self.tableMask
    if old != 0, l1[index] & QCOW2Entry.copied != 0 { return try l2Slot(old) }
    var source: Int?
    if old != 0 {
      let slot = try l2Slot(old)
      l2.hold(slot)
      source = slot
    }
    defer { if let source { l2.release(source) } }
    let new = try allocate(upTo: 1).lowerBound
    guard let slot = l2.insert(offset(new)) else {
      release(new..<new + 1)
      throw .full
    }
    do throws(MetadataFault) {
      try count(new..<new + 1)
    } catch {
      l2.remove(offset(new))
      release(new..<new + 1)
      throw error
    }
    if let source {
      l2.bytes(slot).copyMemory(from: UnsafeRawBufferPointer(l2.bytes(source)))
      pendingFrees.append(number(old))
    } else {
      fillWithZeroes(l2.bytes(slot))
    }
    l2.touchAll(slot, isNew: true)
    l1[index] = offset(new) | QCOW2Entry.copied
    dirtyL1.insert(index)
    owned.insert(new)
    return slot
  }

  func entry(_ slot: Int, _ index: Int) -> QCOW2Entry { QCOW2Entry(raw: l2.bytes(slot).entry(index)) }

  /// Replaces an entry; what only the old one referred to will be free.
  mutating func replace(_ slot: Int, _ index: Int, with new: QCOW2Entry) throws(MetadataFault) {
    let old = entry(slot, index)
    guard old != new else { return }
    if old.kind == .compressed {
      let (start, count) = old.compressedRange(clusterBits: clusterBits)
      try free(number(start)...number(start + UInt64(count - 1)))
    } else if old.offset != 0, old.offset != new.offset {
      try free(number(old.offset)...number(old.offset))
    }
    l2.bytes(slot).setEntry(index, new.raw)
    l2.touch(slot, index * 8..<index * 8 + 8)
  }

  private mutating func free(_ clusters: ClosedRange<UInt64>) throws(MetadataFault) {
    for cluster in clusters where owned.contains(cluster) {
      throw .failed(.corrupt("data at \(hex(offset(cluster))) is also metadata"))
    }
    pendingFrees.append(contentsOf: clusters)
  }

  // MARK: Refcounts

  mutating func refcountSlot(block: Int) throws(MetadataFault) -> Int {
    let offset = refcountTable[block] & Self.tableMask
    guard offset != 0, isAligned(offset) else {
      throw .failed(.corrupt("refcount block \(block) lies at \(hex(offset)), within a cluster"))
    }
    if let slot = refcounts.find(offset) { return slot }
    guard let slot = refcounts.insert(offset) else { throw .full }
    do throws(LayerError) {
      try file.read([refcounts.bytes(slot)], at: offset, zeroFill: true)
    } catch {
      refcounts.remove(offset)
      throw .failed(error)
    }
    return slot
  }

  func block(_ slot: Int) -> RefcountBlock { RefcountBlock(bytes: refcounts.bytes(slot), order: refcountOrder) }

  /// Block and place of a cluster's refcount.
  func place(_ cluster: UInt64) -> (block: Int, index: Int) {
    let bits = UInt64(refcountBlockBits)
    return (Int(clamping: cluster >> bits), Int(cluster & (UInt64(1) << bits - 1)))
  }

  mutating func setRefcount(_ slot: Int, _ index: Int, _ value: UInt64) {
    let block = block(slot)
    block.set(index, value)
    refcounts.touch(slot, block.byteRange(index..<index + 1))
  }

  /// Reserves up to `count` free clusters in a row.
  mutating func allocate(upTo count: Int) throws(MetadataFault) -> Range<UInt64> {
    var cluster = nextFree
    while true {
      guard cluster < UInt64(1) << UInt64(56 - clusterBits) else {
        throw .failed(.tooLarge("the image has grown to the largest file that the format has"))
      }
      let (number, start) = place(cluster)
      guard number < refcountTable.count else { throw .grow }
      if refcountTable[number] & Self.tableMask == 0 { try addBlock(number) }
      let block = block(try refcountSlot(block: number))
      let end = 1 << refcountBlockBits
      let base = cluster - UInt64(start)
      var first = start
      while first < end, !isFree(base + UInt64(first), block.value(first)) { first += 1 }
      guard first < end else {
        cluster = base + UInt64(end)
        // What becomes free later says so.
        nextFree = cluster
        continue
      }
      var last = first
      while last < end, last - first < count, isFree(base + UInt64(last), block.value(last)) { last += 1 }
      let range = base + UInt64(first)..<base + UInt64(last)
      for cluster in range {
        guard !owned.contains(cluster) else {
          throw .failed(.corrupt("metadata at \(hex(offset(cluster))) counts as free"))
        }
      }
      reserved.formUnion(range)
      nextFree = range.upperBound
      return range
    }
  }

  private func isFree(_ cluster: UInt64, _ refcount: UInt64) -> Bool {
    refcount == 0 && !reserved.contains(cluster) && !quarantine.contains(cluster)
  }

  /// The first cluster of a range without refcounts becomes the block that holds them.
  private mutating func addBlock(_ number: Int) throws(MetadataFault) {
    let cluster = UInt64(number) << UInt64(refcountBlockBits)
    guard !owned.contains(cluster) else {
      throw .failed(.corrupt("metadata at \(hex(offset(cluster))) has no refcount"))
    }
    guard let slot = refcounts.insert(offset(cluster)) else { throw .full }
    fillWithZeroes(refcounts.bytes(slot))
    block(slot).set(0, 1)
    refcounts.touchAll(slot, isNew: true)
    refcountTable[number] = offset(cluster)
    dirtyRefcountTable.insert(number)
    owned.insert(cluster)
    freshFrom = max(freshFrom, cluster + 1)
  }

  /// Gives reserved clusters, which lie in one block, the refcount 1.
  mutating func count(_ clusters: Range<UInt64>) throws(MetadataFault) {
    let (number, start) = place(clusters.lowerBound)
    let slot = try refcountSlot(block: number)
    for offset in 0..<clusters.count { block(slot).set(start + offset, 1) }
    refcounts.touch(slot, block(slot).byteRange(start..<start + clusters.count))
    reserved.subtract(clusters)
  }

  /// Gives up clusters that were reserved.
  mutating func release(_ clusters: Range<UInt64>) {
    reserved.subtract(clusters)
    nextFree = min(nextFree, clusters.lowerBound)
  }

  /// Whether the reserved clusters read as zero; they count as used from now on.
  mutating func takeFresh(_ clusters: Range<UInt64>) -> Bool {
    defer { freshFrom = max(freshFrom, clusters.upperBound) }
    return clusters.lowerBound >= freshFrom
  }

  /// Takes back a free that could not be written.
  mutating func unfree(_ cluster: UInt64) {
    let (number, index) = place(cluster)
    // Its block was changed and not written, so it is still here.
    guard let slot = refcounts.find(refcountTable[number] & Self.tableMask) else { return }
    setRefcount(slot, index, block(slot).value(index) &+ 1)
    quarantine.remove(cluster)
    pendingFrees.append(cluster)
  }

  mutating func endQuarantine(_ clusters: Set<UInt64>) {
    quarantine.subtract(clusters)
    if let first = clusters.min() { nextFree = min(nextFree, first) }
  }
}

/// An offset as people look for it in a dump.
func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
