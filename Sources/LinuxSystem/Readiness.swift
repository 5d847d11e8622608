import CLinux

/// Waits for many descriptors at once (epoll(7)). Each has a number of the caller's, and leaves when it is closed.
public struct ReadinessQueue: ~Copyable, Sendable {
  private let descriptor: Descriptor

  public init() throws(SystemError) {
    descriptor = Descriptor(owning: try retrying("epoll_create1") { clinux_epoll_create() })
  }

  /// With `changesOnly` the descriptor is reported each time that bytes or room arrive and when its other end goes;
  /// otherwise while there is something to read.
  public borrowing func add(_ raw: CInt, token: UInt64, changesOnly: Bool) throws(SystemError) {
    let queue = descriptor.raw
    try retrying("epoll_ctl") { clinux_epoll_add(queue, raw, token, changesOnly ? 1 : 0) }
  }

  /// Waits until some are ready and calls `body` with the number of each.
  public borrowing func wait(_ body: (UInt64) -> Void) {
    let queue = descriptor.raw
    withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Int(CLINUX_EPOLL_BATCH)) { tokens in
      let count = clinux_epoll_wait(queue, tokens.baseAddress)
      for index in 0..<max(Int(count), 0) { body(tokens[index]) }
    }
  }
}
