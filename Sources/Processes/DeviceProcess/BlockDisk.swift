import Backends
import BootImage
import LinuxSystem
import Synchronization

/// A disk's backend as what reads boot configurations sees it: bytes that are there when the call returns.
final class BlockDisk: DiskBytes {
  private let backend: any BlockBackend

  init(_ backend: any BlockBackend) { self.backend = backend }

  var size: UInt64 { backend.size }

  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError) {
    guard buffer.count > 0 else { return }
    let answer = Answer()
    backend.submit(BlockRequest(.read, offset: offset, buffers: [buffer]) { answer.give($0) })
    do throws(BlockError) { try answer.wait().get() } catch {
      switch error {
      case .host(let number): throw BootImageError(.unreadable, "the image cannot be read (errno \(number))")
      default: throw BootImageError(.unreadable, "the image cannot be read (\(error))")
      }
    }
  }

  /// A result that one thread waits for.
  // Safety: the word lives as long as the object, which the completion holds until it has woken the waiter.
  private final class Answer: @unchecked Sendable {
    private let isThere = UnsafeMutablePointer<Atomic<UInt32>>.allocate(capacity: 1)
    private let result = Mutex<Result<Void, BlockError>>(.success(()))

    init() { isThere.initialize(to: Atomic(0)) }

    deinit {
      isThere.deinitialize(count: 1)
      isThere.deallocate()
    }

    func give(_ value: Result<Void, BlockError>) {
      result.withLock { $0 = value }
      isThere.pointee.store(1, ordering: .releasing)
      Futex.wake(isThere)
    }

    func wait() -> Result<Void, BlockError> {
      while isThere.pointee.load(ordering: .acquiring) == 0 { Futex.wait(isThere, while: 0) }
      return result.withLock { $0 }
    }
  }
}
