import Testing

@testable import BootImage

@Suite struct PartitionTests {
  private func table(_ bytes: [UInt8]) throws -> PartitionTable {
    try PartitionTable(DiskRange(Disk(MemoryDisk(bytes))))
  }

  @Test func mbrWithLogicalPartitions() async throws {
    let disk = try await makeImage(
      """
      truncate -s 16M disk
      printf 'label: dos\\nlabel-id: 0xcafe0102\\n2048,2048,83,*\\n4096,2048,c\\n6144,20000,5\\n8192,2048,83\\n12288,2048,82\\n' \
        | sfdisk disk
      """)
    let table = try table(disk)
    #expect(table.partitions.map(\.number) == [1, 2, 5, 6])
    #expect(table.partitions.map(\.start) == [2048, 4096, 8192, 12288].map { $0 * 512 })
    #expect(table.partitions.map(\.size) == Array(repeating: 2048 * 512, count: 4))
    #expect(table.partitions.map(\.uuid) == ["cafe0102-01", "cafe0102-02", "cafe0102-05", "cafe0102-06"])
    #expect(table.partitions.map(\.isActive) == [true, false, false, false])
    #expect(table.partitions.map(\.kind) == [0x83, 0x0C, 0x83, 0x82].map { .mbr(type: $0) })
    #expect(table.remarks.isEmpty)
  }

  private static let gpt = """
    truncate -s 16M disk
    printf 'label: gpt\\nstart=2048,size=2048,type=U,uuid=00112233-4455-6677-8899-AABBCCDDEEFF\\nsize=4096,type=L\\n' | sfdisk disk
    """

  @Test func gpt() async throws {
    let table = try table(try await makeImage(Self.gpt))
    #expect(table.partitions.map(\.number) == [1, 2])
    #expect(table.partitions.first?.kind == .gpt(type: Partition.espType))
    #expect(table.partitions.first?.uuid == "00112233-4455-6677-8899-aabbccddeeff")
    #expect(table.partitions.map(\.size) == [2048 * 512, 4096 * 512])
    #expect(table.remarks.isEmpty)
  }

  @Test(arguments: [512 + 16, 512 + 72, 1024 + 40]) func gptFromTheBackupWhereTheFirstIsDamaged(byte: Int) async throws
  {
    var disk = try await makeImage(Self.gpt)
    disk[byte] ^= 1
    let table = try table(disk)
    #expect(table.partitions.map(\.number) == [1, 2])
    #expect(table.remarks.count == 1)
  }

  @Test func bothHeadersDamaged() async throws {
    var disk = try await makeImage(Self.gpt)
    disk[512 + 20] ^= 1
    disk[disk.count - 512 + 20] ^= 1
    let table = try table(disk)
    #expect(table.partitions.map(\.kind) == [.wholeDisk])
    #expect(table.remarks == ["neither GPT header nor its backup is valid"])
  }

  @Test func noTableIsTheWholeDisk() throws {
    let table = try table([UInt8](repeating: 0, count: 4096))
    #expect(table.partitions.map(\.number) == [0])
    #expect(table.partitions.map(\.size) == [4096])
    #expect(throws: BootImageError.self) { _ = try self.table([1, 2, 3]) }
  }

  /// A boot record whose entries are (type, start, count).
  private func record(_ entries: [(UInt8, UInt32, UInt32)]) -> [UInt8] {
    var sector = [UInt8](repeating: 0, count: 512)
    for (index, entry) in entries.enumerated() {
      sector[446 + index * 16 + 4] = entry.0
      for byte in 0..<4 {
        sector[446 + index * 16 + 8 + byte] = UInt8(truncatingIfNeeded: entry.1 >> (byte * 8))
        sector[446 + index * 16 + 12 + byte] = UInt8(truncatingIfNeeded: entry.2 >> (byte * 8))
      }
    }
    (sector[510], sector[511]) = (0x55, 0xAA)
    return sector
  }

  @Test func logicalPartitionsThatLeadBackEnd() throws {
    let disk = record([(5, 1, 100)]) + record([(0x83, 1, 1), (5, 1, 1)]) + record([(0x83, 1, 1), (5, 1, 1)])
    let table = try table(disk + [UInt8](repeating: 0, count: 8192))
    #expect(table.partitions.map(\.number) == [5, 6])
    #expect(table.remarks == ["the logical partitions lead back to one another"])
  }

  @Test func partitionsBeyondTheEndAreCutOrLeftOut() throws {
    let disk = record([(0x83, 1, 0xFFFF_FFFF), (0x83, 0xFFFF_FFFF, 1), (5, 0xFFFF_FFF0, 0xFFFF_FFFF)])
    let table = try table(disk + [UInt8](repeating: 0, count: 1024))
    #expect(table.partitions.map(\.size) == [1024])
    #expect(table.remarks.count == 2)
  }

  @Test func randomTablesAreSurvived() throws {
    var generator = SeededGenerator(seed: 1)
    for _ in 0..<(isLongTest ? 200_000 : 2000) {
      var disk = [UInt8](repeating: 0, count: 8192)
      for _ in 0..<40 { disk[Int.random(in: 446..<8192, using: &generator)] = .random(in: 0...255, using: &generator) }
      for sector in 0..<16 { (disk[sector * 512 + 510], disk[sector * 512 + 511]) = (0x55, 0xAA) }
      for entry in 0..<4 where Bool.random(using: &generator) {
        disk[446 + entry * 16] = 0
        disk[446 + entry * 16 + 4] = [5, 0x83, 0xEE].randomElement(using: &generator) ?? 0
      }
      for partition in try table(disk).partitions { #expect(partition.start + partition.size <= 8192) }
    }
  }
}
