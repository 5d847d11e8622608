import CLinux
import Glibc
import Synchronization

/// A host thread with a name and its own stack, joined by its owner.
public final class HostThread: Sendable {
  /// Bytes.
  public static let standardStack = 512 << 10

  private let handle: pthread_t

  /// Starts `body` on a new thread. `name` is cut to the kernel's 15 characters.
  public init(
    _ name: String, stackSize: Int = standardStack, _ body: @escaping @Sendable () -> Void
  ) throws(SystemError) {
    final class Start: Sendable {
      let name: String
      let body: @Sendable () -> Void
      init(_ name: String, _ body: @escaping @Sendable () -> Void) { (self.name, self.body) = (name, body) }
    }
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setstacksize(&attributes, stackSize)
    var thread = pthread_t()
    // Safety: the box is retained here and released once, by the new thread (or below where none started).
    let start = Unmanaged.passRetained(Start(String(name.prefix(15)), body))
    let status = pthread_create(
      &thread, &attributes,
      { argument in
        guard let argument else { return nil }
        let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
        clinux_set_thread_name(start.name)
        start.body()
        return nil
      }, start.toOpaque())
    guard status == 0 else {
      start.release()
      throw SystemError("pthread_create", name, errno: status)
    }
    handle = thread
  }

  /// Waits until the thread has ended. To be called once.
  public func join() { pthread_join(handle, nil) }

  /// Sends the signal to this thread alone.
  public func signal(_ number: CInt) { pthread_kill(handle, number) }
}

/// What another thread calculates meanwhile. To be asked for its value, since the thread is joined there; by one thread.
public final class Concurrently<Value: Sendable>: Sendable {
  private let result = Mutex<Value?>(nil)
  private let thread: Mutex<HostThread?>
  private let body: @Sendable () -> Value

  /// - Parameter body: done by the caller, later, where the host starts no thread.
  public init(_ name: String, _ body: @escaping @Sendable () -> Value) {
    self.body = body
    thread = Mutex(nil)
    let started = try? HostThread(name) { [self] in
      let value = body()
      result.withLock { $0 = value }
    }
    thread.withLock { $0 = started }
  }

  /// Waits until it is there.
  public var value: Value {
    let running = thread.withLock { thread in
      defer { thread = nil }
      return thread
    }
    running?.join()
    return result.withLock { result in
      let value = result ?? body()
      result = value
      return value
    }
  }
}

/// A host thread that starts when there is something for it to do: many never are.
public final class LazyThread: Sendable {
  private let name: String
  private let stackSize: Int
  private let thread = Mutex<HostThread?>(nil)
  private let started = Atomic(false)

  public init(_ name: String, stackSize: Int = HostThread.standardStack) {
    (self.name, self.stackSize) = (name, stackSize)
  }

  public var isStarted: Bool { started.load(ordering: .acquiring) }

  /// Starts `body` on the thread unless it has been started.
  public func start(_ body: @escaping @Sendable () -> Void) throws(SystemError) {
    try thread.withLock { thread throws(SystemError) in
      guard thread == nil else { return }
      thread = try HostThread(name, stackSize: stackSize, body)
      started.store(true, ordering: .releasing)
    }
  }

  /// Waits until the thread, if it was started, has ended. To be called once.
  public func join() { thread.withLock { $0 }?.join() }
}

/// The kernel's number of the calling thread.
public func currentThreadID() -> CInt { clinux_gettid() }

/// Sends a signal to a thread of this process.
public func signalThread(_ thread: CInt, _ number: CInt) { _ = clinux_tgkill(getpid(), thread, number) }

/// Lets waits of the calling thread end as soon as their time is up, instead of up to 50 µs later (PR_SET_TIMERSLACK).
public func makeTimersExact() { clinux_set_timer_slack(1) }

/// Lets another thread run: for short waits on one that may have lost its processor.
public func yieldProcessor() { _ = sched_yield() }
