import CLinux
import Glibc

public enum StandardStreams {
  public static let input: CInt = 0
  public static let output: CInt = 1
  public static let error: CInt = 2

  /// Opens /dev/null in place of standard descriptors that the caller has closed, so that no other file gets
  /// their numbers.
  public static func ensureOpen() {
    for number in input...error where clinux_fcntl_int(number, F_GETFD, 0) < 0 {
      _ = clinux_open("/dev/null", number == input ? O_RDONLY : O_WRONLY, 0)
    }
  }

  /// What standard input has now, at most `limit` bytes; empty at its end.
  public static func readInput(limit: Int) throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: limit)
    let count = try retrying("read", "stdin") { read(input, &bytes, limit) }
    return Array(bytes.prefix(count))
  }

  /// Writes a line to standard error in one piece, as far as it takes it.
  public static func report(_ line: String) {
    var text = line + "\n"
    text.withUTF8 { buffer in _ = Glibc.write(error, buffer.baseAddress, buffer.count) }
  }
}

/// Ends the process at once, without running exit handlers.
public func exitNow(_ status: CInt) -> Never { _exit(status) }

/// Processors this process may run on.
public func availableProcessors() -> Int { max(1, Int(sysconf(CInt(_SC_NPROCESSORS_ONLN)))) }

/// Bytes of RAM the host has.
public func hostMemory() -> UInt64 {
  UInt64(max(0, sysconf(CInt(_SC_PHYS_PAGES)))) &* UInt64(max(0, sysconf(CInt(_SC_PAGESIZE))))
}
