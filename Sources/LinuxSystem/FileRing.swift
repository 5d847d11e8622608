import CLinux
import Glibc

/// An io_uring that reads and writes open files and can do nothing else (io_uring_register(2), restrictions). It keeps no
/// file open beyond its requests: what it did would go on a moment after its end, and with it an image's lock.
///
/// One thread at a time prepares and submits, one at a time takes completions.
// Safety: the ring's memory stays mapped as long as the value lives.
public struct FileRing: ~Copyable, @unchecked Sendable {
  private let ring: UnsafeMutablePointer<clinux_ring>

  /// A ring for up to `entries` requests (a power of two). EPERM and ENOSYS where the host has it turned off.
  public init(entries: Int) throws(SystemError) {
    var made = clinux_ring()
    try retrying("io_uring_setup") { clinux_ring_open(&made, UInt32(clamping: entries)) }
    ring = .allocate(capacity: 1)
    ring.initialize(to: made)
  }

  deinit {
    clinux_ring_close(ring)
    ring.deallocate()
  }

  /// Puts a request into the queue; its vectors stay in place until it has completed. False: the queue is full.
  public borrowing func prepare(
    _ file: CInt, write: Bool, _ vectors: UnsafeMutableBufferPointer<IOVector>, at offset: UInt64, token: UInt64
  ) -> Bool {
    clinux_ring_prepare(
      ring, file, write ? 1 : 0, UnsafePointer(vectors.baseAddress), UInt32(clamping: vectors.count), offset, token)
      != 0
  }

  /// Gives the kernel what was prepared, in one call. False: it took none of it for now.
  public borrowing func submit() -> Bool { clinux_ring_submit(ring) >= 0 || currentErrno == EINTR }

  /// Waits until there is a completion.
  public borrowing func wait() { _ = clinux_ring_wait(ring) }

  /// Takes a completion: its request's token and the bytes moved, or a negative errno.
  public borrowing func next() -> (token: UInt64, result: Int32)? {
    var token: UInt64 = 0
    var result: Int32 = 0
    return clinux_ring_next(ring, &token, &result) == 0 ? nil : (token, result)
  }
}

/// A piece of memory as system calls take it.
public typealias IOVector = iovec

extension IOVector {
  public init(_ bytes: UnsafeMutableRawBufferPointer) { self.init(iov_base: bytes.baseAddress, iov_len: bytes.count) }
}
