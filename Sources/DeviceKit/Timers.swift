import Synchronization

/// Guest time. Devices read no other clock.
public protocol MachineClock: AnyObject, Sendable {
  /// Nanoseconds since power-on, never going back; it stands still while the machine is paused.
  var now: UInt64 { get }
  /// Wall-clock nanoseconds since 1970-01-01 UTC.
  var wallTime: UInt64 { get }
}

/// Calls devices back at points of guest time, one call at a time, earliest first.
public final class TimerQueue: Sendable {
  struct Entry {
    var deadline: UInt64
    var timer: MachineTimer
  }

  public let clock: any MachineClock
  private let armed = Mutex<[Entry]>([])
  private let changed: @Sendable () -> Void

  /// `changed` is called when the earliest deadline may have moved; whoever waits for it looks again.
  public init(clock: any MachineClock, changed: @escaping @Sendable () -> Void = {}) {
    self.clock = clock
    self.changed = changed
  }

  /// A timer of this queue, not armed. The callback runs with no lock of the queue held.
  public func timer(_ callback: @escaping @Sendable () -> Void) -> MachineTimer { MachineTimer(self, callback) }

  /// The earliest deadline, or nil when nothing is armed.
  public var nextDeadline: UInt64? { armed.withLock { $0.map(\.deadline).min() } }

  /// Calls back every timer whose deadline has passed.
  public func runDue() {
    while let timer = takeDue() { timer.callback() }
  }

  private func takeDue() -> MachineTimer? {
    let now = clock.now
    return armed.withLock { armed in
      guard let index = armed.indices.min(by: { armed[$0].deadline < armed[$1].deadline }),
        armed[index].deadline <= now
      else { return nil }
      return armed.remove(at: index).timer
    }
  }

  func arm(_ timer: MachineTimer, at deadline: UInt64) {
    let isFirst = armed.withLock { armed in
      armed.removeAll { $0.timer === timer }
      armed.append(Entry(deadline: deadline, timer: timer))
      return armed.allSatisfy { $0.deadline >= deadline }
    }
    if isFirst { changed() }
  }

  func cancel(_ timer: MachineTimer) {
    armed.withLock { armed in armed.removeAll { $0.timer === timer } }
  }
}

/// One deadline of a device.
public final class MachineTimer: Sendable {
  private unowned let queue: TimerQueue
  let callback: @Sendable () -> Void

  init(_ queue: TimerQueue, _ callback: @escaping @Sendable () -> Void) {
    self.queue = queue
    self.callback = callback
  }

  /// Calls back once at `deadline` (nanoseconds of `MachineClock.now`), replacing an earlier deadline. A
  /// callback that is already under way still runs to its end.
  public func arm(at deadline: UInt64) { queue.arm(self, at: deadline) }
  public func cancel() { queue.cancel(self) }
}
