/// Bytes moved by one access: 1, 2, 4 or (MMIO only) 8.
public enum AccessWidth: UInt8, Sendable {
  case byte = 1
  case word = 2
  case dword = 4
  case qword = 8

  @inlinable public var bytes: Int { Int(rawValue) }
  /// A mask of the bits that the access moves.
  @inlinable public var mask: UInt64 { self == .qword ? .max : (1 << (UInt64(rawValue) * 8)) &- 1 }
}

/// What answers accesses on a bus. Subclasses hold their own lock: several vCPUs may call at once.
///
/// A class, not a protocol: the dispatch path makes no existential call and counts no references.
// Safety: the base holds no state; each subclass restates the promise and keeps its state in a `Mutex`.
open class BusTarget: @unchecked Sendable {
  public init() {}

  /// Answers a read. `region` is the tag given when the range was claimed, `offset` counts from its start.
  /// The default is an undriven bus: all ones. Bits above `width` are ignored.
  open func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 { .max }

  /// Takes a write. Bits of `value` above `width` are zero.
  open func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {}

  /// `count` reads of one address into `buffer` (rep ins). Devices with a data port override it.
  open func readString(region: Int, offset: UInt64, width: AccessWidth, into buffer: UnsafeMutableRawBufferPointer) {
    for start in stride(from: 0, to: buffer.count - width.bytes + 1, by: width.bytes) {
      let value = read(region: region, offset: offset, width: width)
      for index in 0..<width.bytes { buffer[start + index] = UInt8(truncatingIfNeeded: value >> (UInt64(index) * 8)) }
    }
  }

  /// `count` writes to one address from `buffer` (rep outs).
  open func writeString(region: Int, offset: UInt64, width: AccessWidth, from buffer: UnsafeRawBufferPointer) {
    for start in stride(from: 0, to: buffer.count - width.bytes + 1, by: width.bytes) {
      var value: UInt64 = 0
      for index in 0..<width.bytes { value |= UInt64(buffer[start + index]) << (UInt64(index) * 8) }
      write(region: region, offset: offset, width: width, value: value)
    }
  }
}
