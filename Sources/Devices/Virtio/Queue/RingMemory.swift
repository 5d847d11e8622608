import GuestMemory
import Synchronization

/// A part of a virtqueue in guest memory. The guest writes it at any time, so each value is loaded once.
///
/// Naturally aligned accesses of 2 bytes are atomic and ordered: loads acquire, stores release.
// Safety: `base` points to `count` bytes of guest RAM, which stays mapped as long as the machine lives; offsets are
// the rings' own arithmetic and stay below `count`.
struct RingMemory: @unchecked Sendable {
  private let base: UnsafeMutableRawPointer

  /// nil unless all of it is RAM and aligned as the ring needs it (a power of two).
  init?(_ memory: GuestMemory, _ address: UInt64, count: Int, alignment: UInt64) {
    guard address & (alignment - 1) == 0, let host = memory.pointer(address, count) else { return nil }
    base = host
  }

  @inline(__always)
  func load16(_ offset: Int) -> UInt16 {
    (base + offset).assumingMemoryBound(to: Atomic<UInt16>.self).pointee.load(ordering: .acquiring)
  }

  @inline(__always)
  func store16(_ value: UInt16, _ offset: Int) {
    (base + offset).assumingMemoryBound(to: Atomic<UInt16>.self).pointee.store(value, ordering: .releasing)
  }

  @inline(__always)
  func store32(_ value: UInt32, _ offset: Int) { (base + offset).storeBytes(of: value, as: UInt32.self) }

  /// A copy of the 16-byte descriptor at an offset.
  @inline(__always)
  func descriptor(_ offset: Int) -> RingDescriptor { RingDescriptor(base + offset) }
}

/// Flags of a descriptor (virtio 1.2 §2.7.5, §2.8.6).
enum DescriptorFlag {
  static let next: UInt16 = 1 << 0
  static let write: UInt16 = 1 << 1
  static let indirect: UInt16 = 1 << 2
  /// Packed rings: the descriptor's turn, compared with the wrap counters (§2.8.1).
  static let available: UInt16 = 1 << 7
  static let used: UInt16 = 1 << 15
}

/// A descriptor, copied out of guest memory. Split and packed rings differ in what follows the length.
struct RingDescriptor {
  static let size = 16
  let address: UInt64
  let length: UInt32
  private let upper: UInt32

  /// Reads 16 bytes of guest RAM once.
  @inline(__always)
  init(_ source: UnsafeMutableRawPointer) {
    address = source.loadUnaligned(as: UInt64.self)
    let word = source.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
    length = UInt32(truncatingIfNeeded: word)
    upper = UInt32(truncatingIfNeeded: word >> 32)
  }

  /// Split: flags before `next` (§2.7.5).
  var splitFlags: UInt16 { UInt16(truncatingIfNeeded: upper) }
  var next: UInt16 { UInt16(truncatingIfNeeded: upper >> 16) }
  /// Packed: the buffer's ID before flags (§2.8.5).
  var bufferID: UInt16 { UInt16(truncatingIfNeeded: upper) }
  var packedFlags: UInt16 { UInt16(truncatingIfNeeded: upper >> 16) }
}
