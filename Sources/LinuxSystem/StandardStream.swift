import CLinux
import Glibc

/// The process's own standard streams, unbuffered so that an error has somewhere to go.
public enum StandardStream: CInt, Sendable {
  case input = 0
  case output = 1
  case error = 2

  private var name: String {
    switch self {
    case .input: "standard input"
    case .output: "standard output"
    case .error: "standard error"
    }
  }

  /// Writes the whole text, waiting where the stream is slow.
  public func write(_ text: String) throws(SystemError) {
    let bytes = Array(text.utf8)
    var written = 0
    while written < bytes.count {
      let start = written
      written += try retrying("write", name) {
        bytes[start...].withUnsafeBytes { Glibc.write(rawValue, $0.baseAddress, $0.count) }
      }
    }
  }

  /// What there is to read, at most `limit` bytes; empty at the end.
  public func read(limit: Int) throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: limit)
    let count = try retrying("read", name) { Glibc.read(rawValue, &bytes, limit) }
    return Array(bytes.prefix(count))
  }

  /// A descriptor of its own for the same open file.
  public func duplicate() throws(SystemError) -> Descriptor {
    Descriptor(owning: try retrying("fcntl(F_DUPFD_CLOEXEC)", name) { clinux_fcntl_int(rawValue, F_DUPFD_CLOEXEC, 3) })
  }

  /// Writes a line to standard error; where that is gone too, nothing is left to say it.
  public static func report(_ line: String) { try? StandardStream.error.write(line + "\n") }

  /// Opens /dev/null in place of streams that the caller has closed, so that no other file gets their numbers.
  public static func ensureOpen() {
    for stream in [input, output, error] where clinux_fcntl_int(stream.rawValue, F_GETFD, 0) < 0 {
      _ = clinux_open("/dev/null", stream == .input ? O_RDONLY : O_WRONLY, 0)
    }
  }
}
