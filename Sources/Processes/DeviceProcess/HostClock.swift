import DeviceKit
import LinuxSystem
import Synchronization

/// Guest time from the host's clocks, starting with the process.
final class HostClock: MachineClock {
  private let start = monotonicNanoseconds()

  var now: UInt64 { monotonicNanoseconds() - start }
  var wallTime: UInt64 { realtimeNanoseconds() }
}

/// The thread that calls devices' timers back, from the first that is armed on.
final class TimerThread: Sendable {
  /// Counts up whenever the earliest deadline may have moved.
  // Safety: allocated once and never freed: the thread lives as long as the process.
  private nonisolated(unsafe) let changes: UnsafeMutablePointer<Atomic<UInt32>>
  private let thread = LazyThread("timers")
  /// Whose timers are called back; nil while the board is built.
  private let queue = Mutex<TimerQueue?>(nil)

  init() {
    changes = .allocate(capacity: 1)
    changes.initialize(to: Atomic(0))
  }

  func wake() {
    changes.pointee.add(1, ordering: .acquiringAndReleasing)
    if !thread.isStarted { startThread() }
    // Another thread may just have started it.
    Futex.wake(changes)
  }

  /// The board is complete: timers are called back from now on.
  func run(_ queue: TimerQueue) {
    self.queue.withLock { $0 = queue }
    if queue.nextDeadline != nil { startThread() }
  }

  private func startThread() {
    guard let queue = queue.withLock({ $0 }) else { return }
    do throws(SystemError) {
      try thread.start { [self] in serve(queue) }
    } catch {
      // Without timers the guest would stand still.
      StandardStream.report("vmrun: \(error)")
      endProcessNow(125)
    }
  }

  private func serve(_ queue: TimerQueue) {
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
