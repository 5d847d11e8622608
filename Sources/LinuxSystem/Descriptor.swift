import CLinux
import Glibc

/// An open file descriptor with one owner; it is closed when the owner goes.
public struct Descriptor: ~Copyable, Sendable {
  /// The number, valid as long as the owner lives.
  public let raw: CInt

  /// Takes over an open descriptor.
  public init(owning raw: CInt) { self.raw = raw }

  deinit { close(raw) }

  /// Gives the number away; the caller closes it.
  public consuming func release() -> CInt {
    let number = raw
    discard self
    return number
  }

  /// A second descriptor on the same open file, closed on exec.
  public borrowing func duplicate() throws(SystemError) -> Descriptor {
    let number = raw
    return Descriptor(owning: try retrying("fcntl(F_DUPFD_CLOEXEC)") { clinux_fcntl_int(number, F_DUPFD_CLOEXEC, 3) })
  }

  /// How a file is opened.
  public enum Access: Sendable {
    case readOnly
    case readWrite

    var flags: CInt { self == .readOnly ? O_RDONLY : O_RDWR }
  }

  public static func open(_ path: String, _ access: Access) throws(SystemError) -> Descriptor {
    try open(path, access.flags)
  }

  /// Opens `path`; `O_CLOEXEC` is always added.
  public static func open(_ path: String, _ flags: CInt, mode: CUnsignedInt = 0o600) throws(SystemError) -> Descriptor {
    Descriptor(owning: try retrying("open", path) { clinux_open(path, flags | O_CLOEXEC, mode) })
  }

  /// An anonymous file in memory of `size` bytes, read as zero. With `isSealed` nobody can change its size any more,
  /// so that a process which has it too cannot take mapped pages away.
  public static func memory(named name: String, size: UInt64, isSealed: Bool = false) throws(SystemError) -> Descriptor
  {
    let descriptor = Descriptor(
      owning: try retrying("memfd_create", name) { clinux_memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING) })
    let raw = descriptor.raw
    guard let length = off_t(exactly: size) else { throw SystemError("ftruncate", name, errno: EFBIG) }
    try retrying("ftruncate", name) { ftruncate(raw, length) }
    if isSealed { try retrying("fcntl(F_ADD_SEALS)", name) { clinux_seal_size(raw) } }
    return descriptor
  }

  /// Reads at most `buffer.count` bytes; 0 is the end of the file.
  public borrowing func read(into buffer: UnsafeMutableRawBufferPointer) throws(SystemError) -> Int {
    let number = raw
    return try retrying("read") { Glibc.read(number, buffer.baseAddress, buffer.count) }
  }

  /// Writes at most `buffer.count` bytes and returns how many the kernel took.
  public borrowing func write(_ buffer: UnsafeRawBufferPointer) throws(SystemError) -> Int {
    let number = raw
    return try retrying("write") { Glibc.write(number, buffer.baseAddress, buffer.count) }
  }
}
