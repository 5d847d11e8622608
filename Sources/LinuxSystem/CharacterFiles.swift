import CLinux
import Glibc

/// A new pseudoterminal in raw mode whose slave nobody has open.
public struct Pseudoterminal: ~Copyable, Sendable {
  /// The master, non-blocking. It polls as hung up while no process has the slave open.
  public let master: Descriptor
  /// What a terminal program opens: `/dev/pts/3`.
  public let slavePath: String

  public init() throws(SystemError) {
    var path = [CChar](repeating: 0, count: 128)
    let raw = path.withUnsafeMutableBufferPointer { clinux_open_pseudoterminal($0.baseAddress, $0.count) }
    guard raw >= 0 else { throw SystemError("posix_openpt") }
    master = Descriptor(owning: raw)
    slavePath = path.withUnsafeBufferPointer { buffer in
      String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
  }

  /// Gives the master away.
  public consuming func takeMaster() -> Descriptor { master }
}

/// Unix stream sockets by path (unix(7)).
public enum UnixSocket {
  /// Bytes that a path may have.
  public static var maximumPathLength: Int { clinux_unix_path_limit() }

  /// Binds a non-blocking listening socket to a path that does not exist yet.
  public static func listen(at path: String, backlog: CInt = 1) throws(SystemError) -> Descriptor {
    let socket = Descriptor(owning: try retrying("socket", path) { clinux_unix_socket(1) })
    let raw = socket.raw
    try retrying("bind", path) { clinux_unix_address(raw, path, 1) }
    try retrying("listen", path) { Glibc.listen(raw, backlog) }
    return socket
  }

  /// Connects to a listening socket.
  public static func connect(to path: String) throws(SystemError) -> Descriptor {
    let socket = Descriptor(owning: try retrying("socket", path) { clinux_unix_socket(0) })
    let raw = socket.raw
    try retrying("connect", path) { clinux_unix_address(raw, path, 0) }
    return socket
  }

  /// Connects to a listening socket that has room for it, and makes the connection one that does not wait.
  public static func connectNonblocking(to path: String) throws(SystemError) -> Descriptor {
    let socket = Descriptor(owning: try retrying("socket", path) { clinux_unix_socket(1) })
    let raw = socket.raw
    try retrying("connect", path) { clinux_unix_address(raw, path, 0) }
    return socket
  }

  /// Writes at most `bytes.count` bytes and returns how many the kernel took; EPIPE, and no signal, where nobody reads.
  public static func send(_ bytes: UnsafeRawBufferPointer, on raw: CInt) throws(SystemError) -> Int {
    try retrying("send") { Glibc.send(raw, bytes.baseAddress, bytes.count, CInt(MSG_NOSIGNAL)) }
  }

  /// Nothing more is written: the other end reads the end of the stream.
  public static func endSending(on raw: CInt) { _ = shutdown(raw, CInt(SHUT_WR)) }

  /// Two connected non-blocking stream sockets.
  public static func pair() throws(SystemError) -> (CInt, CInt) {
    var ends: [CInt] = [-1, -1]
    let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
    try retrying("socketpair") { socketpair(AF_UNIX, type, 0, &ends) }
    return (ends[0], ends[1])
  }

  /// Takes a waiting connection, non-blocking.
  public static func accept(from listener: CInt) throws(SystemError) -> Descriptor {
    Descriptor(owning: try retrying("accept4") { clinux_accept(listener) })
  }

  /// Whether the path itself, no link followed, is a socket.
  public static func isSocket(_ path: String) throws(SystemError) -> Bool {
    try retrying("lstat", path) { clinux_is_socket(path) } == 1
  }
}

/// Removes a name from the file system.
public func removeFile(_ path: String) throws(SystemError) { try retrying("unlink", path) { unlink(path) } }

/// Combinations of open(2) flags, for layers that do not import libc.
public enum OpenFlags {
  /// Create the file, or empty the one that is there, to write it; a terminal does not become the process's own.
  public static let writeCreateTruncate = O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY
}

/// `Descriptor.read` for a descriptor that somebody else owns.
public func readDescriptor(_ raw: CInt, into buffer: UnsafeMutableRawBufferPointer) throws(SystemError) -> Int {
  try retrying("read") { read(raw, buffer.baseAddress, buffer.count) }
}

/// `Descriptor.write` for a descriptor that somebody else owns.
public func writeDescriptor(_ raw: CInt, _ buffer: UnsafeRawBufferPointer) throws(SystemError) -> Int {
  try retrying("write") { write(raw, buffer.baseAddress, buffer.count) }
}
