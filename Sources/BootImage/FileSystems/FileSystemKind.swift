/// What a partition holds.
enum FoundFileSystem {
  case readable(any ImageFileSystem)
  /// Something known that is not read here, by its name.
  case foreign(String)
  /// It should be readable, and is not.
  case broken(String)
  case unknown

  init(_ range: DiskRange) throws(BootImageError) {
    do throws(BootImageError) {
      if let ext = try ExtFileSystem(range) {
        self = .readable(ext)
      } else if let fat = try FATFileSystem(range) {
        self = .readable(fat)
      } else if let name = try Self.foreignName(range) {
        self = .foreign(name)
      } else {
        self = .unknown
      }
    } catch {
      guard error.kind != .unreadable, error.kind != .limit else { throw error }
      self = .broken(error.description)
    }
  }

  /// Marks of other file systems and containers, and where they are.
  private static let marks: [(offset: UInt64, mark: [UInt8], name: String)] = [
    (0, Array("XFSB".utf8), "XFS"),
    (0, Array("LUKS".utf8) + [0xBA, 0xBE], "encrypted (LUKS)"),
    (0, Array("hsqs".utf8), "SquashFS"),
    (3, Array("NTFS    ".utf8), "NTFS"),
    (3, Array("EXFAT   ".utf8), "exFAT"),
    (512, Array("LABELONE".utf8), "LVM"),
    (1024, [0x10, 0x20, 0xF5, 0xF2], "F2FS"),
    (1024, [0xE2, 0xE1, 0xF5, 0xE0], "EROFS"),
    (4086, Array("SWAPSPACE2".utf8), "swap"),
    (4096, [0xFC, 0x4E, 0x2B, 0xA9], "Linux RAID"),
    (0x8001, Array("CD001".utf8), "ISO 9660"),
    (0x10040, Array("_BHRfS_M".utf8), "Btrfs"),
  ]

  private static func foreignName(_ range: DiskRange) throws(BootImageError) -> String? {
    for (offset, mark, name) in marks where range.contains(offset, UInt64(mark.count)) {
      if try range.fields(at: offset, mark.count).bytes == mark { return name }
    }
    return nil
  }
}
