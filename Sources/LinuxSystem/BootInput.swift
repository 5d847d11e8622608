import CLinux
import Glibc

extension Descriptor {
  /// A descriptor of its own for one that whoever started the process has opened, closed on exec.
  public static func duplicate(of number: CInt) throws(SystemError) -> Descriptor {
    Descriptor(owning: try retrying("fcntl(F_DUPFD_CLOEXEC)") { clinux_fcntl_int(number, F_DUPFD_CLOEXEC, 3) })
  }

  /// Reads to the end, as of a pipe, into an anonymous file in memory; EFBIG beyond `limit` bytes.
  public borrowing func spooled(limit: UInt64) throws(SystemError) -> Descriptor {
    let file = try Descriptor.memory(named: "vmrun-input", size: 0)
    let chunk = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
    defer { chunk.deallocate() }
    var total: UInt64 = 0
    while true {
      let count = try read(into: chunk)
      if count == 0 { return file }
      total += UInt64(count)
      guard total <= limit else { throw SystemError("read", errno: EFBIG) }
      var done = 0
      while done < count { done += try file.write(UnsafeRawBufferPointer(rebasing: chunk[done..<count])) }
    }
  }

  /// Whether it is a terminal.
  public borrowing func isTerminal() -> Bool { isatty(raw) == 1 }
}
