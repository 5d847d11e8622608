import CLinux
import Glibc

/// An eventfd: a counter that one side adds to and the other waits for.
public struct EventDescriptor: ~Copyable, Sendable {
  public let descriptor: Descriptor

  public init() throws(SystemError) {
    descriptor = Descriptor(
      owning: try retrying("eventfd") { eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK)) })
  }

  /// One that a single reader waits for with `take`.
  public init(blocking: ()) throws(SystemError) {
    descriptor = Descriptor(owning: try retrying("eventfd") { eventfd(0, CInt(EFD_CLOEXEC)) })
  }

  public init(owning descriptor: consuming Descriptor) { self.descriptor = descriptor }

  /// Adds one. A full counter already wakes the other side, so EAGAIN is success.
  @inlinable
  public borrowing func signal() {
    _ = signalEvent(descriptor.raw)
  }

  /// Waits until a blocking eventfd is signalled and sets its counter to zero.
  public borrowing func take() { _ = drain() }

  /// Takes the counter's value and sets it to zero; 0 where nothing was signalled.
  public borrowing func drain() -> UInt64 {
    var value: UInt64 = 0
    let count = read(descriptor.raw, &value, 8)
    return count == 8 ? value : 0
  }
}

/// An eventfd with several owners, for arrays and closures.
public final class SharedEvent: Sendable {
  public let event: EventDescriptor

  public init() throws(SystemError) { event = try EventDescriptor() }

  public init(blocking: ()) throws(SystemError) { event = try EventDescriptor(blocking: ()) }

  public init(owning raw: CInt) { event = EventDescriptor(owning: Descriptor(owning: raw)) }

  /// Another descriptor of the same eventfd.
  public init(sharing other: borrowing EventDescriptor) throws(SystemError) {
    event = EventDescriptor(owning: try other.descriptor.duplicate())
  }

  public var raw: CInt { event.descriptor.raw }
}

/// Adds one to the eventfd `raw`.
public func signalEvent(_ raw: CInt) -> Bool {
  var one: UInt64 = 1
  return write(raw, &one, 8) == 8
}

/// Time since boot in nanoseconds, never set back (CLOCK_MONOTONIC).
public func monotonicNanoseconds() -> UInt64 {
  var now = timespec()
  clock_gettime(CLOCK_MONOTONIC, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// Processor time that the calling thread has used, in nanoseconds (CLOCK_THREAD_CPUTIME_ID).
public func threadNanoseconds() -> UInt64 {
  var now = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// CPU time that the process has used, in nanoseconds (CLOCK_PROCESS_CPUTIME_ID).
public func processorNanoseconds() -> UInt64 {
  var now = timespec()
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// Wall-clock time in nanoseconds since 1970-01-01 UTC (CLOCK_REALTIME).
public func realtimeNanoseconds() -> UInt64 {
  var now = timespec()
  clock_gettime(CLOCK_REALTIME, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
