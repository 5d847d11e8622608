/// A file system in a partition, read-only. Paths are absolute, with `/` between names.
protocol ImageFileSystem: AnyObject {
  /// `ext4`, `FAT32`: for messages.
  var name: String { get }
  /// As `blkid` prints it.
  var uuid: String { get }
  /// Empty where there is none.
  var label: String { get }
  /// The file at a path, symbolic links followed. Throws `notFound` where there is none.
  func file(_ path: String) throws(BootImageError) -> StoredFile
  /// The names in a directory, without `.` and `..`, sorted. Throws `notFound` where there is none.
  func names(in path: String) throws(BootImageError) -> [String]
  func isDirectory(_ path: String) throws(BootImageError) -> Bool
}

enum FileSystemLimits {
  /// Names in a directory.
  static let names = 1 << 16
  /// Names in a path, after links.
  static let depth = 256
  /// Symbolic links on the way to a file, as in Linux.
  static let links = 40
  /// Bytes of a symbolic link.
  static let link = 4096
}

extension String {
  /// The names of a path. `.` is left out, `..` goes with the name before it.
  var pathNames: [String] {
    var names: [String] = []
    for name in utf8.split(separator: UInt8(ascii: "/")) {
      let name = String(Substring(name))
      if name == ".." { _ = names.popLast() } else if name != "." { names.append(name) }
    }
    return names
  }
}
