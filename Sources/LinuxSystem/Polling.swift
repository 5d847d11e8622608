import CLinux
import Glibc

/// Descriptors to wait for, in the order they were given.
public struct PollSet: Sendable {
  public struct Interest: Sendable {
    public let descriptor: CInt
    public let wantsWrite: Bool

    public static func readable(_ descriptor: CInt) -> Interest { Interest(descriptor: descriptor, wantsWrite: false) }
    public static func writable(_ descriptor: CInt) -> Interest { Interest(descriptor: descriptor, wantsWrite: true) }
  }

  /// Waits until one is ready or has an error or hang-up, at most `nanoseconds` (nil: for ever). Returns which are.
  /// A negative descriptor is passed over.
  public static func wait(_ interests: [Interest], nanoseconds: UInt64? = nil) -> [Bool] {
    var entries = interests.map { interest in
      pollfd(descriptor: interest.descriptor, events: interest.wantsWrite ? POLLOUT : POLLIN)
    }
    let timeout = nanoseconds.map { Int64(min($0, UInt64(Int64.max))) } ?? -1
    let ready = clinux_ppoll(&entries, nfds_t(entries.count), timeout)
    guard ready > 0 else { return interests.map { _ in false } }
    return entries.map { $0.revents != 0 }
  }
}

extension pollfd {
  init(descriptor: CInt, events: CInt) {
    self.init(fd: descriptor, events: Int16(truncatingIfNeeded: events), revents: 0)
  }
}
