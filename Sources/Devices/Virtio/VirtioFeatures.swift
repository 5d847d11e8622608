/// Feature bits (virtio 1.2 §2.2): 0–23 and 50–127 are the device's own, the others concern queues and transport (§6).
public struct VirtioFeatures: OptionSet, Sendable, Hashable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  public init(bit: Int) { rawValue = 1 << UInt64(bit & 63) }

  /// Legacy: the device takes descriptors in any layout (§6.3). Every device here does.
  public static let anyLayout = VirtioFeatures(bit: 27)
  public static let indirectDescriptors = VirtioFeatures(bit: 28)
  public static let eventIndex = VirtioFeatures(bit: 29)
  public static let version1 = VirtioFeatures(bit: 32)
  public static let packedRing = VirtioFeatures(bit: 34)
  public static let ringReset = VirtioFeatures(bit: 40)

  /// What the queues here can do.
  static let ring: VirtioFeatures = [.indirectDescriptors, .eventIndex, .packedRing]
}

/// Bits of the device status field (virtio 1.2 §2.1).
public struct VirtioStatus: OptionSet, Sendable, Hashable {
  public let rawValue: UInt8
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  public static let acknowledge = VirtioStatus(rawValue: 1)
  public static let driver = VirtioStatus(rawValue: 2)
  public static let driverOK = VirtioStatus(rawValue: 4)
  public static let featuresOK = VirtioStatus(rawValue: 8)
  public static let needsReset = VirtioStatus(rawValue: 64)
  public static let failed = VirtioStatus(rawValue: 128)
}

/// What kind of device it is, in the numbers of the transports.
public struct VirtioKind: Sendable, Equatable {
  /// Device type (virtio 1.2 §5).
  public let id: UInt16
  /// PCI device ID of a transitional device (§4.1.2.1); nil: there is no such device.
  public let transitionalID: UInt16?
  /// PCI class, subclass and programming interface.
  public let pciClass: UInt32

  public init(id: UInt16, transitionalID: UInt16?, pciClass: UInt32) {
    self.id = id
    self.transitionalID = transitionalID
    self.pciClass = pciClass
  }
}

/// 64 bits in registers of 32: half 0 is the low one, half 1 the high one; there are no others (virtio 1.2 §4.1.4.3,
/// §4.2.2).
extension UInt64 {
  func half(_ select: UInt32) -> UInt32 {
    switch select {
    case 0: UInt32(truncatingIfNeeded: self)
    case 1: UInt32(truncatingIfNeeded: self >> 32)
    default: 0
    }
  }

  func replacingHalf(_ select: UInt32, with value: UInt32) -> UInt64 {
    switch select {
    case 0: self & ~0xFFFF_FFFF | UInt64(value)
    case 1: self & 0xFFFF_FFFF | UInt64(value) << 32
    default: self
    }
  }
}
