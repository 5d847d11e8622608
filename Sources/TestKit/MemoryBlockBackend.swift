import Backends
import Synchronization

/// A medium in memory that records what is asked of it, fails where a test says so, and completes requests at
/// once or when the test says so.
// Safety: a request's buffers are touched only before its completion is called.
public final class MemoryBlockBackend: BlockBackend {
  /// A request as it was submitted.
  public struct Record: Sendable, Equatable {
    public let operation: BlockRequest.Operation
    public let offset: UInt64
    public let count: Int
    /// How many pieces of memory it had.
    public let buffers: Int
  }

  private struct State {
    var bytes: [UInt8]
    var records: [Record] = []
    var faults: [(range: Range<UInt64>, error: BlockError)] = []
    var flushError: BlockError?
    var held: [BlockRequest] = []
    var isManual = false
    var queued: [BlockRequest] = []
    var notify: (@Sendable (UInt64) -> Void)?
  }

  public var size: UInt64 { state.withLock { UInt64($0.bytes.count) } }
  public let isReadOnly: Bool
  public var features: BlockFeatures { isReadOnly ? [] : [.discard, .writeZeroes, .unmap] }
  public let limits: BlockLimits
  private let state: Mutex<State>

  public init(_ bytes: [UInt8], isReadOnly: Bool = false, limits: BlockLimits = BlockLimits()) {
    self.isReadOnly = isReadOnly
    self.limits = limits
    state = Mutex(State(bytes: bytes))
  }

  /// `sectors` sectors of 512 bytes, each filled with the low byte of its number.
  public convenience init(sectors: Int, isReadOnly: Bool = false) {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(sectors * 512)
    for number in 0..<sectors {
      bytes.append(contentsOf: [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 512))
    }
    self.init(bytes, isReadOnly: isReadOnly)
  }

  /// True: requests wait for `completeNext` or `drain`.
  public var isManual: Bool {
    get { state.withLock { $0.isManual } }
    set { state.withLock { $0.isManual = newValue } }
  }

  /// Makes requests that touch these 512-byte sectors fail.
  public func fail(sectors: Range<UInt64>, with error: BlockError) {
    state.withLock { $0.faults.append((sectors.lowerBound * 512..<sectors.upperBound * 512, error)) }
  }
  public func failFlush(with error: BlockError?) { state.withLock { $0.flushError = error } }
  public func clearFaults() {
    state.withLock { state in
      state.faults = []
      state.flushError = nil
    }
  }

  /// Every request so far, in order.
  public var records: [Record] { state.withLock { $0.records } }
  public var flushes: Int { records.count { $0.operation == .flush } }
  public var heldCount: Int { state.withLock { $0.held.count } }
  public func bytes(_ range: Range<Int>) -> [UInt8] { state.withLock { Array($0.bytes[range]) } }
  public func sector(_ number: Int) -> [UInt8] { bytes(number * 512..<(number + 1) * 512) }

  /// Grows or shrinks the medium and tells whoever asked to know.
  public func resize(to size: Int) {
    let notify = state.withLock { state in
      if size <= state.bytes.count {
        state.bytes.removeLast(state.bytes.count - size)
      } else {
        state.bytes.append(contentsOf: [UInt8](repeating: 0, count: size - state.bytes.count))
      }
      return state.notify
    }
    notify?(UInt64(size))
  }

  public func onResize(_ notify: (@Sendable (UInt64) -> Void)?) { state.withLock { $0.notify = notify } }

  /// Requests wait for `kick` or the next `submit`, as they may.
  public func enqueue(_ request: BlockRequest) { state.withLock { $0.queued.append(request) } }

  public func kick() {
    let queued = state.withLock { state in
      defer { state.queued = [] }
      return state.queued
    }
    for request in queued { start(request) }
  }

  public func submit(_ request: BlockRequest) {
    kick()
    start(request)
  }

  private func start(_ request: BlockRequest) {
    let isHeld = state.withLock { state -> Bool in
      state.records.append(
        Record(
          operation: request.operation, offset: request.offset, count: Int(request.length),
          buffers: request.buffers.count))
      if state.isManual { state.held.append(request) }
      return state.isManual
    }
    if !isHeld { complete(request) }
  }

  /// Completes the oldest held request; false where there is none.
  @discardableResult
  public func completeNext() -> Bool {
    guard let request = state.withLock({ $0.held.isEmpty ? nil : $0.held.removeFirst() }) else { return false }
    complete(request)
    return true
  }

  public func drain() {
    kick()
    while completeNext() {}
  }

  private func complete(_ request: BlockRequest) {
    request.completion(state.withLock { perform(request, &$0) })
  }

  private func perform(_ request: BlockRequest, _ state: inout State) -> Result<Void, BlockError> {
    if request.operation == .flush { return state.flushError.map { .failure($0) } ?? .success(()) }
    if request.operation.changesMedium, isReadOnly { return .failure(.readOnly) }
    guard request.fits(in: UInt64(state.bytes.count)) else { return .failure(.outOfRange) }
    let range = request.offset..<request.offset + request.length
    if let fault = state.faults.first(where: { $0.range.overlaps(range) }) { return .failure(fault.error) }
    var position = Int(request.offset)
    // A discard may keep the content; a test sees best that it arrived where it does not.
    if request.operation.changesMedium, request.operation != .write {
      state.bytes.replaceSubrange(
        position..<position + Int(request.length), with: repeatElement(0, count: Int(request.length)))
    }
    for buffer in request.buffers {
      let part = position..<position + buffer.count
      if request.operation == .read {
        buffer.copyBytes(from: state.bytes[part])
      } else {
        state.bytes.replaceSubrange(part, with: buffer)
      }
      position += buffer.count
    }
    return .success(())
  }
}
