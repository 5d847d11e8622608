/// An entry of an L2 table: where a cluster of the disk is (qcow2 specification, "Cluster mapping").
struct QCOW2Entry: Sendable, Equatable {
  let raw: UInt64

  /// The cluster's refcount is exactly one: it may be written in place.
  static let copied: UInt64 = 1 << 63
  static let compressed: UInt64 = 1 << 62
  /// Reads as zero, whatever the host cluster holds (version 3).
  static let zero: UInt64 = 1 << 0
  static let offsetMask: UInt64 = 0x00FF_FFFF_FFFF_FE00

  static let unallocated = QCOW2Entry(raw: 0)
  static let plainZero = QCOW2Entry(raw: zero)

  init(raw: UInt64) { self.raw = raw }

  /// A cluster of data that nothing else refers to.
  init(data offset: UInt64) { raw = offset & Self.offsetMask | Self.copied }

  enum Kind: Sendable, Equatable {
    /// Reads as the backing file does, or as zero without one.
    case unallocated
    /// Zero, perhaps with a host cluster that is kept for it.
    case zero
    case data
    case compressed
  }

  var kind: Kind {
    if raw & Self.compressed != 0 { return .compressed }
    if raw & Self.zero != 0 { return .zero }
    return raw & Self.offsetMask == 0 ? .unallocated : .data
  }

  var isCopied: Bool { raw & Self.copied != 0 }

  /// The host cluster, 0 where there is none. Not of compressed clusters.
  var offset: UInt64 { raw & Self.offsetMask }

  /// Where compressed data lies and at most how many bytes it has.
  func compressedRange(clusterBits: Int) -> (offset: UInt64, count: Int) {
    let split = UInt64(62 - (clusterBits - 8))
    let offset = raw & (UInt64(1) << split - 1)
    let sectors = (raw & (Self.compressed - 1)) >> split
    return (offset, Int((sectors + 1) * 512 - (offset & 511)))
  }
}
