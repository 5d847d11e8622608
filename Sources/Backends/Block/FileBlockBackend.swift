import LinuxSystem
import MachineModel
import Synchronization

/// A raw image in a host file or block device, driven by a few worker threads.
///
/// Requests on overlapping ranges keep the order they were submitted in where one of them writes; others may
/// overtake each other. A completion runs on a worker.
public final class FileBlockBackend: BlockBackend {
  public static let maximumWorkers = 4

  private let core: Core
  private let workers: [HostThread]

  /// Takes over what `OpenedImage.open` opened, and returns when the workers run: a sandbox may close then.
  /// `report` is given a line for the user at each host error's first time.
  public init(
    image: consuming Descriptor, overlay: consuming Descriptor?, spec: BlockSpec, geometry: ImageGeometry,
    workers count: Int = maximumWorkers, report: @escaping @Sendable (String) -> Void = { _ in }
  ) throws(SystemError) {
    let core = Core(image: image, overlay: overlay, spec: spec, geometry: geometry, report: report)
    self.core = core
    var workers: [HostThread] = []
    for index in 0..<min(max(count, 1), Self.maximumWorkers) {
      do throws(SystemError) {
        workers.append(try HostThread("\(spec.id)-\(index)") { core.work() })
      } catch {
        core.stop()
        for worker in workers { worker.join() }
        throw error
      }
    }
    self.workers = workers
    core.awaitWorkers(workers.count)
  }

  public convenience init(_ opened: consuming OpenedImage, spec: BlockSpec) throws(SystemError) {
    let geometry = opened.geometry
    try self.init(image: opened.image, overlay: opened.overlay, spec: spec, geometry: geometry)
  }

  deinit {
    core.stop()
    for worker in workers { worker.join() }
  }

  public var size: UInt64 { core.geometry.size }
  public var isReadOnly: Bool { core.spec.readOnly }

  public func submit(_ request: BlockRequest) {
    guard let error = refusal(of: request) else { return core.add(request) }
    request.completion(.failure(error))
  }

  private func refusal(of request: BlockRequest) -> BlockError? {
    guard request.operation != .flush else { return nil }
    if request.operation == .write, isReadOnly { return .readOnly }
    return request.offset <= size && UInt64(request.count) <= size - request.offset ? nil : .outOfRange
  }

  public func drain() { core.drain() }
}

extension FileBlockBackend {
  /// What the workers share.
  // Safety: `sleepers`, `idle` and `ready` point to words that live until deinit, which the workers' references postpone.
  private final class Core: Sendable {
    let spec: BlockSpec
    let geometry: ImageGeometry
    private let image: ImageAccess
    private let overlay: Overlay?

    private struct State {
      var queue: RequestQueue
      var stopping = false
      /// Host errors that the user was told of.
      var reported: Set<CInt> = []
      /// Why a flush failed once.
      var flushError: SystemError?
    }

    private let state: Mutex<State>
    private let report: @Sendable (String) -> Void
    /// Changes whenever a request may have become runnable.
    private nonisolated(unsafe) let sleepers: UnsafeMutablePointer<Atomic<UInt32>>
    /// Changes whenever the last request has finished.
    private nonisolated(unsafe) let idle: UnsafeMutablePointer<Atomic<UInt32>>
    /// Workers that are ready for requests.
    private nonisolated(unsafe) let ready: UnsafeMutablePointer<Atomic<UInt32>>

    init(
      image: consuming Descriptor, overlay: consuming Descriptor?, spec: BlockSpec, geometry: ImageGeometry,
      report: @escaping @Sendable (String) -> Void
    ) {
      self.spec = spec
      self.report = report
      self.geometry = geometry
      self.image = ImageAccess(file: image, geometry: geometry)
      if let file = overlay {
        self.overlay = Overlay(file: file, size: geometry.size)
        state = Mutex(State(queue: RequestQueue(granule: Overlay.clusterSize)))
      } else {
        self.overlay = nil
        state = Mutex(State(queue: RequestQueue(granule: geometry.alignment)))
      }
      sleepers = .allocate(capacity: 1)
      sleepers.initialize(to: Atomic(0))
      idle = .allocate(capacity: 1)
      idle.initialize(to: Atomic(0))
      ready = .allocate(capacity: 1)
      ready.initialize(to: Atomic(0))
    }

    deinit {
      sleepers.deinitialize(count: 1)
      sleepers.deallocate()
      idle.deinitialize(count: 1)
      idle.deallocate()
      ready.deinitialize(count: 1)
      ready.deallocate()
    }

    /// Waits until `count` workers have started.
    func awaitWorkers(_ count: Int) {
      while true {
        let seen = ready.pointee.load(ordering: .acquiring)
        if Int(seen) >= count { return }
        Futex.wait(ready, while: seen)
      }
    }

    func add(_ request: BlockRequest) {
      state.withLock { $0.queue.append(request) }
      signal(sleepers, 1)
    }

    func stop() {
      state.withLock { $0.stopping = true }
      signal(sleepers, .max)
    }

    func drain() {
      while true {
        let seen = idle.pointee.load(ordering: .acquiring)
        if state.withLock({ $0.queue.isEmpty }) { return }
        Futex.wait(idle, while: seen)
      }
    }

    private func signal(_ word: UnsafeMutablePointer<Atomic<UInt32>>, _ count: CInt) {
      word.pointee.wrappingAdd(1, ordering: .releasing)
      Futex.wake(word, count: count)
    }

    /// The life of a worker: requests until `stop`, the queued ones first.
    func work() {
      // A thread's first allocation makes the C library read how many processors there are, which a sandbox that
      // closes later would forbid.
      withExtendedLifetime(AlignedBuffer(count: 1)) {}
      signal(ready, .max)
      while true {
        let seen = sleepers.pointee.load(ordering: .acquiring)
        let (entry, stopping) = state.withLock { ($0.queue.take(), $0.stopping) }
        guard let entry else {
          if stopping { return }
          Futex.wait(sleepers, while: seen)
          continue
        }
        let result = perform(entry.request)
        entry.request.completion(result)
        let (isEmpty, hasWaiting) = state.withLock { state in
          state.queue.finish(entry)
          return (state.queue.isEmpty, state.queue.hasWaiting)
        }
        if isEmpty { signal(idle, .max) }
        // A request that waited for this one may run now.
        if hasWaiting { signal(sleepers, .max) }
      }
    }

    private func perform(_ request: BlockRequest) -> Result<Void, BlockError> {
      do throws(SystemError) {
        switch request.operation {
        case .read: try read(request)
        case .write: try write(request)
        case .flush: try flush()
        }
        return .success(())
      } catch {
        if state.withLock({ $0.reported.insert(error.errno).inserted }) {
          report("\(spec.path): \(error); the guest is told of an I/O error")
        }
        return .failure(BlockError(error))
      }
    }

    private func read(_ request: BlockRequest) throws(SystemError) {
      if let overlay { return try overlay.read(request.buffers, at: request.offset, over: image) }
      try image.read(request.buffers, at: request.offset)
    }

    private func write(_ request: BlockRequest) throws(SystemError) {
      if let overlay { return try overlay.write(request.buffers, at: request.offset, over: image) }
      try image.write(request.buffers, at: request.offset)
      if spec.cache == .writethrough { try synchronize() }
    }

    private func flush() throws(SystemError) {
      // An overlay goes with the process, so there is nothing to keep.
      guard overlay == nil, spec.cache != .unsafe, !spec.readOnly else { return }
      try synchronize()
    }

    /// Once this has failed it fails for ever: the host's cache drops what it could not write and says so only once
    /// (fsync(2)), so a later success would say nothing of the writes before. Without that cache each try counts.
    private func synchronize() throws(SystemError) {
      if let error = state.withLock({ $0.flushError }) { throw error }
      do throws(SystemError) {
        try image.flush()
      } catch {
        if spec.cache != .none { state.withLock { $0.flushError = error } }
        throw error
      }
    }
  }
}

extension BlockError {
  init(_ error: SystemError) {
    if error.isOutOfSpace {
      self = .noSpace
    } else if error.isReadOnly {
      self = .readOnly
    } else {
      self = .host(errno: error.errno)
    }
  }
}
