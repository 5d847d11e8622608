import LinuxSystem
import MachineModel
import Synchronization

/// An image in host files or a block device, driven by a few worker threads, which start as there is work for them.
///
/// Requests on overlapping ranges keep the order they were submitted in where one of them writes; others may
/// overtake each other. A completion runs on a worker.
public final class FileBlockBackend: BlockBackend {
  public static let maximumWorkers = 4

  private let core: Core

  /// Takes over what `OpenedImage.open` opened.
  /// `report` is given a line for the user at each host error's first time.
  public convenience init(
    image: consuming Descriptor, overlay: consuming Descriptor?, backing: [(BackingFile, SharedDescriptor)] = [],
    spec: BlockSpec, geometry: ImageGeometry, ring: BlockRing? = nil, workers count: Int = maximumWorkers,
    report: @escaping @Sendable (String) -> Void = { _ in }
  ) throws(ImageError) {
    var layer: (any ImageLayer)?
    for (file, shared) in backing.reversed() {
      let descriptor: Descriptor
      do throws(SystemError) { descriptor = try shared.descriptor.duplicate() } catch {
        throw ImageError(using: file.path, error)
      }
      layer = try Self.open(
        descriptor, file.path, file.format, file.geometry, over: layer, isReadOnly: true, cache: .writeback, report)
    }
    let number = image.raw
    var top = try Self.open(
      image, spec.path, spec.format, geometry, over: layer, isReadOnly: spec.readOnly || spec.snapshot,
      cache: spec.cache, report)
    if spec.format != .qcow2, spec.formatIsProbed, !spec.snapshot { top = ProbedRawImage(top) }
    do throws(SystemError) {
      if let overlay { top = try Overlay(file: overlay, over: top) }
      self.init(top, spec: spec, ring: ring, file: number, workers: count, report: report)
    } catch {
      throw ImageError(using: spec.path, error)
    }
  }

  private static func open(
    _ image: consuming Descriptor, _ path: String, _ format: ImageFormat, _ geometry: ImageGeometry,
    over backing: (any ImageLayer)?, isReadOnly: Bool, cache: CacheMode, _ report: (String) -> Void
  ) throws(ImageError) -> any ImageLayer {
    guard format == .qcow2 else {
      return RawImage(HostImage(file: image, alignment: geometry.alignment, cache: cache), size: geometry.size)
    }
    do throws(LayerError) {
      let header = try QCOW2Header(reading: image)
      if backing == nil, let name = header.backingFile {
        throw LayerError.unsupported(
          "the image has the backing file \(quoted(name)): add backing=on to use it, or backing=PATH to name it")
      }
      let file = HostImage(
        file: image, alignment: geometry.alignment, cache: cache,
        sharesBlocks: header.clusterSize < geometry.alignment)
      return try QCOW2Image(file, backing: backing, isReadOnly: isReadOnly) { report("\(path): \($0)") }
    } catch {
      throw ImageError(using: path, error)
    }
  }

  /// Opens and closes an image that its last user has not closed. No data of it is read, and no file behind it.
  public static func close(abandoned image: SharedDescriptor, spec: BlockSpec, geometry: ImageGeometry)
    throws(ImageError)
  {
    guard spec.format == .qcow2 else { return }
    do throws(LayerError) {
      let descriptor = try onHost { () throws(SystemError) in try image.descriptor.duplicate() }
      // Its size may be another by now, but not what the host asks for.
      let file = HostImage(file: descriptor, alignment: geometry.alignment, cache: spec.cache, sharesBlocks: true)
      try QCOW2Image(file, backing: nil, isReadOnly: false).close()
    } catch {
      throw ImageError(using: spec.path, error)
    }
  }

  public convenience init(_ opened: consuming OpenedImage, spec: BlockSpec, ring: BlockRing? = nil) throws(ImageError) {
    var spec = spec
    spec.formatIsProbed = spec.format == .auto
    spec.format = opened.format
    let geometry = opened.geometry
    let backing = Array(zip(opened.backing, opened.backingDescriptors))
    try self.init(
      image: opened.image, overlay: opened.overlay, backing: backing, spec: spec, geometry: geometry,
      ring: ring)
  }

  init(
    _ layer: any ImageLayer, spec: BlockSpec, ring: BlockRing? = nil, file: CInt = -1,
    workers count: Int = maximumWorkers,
    report: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    core = Core(
      layer, spec: spec, ring: ring, file: file, workers: min(max(count, 1), Self.maximumWorkers), report: report)
  }

  deinit { core.stop() }

  public var size: UInt64 { core.size.load(ordering: .relaxed) }
  public var isReadOnly: Bool { core.spec.readOnly }
  public var features: BlockFeatures { isReadOnly ? [] : core.layer.features }
  public var limits: BlockLimits { core.layer.limits }

  public func submit(_ request: BlockRequest) {
    guard let error = refusal(of: request) else { return core.add(request, more: false) }
    request.completion(.failure(error))
  }

  public func enqueue(_ request: BlockRequest) {
    guard let error = refusal(of: request) else { return core.add(request, more: true) }
    request.completion(.failure(error))
  }

  public func kick() { core.kick() }

  private func refusal(of request: BlockRequest) -> BlockError? {
    guard request.operation != .flush else { return nil }
    if request.operation.changesMedium, isReadOnly { return .readOnly }
    return request.fits(in: size) ? nil : .outOfRange
  }

  public func drain() {
    core.kick()
    core.drain()
    core.close()
  }

  public func onResize(_ notify: (@Sendable (UInt64) -> Void)?) { core.onResize(notify) }

  public func measure() { core.measure() }
}

extension FileBlockBackend {
  /// What the workers share.
  // Safety: `sleepers` and `idle` point to words that live until deinit, which the workers' references postpone.
  private final class Core: Sendable {
    let spec: BlockSpec
    let layer: any ImageLayer
    let size: Atomic<UInt64>
    private let ring: BlockRing?
    /// The image's own file, which the layers keep open.
    private let file: CInt
    private let resized = Mutex<(@Sendable (UInt64) -> Void)?>(nil)

    private struct State {
      var queue: RequestQueue
      /// Workers that have been started, and how many of them have nothing to do.
      var workers = 0
      var idleWorkers = 0
      var stopping = false
      /// What the user was told of.
      var reported: Set<String> = []
    }

    private let state: Mutex<State>
    private let report: @Sendable (String) -> Void
    /// Changes whenever a request may have become runnable.
    private nonisolated(unsafe) let sleepers: UnsafeMutablePointer<Atomic<UInt32>>
    /// Changes whenever the last request has finished.
    private nonisolated(unsafe) let idle: UnsafeMutablePointer<Atomic<UInt32>>
    private let workers: [LazyThread]
    /// Waits for what the ring does not do at once.
    private let ringThread: LazyThread

    init(
      _ layer: any ImageLayer, spec: BlockSpec, ring: BlockRing?, file: CInt, workers: Int,
      report: @escaping @Sendable (String) -> Void
    ) {
      self.spec = spec
      self.layer = layer
      self.ring = ring
      self.file = file
      self.report = report
      size = Atomic(layer.size)
      state = Mutex(State(queue: RequestQueue(granule: layer.granule)))
      sleepers = .allocate(capacity: 1)
      sleepers.initialize(to: Atomic(0))
      idle = .allocate(capacity: 1)
      idle.initialize(to: Atomic(0))
      self.workers = (0..<workers).map { LazyThread("\(spec.id)-\($0)") }
      ringThread = LazyThread("\(spec.id)-ring")
    }

    deinit {
      sleepers.deinitialize(count: 1)
      sleepers.deallocate()
      idle.deinitialize(count: 1)
      idle.deallocate()
    }

    /// Bytes that a device's register access may take to move, a fraction of a millisecond. Its processor goes on
    /// meanwhile where the register's writes are posted.
    private static let longest: UInt64 = 1024 << 10
    /// Nanoseconds that a write may take in it, and for how long workers write after one that took longer, as when the
    /// host's page cache must be written back first.
    private static let patience: UInt64 = 1_000_000
    private static let caution: UInt64 = 1_000_000_000
    /// When a write may be tried there again.
    private let mayWriteFrom = Atomic<UInt64>(0)

    func add(_ request: BlockRequest, more: Bool) {
      // The host copies what it has at hand while the ring is submitted to: who submits one request waits for an answer.
      let isLong = !more && request.length > Self.longest
      if let ring, !isLong, isForRing(request), let entry = state.withLock({ $0.queue.start(request) }) {
        // Nothing that could change its place runs at the same time.
        if let place = layer.place(of: request), ring.prepare(entry, file, at: place) {
          if !more { kick() }
          return
        }
        state.withLock { $0.queue.putBack(entry) }
      } else if more || isLong || !writeHere(request) {
        state.withLock { $0.queue.append(request) }
      } else {
        return
      }
      callWorker()
    }

    /// Has a worker look for requests that may run: one that sleeps, or one more while all have something to do.
    private func callWorker() {
      signal(sleepers, 1)
      start(worker: state.withLock { newWorker(&$0) })
    }

    /// The worker that is to be started, since more requests wait than workers sleep.
    private func newWorker(_ state: inout State) -> Int? {
      guard state.workers < workers.count, state.queue.waitingCount > state.idleWorkers, !state.stopping else {
        return nil
      }
      defer { state.workers += 1 }
      state.idleWorkers += 1
      return state.workers
    }

    private func start(worker: Int?) {
      guard let worker else { return }
      do throws(SystemError) {
        try workers[worker].start { [self] in work() }
      } catch {
        // The others do it, or the caller where there are none. Another call tries again.
        let isAlone = state.withLock { state in
          state.workers -= 1
          state.idleWorkers -= 1
          return state.workers == 0
        }
        if isAlone { while let entry = state.withLock({ $0.queue.take() }) { perform(entry) } }
      }
    }

    /// Writes to the host's page cache without another thread's wake-up, which takes longer than the write. False: it is
    /// for the workers.
    private func writeHere(_ request: BlockRequest) -> Bool {
      let start = monotonicNanoseconds()
      guard request.operation == .write, spec.cache == .writeback || spec.cache == .unsafe,
        start >= mayWriteFrom.load(ordering: .relaxed), layer.place(of: request) != nil,
        let entry = state.withLock({ $0.queue.start(request) })
      else { return false }
      let result = perform(request)
      let end = monotonicNanoseconds()
      if end &- start > Self.patience { mayWriteFrom.store(end + Self.caution, ordering: .relaxed) }
      request.completion(result)
      finish(entry)
      return true
    }

    private func isForRing(_ request: BlockRequest) -> Bool {
      switch request.operation {
      case .read: true
      // The kernel hands writes to its page cache to threads of its own, which takes longer than ours do.
      case .write: spec.cache == .none
      case .flush, .discard, .writeZeroes: false
      }
    }

    func kick() {
      guard let ring, ring.submit(ended), !ringThread.isStarted else { return }
      do throws(SystemError) {
        try ringThread.start { [self] in ring.run(ended) }
      } catch {
        ring.await(ended)
      }
    }

    /// The ring is done with a request. One that it has not moved as a whole is done again, which finds the reason.
    private func ended(_ entry: RequestQueue.Entry, _ isWhole: Bool) {
      guard isWhole else {
        state.withLock { $0.queue.putBack(entry) }
        return callWorker()
      }
      entry.request.completion(.success(()))
      finish(entry)
    }

    /// Ends the threads and waits for their end.
    func stop() {
      let started = state.withLock { state in
        state.stopping = true
        return state.workers
      }
      signal(sleepers, .max)
      ring?.stop()
      ringThread.join()
      for worker in workers.prefix(started) { worker.join() }
    }

    func drain() {
      while true {
        let seen = idle.pointee.load(ordering: .acquiring)
        if state.withLock({ $0.queue.isEmpty }) { return }
        Futex.wait(idle, while: seen)
      }
    }

    func onResize(_ notify: (@Sendable (UInt64) -> Void)?) { resized.withLock { $0 = notify } }

    func measure() {
      // An overlay covers the size that it began with.
      guard !spec.snapshot, let new = try? layer.measure(), new > 0 else { return }
      guard size.exchange(new, ordering: .relaxed) != new, let notify = resized.withLock({ $0 }) else { return }
      notify(new)
    }

    private func signal(_ word: UnsafeMutablePointer<Atomic<UInt32>>, _ count: CInt) {
      word.pointee.wrappingAdd(1, ordering: .releasing)
      Futex.wake(word, count: count)
    }

    /// The life of a worker: requests until `stop`, the queued ones first.
    private func work() {
      var isIdle = true
      while true {
        let seen = sleepers.pointee.load(ordering: .acquiring)
        let (entry, stopping) = state.withLock { state in
          let entry = state.queue.take()
          if isIdle != (entry == nil) {
            state.idleWorkers += isIdle ? -1 : 1
            isIdle.toggle()
          }
          return (entry, state.stopping)
        }
        if let entry {
          perform(entry)
        } else if stopping {
          return
        } else {
          Futex.wait(sleepers, while: seen)
        }
      }
    }

    private func perform(_ entry: RequestQueue.Entry) {
      let result = perform(entry.request)
      entry.request.completion(result)
      finish(entry)
    }

    private func finish(_ entry: RequestQueue.Entry) {
      let (isEmpty, hasWaiting, worker) = state.withLock { state in
        state.queue.finish(entry)
        return (state.queue.isEmpty, state.queue.waitingCount > 0, newWorker(&state))
      }
      if isEmpty { signal(idle, .max) }
      // A request that waited for this one may run now.
      if hasWaiting { signal(sleepers, .max) }
      start(worker: worker)
    }

    private func perform(_ request: BlockRequest) -> Result<Void, BlockError> {
      do throws(LayerError) {
        switch request.operation {
        case .read: try layer.read(request.buffers, at: request.offset)
        case .write: try layer.write(request.buffers, at: request.offset)
        case .flush:
          guard !spec.readOnly else { break }
          try layer.flush()
        case .discard: try layer.discard(at: request.offset, request.length)
        case .writeZeroes(let mayUnmap):
          try layer.writeZeroes(at: request.offset, request.length, mayUnmap: mayUnmap)
        }
        if spec.cache == .writethrough, request.operation.changesMedium { try layer.flush() }
        return .success(())
      } catch {
        tell(error, "the guest is told of an I/O error")
        return .failure(BlockError(error))
      }
    }

    /// What a format keeps in memory goes to the file, too.
    func close() {
      guard !spec.readOnly else { return }
      do throws(LayerError) { try layer.close() } catch { tell(error, "the image may not be complete") }
    }

    private func tell(_ error: LayerError, _ consequence: String) {
      guard state.withLock({ $0.reported.insert(error.reportKey).inserted }) else { return }
      report("\(spec.path): \(error); \(consequence)")
    }
  }
}
