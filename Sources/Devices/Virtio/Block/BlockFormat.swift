/// Numbers of the block device (virtio 1.2 §5.2).
enum BlockFormat {
  static let sector = 512

  /// Request types (§5.2.6).
  enum RequestType {
    static let read: UInt32 = 0
    static let write: UInt32 = 1
    static let flush: UInt32 = 4
    static let getID: UInt32 = 8
    static let discard: UInt32 = 11
    static let writeZeroes: UInt32 = 13
    /// Legacy drivers may set it with any type to ask for order, which no device here offers (§5.2.6.4).
    static let barrier: UInt32 = 1 << 31
  }

  /// What a request's last byte tells the driver.
  enum Status: UInt8 {
    case ok
    case error
    case unsupported
  }

  /// Bytes of the header and of the serial number.
  static let headerSize = 16
  static let serialSize = 20
  /// A range of a discard or write-zeroes request.
  static let rangeSize = 16
  /// Ranges that one request may have, and sectors of one range.
  static let maximumRanges = 64
  static let maximumRangeSectors: UInt32 = 1 << 22

  /// Feature bits (§5.2.3).
  enum Feature {
    static let segmentMaximum = VirtioFeatures(bit: 2)
    static let readOnly = VirtioFeatures(bit: 5)
    static let blockSize = VirtioFeatures(bit: 6)
    static let flush = VirtioFeatures(bit: 9)
    static let topology = VirtioFeatures(bit: 10)
    static let configurableCache = VirtioFeatures(bit: 11)
    static let multiqueue = VirtioFeatures(bit: 12)
    static let discard = VirtioFeatures(bit: 13)
    static let writeZeroes = VirtioFeatures(bit: 14)
  }

  /// `virtio_blk_config` (§5.2.4).
  enum Configuration {
    static let capacity = 0
    static let segmentMaximum = 12
    static let blockSize = 20
    static let physicalBlockExponent = 24
    static let alignmentOffset = 25
    static let minimumTransfer = 26
    static let optimalTransfer = 28
    static let writeback = 32
    static let queueCount = 34
    static let maximumDiscardSectors = 36
    static let maximumDiscardRanges = 40
    static let discardAlignment = 44
    static let maximumZeroesSectors = 48
    static let maximumZeroesRanges = 52
    static let zeroesMayUnmap = 56
    static let size = 60
  }
}

extension [UInt8] {
  /// Stores a little-endian number of `count` bytes.
  mutating func store(_ value: UInt64, at offset: Int, count: Int) {
    for index in 0..<count where offset + index < self.count {
      self[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
    }
  }
}
