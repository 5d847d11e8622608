/// The bytes of a display's frame buffer. The guest maps the same bytes and may change any of them at any time.
///
/// Plane p of the VGA's planar address a is byte 4a + p, so chained and linear modes see one layout.
// Safety: `bytes` stays mapped as long as the machine lives, and `mask` keeps every index inside it.
struct VideoMemory: @unchecked Sendable {
  private let bytes: UnsafeMutableRawBufferPointer
  private let mask: Int

  /// Uses the largest power of two of bytes that there is; at least 4.
  init(_ bytes: UnsafeMutableRawBufferPointer) {
    self.bytes = bytes
    mask = 1 << (Int.bitWidth - 1 - bytes.count.leadingZeroBitCount) - 1
  }

  var count: Int { mask + 1 }

  /// A byte; indices wrap at the memory's end.
  subscript(index: Int) -> UInt8 {
    get { bytes[index & mask] }
    nonmutating set { bytes[index & mask] = newValue }
  }

  /// The four planes at a planar address, plane 0 in the low byte.
  subscript(planar address: Int) -> UInt32 {
    get { UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: address &* 4 & mask, as: UInt32.self)) }
    nonmutating set {
      bytes.storeBytes(of: newValue.littleEndian, toByteOffset: address &* 4 & mask, as: UInt32.self)
    }
  }

  /// Sets the first `count` bytes, at most all, to zero.
  func clear(_ count: Int) {
    UnsafeMutableRawBufferPointer(rebasing: bytes[..<max(0, min(count, self.count))])
      .initializeMemory(as: UInt8.self, repeating: 0)
  }
}
