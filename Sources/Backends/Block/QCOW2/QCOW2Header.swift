/// The header of a qcow2 image and its extensions, checked (qcow2 specification, "Header" and "Header extensions").
struct QCOW2Header: Sendable, Equatable {
  struct Incompatible: OptionSet, Sendable {
    let rawValue: UInt64
    /// Refcounts may be wrong.
    static let dirty = Incompatible(rawValue: 1 << 0)
    /// Metadata is damaged: the image may not be written to.
    static let corrupt = Incompatible(rawValue: 1 << 1)
    static let externalDataFile = Incompatible(rawValue: 1 << 2)
    static let compressionType = Incompatible(rawValue: 1 << 3)
    static let extendedL2 = Incompatible(rawValue: 1 << 4)
    static let understood: Incompatible = [.dirty, .corrupt, .compressionType]
  }

  enum Compression: UInt8, Sendable {
    case zlib = 0
    case zstd = 1
  }

  static let magic: [UInt8] = [0x51, 0x46, 0x49, 0xFB]
  /// Bytes that hold all fields, the longest header that is known.
  static let longest = 112
  private static let version2Length = 72
  private static let shortest3 = 104
  /// Bounds on what is kept in memory: 2^22 L1 entries, 2^20 refcount blocks.
  static let maximumL1Bytes: UInt64 = 32 << 20
  static let maximumRefcountTableBytes: UInt64 = 8 << 20
  static let maximumSnapshots: UInt32 = 65536
  private static let maximumNameLength = 1023

  // Offsets of the fields that are written.
  static let refcountTableField: UInt64 = 48
  static let featureFields: UInt64 = 72

  let version: UInt32
  let clusterBits: Int
  /// Bytes of the virtual disk.
  let size: UInt64
  let l1Entries: Int
  let l1Offset: UInt64
  let refcountTableOffset: UInt64
  let refcountTableClusters: Int
  let snapshotCount: Int
  let snapshotsOffset: UInt64
  let incompatible: Incompatible
  let compatible: UInt64
  let autoclear: UInt64
  /// A refcount has 2 to the power of this many bits.
  let refcountOrder: Int
  let compression: Compression
  /// The name of the backing file as the image has it; nil: there is none.
  let backingFile: String?
  /// `raw` or `qcow2` where the image records it.
  let backingFormat: String?
  let hasBitmaps: Bool

  var clusterSize: Int { 1 << clusterBits }

  /// Whether bytes at the start of a file say that it is a qcow2 image.
  static func isMagic(_ bytes: some Collection<UInt8>) -> Bool { bytes.prefix(4).elementsEqual(magic) }

  /// Bytes to read for `init(parsing:)`: the first cluster, by the first 24 bytes of the file.
  static func bytesToRead(_ start: [UInt8]) throws(LayerError) -> Int {
    guard isMagic(start) else { throw .unsupported("this is not a qcow2 image; use format=raw") }
    let bits = Int(Fields(start).word(at: 20))
    guard 9...21 ~= bits else { throw .unsupported("its clusters are of 2^\(bits) bytes; 2^9 to 2^21 are possible") }
    return 1 << bits
  }

  /// `bytes` is the first cluster, or what the file has of it.
  init(parsing bytes: [UInt8]) throws(LayerError) {
    let fields = Fields(bytes)
    guard Self.isMagic(bytes), bytes.count >= Self.version2Length else {
      throw .unsupported("this is not a qcow2 image; use format=raw")
    }
    version = fields.word(at: 4)
    guard version == 2 || version == 3 else {
      throw .unsupported("qcow2 version \(version) is unknown; 2 and 3 are supported")
    }
    let isVersion3 = version == 3
    guard !isVersion3 || bytes.count >= Self.shortest3 else { throw .corrupt("the image ends within its header") }
    clusterBits = Int(fields.word(at: 20))
    guard 9...21 ~= clusterBits else {
      throw .unsupported("its clusters are of 2^\(clusterBits) bytes; 2^9 to 2^21 are possible")
    }
    let headerLength = isVersion3 ? Int(fields.word(at: 100)) : Self.version2Length
    guard headerLength >= (isVersion3 ? Self.shortest3 : Self.version2Length),
      headerLength <= min(1 << clusterBits, bytes.count)
    else { throw .corrupt("the header's length of \(headerLength) bytes is impossible") }

    incompatible = Incompatible(rawValue: isVersion3 ? fields.long(at: 72) : 0)
    compatible = isVersion3 ? fields.long(at: 80) : 0
    autoclear = isVersion3 ? fields.long(at: 88) : 0
    let nameOffset = fields.long(at: 8)
    let extensions = try Extensions(
      fields, from: headerLength, to: nameOffset > 0 ? Int(clamping: nameOffset) : bytes.count)
    hasBitmaps = extensions.hasBitmaps
    try Self.checkFeatures(incompatible, extensions)
    guard fields.word(at: 32) == 0 else {
      throw .unsupported("the image is encrypted, which vmrun does not support; decrypt it with qemu-img convert")
    }
    refcountOrder = isVersion3 ? Int(fields.word(at: 96)) : 4
    guard refcountOrder <= 6 else { throw .corrupt("refcounts of 2^\(refcountOrder) bits are impossible") }
    let type = incompatible.contains(.compressionType) && headerLength > Self.shortest3 ? fields.byte(at: 104) : 0
    guard let compression = Compression(rawValue: type) else {
      throw .unsupported("its clusters are compressed by method \(type); zlib and zstd are supported")
    }
    self.compression = compression

    size = fields.long(at: 24)
    l1Entries = Int(fields.word(at: 36))
    l1Offset = fields.long(at: 40)
    refcountTableOffset = fields.long(at: 48)
    refcountTableClusters = Int(fields.word(at: 56))
    snapshotCount = Int(fields.word(at: 60))
    snapshotsOffset = fields.long(at: 64)
    try Self.checkTables(
      clusterBits, size: size, l1: (l1Entries, l1Offset), refcounts: (refcountTableClusters, refcountTableOffset),
      snapshots: (snapshotCount, snapshotsOffset))

    backingFormat = extensions.backingFormat
    backingFile = try Self.backingName(fields, nameOffset, Int(fields.word(at: 16)))
  }

  private static func backingName(_ fields: Fields, _ offset: UInt64, _ length: Int) throws(LayerError) -> String? {
    guard offset > 0 else { return nil }
    guard 1...maximumNameLength ~= length, let bytes = fields.bytes(at: offset, count: length),
      !bytes.contains(0), let name = String(validating: bytes, as: UTF8.self)
    else { throw .corrupt("the name of its backing file is not one") }
    return name
  }

  private static func checkFeatures(_ features: Incompatible, _ extensions: Extensions) throws(LayerError) {
    if features.contains(.externalDataFile) {
      throw .unsupported("the image keeps its data in another file; convert it with qemu-img convert -O qcow2")
    }
    if features.contains(.extendedL2) {
      throw .unsupported("the image has subclusters; convert it with qemu-img convert -O qcow2 -o extended_l2=off")
    }
    let unknown = features.subtracting(.understood).rawValue
    guard unknown == 0 else {
      let names = (0..<64).filter { unknown & 1 << UInt64($0) != 0 }.map { extensions.featureNames[$0] ?? "bit \($0)" }
      throw .unsupported("the image needs features that vmrun does not have: " + names.joined(separator: ", "))
    }
  }

  private static func checkTables(
    _ clusterBits: Int, size: UInt64, l1: (entries: Int, offset: UInt64), refcounts: (clusters: Int, offset: UInt64),
    snapshots: (count: Int, offset: UInt64)
  ) throws(LayerError) {
    let mask = UInt64(1) << UInt64(clusterBits) - 1
    guard size > 0 else { throw .corrupt("the disk in the image is empty: give it a size with qemu-img resize") }
    // An L1 entry stands for a cluster of L2 entries.
    let reach = UInt64(2 * clusterBits - 3)
    let needed = (size >> reach) + (size & (UInt64(1) << reach - 1) == 0 ? 0 : 1)
    guard size <= UInt64(Int64.max), needed <= maximumL1Bytes / 8 else {
      throw .unsupported("the disk of \(size) bytes is too large for its cluster size")
    }
    guard UInt64(l1.entries) >= needed, UInt64(l1.entries) <= maximumL1Bytes / 8, isTable(l1.offset, mask) else {
      throw .corrupt("the L1 table is impossible")
    }
    guard refcounts.clusters > 0, UInt64(refcounts.clusters) << UInt64(clusterBits) <= maximumRefcountTableBytes,
      isTable(refcounts.offset, mask)
    else { throw .corrupt("the refcount table is impossible") }
    guard snapshots.count <= maximumSnapshots, snapshots.count == 0 || isTable(snapshots.offset, mask) else {
      throw .corrupt("the snapshot table is impossible")
    }
  }

  /// Tables start at a cluster after the header, at most 2^56 bytes into the file.
  static func isTable(_ offset: UInt64, _ mask: UInt64) -> Bool {
    offset > 0 && offset & mask == 0 && offset < 1 << 56
  }
}

extension QCOW2Header {
  /// Big-endian numbers in bytes; zero beyond their end.
  struct Fields {
    private let bytes: [UInt8]
    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func byte(at offset: Int) -> UInt8 { bytes.indices.contains(offset) ? bytes[offset] : 0 }
    func short(at offset: Int) -> UInt16 { UInt16(byte(at: offset)) << 8 | UInt16(byte(at: offset + 1)) }
    func word(at offset: Int) -> UInt32 { UInt32(short(at: offset)) << 16 | UInt32(short(at: offset + 2)) }
    func long(at offset: Int) -> UInt64 { UInt64(word(at: offset)) << 32 | UInt64(word(at: offset + 4)) }

    func bytes(at offset: UInt64, count: Int) -> ArraySlice<UInt8>? {
      guard offset <= UInt64(bytes.count), count <= bytes.count - Int(offset) else { return nil }
      return bytes[Int(offset)..<Int(offset) + count]
    }

    var count: Int { bytes.count }
  }

  /// What follows the header.
  private struct Extensions {
    var backingFormat: String?
    var hasBitmaps = false
    /// Names of incompatible features by their bit.
    var featureNames: [Int: String] = [:]

    private static let end: UInt32 = 0
    private static let backingFormatType: UInt32 = 0xE279_2ACA
    private static let featureNameType: UInt32 = 0x6803_F857
    private static let bitmapsType: UInt32 = 0x2385_2875
    private static let featureNameLength = 48

    init(_ fields: Fields, from start: Int, to end: Int) throws(LayerError) {
      var position = start
      while position <= min(end, fields.count) - 8 {
        let type = fields.word(at: position)
        if type == Self.end { return }
        let length = Int(fields.word(at: position + 4))
        guard length <= min(end, fields.count) - position - 8,
          let data = fields.bytes(at: UInt64(position + 8), count: length)
        else { throw .corrupt("a header extension is longer than the header") }
        switch type {
        case Self.backingFormatType: backingFormat = String(validating: data, as: UTF8.self) ?? "?"
        case Self.bitmapsType: hasBitmaps = true
        case Self.featureNameType: readNames(Array(data))
        default: break
        }
        position += 8 + (length + 7) & ~7
      }
    }

    private mutating func readNames(_ data: [UInt8]) {
      for start in stride(from: 0, to: data.count - data.count % Self.featureNameLength, by: Self.featureNameLength) {
        let name = data[(start + 2)..<(start + Self.featureNameLength)].prefix { $0 != 0 }
        // Type 0: incompatible. The name goes to a message: printable ASCII only.
        guard data[start] == 0, data[start + 1] < 64, name.allSatisfy({ 0x20...0x7E ~= $0 }) else { continue }
        featureNames[Int(data[start + 1])] = String(decoding: name, as: UTF8.self)
      }
    }
  }
}
