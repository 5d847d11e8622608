import CLinux
import Glibc

/// A shared or private mapping of a file with one owner; it is unmapped when the owner goes.
// Safety: the address range stays mapped as long as the value lives; whoever hands out pointers into it
// keeps the owner alive.
public struct Mapping: ~Copyable, @unchecked Sendable {
  public let base: UnsafeMutableRawPointer
  /// Bytes mapped.
  public let count: Int

  /// Maps `count` bytes of `descriptor` from `offset`, shared, readable and, unless `readOnly`, writable.
  public init(sharing descriptor: borrowing Descriptor, offset: UInt64 = 0, count: Int, readOnly: Bool = false)
    throws(SystemError)
  {
    let protection = readOnly ? PROT_READ : PROT_READ | PROT_WRITE
    let address = mmap(nil, count, protection, MAP_SHARED | MAP_NORESERVE, descriptor.raw, off_t(offset))
    guard let address, address != MAP_FAILED else { throw SystemError("mmap") }
    base = address
    self.count = count
  }

  /// Maps the first `count` bytes of a file in memory, shared, readable and writable, in huge pages where the host gives
  /// them to such files (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`).
  public init(sharingInHugePages descriptor: borrowing Descriptor, count: Int) throws(SystemError) {
    let (room, overflows) = count.addingReportingOverflow(Self.hugePageSize)
    guard !overflows else { throw SystemError("mmap", errno: ENOMEM) }
    let reserved = mmap(nil, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let reserved, reserved != MAP_FAILED else { throw SystemError("mmap") }
    // A page is huge only where its place in the file and its address agree.
    let skip = -Int(bitPattern: reserved) & (Self.hugePageSize - 1)
    let start = reserved + skip
    let flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED
    guard mmap(start, count, PROT_READ | PROT_WRITE, flags, descriptor.raw, 0) != MAP_FAILED else {
      let error = SystemError("mmap")
      munmap(reserved, room)
      throw error
    }
    if skip > 0 { munmap(reserved, skip) }
    munmap(start + count, room - skip - count)
    // A host that has none for such files says EINVAL or does nothing.
    _ = madvise(start, count, MADV_HUGEPAGE)
    base = start
    self.count = count
  }

  /// Maps the first `count` bytes of `descriptor`, shared, to be read and executed.
  public init(executing descriptor: borrowing Descriptor, count: Int) throws(SystemError) {
    let address = mmap(nil, count, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, descriptor.raw, 0)
    guard let address, address != MAP_FAILED else { throw SystemError("mmap") }
    base = address
    self.count = count
  }

  /// Maps `count` zero bytes that belong to this process alone.
  public init(anonymous count: Int) throws(SystemError) {
    let address = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let address, address != MAP_FAILED else { throw SystemError("mmap") }
    base = address
    self.count = count
  }

  deinit { munmap(base, count) }

  private static let hugePageSize = 2 << 20

  public var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: count) }
}

/// Takes the whole 4 KiB pages of a part of a shared mapping out of the file behind it, where they read as zeros from
/// then on. False: the host cannot, and they are unchanged.
@discardableResult
public func discardPages(of bytes: UnsafeMutableRawBufferPointer) -> Bool {
  guard let base = bytes.baseAddress else { return true }
  let skip = -Int(bitPattern: base) & 0xFFF
  let count = (bytes.count - skip) & ~0xFFF
  guard bytes.count > skip, count > 0 else { return true }
  return madvise(base + skip, count, MADV_REMOVE) == 0
}

/// Gives pages of this process's heap that are free back to the host.
public func returnFreedMemory() { clinux_return_freed_memory() }
