import DeviceKit
import LinuxSystem
import Sandbox
import Synchronization

/// The threads of devices. Each sleeps on one eventfd, which its doorbells, the engine's side of them and the device
/// itself signal.
final class WorkerThreads: DeviceWorkers {
  private let channel: Channel
  private let page: MachinePage
  private let workers = Mutex<[Worker]>([])
  private let bells: BellCount

  init(channel: Channel, page: MachinePage) {
    self.channel = channel
    self.page = page
    bells = BellCount()
  }

  func worker(
    _ name: String, _ work: @escaping @Sendable (_ mayPoll: Bool) -> WorkerState
  ) throws(DeviceError) -> DeviceWorker {
    do throws(SystemError) {
      let worker = Worker(name, try SharedEvent(blocking: ()), work, channel, page, bells)
      workers.withLock { $0.append(worker) }
      return worker
    } catch {
      throw DeviceError("a thread for \(name) cannot be made: \(error)")
    }
  }

  /// The board is complete: the workers' threads start.
  func start() throws(SystemError) { for worker in workers.withLock({ $0 }) { try worker.start() } }

  private final class BellCount: Sendable {
    let used = Mutex(0)
  }

  private final class Worker: DeviceWorker, @unchecked Sendable {
    private let name: String
    private let event: SharedEvent
    private let work: @Sendable (_ mayPoll: Bool) -> WorkerState
    private let channel: Channel
    private let page: MachinePage
    private let bells: BellCount
    /// A wake that the thread has not yet answered: others add nothing.
    private let isWoken = Atomic<Bool>(false)

    init(
      _ name: String, _ event: SharedEvent, _ work: @escaping @Sendable (_ mayPoll: Bool) -> WorkerState,
      _ channel: Channel,
      _ page: MachinePage, _ bells: BellCount
    ) {
      self.name = name
      self.event = event
      self.work = work
      self.channel = channel
      self.page = page
      self.bells = bells
    }

    func start() throws(SystemError) {
      _ = try HostThread(name) { [self] in
        while true {
          event.event.take()
          isWoken.store(false, ordering: .sequentiallyConsistent)
          while work(false) != .idle {}
        }
      }
    }

    override func wake() {
      guard !isWoken.exchange(true, ordering: .sequentiallyConsistent) else { return }
      event.event.signal()
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
        }
      page.connections.place(doorbell: index, at: shared)
      page.raiseAttention()
    }
  }
}
