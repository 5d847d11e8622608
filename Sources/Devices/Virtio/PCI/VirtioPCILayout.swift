/// Numbers of the PCI transport (virtio 1.2 §4.1).
enum VirtioPCI {
  static let vendor: UInt16 = 0x1AF4
  /// Modern device IDs start here (§4.1.2).
  static let modernIDs: UInt16 = 0x1040
  /// A vector that no interrupt is connected to (§4.1.5.1.2).
  static let noVector: UInt16 = 0xFFFF

  /// BARs: the legacy registers, the MSI-X table and the structures of the modern interface.
  enum BAR {
    static let legacy = 0
    static let msix = 1
    static let modern = 4
  }

  /// Where the structures stand in the modern BAR: a page each.
  enum Offset {
    static let common: UInt64 = 0x0000
    static let isr: UInt64 = 0x1000
    static let device: UInt64 = 0x2000
    static let notify: UInt64 = 0x3000
    static let size: UInt64 = 0x4000
  }

  /// Bytes between the notification addresses of two groups of queues (§4.1.4.4).
  static let notifyMultiplier: UInt64 = 4

  /// `cfg_type` of the vendor-specific capabilities (§4.1.4).
  enum CapabilityType: UInt8 {
    case common = 1
    case notify
    case isr
    case device
    case pciAccess
  }
  static let capabilityID: UInt8 = 0x09

  /// `virtio_pci_common_cfg` (§4.1.4.3).
  enum Common {
    static let deviceFeatureSelect: UInt64 = 0
    static let deviceFeature: UInt64 = 4
    static let driverFeatureSelect: UInt64 = 8
    static let driverFeature: UInt64 = 12
    static let configurationVector: UInt64 = 16
    static let queueCount: UInt64 = 18
    static let status: UInt64 = 20
    static let generation: UInt64 = 21
    static let queueSelect: UInt64 = 22
    static let queueSize: UInt64 = 24
    static let queueVector: UInt64 = 26
    static let queueEnable: UInt64 = 28
    static let queueNotifyOffset: UInt64 = 30
    static let queueDescriptors: UInt64 = 32
    static let queueDriver: UInt64 = 40
    static let queueDevice: UInt64 = 48
    static let queueNotifyData: UInt64 = 56
    static let queueReset: UInt64 = 58
    static let size: UInt64 = 60
  }

  /// The legacy registers at the start of BAR 0 (§4.1.4.10).
  enum Legacy {
    static let deviceFeatures: UInt64 = 0
    static let driverFeatures: UInt64 = 4
    static let queueAddress: UInt64 = 8
    static let queueSize: UInt64 = 12
    static let queueSelect: UInt64 = 14
    static let queueNotify: UInt64 = 16
    static let status: UInt64 = 18
    static let isr: UInt64 = 19
    /// With MSI-X on; the device's configuration follows, and without starts here.
    static let configurationVector: UInt64 = 20
    static let queueVector: UInt64 = 22
    static let vectorsEnd: UInt64 = 24
    /// Queues are given by page number, and their used ring starts on a page (§2.7.2).
    static let page: UInt64 = 4096
  }

  /// Bits of the ISR status (§4.1.4.5).
  enum ISR {
    static let queue: UInt8 = 1
    static let configuration: UInt8 = 2
  }
}

extension VirtqueueLayout {
  /// The layout that a legacy driver's page number stands for (virtio 1.2 §2.7.2).
  init(size: UInt16, legacyPage: UInt32) {
    let page = VirtioPCI.Legacy.page
    let descriptors = UInt64(legacyPage) * page
    let driver = descriptors + UInt64(size) * 16
    let end = driver + 6 + UInt64(size) * 2
    self.init(size: size, descriptors: descriptors, driver: driver, device: (end + page - 1) & ~(page - 1))
  }
}
