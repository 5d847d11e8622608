import CLinux
import Glibc

public enum Pipe {
  /// The read and the write end of a new pipe, both the caller's to own; only the write end is non-blocking.
  public static func make() throws(SystemError) -> (read: CInt, write: CInt) {
    var ends: [CInt] = [-1, -1]
    try retrying("pipe") { clinux_pipe(&ends) }
    _ = clinux_fcntl_int(ends[1], F_SETFL, O_NONBLOCK)
    return (ends[0], ends[1])
  }
}
