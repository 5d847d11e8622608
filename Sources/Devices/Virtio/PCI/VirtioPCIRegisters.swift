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

  /// `field` with the bytes from `offset` on replaced by a dword or qword.
  static func replacing(_ field: UInt64, at offset: UInt64, _ width: AccessWidth, with value: UInt64) -> UInt64 {
    let shift = offset &* 8
    return field & ~(width.mask << shift) | (value & width.mask) << shift
  }
}
