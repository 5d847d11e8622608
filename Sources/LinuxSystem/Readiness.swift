import Glibc

/// Waits for many descriptors at once (epoll(7)). Each has a number of the caller's, and leaves when it is closed.
public struct ReadinessQueue: ~Copyable, Sendable {
  private static let batch = 64
  private let descriptor: Descriptor

  public init() throws(SystemError) {
    descriptor = Descriptor(owning: try retrying("epoll_create1") { epoll_create1(CInt(EPOLL_CLOEXEC)) })
  }

  /// With `changesOnly` the descriptor is reported each time that bytes or room arrive and when its other end goes;
  /// otherwise while there is something to read.
  public borrowing func add(_ raw: CInt, token: UInt64, changesOnly: Bool) throws(SystemError) {
    let interest =
      changesOnly
      ? EPOLLIN.rawValue | EPOLLOUT.rawValue | EPOLLRDHUP.rawValue | EPOLLET.rawValue : EPOLLIN.rawValue
    var event = epoll_event(events: interest, data: epoll_data_t(u64: token))
    let queue = descriptor.raw
    try retrying("epoll_ctl") { epoll_ctl(queue, EPOLL_CTL_ADD, raw, &event) }
  }

  /// Waits until some are ready and calls `body` with the number of each.
  public borrowing func wait(_ body: (UInt64) -> Void) {
    let queue = descriptor.raw
    withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: Self.batch) { events in
      let count = epoll_wait(queue, events.baseAddress, CInt(Self.batch), -1)
      for index in 0..<max(Int(count), 0) { body(events[index].data.u64) }
    }
  }
}
