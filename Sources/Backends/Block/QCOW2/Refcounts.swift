/// A block of refcounts of 2^order bits each (qcow2 specification, "Refcount tables and blocks").
struct RefcountBlock {
  let bytes: UnsafeMutableRawBufferPointer
  let order: Int

  /// The refcount of cluster `index` of the block, which the block has.
  func value(_ index: Int) -> UInt64 {
    switch order {
    // Several in a byte, the first in the lowest bits.
    case 0: UInt64(bytes[index >> 3] >> (index & 7)) & 1
    case 1: UInt64(bytes[index >> 2] >> (2 * (index & 3))) & 3
    case 2: UInt64(bytes[index >> 1] >> (4 * (index & 1))) & 15
    case 3: UInt64(bytes[index])
    case 4: UInt64(UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: index * 2, as: UInt16.self)))
    case 5: UInt64(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self)))
    default: bytes.entry(index)
    }
  }

  func set(_ index: Int, _ value: UInt64) {
    switch order {
    case 0: merge(index >> 3, 1, index & 7, value)
    case 1: merge(index >> 2, 3, 2 * (index & 3), value)
    case 2: merge(index >> 1, 15, 4 * (index & 1), value)
    case 3: bytes[index] = UInt8(truncatingIfNeeded: value)
    case 4: bytes.storeBytes(of: UInt16(truncatingIfNeeded: value).bigEndian, toByteOffset: index * 2, as: UInt16.self)
    case 5: bytes.storeBytes(of: UInt32(truncatingIfNeeded: value).bigEndian, toByteOffset: index * 4, as: UInt32.self)
    default: bytes.setEntry(index, value)
    }
  }

  private func merge(_ byte: Int, _ mask: UInt8, _ shift: Int, _ value: UInt64) {
    bytes[byte] = bytes[byte] & ~(mask << shift) | (UInt8(truncatingIfNeeded: value) & mask) << shift
  }

  /// The bytes that hold the refcounts of these clusters.
  func byteRange(_ range: Range<Int>) -> Range<Int> {
    let width = 1 << order
    return range.lowerBound * width / 8..<(range.upperBound * width + 7) / 8
  }

  /// The largest refcount.
  var limit: UInt64 { order == 6 ? .max : UInt64(1) << UInt64(1 << order) - 1 }
}
