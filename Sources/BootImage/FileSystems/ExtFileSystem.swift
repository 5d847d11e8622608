import CExt2FS

/// ext2, ext3 or ext4 through libext2fs. A journal is not replayed: what is in it only is not seen.
final class ExtFileSystem: ImageFileSystem {
  let name: String
  let uuid: String
  let label: String
  /// The system was not shut down: files that changed last may be seen as they were before.
  let needsRecovery: Bool
  private let range: DiskRange
  private let blockSize: UInt64
  private let reader: Reader
  // Safety: owned by this object, closed once, used by one thread at a time, as the class is not Sendable.
  private let handle: OpaquePointer

  private static let magicOffset: UInt64 = 1024 + 0x38
  private static let magic: UInt16 = 0xEF53

  /// What the library reads from, and why it could not.
  private final class Reader {
    let range: DiskRange
    var error: BootImageError?
    init(_ range: DiskRange) { self.range = range }
  }

  /// nil: the partition has no such file system.
  init?(_ range: DiskRange) throws(BootImageError) {
    guard range.contains(1024, 1024), try range.fields(at: Self.magicOffset, 2).integer(0) == Self.magic else {
      return nil
    }
    self.range = range
    reader = Reader(range)
    var opened: OpaquePointer?
    // Safety: the reader lives as long as the handle, and the library calls back only from within its calls.
    let code = cext2fs_open(
      { context, offset, buffer, count in
        guard let context, let buffer else { return 5 }
        let reader = Unmanaged<Reader>.fromOpaque(context).takeUnretainedValue()
        do throws(BootImageError) {
          try reader.range.read(at: offset, into: UnsafeMutableRawBufferPointer(start: buffer, count: count))
          return 0
        } catch {
          reader.error = reader.error ?? error
          return 5
        }
      }, Unmanaged.passUnretained(reader).toOpaque(), range.size, &opened)
    guard code == 0, let opened else { throw Self.error(code, reader) }
    handle = opened
    var info = cext2fs_info()
    cext2fs_get_info(opened, &info)
    blockSize = UInt64(info.block_size)
    needsRecovery = info.needs_recovery
    name = String(cString: info.kind)
    uuid = withUnsafeBytes(of: info.uuid) { Self.text(uuid: $0) }
    label = withUnsafeBytes(of: info.label) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  deinit { cext2fs_close(handle) }

  private static func text(uuid bytes: UnsafeRawBufferPointer) -> String {
    var text = ""
    for (index, byte) in bytes.enumerated() {
      if [4, 6, 8, 10].contains(index) { text += "-" }
      text += hexadecimal(byte)
    }
    return text
  }

  private static func error(_ code: Int, _ reader: Reader) -> BootImageError {
    if let error = reader.error {
      reader.error = nil
      return error
    }
    switch code {
    case CEXT2FS_NOT_FOUND, CEXT2FS_NOT_DIRECTORY: return BootImageError(.notFound, "not found")
    case CEXT2FS_UNSUPPORTED:
      return BootImageError(.unsupported, "the file system has features that libext2fs here does not know")
    default:
      let message = cext2fs_message(code).map { String(cString: $0) } ?? "error \(code)"
      return BootImageError(.damaged, "libext2fs: \(message)")
    }
  }

  private func check(_ code: Int) throws(BootImageError) {
    // An error that the library has passed over is not the next call's.
    guard code != 0 else {
      reader.error = nil
      return
    }
    throw Self.error(code, reader)
  }

  // MARK: Paths

  private static let typeMask: UInt16 = 0xF000
  private static let directory: UInt16 = 0x4000
  private static let regular: UInt16 = 0x8000
  private static let symbolicLink: UInt16 = 0xA000

  private func inode(_ number: UInt32) throws(BootImageError) -> cext2fs_inode {
    var inode = cext2fs_inode()
    try check(cext2fs_inode(handle, number, &inode))
    return inode
  }

  private func inode(at path: String) throws(BootImageError) -> cext2fs_inode {
    var stack = [try inode(UInt32(CEXT2FS_ROOT))]
    var links = 0
    var pending = Array(Self.names(Array(path.utf8)).reversed())
    var steps = 0
    while let name = pending.popLast() {
      steps += 1
      guard steps <= FileSystemLimits.depth else { throw BootImageError(.limit, "the path is too deep") }
      if name == [UInt8(ascii: ".")] { continue }
      if name == Array("..".utf8) {
        if stack.count > 1 { stack.removeLast() }
        continue
      }
      guard let parent = stack.last, parent.mode & Self.typeMask == Self.directory else {
        throw BootImageError(.notFound, "not found")
      }
      var number: UInt32 = 0
      try check(
        name.withUnsafeBytes { bytes in
          cext2fs_child(
            handle, parent.number, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count, &number)
        })
      let child = try inode(number)
      guard child.mode & Self.typeMask == Self.symbolicLink else {
        stack.append(child)
        continue
      }
      links += 1
      guard links <= FileSystemLimits.links else {
        throw BootImageError(.damaged, "too many symbolic links lead to one another")
      }
      let target = try target(of: child)
      if target.first == UInt8(ascii: "/") { stack.removeSubrange(1...) }
      pending += Self.names(target).reversed()
    }
    guard let last = stack.last else { throw BootImageError(.notFound, "not found") }
    return last
  }

  private static func names(_ path: [UInt8]) -> [[UInt8]] {
    path.split(separator: UInt8(ascii: "/")).map { Array($0) }
  }

  private func target(of link: cext2fs_inode) throws(BootImageError) -> [UInt8] {
    guard link.size <= UInt64(FileSystemLimits.link) else {
      throw BootImageError(.damaged, "a symbolic link is longer than 4 KiB")
    }
    guard link.size >= UInt64(CEXT2FS_SHORT_LINK) || link.is_encrypted || link.is_inline else {
      return withUnsafeBytes(of: link.link) { Array($0.prefix(Int(link.size))) }
    }
    return try content(of: link).bytes(limit: FileSystemLimits.link)
  }

  // MARK: Files

  func file(_ path: String) throws(BootImageError) -> StoredFile {
    let inode = try inode(at: path)
    guard inode.mode & Self.typeMask == Self.regular else {
      throw BootImageError(.notFound, "not a regular file")
    }
    return try content(of: inode)
  }

  func isDirectory(_ path: String) throws(BootImageError) -> Bool {
    try inode(at: path).mode & Self.typeMask == Self.directory
  }

  private final class Mapping {
    let blockSize: UInt64
    var collector: RunCollector
    var isWhole = true
    init(count: UInt64, blockSize: UInt64) {
      self.blockSize = blockSize
      collector = RunCollector(count: count)
    }
  }

  private func content(of inode: cext2fs_inode) throws(BootImageError) -> StoredFile {
    guard !inode.is_encrypted else { throw BootImageError(.unsupported, "it is encrypted") }
    guard inode.size <= StoredFile.sizeLimit else { throw BootImageError(.limit, "it is longer than 4 GiB") }
    if inode.is_inline {
      var bytes = [UInt8](repeating: 0, count: 1 << 16)
      var count = bytes.count
      try check(cext2fs_inline(handle, inode.number, &bytes, &count))
      let whole = bytes.prefix(min(count, bytes.count)) + [UInt8](repeating: 0, count: FileSystemLimits.link)
      guard inode.size <= UInt64(whole.count) else { throw BootImageError(.damaged, "its length is wrong") }
      return StoredFile(Array(whole.prefix(Int(inode.size))))
    }
    let mapping = Mapping(count: inode.size, blockSize: blockSize)
    // Safety: the mapping outlives the call.
    try check(
      cext2fs_map(
        handle, inode.number,
        { context, logical, physical, count in
          guard let context else { return 1 }
          let mapping = Unmanaged<Mapping>.fromOpaque(context).takeUnretainedValue()
          // Block numbers have 48 bits and blocks 16.
          let mask: UInt64 = 1 << 48 - 1
          switch mapping.collector.add(
            offset: (logical & mask) &* mapping.blockSize, place: (physical & mask) &* mapping.blockSize,
            count: (count & mask) &* mapping.blockSize)
          {
          case .more: return 0
          case .full: return 1
          case .tooMany:
            mapping.isWhole = false
            return 1
          }
        }, Unmanaged.passUnretained(mapping).toOpaque()))
    guard mapping.isWhole else { throw BootImageError(.limit, "it lies on the disk in too many pieces") }
    return try StoredFile(count: inode.size, runs: mapping.collector.runs, in: range)
  }

  // MARK: Directories

  private final class Listing {
    var names: [String] = []
    var isWhole = true
  }

  func names(in path: String) throws(BootImageError) -> [String] {
    let inode = try inode(at: path)
    guard inode.mode & Self.typeMask == Self.directory else { throw BootImageError(.notFound, "not a directory") }
    let listing = Listing()
    // Safety: the listing outlives the call; a name is `count` bytes of the block that the library holds.
    try check(
      cext2fs_list(
        handle, inode.number,
        { context, name, count in
          guard let context, let name else { return 1 }
          let listing = Unmanaged<Listing>.fromOpaque(context).takeUnretainedValue()
          guard listing.names.count < FileSystemLimits.names else {
            listing.isWhole = false
            return 1
          }
          let text = String(decoding: UnsafeRawBufferPointer(start: name, count: count), as: UTF8.self)
          if text != ".", text != ".." { listing.names.append(text) }
          return 0
        }, Unmanaged.passUnretained(listing).toOpaque()))
    guard listing.isWhole else { throw BootImageError(.limit, "the directory has too many names") }
    return listing.names.sorted()
  }
}

/// Two lower-case digits.
func hexadecimal(_ byte: UInt8) -> String {
  let text = String(byte, radix: 16)
  return byte < 16 ? "0" + text : text
}
