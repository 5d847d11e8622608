import Buses

/// The modern and legacy registers of a virtio PCI function but for what the device itself holds: what is selected, and
/// which vectors interrupts take.
struct VirtioPCIRegisters: Sendable {
  var deviceFeatureSelect: UInt32 = 0
  var driverFeatureSelect: UInt32 = 0
  var queueSelect: UInt16 = 0
  /// The page number of each queue that a legacy driver set up.
  var legacyPages: [UInt32]

  init(queues: Int) { legacyPages = Array(repeating: 0, count: queues) }

  /// The half of 64 feature bits that a selector shows (virtio 1.2 §4.1.4.3); others are zero.
  static func half(_ bits: UInt64, _ select: UInt32) -> UInt32 {
    switch select {
    case 0: UInt32(truncatingIfNeeded: bits)
    case 1: UInt32(truncatingIfNeeded: bits >> 32)
    default: 0
    }
  }

  /// `bits` with the selected half replaced.
  static func replacing(_ bits: UInt64, _ select: UInt32, with value: UInt32) -> UInt64 {
    switch select {
    case 0: bits & ~0xFFFF_FFFF | UInt64(value)
    case 1: bits & 0xFFFF_FFFF | UInt64(value) << 32
    default: bits
    }
  }

  /// `field` with the bytes from `offset` on replaced by a dword or qword.
  static func replacing(_ field: UInt64, at offset: UInt64, _ width: AccessWidth, with value: UInt64) -> UInt64 {
    let shift = offset &* 8
    return field & ~(width.mask << shift) | (value & width.mask) << shift
  }
}
