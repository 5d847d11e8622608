/// The GUID partition table (UEFI 2.10 §5.3).
enum GPT {
  private static let signature = Array("EFI PART".utf8)
  private static let headerSize = 92
  /// Bytes of entries: four times what the specification reserves at least.
  private static let tableLimit: UInt64 = 64 << 10
  private static let legacyBoot: UInt64 = 1 << 2

  /// The partitions by the first header, or by the one at the end of the disk. nil: neither is valid.
  static func read(_ range: DiskRange, _ remarks: inout [String]) throws(BootImageError) -> [Partition]? {
    if let partitions = try table(range, header: 1) { return partitions }
    let last = range.size / PartitionTable.sector
    guard last > 1, let partitions = try table(range, header: last - 1) else { return nil }
    remarks.append("the GPT header is damaged; its backup at the end of the disk is used")
    return partitions
  }

  /// nil: a checksum or a bound is wrong (Tables 5.5 and 5.6).
  private static func table(_ range: DiskRange, header sector: UInt64) throws(BootImageError) -> [Partition]? {
    let offset = sector * PartitionTable.sector
    guard range.contains(offset, PartitionTable.sector) else { return nil }
    let header = try range.fields(at: offset, Int(PartitionTable.sector))
    let size = Int(header.integer(12, as: UInt32.self))
    guard header.slice(0, 8).elementsEqual(signature), headerSize...header.count ~= size,
      header.integer(24, as: UInt64.self) == sector
    else { return nil }
    var checked = Array(header.slice(0, size))
    for index in 16..<20 { checked[index] = 0 }
    guard CRC32.checksum(checked) == header.integer(16, as: UInt32.self) else { return nil }

    let place: UInt64 = header.integer(72)
    let count = UInt64(header.integer(80, as: UInt32.self))
    let entrySize = UInt64(header.integer(84, as: UInt32.self))
    let (start, overflow) = place.multipliedReportingOverflow(by: PartitionTable.sector)
    guard !overflow, entrySize >= 128, entrySize.isMultiple(of: 8), count > 0,
      count <= tableLimit / entrySize, range.contains(start, count * entrySize)
    else { return nil }
    let entries = try range.fields(at: start, Int(count * entrySize))
    guard CRC32.checksum(entries.bytes) == header.integer(88, as: UInt32.self) else { return nil }
    return (0..<Int(count)).compactMap { index in
      partition(index + 1, ImageFields(Array(entries.slice(index * Int(entrySize), Int(entrySize)))), range)
    }
  }

  private static func partition(_ number: Int, _ entry: ImageFields, _ range: DiskRange) -> Partition? {
    let type = guid(entry.slice(0, 16))
    let first: UInt64 = entry.integer(32)
    let last: UInt64 = entry.integer(40)
    guard entry.slice(0, 16).contains(where: { $0 != 0 }), first > 0, first <= last,
      last < range.size / PartitionTable.sector
    else { return nil }
    return Partition(
      number: number, start: first * PartitionTable.sector, size: (last - first + 1) * PartitionTable.sector,
      kind: .gpt(type: type), uuid: guid(entry.slice(16, 16)),
      isActive: entry.integer(48, as: UInt64.self) & legacyBoot != 0)
  }

  /// The first three groups are little-endian (Appendix A).
  private static func guid(_ bytes: ArraySlice<UInt8>) -> String {
    let bytes = Array(bytes)
    guard bytes.count == 16 else { return "" }
    var text = ""
    for (index, place) in [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].enumerated() {
      if [4, 6, 8, 10].contains(index) { text += "-" }
      text += hexadecimal(bytes[place])
    }
    return text
  }
}
