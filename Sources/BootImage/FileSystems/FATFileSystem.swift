/// FAT12, FAT16 or FAT32 with long names (Microsoft FAT specification, 2005).
final class FATFileSystem: ImageFileSystem {
  enum Width: Int {
    case fat12 = 12
    case fat16 = 16
    case fat32 = 32
  }

  let uuid: String
  private(set) var label: String
  var name: String { "FAT\(width.rawValue)" }

  private let range: DiskRange
  private let width: Width
  /// Bytes.
  private let clusterSize: UInt64
  private let table: (place: UInt64, count: UInt64)
  private let data: UInt64
  /// The first number that is no cluster's; the first cluster is 2.
  private let endCluster: UInt32
  private let root: Place
  /// The piece of the table that was last read.
  private var window: (start: UInt64, fields: ImageFields) = (0, ImageFields([]))

  /// Where a directory or a file begins.
  private enum Place: Equatable {
    /// The root directory of FAT12 and FAT16: bytes of the partition.
    case fixed(place: UInt64, count: UInt64)
    case cluster(UInt32)
  }

  /// Entries of a directory, which is at most 2 MiB (§6.4).
  private static let entryLimit = 1 << 16
  private static let entrySize = 32

  /// nil: the partition has no such file system. The parameter block is that of §3.1 to §3.3.
  init?(_ range: DiskRange) throws(BootImageError) {
    guard range.contains(0, 512) else { return nil }
    let sector = try range.fields(at: 0, 512)
    let jump: UInt8 = sector.integer(0)
    let bytesPerSector = UInt64(sector.integer(11, as: UInt16.self))
    let sectorsPerCluster = UInt64(sector.integer(13, as: UInt8.self))
    let reserved = UInt64(sector.integer(14, as: UInt16.self))
    let tables = UInt64(sector.integer(16, as: UInt8.self))
    let rootEntries = UInt64(sector.integer(17, as: UInt16.self))
    let sectors16 = UInt64(sector.integer(19, as: UInt16.self))
    let tableSectors16 = UInt64(sector.integer(22, as: UInt16.self))
    let sectors32 = UInt64(sector.integer(32, as: UInt32.self))
    let tableSectors32 = UInt64(sector.integer(36, as: UInt32.self))
    guard sector.integer(510, as: UInt16.self) == 0xAA55, jump == 0xEB || jump == 0xE9,
      [512, 1024, 2048, 4096].contains(bytesPerSector), sectorsPerCluster.nonzeroBitCount == 1,
      reserved > 0, 1...2 ~= tables
    else { return nil }
    let total = sectors16 != 0 ? sectors16 : sectors32
    let tableSectors = tableSectors16 != 0 ? tableSectors16 : tableSectors32
    let rootSectors = (rootEntries * 32 + bytesPerSector - 1) / bytesPerSector
    let dataSector = reserved + tables * tableSectors + rootSectors
    guard tableSectors > 0, total > dataSector else { return nil }
    let clusters = (total - dataSector) / sectorsPerCluster
    // The count of clusters alone decides (§3.5).
    width = clusters < 4085 ? .fat12 : clusters < 65525 ? .fat16 : .fat32
    guard clusters > 0, clusters < 0x0FFF_FFF5, (width == .fat32) == (tableSectors16 == 0) else { return nil }
    self.range = range
    clusterSize = bytesPerSector * sectorsPerCluster
    table = (reserved * bytesPerSector, tableSectors * bytesPerSector)
    data = dataSector * bytesPerSector
    endCluster = UInt32(clusters) + 2
    let extended: Int
    if width == .fat32 {
      root = .cluster(sector.integer(44, as: UInt32.self))
      extended = 64
    } else {
      root = .fixed(place: (reserved + tables * tableSectors) * bytesPerSector, count: rootEntries * 32)
      extended = 36
    }
    // The extended boot signature says whether serial number and label are there.
    let signature: UInt8 = sector.integer(extended + 2)
    let serial = 0x28...0x29 ~= signature ? sector.integer(extended + 3, as: UInt32.self) : 0
    let digits = String(serial, radix: 16, uppercase: true)
    let padded = String(repeating: "0", count: 8 - digits.count) + digits
    uuid = padded.prefix(4) + "-" + padded.suffix(4)
    label = signature == 0x29 ? Self.text(sector.slice(extended + 7, 11)) : ""
    if label == "NO NAME" { label = "" }
    if let entry = try? entries(of: root).labelEntry { label = entry }
  }

  private static func text(_ bytes: ArraySlice<UInt8>) -> String {
    var text = bytes
    while text.last == 0x20 || text.last == 0 { text.removeLast() }
    return String(decoding: text, as: UTF8.self)
  }

  // MARK: Chains

  /// The entry of the table for a cluster: the next one of its file.
  private func next(_ cluster: UInt32) throws(BootImageError) -> UInt32 {
    let offset: UInt64
    switch width {
    case .fat12: offset = UInt64(cluster) * 3 / 2
    case .fat16: offset = UInt64(cluster) * 2
    case .fat32: offset = UInt64(cluster) * 4
    }
    let size = width == .fat32 ? 4 : 2
    guard offset + UInt64(size) <= table.count else {
      throw BootImageError(.damaged, "its allocation table is too short")
    }
    if offset < window.start || offset + UInt64(size) > window.start + UInt64(window.fields.count) {
      let count = Int(min(table.count - offset, 4096))
      window = (offset, try range.fields(at: table.place + offset, count))
    }
    let fields = ImageFields(Array(window.fields.slice(Int(offset - window.start), size)))
    switch width {
    case .fat12:
      let pair: UInt16 = fields.integer(0)
      return UInt32(cluster & 1 == 0 ? pair & 0xFFF : pair >> 4)
    case .fat16: return UInt32(fields.integer(0, as: UInt16.self))
    case .fat32: return fields.integer(0, as: UInt32.self) & 0x0FFF_FFFF
    }
  }

  private var lastMark: UInt32 {
    switch width {
    case .fat12: 0xFF8
    case .fat16: 0xFFF8
    case .fat32: 0x0FFF_FFF8
    }
  }

  private func place(of cluster: UInt32) throws(BootImageError) -> UInt64 {
    guard 2..<endCluster ~= cluster else { throw BootImageError(.damaged, "its allocation table is damaged") }
    return data + UInt64(cluster - 2) * clusterSize
  }

  /// Where the first `count` bytes of a chain lie; all of a directory's, whose length nothing says.
  private func runs(from first: UInt32, count: UInt64, isDirectory: Bool) throws(BootImageError) -> RunCollector {
    var collector = RunCollector(count: count)
    guard count > 0 else { return collector }
    var cluster = first
    var offset: UInt64 = 0
    while true {
      switch collector.add(offset: offset, place: try place(of: cluster), count: clusterSize) {
      case .more: break
      case .full: return collector
      case .tooMany: throw BootImageError(.limit, "it lies on the disk in too many pieces")
      }
      offset += clusterSize
      cluster = try next(cluster)
      guard cluster < lastMark else {
        guard isDirectory else { throw BootImageError(.damaged, "its clusters end before its length") }
        return collector
      }
    }
  }

  // MARK: Directories

  private struct Entry {
    let name: String
    /// The name of 8.3 characters that each entry has.
    let shortName: String
    let isDirectory: Bool
    let cluster: UInt32
    let size: UInt32
  }

  private struct Directory {
    var entries: [Entry] = []
    var labelEntry: String?
  }

  private enum Attribute {
    static let volume: UInt8 = 0x08
    static let directory: UInt8 = 0x10
    static let longName: UInt8 = 0x0F
    static let mask: UInt8 = 0x3F
  }

  private func entries(of place: Place) throws(BootImageError) -> Directory {
    var directory = Directory()
    var long = LongName()
    func read(_ start: UInt64, _ count: UInt64) throws(BootImageError) -> Bool {
      var position: UInt64 = 0
      while position < count {
        let piece = try range.fields(at: start + position, Int(min(count - position, 4096)))
        for offset in stride(from: 0, to: piece.count - Self.entrySize + 1, by: Self.entrySize) {
          guard add(ImageFields(Array(piece.slice(offset, Self.entrySize))), to: &directory, &long) else {
            return false
          }
          guard directory.entries.count <= Self.entryLimit else {
            throw BootImageError(.limit, "the directory has too many names")
          }
        }
        position += UInt64(piece.count)
      }
      return true
    }
    switch place {
    case .fixed(let start, let count): _ = try read(start, count)
    case .cluster(let first):
      let limit = UInt64(Self.entryLimit * Self.entrySize)
      for run in try runs(from: first, count: limit, isDirectory: true).runs {
        guard try read(run.place, run.count) else { break }
      }
    }
    return directory
  }

  /// Takes one entry (§6). False: the directory ends.
  private func add(_ fields: ImageFields, to directory: inout Directory, _ long: inout LongName) -> Bool {
    let first: UInt8 = fields.integer(0)
    guard first != 0 else { return false }
    let attributes = fields.integer(11, as: UInt8.self) & Attribute.mask
    guard first != 0xE5 else {
      long = LongName()
      return true
    }
    guard attributes != Attribute.longName else {
      long.add(fields)
      return true
    }
    let longName = long.name(for: fields)
    long = LongName()
    if attributes & Attribute.volume != 0 {
      if directory.labelEntry == nil { directory.labelEntry = Self.text(fields.slice(0, 11)) }
      return true
    }
    let short = Self.shortName(fields)
    guard short != ".", short != ".." else { return true }
    let high = width == .fat32 ? UInt32(fields.integer(20, as: UInt16.self)) << 16 : 0
    directory.entries.append(
      Entry(
        name: longName ?? short, shortName: short, isDirectory: attributes & Attribute.directory != 0,
        cluster: high | UInt32(fields.integer(26, as: UInt16.self)), size: fields.integer(28)))
    return true
  }

  /// NAME.EXT, in lower case where the entry says so, as Windows and Linux write names that need no long one.
  private static func shortName(_ fields: ImageFields) -> String {
    let flags: UInt8 = fields.integer(12)
    var base = Array(fields.slice(0, 8))
    // E5h marks a free entry, so 05h stands for it.
    if base.first == 0x05 { base[0] = 0xE5 }
    var name = text(base[...])
    var ending = text(fields.slice(8, 3))
    if flags & 0x08 != 0 { name = name.lowercased() }
    if flags & 0x10 != 0 { ending = ending.lowercased() }
    return ending.isEmpty ? name : "\(name).\(ending)"
  }

  // MARK: Files

  private func find(_ path: String) throws(BootImageError) -> Entry? {
    let names = path.pathNames
    guard names.count <= FileSystemLimits.depth else { throw BootImageError(.limit, "the path is too deep") }
    var place = root
    var entry: Entry?
    for name in names {
      if let parent = entry {
        guard parent.isDirectory else { throw BootImageError(.notFound, "not found") }
        place = .cluster(parent.cluster)
      }
      let wanted = Self.folded(name)
      guard
        let found = try entries(of: place).entries.first(where: {
          Self.folded($0.name) == wanted || Self.folded($0.shortName) == wanted
        })
      else { throw BootImageError(.notFound, "not found") }
      entry = found
    }
    return entry
  }

  /// Case makes no difference; only that of ASCII is folded, as boot loaders do.
  private static func folded(_ name: String) -> [UInt8] {
    name.utf8.map { 0x41...0x5A ~= $0 ? $0 | 0x20 : $0 }
  }

  func file(_ path: String) throws(BootImageError) -> StoredFile {
    guard let entry = try find(path), !entry.isDirectory else {
      throw BootImageError(.notFound, "not a regular file")
    }
    let runs = try runs(from: entry.cluster, count: UInt64(entry.size), isDirectory: false).runs
    return try StoredFile(count: UInt64(entry.size), runs: runs, in: range)
  }

  func isDirectory(_ path: String) throws(BootImageError) -> Bool { try find(path)?.isDirectory ?? true }

  func names(in path: String) throws(BootImageError) -> [String] {
    var place = root
    if let entry = try find(path) {
      guard entry.isDirectory else { throw BootImageError(.notFound, "not a directory") }
      place = .cluster(entry.cluster)
    }
    return try entries(of: place).entries.map(\.name).sorted()
  }
}

/// The parts of a long name, which precede the entry that they name, last part first (§7).
private struct LongName {
  private var units: [UInt16] = []
  /// The part that has to come next; 0: the name is whole. nil: there is none.
  private var expected: Int?
  private var checksum: UInt8 = 0

  private static let lastFlag: UInt8 = 0x40
  private static let unitsPerPart = 13

  mutating func add(_ fields: ImageFields) {
    let order: UInt8 = fields.integer(0)
    let number = Int(order & 0x3F)
    let sum: UInt8 = fields.integer(13)
    if order & Self.lastFlag != 0 {
      guard 1...20 ~= number else {
        self = LongName()
        return
      }
      self = LongName()
      (expected, checksum) = (number, sum)
      units = [UInt16](repeating: 0xFFFF, count: number * Self.unitsPerPart)
    }
    guard let wanted = expected, wanted == number, number > 0, sum == checksum else {
      self = LongName()
      return
    }
    let start = (number - 1) * Self.unitsPerPart
    for index in 0..<Self.unitsPerPart {
      let offset = index < 5 ? 1 + index * 2 : index < 11 ? 14 + (index - 5) * 2 : 28 + (index - 11) * 2
      units[start + index] = fields.integer(offset)
    }
    expected = number - 1
  }

  /// The name, if its parts are whole and belong to this entry.
  func name(for fields: ImageFields) -> String? {
    guard expected == 0 else { return nil }
    var sum: UInt8 = 0
    for byte in fields.slice(0, 11) { sum = (sum >> 1 | sum << 7) &+ byte }
    guard sum == checksum else { return nil }
    return String(decoding: units.prefix { $0 != 0 && $0 != 0xFFFF }, as: UTF16.self)
  }
}
