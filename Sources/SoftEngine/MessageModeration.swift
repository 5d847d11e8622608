import Synchronization

/// Holds message interrupts back that follow each other closely while every processor is busy, so that the guest handles
/// several completions at once: a processor in software is slow beside its devices. What is held back is sent as soon as
/// a processor has nothing to do, and after `interval` in any case.
final class MessageModeration: Sendable {
  /// Nanoseconds from one message of a source to the next.
  static let interval: UInt64 = 500_000

  private struct State {
    /// When each source's last message was sent.
    var sent: [Int: UInt64] = [:]
    var held: Set<Int> = []
  }

  private let state = Mutex(State())
  private let sleepers = Atomic<Int>(0)
  private let isHolding = Atomic<Bool>(false)

  /// A source has a message at a time in nanoseconds. False: it waits; the source is not to be looked at any more.
  func permits(_ source: Int, at now: UInt64) -> Bool {
    state.withLock { state in
      if let last = state.sent[source], now &- last < Self.interval {
        if hold(source, &state) { return false }
      }
      state.sent[source] = now
      return true
    }
  }

  /// A source that `release` gave had a message, which was sent at a time in nanoseconds. `isKept`: the next is likely to
  /// come soon, so the source is not looked at for an interval, where a wake-up for each message would be lost on finding
  /// that it has to wait.
  func sent(_ source: Int, at now: UInt64, isKept: Bool) {
    state.withLock { state in
      state.sent[source] = now
      if isKept { _ = hold(source, &state) }
    }
  }

  /// False: a processor sleeps, which would wait for it.
  private func hold(_ source: Int, _ state: inout State) -> Bool {
    isHolding.store(true, ordering: .sequentiallyConsistent)
    // A processor that goes to sleep looks at `isHolding` after it has counted itself.
    if sleepers.load(ordering: .sequentiallyConsistent) == 0 {
      state.held.insert(source)
      return true
    }
    isHolding.store(!state.held.isEmpty, ordering: .sequentiallyConsistent)
    return false
  }

  /// The sources that wait, and when the first of them is to be sent.
  var waiting: (sources: Set<Int>, deadline: UInt64?) {
    guard isHolding.load(ordering: .sequentiallyConsistent) else { return ([], nil) }
    return state.withLock { state in
      (state.held, state.held.compactMap { state.sent[$0] }.min().map { $0 &+ Self.interval })
    }
  }

  /// Takes the sources that need not wait any more. `all`: whatever the time.
  func release(at now: UInt64, all: Bool = false) -> [Int] {
    guard isHolding.load(ordering: .sequentiallyConsistent) else { return [] }
    return state.withLock { state in
      let due = state.held.filter { all || now &- (state.sent[$0] ?? 0) >= Self.interval }
      state.held.subtract(due)
      isHolding.store(!state.held.isEmpty, ordering: .sequentiallyConsistent)
      return due.sorted()
    }
  }

  /// A processor is about to wait for an interrupt. True: messages are held back, which are to be released.
  func beginSleep() -> Bool {
    sleepers.add(1, ordering: .sequentiallyConsistent)
    return isHolding.load(ordering: .sequentiallyConsistent)
  }

  func endSleep() { sleepers.subtract(1, ordering: .sequentiallyConsistent) }
}
