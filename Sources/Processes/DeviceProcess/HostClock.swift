import DeviceKit
import LinuxSystem
import Synchronization

/// Guest time from the host's clocks, starting with the process.
final class HostClock: MachineClock {
  private let start = monotonicNanoseconds()

  var now: UInt64 { monotonicNanoseconds() - start }
  var wallTime: UInt64 { realtimeNanoseconds() }
}

/// The thread that calls devices' timers back.
final class TimerThread: Sendable {
  /// Counts up whenever the earliest deadline may have moved.
  // Safety: allocated once and never freed: the thread lives as long as the process.
  private nonisolated(unsafe) let changes: UnsafeMutablePointer<Atomic<UInt32>>

  init() {
    changes = .allocate(capacity: 1)
    changes.initialize(to: Atomic(0))
  }

  func wake() {
    changes.pointee.add(1, ordering: .acquiringAndReleasing)
    Futex.wake(changes)
  }

  func run(_ queue: TimerQueue) throws(SystemError) {
    _ = try HostThread("timers") { [self] in
      while true {
        let seen = changes.pointee.load(ordering: .acquiring)
        queue.runDue()
        guard let deadline = queue.nextDeadline else {
          Futex.wait(changes, while: seen)
          continue
        }
        let now = queue.clock.now
        if deadline > now { Futex.wait(changes, while: seen, nanoseconds: Int64(clamping: deadline - now)) }
      }
    }
  }
}
