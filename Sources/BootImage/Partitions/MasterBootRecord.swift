/// The partition table in a disk's first sector, or in that of an extended partition.
struct MasterBootRecord {
  private struct Entry {
    let isActive: Bool
    let type: UInt8
    /// Sectors.
    let start: UInt64
    let count: UInt64

    /// 05h, 0Fh and 85h contain logical partitions.
    var isExtended: Bool { type == 0x05 || type == 0x0F || type == 0x85 }
    var isUsed: Bool { type != 0 && count != 0 }
  }

  private static let table = 446
  private static let protectiveType: UInt8 = 0xEE
  /// Logical partitions; Linux takes no more than 255 minors in all.
  private static let logicalLimit = 255

  private let entries: [Entry]
  private let signature: UInt32

  /// nil: the sector has no partition table. That of a FAT file system bears the same mark, but has other bytes here.
  init?(_ sector: ImageFields) {
    guard sector.integer(510, as: UInt16.self) == 0xAA55 else { return nil }
    signature = sector.integer(440)
    var entries: [Entry] = []
    for index in 0..<4 {
      let offset = Self.table + index * 16
      let flag: UInt8 = sector.integer(offset)
      guard flag & 0x7F == 0 else { return nil }
      entries.append(
        Entry(
          isActive: flag != 0, type: sector.integer(offset + 4),
          start: UInt64(sector.integer(offset + 8, as: UInt32.self)),
          count: UInt64(sector.integer(offset + 12, as: UInt32.self))))
    }
    self.entries = entries
  }

  var isProtective: Bool { entries.contains { $0.type == Self.protectiveType } }

  func partitions(_ range: DiskRange, _ remarks: inout [String]) throws(BootImageError) -> [Partition] {
    var partitions: [Partition] = []
    var extended: Entry?
    for (index, entry) in entries.enumerated() where entry.isUsed {
      if entry.isExtended {
        extended = extended ?? entry
      } else if entry.type != Self.protectiveType {
        add(index + 1, entry, base: 0, range, &partitions, &remarks)
      }
    }
    if let extended { try addLogical(extended, range, &partitions, &remarks) }
    return partitions
  }

  private func add(
    _ number: Int, _ entry: Entry, base: UInt64, _ range: DiskRange, _ partitions: inout [Partition],
    _ remarks: inout [String]
  ) {
    let start = (base + entry.start) * PartitionTable.sector
    guard start < range.size, entry.start != 0 else {
      remarks.append("partition \(number) begins beyond the end of the disk")
      return
    }
    let size = min(entry.count * PartitionTable.sector, range.size - start)
    let digits = String(signature, radix: 16)
    let suffix = String(number, radix: 16)
    partitions.append(
      Partition(
        number: number, start: start, size: size, kind: .mbr(type: entry.type),
        uuid: signature == 0
          ? "" : String(repeating: "0", count: 8 - digits.count) + digits + (suffix.count < 2 ? "-0" : "-") + suffix,
        isActive: entry.isActive))
  }

  /// A chain of sectors, each with a partition relative to itself and the next sector relative to the first.
  private func addLogical(
    _ extended: Entry, _ range: DiskRange, _ partitions: inout [Partition], _ remarks: inout [String]
  ) throws(BootImageError) {
    var place = extended.start
    var seen: Set<UInt64> = []
    var number = 5
    while true {
      guard seen.insert(place).inserted, seen.count <= Self.logicalLimit else {
        remarks.append("the logical partitions lead back to one another")
        return
      }
      let offset = place * PartitionTable.sector
      guard range.contains(offset, PartitionTable.sector),
        let record = MasterBootRecord(try range.fields(at: offset, Int(PartitionTable.sector)))
      else {
        remarks.append("the logical partitions end in something else")
        return
      }
      if let entry = record.entries.first(where: { $0.isUsed && !$0.isExtended }) {
        add(number, entry, base: place, range, &partitions, &remarks)
        number += 1
      }
      guard let next = record.entries.first(where: { $0.isUsed && $0.isExtended }), next.start != 0 else { return }
      place = extended.start + next.start
    }
  }
}
