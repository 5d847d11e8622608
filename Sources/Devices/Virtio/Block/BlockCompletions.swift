import Backends
import Synchronization

/// A request of the driver's on its way through the backend. Kept and used again, so that a request allocates nothing.
// Safety: the worker touches it before it is submitted and after it has come back; in between only `completion` does.
final class VirtioBlockRequest: @unchecked Sendable {
  /// What is under way.
  enum Step {
    case data
    /// The write is done and becomes durable before the driver hears of it.
    case flushAfterWrite
  }

  var queue = 0
  var token = BufferToken(id: 0, descriptors: 0)
  var step = Step.data
  /// Guest memory of the data, and the status byte.
  var runs: [UnsafeMutableRawBufferPointer] = []
  var status: UnsafeMutablePointer<UInt8>?
  /// Bytes that the device writes before the status.
  var dataIn = 0
  var isWrite = false
  /// Backend requests that have not come back: a discard may have several.
  let left = Atomic<Int>(0)
  let hasFailed = Atomic<UInt8>(0)
  /// What each of them calls when it comes back; made with the request.
  var completion: @Sendable (Result<Void, BlockError>) -> Void = { _ in }
  /// The next in the stack of the finished.
  var next: Unmanaged<VirtioBlockRequest>?
}

/// Requests that have come back from the backend, on any thread, until the worker takes them.
// Safety: a stack of objects that their device keeps alive. Only the worker takes, and it takes all, so an address does
// not come back while somebody pushes.
final class BlockCompletions: @unchecked Sendable {
  private let top = Atomic<UnsafeMutableRawPointer?>(nil)

  func push(_ request: VirtioBlockRequest) {
    let raw = Unmanaged.passUnretained(request).toOpaque()
    var old = top.load(ordering: .relaxed)
    while true {
      request.next = old.map { Unmanaged.fromOpaque($0) }
      let (exchanged, original) = top.weakCompareExchange(
        expected: old, desired: raw, successOrdering: .acquiringAndReleasing, failureOrdering: .relaxed)
      if exchanged { return }
      old = original
    }
  }

  var isEmpty: Bool { top.load(ordering: .relaxed) == nil }

  /// All that have come back, oldest first, linked by `next`.
  func takeAll() -> Unmanaged<VirtioBlockRequest>? {
    guard !isEmpty else { return nil }
    var rest = top.exchange(nil, ordering: .acquiring).map { Unmanaged<VirtioBlockRequest>.fromOpaque($0) }
    var first: Unmanaged<VirtioBlockRequest>?
    while let request = rest {
      request._withUnsafeGuaranteedRef { object in
        rest = object.next
        object.next = first
      }
      first = request
    }
    return first
  }
}
