import Synchronization

/// Edges of interrupt inputs that a device posts where a processor that executes guest code finds them itself: no thread is
/// woken to carry them. While no processor does, the device signals what carries them otherwise.
// Safety: the memory outlives the object, and all of it is atomic. The other process may write anything into it: interrupts
// come or stay away by that, which is its to decide anyway.
public final class PostedInterrupts: @unchecked Sendable {
  /// Bytes for a number of processors.
  public static func size(processors: Int) -> Int { line * (1 + processors) }

  /// The edges, and what a processor has, are on a line of the host's cache of its own.
  private static let line = 64

  private struct Processor: ~Copyable {
    /// Not zero: there is something to be taken.
    let notice = Atomic<UInt32>(0)
    let isAwake = Atomic<Bool>(false)
  }

  private let memory: UnsafeMutableRawPointer
  private let processors: Int
  private let isOwner: Bool

  /// Such memory that one process has.
  public init(processors: Int) {
    let size = Self.size(processors: processors)
    memory = .allocate(byteCount: size, alignment: Self.line)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    self.processors = processors
    isOwner = true
  }

  /// Zeroed shared memory at first, which outlives this, at a multiple of 64.
  public init(_ memory: UnsafeMutableRawPointer, processors: Int) {
    self.memory = memory
    self.processors = processors
    isOwner = false
  }

  deinit { if isOwner { memory.deallocate() } }

  // Safety: zeroed memory is each part's first value.
  private var edges: UnsafeMutablePointer<Atomic<UInt32>> { memory.assumingMemoryBound(to: Atomic<UInt32>.self) }
  private func processor(_ index: Int) -> UnsafeMutablePointer<Processor> {
    (memory + Self.line * (1 + index)).assumingMemoryBound(to: Processor.self)
  }

  // MARK: The device's side

  /// Posts an edge on an input (0–31). False: no processor will find it; it is not posted.
  public func post(_ input: Int) -> Bool {
    let bit = UInt32(1) << UInt32(input & 31)
    edges.pointee.bitwiseOr(bit, ordering: .sequentiallyConsistent)
    return notify() || edges.pointee.bitwiseAnd(~bit, ordering: .sequentiallyConsistent).oldValue & bit == 0
  }

  /// Has a processor look. False: none will; but one that has just stopped may have taken what was posted.
  private func notify() -> Bool {
    for index in 0..<processors where processor(index).pointee.isAwake.load(ordering: .sequentiallyConsistent) {
      processor(index).pointee.notice.store(1, ordering: .sequentiallyConsistent)
      return true
    }
    return false
  }

  // MARK: The processors' side

  /// Says whether the processor looks at its notice. Once it does not, `take` is called again.
  public func setAwake(_ index: Int, _ isAwake: Bool) {
    processor(index).pointee.isAwake.store(isAwake, ordering: .sequentiallyConsistent)
  }

  /// Where a processor that looks finds something else than zero.
  public func notice(_ index: Int) -> UnsafePointer<UInt32> {
    // Safety: the word is the first field, and is read atomically.
    UnsafePointer(UnsafeMutableRawPointer(processor(index)).assumingMemoryBound(to: UInt32.self))
  }

  /// Takes the inputs that have an edge posted, a bit each.
  public func take(_ index: Int) -> UInt32 {
    processor(index).pointee.notice.store(0, ordering: .sequentiallyConsistent)
    return edges.pointee.exchange(0, ordering: .sequentiallyConsistent)
  }
}
