import CLinux
import Glibc

/// What stands behind a path or descriptor.
public enum FileKind: Sendable, Equatable {
  case regular
  case blockDevice
  case directory
  /// A pipe, socket or character device.
  case other
}

/// How to open a disk image.
public struct ImageOpenMode: Sendable, Equatable {
  public var writable: Bool
  /// O_DIRECT: the host does not cache.
  public var direct: Bool

  public init(writable: Bool, direct: Bool = false) {
    self.writable = writable
    self.direct = direct
  }
}

extension SystemError {
  public var isMissing: Bool { errno == ENOENT || errno == ENOTDIR || errno == ENXIO }
  public var isDirectory: Bool { errno == EISDIR }
  public var isForbidden: Bool { errno == EACCES || errno == EPERM }
  public var isReadOnly: Bool { errno == EROFS }
  public var isInvalid: Bool { errno == EINVAL }
  /// The file system or device has no such operation.
  public var isUnsupported: Bool { errno == EOPNOTSUPP || errno == ENOSYS || errno == ENOTTY }
  public var isOutOfSpace: Bool { errno == ENOSPC || errno == EDQUOT || errno == EFBIG }
  /// A lock that somebody else holds (fcntl(2)).
  public var isLocked: Bool { errno == EAGAIN || errno == EACCES }
}

extension Descriptor {
  /// Opens a disk image. A pipe does not make it wait.
  public static func openImage(_ path: String, _ mode: ImageOpenMode) throws(SystemError) -> Descriptor {
    let access = mode.writable ? O_RDWR : O_RDONLY
    return try open(path, access | O_NONBLOCK | O_NOCTTY | (mode.direct ? clinux_o_direct : 0))
  }

  /// An unlinked, sparse, readable and writable file of `size` zero bytes in `directory`.
  public static func temporary(in directory: String, size: UInt64) throws(SystemError) -> Descriptor {
    guard let length = off_t(exactly: size) else { throw SystemError("ftruncate", directory, errno: EFBIG) }
    let file = try open(directory, O_RDWR | O_EXCL | clinux_o_tmpfile, mode: 0o600)
    let raw = file.raw
    try retrying("ftruncate", directory) { ftruncate(raw, length) }
    return file
  }

  public borrowing func kind() throws(SystemError) -> FileKind {
    switch try status().st_mode & S_IFMT {
    case S_IFREG: .regular
    case S_IFBLK: .blockDevice
    case S_IFDIR: .directory
    default: .other
    }
  }

  /// Bytes of a regular file or of a block device (BLKGETSIZE64).
  public borrowing func imageSize() throws(SystemError) -> UInt64 {
    if try kind() == .blockDevice {
      var size: UInt64 = 0
      let number = raw
      try retrying("ioctl(BLKGETSIZE64)") { clinux_block_device_size(number, &size) }
      return size
    }
    return UInt64(max(0, try status().st_size))
  }

  /// Bytes that the host keeps room for.
  public borrowing func allocatedSize() throws(SystemError) -> UInt64 { UInt64(max(0, try status().st_blocks)) * 512 }

  private borrowing func status() throws(SystemError) -> stat {
    var result = stat()
    let number = raw
    try retrying("fstat") { fstat(number, &result) }
    return result
  }

  /// Locks the whole file for this open file description (F_OFD_SETLK), without waiting. The lock goes when the
  /// last descriptor of it is closed, in whichever process that is.
  public borrowing func lockImage(exclusive: Bool) throws(SystemError) {
    let number = raw
    try retrying("fcntl(F_OFD_SETLK)") { clinux_lock_image(number, exclusive ? 1 : 0) }
  }

  /// Whether another open file description holds an exclusive lock.
  public borrowing func hasLockedWriter() -> Bool { clinux_image_has_writer(raw) != 0 }

  /// Fills the buffers from `offset`; the end of the file before that is EIO.
  public borrowing func readFully(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(SystemError) {
    let number = raw
    try transfer("preadv", buffers, offset) { preadv(number, $0, $1, $2) }
  }

  /// Fills the buffers from `offset`, with zeroes beyond the end of the file.
  public borrowing func readFilling(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(SystemError) {
    do throws(SystemError) {
      try readFully(buffers, at: offset)
    } catch {
      // The end of the file, or with direct access what follows it.
      guard error.errno == EIO || error.isInvalid else { throw error }
      let size = try imageSize()
      let present = offset < size ? size - offset : 0
      guard buffers.reduce(0, { $0 &+ UInt64($1.count) }) > present else { throw error }
      try readStart(of: buffers, at: offset, count: Int(present))
    }
  }

  private borrowing func readStart(of buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64, count: Int)
    throws(SystemError)
  {
    var left = count
    for buffer in buffers {
      let run = min(left, buffer.count)
      if run > 0 { try readStart(of: buffer, at: offset + UInt64(count - left), count: run) }
      fillWithZeroes(UnsafeMutableRawBufferPointer(rebasing: buffer[run...]))
      left -= run
    }
  }

  /// Reads what there is up to `count` bytes of a longer buffer: direct access asks for whole blocks at the file's end.
  private borrowing func readStart(of buffer: UnsafeMutableRawBufferPointer, at offset: UInt64, count: Int)
    throws(SystemError)
  {
    let number = raw
    guard let position = off_t(exactly: offset) else { throw SystemError("pread", errno: EFBIG) }
    var done = 0
    while done < count {
      let moved = try retrying("pread") {
        pread(number, buffer.baseAddress.map { $0 + done }, buffer.count - done, position + off_t(done))
      }
      // It became shorter meanwhile.
      guard moved > 0 else { throw SystemError("pread", errno: EIO) }
      done += moved
    }
  }

  /// Writes all of the buffers from `offset` on.
  public borrowing func writeFully(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(SystemError) {
    let number = raw
    try transfer("pwritev", buffers, offset) { pwritev(number, $0, $1, $2) }
  }

  /// Waits until written data is on stable storage.
  public borrowing func synchronizeData() throws(SystemError) {
    let number = raw
    try retrying("fdatasync") { fdatasync(number) }
  }
}

extension Descriptor {
  /// Gives the range back to the host: it reads as zero afterwards, the size stays.
  public borrowing func punchHole(at offset: UInt64, _ length: UInt64) throws(SystemError) {
    let number = raw
    try retrying("fallocate(FALLOC_FL_PUNCH_HOLE)") { clinux_punch_hole(number, offset, length) }
  }

  /// Makes the range read as zero; the host keeps room for it where it can.
  public borrowing func zeroRange(at offset: UInt64, _ length: UInt64) throws(SystemError) {
    let number = raw
    try retrying("fallocate(FALLOC_FL_ZERO_RANGE)") { clinux_zero_range(number, offset, length) }
  }

  /// Tells a block device that the range's content is no longer needed; it may read as anything afterwards.
  public borrowing func discardBlocks(at offset: UInt64, _ length: UInt64) throws(SystemError) {
    let number = raw
    try retrying("ioctl(BLKDISCARD)") { clinux_discard_blocks(number, offset, length) }
  }

  /// Makes the range of a block device read as zero.
  public borrowing func zeroBlocks(at offset: UInt64, _ length: UInt64) throws(SystemError) {
    let number = raw
    try retrying("ioctl(BLKZEROOUT)") { clinux_zero_blocks(number, offset, length) }
  }

  /// Sets a file's size; EFBIG where the host's files cannot be so long.
  public borrowing func truncate(to size: UInt64) throws(SystemError) {
    guard let length = off_t(exactly: size) else { throw SystemError("ftruncate", errno: EFBIG) }
    let number = raw
    try retrying("ftruncate") { ftruncate(number, length) }
  }
}

/// IOV_MAX of Linux: buffers that one call takes.
private let vectorLimit = 1024

/// Calls `body` until every byte of `buffers` has moved.
private func transfer(
  _ call: String, _ buffers: [UnsafeMutableRawBufferPointer], _ offset: UInt64,
  _ body: (UnsafePointer<iovec>?, CInt, off_t) -> Int
) throws(SystemError) {
  guard var position = off_t(exactly: offset) else { throw SystemError(call, errno: EFBIG) }
  var vectors: [iovec] = []
  var next = 0
  while true {
    while vectors.count < vectorLimit, next < buffers.count {
      if !buffers[next].isEmpty {
        vectors.append(iovec(iov_base: buffers[next].baseAddress, iov_len: buffers[next].count))
      }
      next += 1
    }
    guard !vectors.isEmpty else { return }
    let moved = try vectors.withUnsafeBufferPointer { list in
      Result { () throws(SystemError) in try retrying(call) { body(list.baseAddress, CInt(list.count), position) } }
    }.get()
    guard moved > 0 else { throw SystemError(call, errno: EIO) }
    let (end, overflow) = position.addingReportingOverflow(off_t(moved))
    guard !overflow else { throw SystemError(call, errno: EFBIG) }
    position = end
    drop(moved, from: &vectors)
  }
}

private func drop(_ count: Int, from vectors: inout [iovec]) {
  var left = count
  var done = 0
  while done < vectors.count, left >= vectors[done].iov_len {
    left -= vectors[done].iov_len
    done += 1
  }
  vectors.removeFirst(done)
  if left > 0, !vectors.isEmpty {
    vectors[0].iov_base += left
    vectors[0].iov_len -= left
  }
}

/// A variable of the environment.
public func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

extension Descriptor {
  /// Makes or empties a file and opens it for reading and writing.
  public static func createEmpty(_ path: String) throws(SystemError) -> Descriptor {
    try open(path, O_RDWR | O_CREAT | O_TRUNC)
  }
}

/// Sets all bytes to zero.
public func fillWithZeroes(_ bytes: UnsafeMutableRawBufferPointer) {
  if let base = bytes.baseAddress { memset(base, 0, bytes.count) }
}
