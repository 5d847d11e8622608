import CLinux
import Glibc

/// What poll(2) waits for and reports.
public struct PollEvents: OptionSet, Sendable {
  public let rawValue: Int16
  public init(rawValue: Int16) { self.rawValue = rawValue }
  public static let readable = PollEvents(rawValue: Int16(POLLIN))
  public static let writable = PollEvents(rawValue: Int16(POLLOUT))
  /// The other end is gone. Reported whether asked for or not, as are `error` and `invalid`.
  public static let hangUp = PollEvents(rawValue: Int16(POLLHUP))
  public static let error = PollEvents(rawValue: Int16(POLLERR))
  public static let invalid = PollEvents(rawValue: Int16(POLLNVAL))
}

/// One descriptor to wait for.
public struct PollEntry: Sendable {
  /// A negative number is passed over.
  public var descriptor: CInt
  public var interest: PollEvents
  public fileprivate(set) var ready: PollEvents = []

  public init(_ descriptor: CInt, _ interest: PollEvents) {
    self.descriptor = descriptor
    self.interest = interest
  }
}

/// Nanoseconds as a timeout of `waitForDescriptors`, rounded up so that the time has passed afterwards; nil is for ever.
public func pollMilliseconds(_ nanoseconds: UInt64?) -> CInt {
  guard let nanoseconds else { return -1 }
  return CInt(clamping: nanoseconds / 1_000_000 + (nanoseconds % 1_000_000 == 0 ? 0 : 1))
}

/// Waits until a descriptor is ready or `milliseconds` passed (negative: for ever), and fills in `ready`.
/// A signal or an error of the host returns early with nothing ready.
public func waitForDescriptors(_ entries: inout [PollEntry], milliseconds: CInt = -1) {
  wait(&entries) { poll($0.baseAddress, nfds_t($0.count), milliseconds) }
}

/// The same with nanoseconds; nil: for ever.
public func waitForDescriptors(_ entries: inout [PollEntry], nanoseconds: UInt64?) {
  guard let nanoseconds else { return waitForDescriptors(&entries) }
  var limit = timespec(
    tv_sec: Int(clamping: nanoseconds / 1_000_000_000), tv_nsec: Int(clamping: nanoseconds % 1_000_000_000))
  wait(&entries) { clinux_ppoll($0.baseAddress, nfds_t($0.count), &limit) }
}

private func wait(_ entries: inout [PollEntry], _ call: (UnsafeMutableBufferPointer<pollfd>) -> CInt) {
  withUnsafeTemporaryAllocation(of: pollfd.self, capacity: entries.count) { requests in
    for (index, entry) in entries.enumerated() {
      requests.initializeElement(
        at: index, to: pollfd(fd: entry.descriptor, events: entry.interest.rawValue, revents: 0))
    }
    let count = call(requests)
    for index in entries.indices {
      entries[index].ready = count > 0 ? PollEvents(rawValue: requests[index].revents) : []
    }
  }
}

extension EventDescriptor {
  /// Waits until the event is signalled or `milliseconds` passed (negative: for ever), and takes the signal; false: there
  /// was none.
  @discardableResult
  public borrowing func wait(milliseconds: CInt = -1) -> Bool {
    var entries = [PollEntry(descriptor.raw, .readable)]
    waitForDescriptors(&entries, milliseconds: milliseconds)
    return drain() > 0
  }
}

/// Keeps SIGPIPE from the calling thread: writes to a pipe or socket that nobody reads fail with EPIPE instead.
public func blockBrokenPipeSignal() { clinux_block_sigpipe() }
