import LinuxSystem
import Synchronization

/// Requests of a backend that an io_uring moves: those whose place in the file is known, to and from guest memory.
///
/// Completions are taken by whoever submits, which costs no other thread a wake-up where the host had the data at hand,
/// or by a thread of the ring's own.
// Safety: vectors and slots are used by the one request that holds the slot; the words live until deinit.
public final class BlockRing: Sendable {
  /// Requests under way at most.
  static let depth = 128
  /// Pieces of memory of a request at most.
  static let maximumVectors = 64

  struct Slot {
    var entry: RequestQueue.Entry?
    var next = 0
  }

  private struct Slots {
    var slots: [Slot]
    /// The first free slot; `depth`: none.
    var free = 0
    var outstanding = 0
    var isStopping = false
  }

  private let ring: FileRing
  private let slots: Mutex<Slots>
  private let submission = Mutex<Void>(())
  private let isReaping = Atomic(false)
  private nonisolated(unsafe) let vectors: UnsafeMutablePointer<IOVector>
  /// Changes when the thread may have something to wait for, and when somebody ends taking completions.
  private nonisolated(unsafe) let turn: UnsafeMutablePointer<Atomic<UInt32>>
  /// The thread sleeps, or there is none yet.
  private let isAsleep = Atomic(true)

  /// To be made before a sandbox closes, which has no leave to.
  public init() throws(SystemError) {
    ring = try FileRing(entries: Self.depth)
    slots = Mutex(Slots(slots: (0..<Self.depth).map { Slot(entry: nil, next: $0 + 1) }))
    vectors = .allocate(capacity: Self.depth * Self.maximumVectors)
    turn = .allocate(capacity: 1)
    turn.initialize(to: Atomic(0))
  }

  deinit {
    vectors.deallocate()
    turn.deinitialize(count: 1)
    turn.deallocate()
  }

  /// Puts a read or write of the file into the queue; false: there is no room for it.
  func prepare(_ entry: RequestQueue.Entry, _ file: CInt, at offset: UInt64) -> Bool {
    let buffers = entry.request.buffers
    guard buffers.count <= Self.maximumVectors else { return false }
    let index = slots.withLock { slots -> Int in
      let index = slots.free
      guard index < Self.depth else { return index }
      slots.free = slots.slots[index].next
      slots.slots[index].entry = entry
      slots.outstanding += 1
      return index
    }
    guard index < Self.depth else { return false }
    let list = UnsafeMutableBufferPointer(start: vectors + index * Self.maximumVectors, count: buffers.count)
    for (place, buffer) in buffers.enumerated() { list.initializeElement(at: place, to: IOVector(buffer)) }
    let isQueued = submission.withLock { _ in
      ring.prepare(file, write: entry.request.operation == .write, list, at: offset, token: UInt64(index))
    }
    if !isQueued { _ = take(index) }
    return isQueued
  }

  private func take(_ index: Int) -> RequestQueue.Entry? {
    slots.withLock { slots in
      guard slots.slots.indices.contains(index), let entry = slots.slots[index].entry else { return nil }
      slots.slots[index] = Slot(entry: nil, next: slots.free)
      slots.free = index
      slots.outstanding -= 1
      return entry
    }
  }

  /// Gives the host what is in the queue, and `finish` what has completed by then: an entry and whether all its bytes
  /// were moved. True: the ring's thread, if there is one, has been woken for those that have not.
  func submit(_ finish: (RequestQueue.Entry, Bool) -> Void) -> Bool {
    submission.withLock { _ in while !ring.submit() { yieldProcessor() } }
    _ = reap(finish)
    guard isAsleep.load(ordering: .sequentiallyConsistent), slots.withLock({ $0.outstanding > 0 }) else { return false }
    wake()
    return true
  }

  /// Waits for everything under way, where the ring has no thread.
  func await(_ finish: (RequestQueue.Entry, Bool) -> Void) {
    while slots.withLock({ $0.outstanding > 0 }) {
      ring.wait()
      if !reap(finish) { yieldProcessor() }
    }
  }

  private func wake() {
    turn.pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
    Futex.wake(turn)
  }

  /// False: another thread is at it.
  private func reap(_ finish: (RequestQueue.Entry, Bool) -> Void) -> Bool {
    // A completion may submit more: what that completes is found by this loop.
    guard isReaping.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged else {
      return false
    }
    while let (token, result) = ring.next() {
      guard let entry = take(Int(truncatingIfNeeded: token)) else { continue }
      finish(entry, Int64(result) == Int64(clamping: entry.request.length))
    }
    isReaping.store(false, ordering: .releasing)
    return true
  }

  /// The life of the ring's thread.
  func run(_ finish: (RequestQueue.Entry, Bool) -> Void) {
    while true {
      let seen = turn.pointee.load(ordering: .acquiring)
      isAsleep.store(true, ordering: .sequentiallyConsistent)
      let (outstanding, isStopping) = slots.withLock { ($0.outstanding, $0.isStopping) }
      guard outstanding > 0 else {
        if isStopping { return }
        Futex.wait(turn, while: seen)
        continue
      }
      isAsleep.store(false, ordering: .sequentiallyConsistent)
      ring.wait()
      // The other thread may be in a completion that takes its time.
      if !reap(finish) { Futex.wait(turn, while: seen, nanoseconds: 50_000) }
    }
  }

  func stop() {
    slots.withLock { $0.isStopping = true }
    wake()
  }
}
