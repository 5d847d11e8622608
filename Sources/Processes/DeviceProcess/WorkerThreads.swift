import DeviceKit
import LinuxSystem
import Sandbox
import Synchronization

/// The threads of devices. Each sleeps on one eventfd, which its doorbells, the engine's side of them and the device
/// itself signal. It starts when that happens for the first time.
final class WorkerThreads: DeviceWorkers {
  private let channel: Channel
  private let page: MachinePage
  private let workers = Mutex<[Worker]>([])
  private let bells: BellCount
  private let spin: UInt64
  private let clock: HostClock

  /// `spin` is in TSC cycles, as for mailboxes.
  init(channel: Channel, page: MachinePage, clock: HostClock, spin: UInt64) {
    self.clock = clock
    self.channel = channel
    self.spin = spin
    self.page = page
    bells = BellCount()
  }

  func worker(
    _ name: String, _ work: @escaping @Sendable (_ mayPoll: Bool) -> WorkerState
  ) throws(DeviceError) -> DeviceWorker {
    do throws(SystemError) {
      let worker = Worker(name, try SharedEvent(blocking: ()), work, channel, page, clock, bells, spin)
      workers.withLock { $0.append(worker) }
      return worker
    } catch {
      throw DeviceError("a thread for \(name) cannot be made: \(error)")
    }
  }

  /// What each worker's eventfd is; whoever waits for them calls `start` when one is readable.
  var events: [CInt] { workers.withLock { $0.map(\.raw) } }

  /// Starts the thread of a worker, by its place in `events`.
  func start(_ index: Int) throws(SystemError) { try workers.withLock { $0[index] }.start() }

  private final class BellCount: Sendable {
    let used = Mutex(0)
  }

  private final class Worker: DeviceWorker, @unchecked Sendable {
    private let name: String
    private let event: SharedEvent
    private let work: @Sendable (_ mayPoll: Bool) -> WorkerState
    private let channel: Channel
    private let page: MachinePage
    private let clock: HostClock
    private let bells: BellCount
    /// TSC cycles that it polls at most for a short time.
    private let spin: UInt64
    /// Calls of `wake`, modulo 2^32: what the thread compares before it sleeps.
    private let wakes = Atomic<UInt32>(0)
    /// The thread waits for the eventfd, or is about to.
    private let isAsleep = Atomic<Bool>(true)
    /// When it is to work in any case, in guest time.
    private let deadline = Atomic<UInt64>(.max)
    private let thread = Atomic<CInt>(0)

    init(
      _ name: String, _ event: SharedEvent, _ work: @escaping @Sendable (_ mayPoll: Bool) -> WorkerState,
      _ channel: Channel,
      _ page: MachinePage, _ clock: HostClock, _ bells: BellCount, _ spin: UInt64
    ) {
      self.name = name
      self.event = event
      self.work = work
      self.channel = channel
      self.page = page
      self.clock = clock
      self.bells = bells
      self.spin = spin
    }

    var raw: CInt { event.raw }

    func start() throws(SystemError) { _ = try HostThread(name) { [self] in serve() } }

    private func serve() {
      var window = PollingWindow(limit: spin &* PollingWindow.patience)
      thread.store(currentThreadID(), ordering: .relaxed)
      sleep()
      while true {
        isAsleep.store(false, ordering: .sequentiallyConsistent)
        let seen = wakes.load(ordering: .sequentiallyConsistent)
        finishWork(window.cycles)
        isAsleep.store(true, ordering: .sequentiallyConsistent)
        // A wake before that signalled nothing.
        guard wakes.load(ordering: .sequentiallyConsistent) == seen else { continue }
        let start = timestamp()
        sleep()
        window.slept(since: start)
      }
    }

    /// Waits for a signal, or for the deadline.
    private func sleep() {
      while true {
        let deadline = deadline.load(ordering: .sequentiallyConsistent)
        guard deadline != .max else { return event.event.take() }
        let now = clock.now
        var entries = [PollEntry(event.raw, .readable)]
        if deadline > now { waitForDescriptors(&entries, nanoseconds: deadline - now) }
        guard entries[0].ready.isEmpty else { return event.event.take() }
        guard clock.now >= deadline else { continue }
        _ = self.deadline.compareExchange(expected: deadline, desired: .max, ordering: .sequentiallyConsistent)
        return
      }
    }

    private func finishWork(_ window: UInt64) {
      var last = timestamp()
      while true {
        switch work(window > 0) {
        case .idle: return
        case .busy: last = timestamp()
        case .polling(let time):
          if timestamp() &- last < (time == .long ? window : min(window, spin)) {
            spinHint()
          } else {
            if work(false) == .idle { return }
            last = timestamp()
          }
        }
      }
    }

    override func wake() {
      wakes.wrappingAdd(1, ordering: .sequentiallyConsistent)
      if isAsleep.exchange(false, ordering: .sequentiallyConsistent) { event.event.signal() }
    }

    override func wake(at deadline: UInt64) {
      // Not `min`, which compares as if the numbers had signs (Swift 6.3).
      var old = self.deadline.load(ordering: .relaxed)
      while true {
        guard old > deadline else { return }
        let (isDone, current) = self.deadline.compareExchange(
          expected: old, desired: deadline, ordering: .sequentiallyConsistent)
        if isDone { break }
        old = current
      }
      // The thread itself looks at the deadline before it sleeps.
      if thread.load(ordering: .relaxed) != currentThreadID() { wake() }
    }

    override func doorbell() -> Doorbell {
      bells.used.withLock { used in
        // Without a place in the table the guest's writes arrive on the bus.
        guard used < ConnectionTable.doorbellCount,
          (try? channel.send(.connectDoorbell, used.twoBytes, descriptors: [event.raw])) != nil
        else { return Doorbell() }
        used += 1
        return Bell(used - 1, page)
      }
    }
  }

  private final class Bell: Doorbell, @unchecked Sendable {
    private let index: Int
    private let page: MachinePage

    init(_ index: Int, _ page: MachinePage) {
      self.index = index
      self.page = page
    }

    override func place(at place: DoorbellPlace?) {
      let shared: SharedDoorbell? =
        switch place {
        case nil: nil
        case .port(let port): .port(port)
        case .memory(let address): .memory(address)
        case .register(let address, let value): .register(address, value: value)
        case .sharedRegisters(let number): .sharedRegisters(UInt32(truncatingIfNeeded: number))
        }
      page.connections.place(doorbell: index, at: shared)
      page.raiseAttention()
    }
  }
}
