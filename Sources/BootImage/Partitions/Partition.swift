/// A partition of a disk; number 0 is the whole disk where it has no table.
public struct Partition: Sendable, Equatable {
  public enum Kind: Sendable, Equatable {
    case wholeDisk
    case mbr(type: UInt8)
    /// The type's GUID in lower case.
    case gpt(type: String)
  }

  /// As Linux counts: from 1, logical partitions from 5.
  public let number: Int
  /// Bytes from the start of the disk.
  public let start: UInt64
  public let size: UInt64
  public let kind: Kind
  /// What `root=PARTUUID=` takes; empty where there is none.
  public let uuid: String
  /// The MBR's active flag, or GPT's legacy_boot.
  public let isActive: Bool

  static let espType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
  /// The boot loader specification's XBOOTLDR.
  static let extendedBootType = "bc13c2ff-59e6-4262-a352-b275fd6f7172"

  /// GRUB's name for it on the first disk.
  var grubName: String {
    switch kind {
    case .wholeDisk: "hd0"
    case .mbr: "hd0,msdos\(number)"
    case .gpt: "hd0,gpt\(number)"
    }
  }

  var description: String { number == 0 ? "the unpartitioned disk" : "partition \(number)" }
}

/// How a disk is divided.
struct PartitionTable: Sendable, Equatable {
  var partitions: [Partition]
  /// What was wrong with the table and passed over, a line each.
  var remarks: [String] = []

  static let sector: UInt64 = 512

  /// Reads GPT, else MBR; else the disk is one file system, or nothing.
  init(_ range: DiskRange) throws(BootImageError) {
    guard range.contains(0, Self.sector) else {
      throw BootImageError(.damaged, "the disk is smaller than a sector")
    }
    let first = MasterBootRecord(try range.fields(at: 0, Int(Self.sector)))
    var remarks: [String] = []
    if let first, first.isProtective {
      if let table = try GPT.read(range, &remarks) {
        self.init(partitions: table, remarks: remarks)
        return
      }
      remarks.append("neither GPT header nor its backup is valid")
    }
    let partitions = try first?.partitions(range, &remarks) ?? []
    guard partitions.isEmpty else {
      self.init(partitions: partitions, remarks: remarks)
      return
    }
    let disk = Partition(number: 0, start: 0, size: range.size, kind: .wholeDisk, uuid: "", isActive: false)
    self.init(partitions: [disk], remarks: remarks)
  }

  private init(partitions: [Partition], remarks: [String]) {
    (self.partitions, self.remarks) = (partitions, remarks)
  }
}
