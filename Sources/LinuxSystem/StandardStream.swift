import Glibc

/// The process's own output streams, written without a buffer so that an error has somewhere to go.
public enum StandardStream: CInt, Sendable {
  case output = 1
  case error = 2

  /// Writes the whole text, waiting where the stream is slow.
  public func write(_ text: String) throws(SystemError) {
    let bytes = Array(text.utf8)
    var written = 0
    while written < bytes.count {
      let start = written
      written += try retrying("write", self == .output ? "standard output" : "standard error") {
        bytes[start...].withUnsafeBytes { Glibc.write(rawValue, $0.baseAddress, $0.count) }
      }
    }
  }
}
