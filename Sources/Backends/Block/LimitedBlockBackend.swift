import LinuxSystem
import MachineModel
import Synchronization

/// Lets requests through at a rate: a token bucket each for requests and bytes, which holds a tenth of a second's worth.
///
/// A request goes as soon as neither bucket is in debt, and takes what it costs, so that one that is longer than a
/// bucket passes, too. A flush costs nothing, but does not overtake.
public final class LimitedBlockBackend: BlockBackend {
  private let base: any BlockBackend
  private let core: Core
  private let thread: HostThread

  public init(_ base: any BlockBackend, name: String, limits: BlockRateLimits) throws(SystemError) {
    let core = Core(base, limits)
    self.base = base
    self.core = core
    thread = try HostThread("\(name)-limit") { core.run() }
    core.awaitStart()
  }

  deinit {
    core.stop()
    thread.join()
  }

  public var size: UInt64 { base.size }
  public var isReadOnly: Bool { base.isReadOnly }
  public var features: BlockFeatures { base.features }
  public var limits: BlockLimits { base.limits }

  public func submit(_ request: BlockRequest) {
    if core.pass(request, now: monotonicNanoseconds()) { base.submit(request) }
  }

  public func enqueue(_ request: BlockRequest) {
    if core.pass(request, now: monotonicNanoseconds()) { base.enqueue(request) }
  }

  public func kick() { base.kick() }
  public func measure() { base.measure() }
  public func onResize(_ notify: (@Sendable (UInt64) -> Void)?) { base.onResize(notify) }

  public func drain() {
    core.awaitEmpty()
    base.drain()
  }
}

/// Tokens that come at a rate and are spent, which may lead to a debt.
struct TokenBucket {
  /// Tokens a second.
  let rate: UInt64
  /// Nanoseconds of tokens: below zero is a debt.
  private var level: Int64
  private var last: UInt64

  /// What may be saved up, in nanoseconds.
  static let burst: Int64 = 100_000_000

  init(rate: UInt64, now: UInt64) {
    self.rate = max(rate, 1)
    level = Self.burst
    last = now
  }

  /// Nanoseconds until something may be spent; 0: now.
  mutating func wait(now: UInt64) -> UInt64 {
    let passed = Int64(clamping: now &- last)
    last = now
    level = min(Self.burst, level + min(passed, Int64.max / 2))
    return level > 0 ? 0 : UInt64(1 - level)
  }

  mutating func spend(_ tokens: UInt64) {
    // A request's cost in time: at most some years.
    let (product, overflow) = tokens.multipliedReportingOverflow(by: 1_000_000_000)
    let cost = overflow ? tokens / rate &* 1_000_000_000 : product / rate
    level -= Int64(clamping: min(cost, UInt64(Int64.max / 4)))
  }
}

extension LimitedBlockBackend {
  // Safety: the words live until deinit, which the thread's reference postpones.
  private final class Core: Sendable {
    private struct State {
      var requests: TokenBucket?
      var bytes: TokenBucket?
      var waiting: [BlockRequest] = []
      var stopping = false
      var isRunning = false
    }

    private let base: any BlockBackend
    private let state: Mutex<State>
    /// Changes with what the thread waits for.
    private nonisolated(unsafe) let turn: UnsafeMutablePointer<Atomic<UInt32>>
    /// Changes when nothing waits any more, and at the thread's start.
    private nonisolated(unsafe) let rest: UnsafeMutablePointer<Atomic<UInt32>>

    init(_ base: any BlockBackend, _ limits: BlockRateLimits) {
      self.base = base
      let now = monotonicNanoseconds()
      state = Mutex(
        State(
          requests: limits.requests.map { TokenBucket(rate: $0, now: now) },
          bytes: limits.bytes.map { TokenBucket(rate: $0, now: now) }))
      turn = .allocate(capacity: 1)
      turn.initialize(to: Atomic(0))
      rest = .allocate(capacity: 1)
      rest.initialize(to: Atomic(0))
    }

    deinit {
      turn.deinitialize(count: 1)
      turn.deallocate()
      rest.deinitialize(count: 1)
      rest.deallocate()
    }

    private func signal(_ word: UnsafeMutablePointer<Atomic<UInt32>>) {
      word.pointee.wrappingAdd(1, ordering: .releasing)
      Futex.wake(word, count: .max)
    }

    /// Whether the request may go at once; otherwise it waits here.
    func pass(_ request: BlockRequest, now: UInt64) -> Bool {
      let passes = state.withLock { state in
        if state.waiting.isEmpty, Self.wait(&state, request, now: now) == 0 {
          Self.spend(&state, request)
          return true
        }
        state.waiting.append(request)
        return false
      }
      if !passes { signal(turn) }
      return passes
    }

    private static func wait(_ state: inout State, _ request: BlockRequest, now: UInt64) -> UInt64 {
      guard request.operation != .flush else { return 0 }
      return max(state.requests?.wait(now: now) ?? 0, state.bytes?.wait(now: now) ?? 0)
    }

    private static func spend(_ state: inout State, _ request: BlockRequest) {
      guard request.operation != .flush else { return }
      state.requests?.spend(1)
      // What moves no data costs none.
      if !request.buffers.isEmpty { state.bytes?.spend(request.length) }
    }

    func run() {
      state.withLock { $0.isRunning = true }
      signal(rest)
      while true {
        let seen = turn.pointee.load(ordering: .acquiring)
        let now = monotonicNanoseconds()
        let (request, wait, stopping) = state.withLock { state -> (BlockRequest?, UInt64, Bool) in
          guard let next = state.waiting.first else { return (nil, .max, state.stopping) }
          let wait = state.stopping ? 0 : Self.wait(&state, next, now: now)
          guard wait == 0 else { return (nil, wait, false) }
          Self.spend(&state, next)
          state.waiting.removeFirst()
          return (next, 0, false)
        }
        if let request {
          base.submit(request)
          if state.withLock({ $0.waiting.isEmpty }) { signal(rest) }
        } else if stopping {
          return
        } else {
          Futex.wait(turn, while: seen, nanoseconds: wait == .max ? -1 : Int64(clamping: wait))
        }
      }
    }

    func stop() {
      state.withLock { $0.stopping = true }
      signal(turn)
    }

    func awaitStart() { sleep { $0.isRunning } }
    func awaitEmpty() { sleep { $0.waiting.isEmpty } }

    private func sleep(until condition: (State) -> Bool) {
      while true {
        let seen = rest.pointee.load(ordering: .acquiring)
        if state.withLock({ condition($0) }) { return }
        Futex.wait(rest, while: seen)
      }
    }
  }
}
