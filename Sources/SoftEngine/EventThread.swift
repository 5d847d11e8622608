import Engines
import LinuxSystem
import Synchronization

/// The thread beside the vCPUs: carries interrupts from eventfds to the interrupt controllers and fires their timers.
final class EventThread: Sendable {
  private struct Source: Sendable {
    enum Kind: Sendable {
      case edge(Int)
      case level(Int)
      case message(Int)
    }
    let kind: Kind
    let event: SharedEvent
  }

  private struct Shared: Sendable {
    var sources: [Source] = []
    /// What message interrupts send, by their number.
    var routes: [Int: MessageRoute] = [:]
    var isStopped = false
  }

  private let shared = Mutex(Shared())
  /// The sources or the earliest deadline changed, or the thread is to end.
  private let changed: SharedEvent
  private let thread = Mutex<HostThread?>(nil)
  private let moderation = MessageModeration()
  /// Inputs that are to be raised again, a bit each.
  private let raised = Atomic<UInt32>(0)

  init() throws(SystemError) { changed = try SharedEvent() }

  /// Each signal of `event` is an edge on the input. The thread keeps a descriptor of its own.
  func connect(_ input: Int, edge event: borrowing EventDescriptor) throws(SystemError) {
    connect(Source(kind: .edge(input), event: try SharedEvent(sharing: event)))
  }

  /// Each signal of `trigger` raises the input.
  func connect(_ input: Int, trigger: borrowing EventDescriptor) throws(SystemError) {
    connect(Source(kind: .level(input), event: try SharedEvent(sharing: trigger)))
  }

  /// Each signal of `event` sends a message interrupt.
  func connect(message index: Int, _ event: borrowing EventDescriptor) throws(SystemError) {
    connect(Source(kind: .message(index), event: try SharedEvent(sharing: event)))
  }

  /// Sets what message interrupts send.
  func route(_ changes: [MessageRoute]) {
    shared.withLock { shared in for change in changes { shared.routes[change.index] = change } }
  }

  private func connect(_ source: Source) {
    shared.withLock { $0.sources.append(source) }
    changed.event.signal()
  }

  /// Raises an input. Not at once: a guest gets on between two interrupts of a source that stays asserted.
  func raise(_ input: Int) {
    raised.bitwiseOr(1 << UInt32(input & 31), ordering: .sequentiallyConsistent)
    changed.event.signal()
  }

  /// The controllers' earliest deadline has become earlier.
  func rearm() { changed.event.signal() }

  func start(_ controllers: InterruptControllers, confine: @escaping @Sendable () -> Bool) throws(SystemError) {
    let started = try HostThread("interrupts") { [self] in
      makeTimersExact()
      if confine() { serve(controllers) }
    }
    thread.withLock { $0 = started }
  }

  /// Ends the thread and waits for its end.
  func stop() {
    shared.withLock { $0.isStopped = true }
    changed.event.signal()
    thread.withLock { thread in
      thread?.join()
      thread = nil
    }
  }

  private func serve(_ controllers: InterruptControllers) {
    while true {
      let (sources, isStopped) = shared.withLock { ($0.sources, $0.isStopped) }
      if isStopped { return }
      var entries = [PollEntry(changed.raw, .readable)] + sources.map { PollEntry($0.event.raw, .readable) }
      var isCurrent = true
      while isCurrent {
        let waiting = moderation.waiting
        for (index, source) in sources.enumerated() {
          entries[index + 1].descriptor = waiting.sources.contains(index) ? -1 : source.event.raw
        }
        let now = controllers.clock()
        let deadline = [controllers.advance(), waiting.deadline].compactMap { $0 }.min()
        waitForDescriptors(&entries, nanoseconds: deadline.map { $0 > now ? $0 - now : 0 })
        if !entries[0].ready.isEmpty {
          _ = changed.event.drain()
          let inputs = raised.exchange(0, ordering: .sequentiallyConsistent)
          for input in 0..<32 where inputs >> UInt32(input) & 1 != 0 { controllers.trigger(input) }
          isCurrent = shared.withLock { !$0.isStopped && $0.sources.count == sources.count }
        }
        let time = controllers.clock()
        for index in moderation.release(at: time) where forward(sources[index], controllers) {
          moderation.sent(index, at: time, isKept: true)
        }
        for (index, source) in sources.enumerated() where !entries[index + 1].ready.isEmpty {
          if case .message = source.kind, !moderation.permits(index, at: time) { continue }
          forward(source, controllers)
        }
      }
    }
  }

  /// Passes on what a source has signalled. False: that was nothing.
  @discardableResult
  private func forward(_ source: Source, _ controllers: InterruptControllers) -> Bool {
    guard source.event.event.drain() > 0 else { return false }
    switch source.kind {
    case .edge(let input): controllers.pulse(input)
    case .level(let input): controllers.trigger(input)
    case .message(let index):
      guard let route = shared.withLock({ $0.routes[index] }) else { break }
      controllers.sendMSI(address: route.address, data: route.data)
    }
    return true
  }

  /// A processor is about to wait for an interrupt; `endSleep` follows. Any thread.
  func beginSleep(_ controllers: InterruptControllers) {
    guard moderation.beginSleep() else { return }
    let sources = shared.withLock { $0.sources }
    let now = controllers.clock()
    let released = moderation.release(at: now, all: true)
    guard !released.isEmpty else { return }
    for index in released where forward(sources[index], controllers) {
      moderation.sent(index, at: now, isKept: false)
    }
    // The thread looks at them again.
    changed.event.signal()
  }

  func endSleep() { moderation.endSleep() }
}
