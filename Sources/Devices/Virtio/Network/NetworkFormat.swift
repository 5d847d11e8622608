import Backends

/// Numbers of the network device (virtio 1.2 §5.1).
enum NetworkFormat {
  /// Feature bits (§5.1.3).
  enum Feature {
    static let checksum = VirtioFeatures(bit: 0)
    static let guestChecksum = VirtioFeatures(bit: 1)
    static let guestOffloads = VirtioFeatures(bit: 2)
    static let mtu = VirtioFeatures(bit: 3)
    static let mac = VirtioFeatures(bit: 5)
    static let guestTSO4 = VirtioFeatures(bit: 7)
    static let guestTSO6 = VirtioFeatures(bit: 8)
    static let guestECN = VirtioFeatures(bit: 9)
    static let hostTSO4 = VirtioFeatures(bit: 11)
    static let hostTSO6 = VirtioFeatures(bit: 12)
    static let hostECN = VirtioFeatures(bit: 13)
    static let mergeableBuffers = VirtioFeatures(bit: 15)
    static let status = VirtioFeatures(bit: 16)
    static let controlQueue = VirtioFeatures(bit: 17)
    static let controlReceive = VirtioFeatures(bit: 18)
    static let controlVLAN = VirtioFeatures(bit: 19)
    static let controlReceiveExtra = VirtioFeatures(bit: 20)
    static let guestAnnounce = VirtioFeatures(bit: 21)
    static let multiqueue = VirtioFeatures(bit: 22)
    static let controlMAC = VirtioFeatures(bit: 23)
  }

  /// `virtio_net_config` (§5.1.4).
  enum Configuration {
    static let mac = 0..<6
    static let status = 6
    static let queuePairs = 8
    static let mtu = 10
    static let size = 12
    /// Bits of `status`.
    static let linkUp: UInt64 = 1
    static let announce: UInt64 = 2
  }

  /// `virtio_net_hdr` (§5.1.6): its fields, and the number of buffers that only drivers of 1.0 and mergeable ones have.
  enum Header {
    static let legacySize = 10
    static let size = 12
    static let buffers = 10
  }

  /// Commands of the control queue (§5.1.6.5).
  enum Control {
    static let receive: UInt8 = 0
    static let mac: UInt8 = 1
    static let vlan: UInt8 = 2
    static let announce: UInt8 = 3
    static let multiqueue: UInt8 = 4
    static let offloads: UInt8 = 5
    static let ok: UInt8 = 0
    static let error: UInt8 = 1
  }

  /// Frames as the backend's offloads allow them, and what the driver takes of them.
  static func hostFeatures(_ offloads: NetworkOffloads) -> VirtioFeatures {
    guard offloads.contains(.checksum) else { return [] }
    var features: VirtioFeatures = [Feature.checksum]
    if offloads.contains(.tso4) { features.insert(Feature.hostTSO4) }
    if offloads.contains(.tso6) { features.insert(Feature.hostTSO6) }
    if offloads.contains(.ecn) { features.insert(Feature.hostECN) }
    return features
  }

  /// What a driver has that it can be given unfinished frames. A segmentation bit without the checksum bit, which no
  /// driver may accept (§5.1.3.1), counts as nothing.
  static func offloads(
    _ features: VirtioFeatures, checksum: VirtioFeatures, tso4: VirtioFeatures, tso6: VirtioFeatures,
    ecn: VirtioFeatures
  ) -> NetworkOffloads {
    guard features.contains(checksum) else { return [] }
    var offloads: NetworkOffloads = .checksum
    if features.contains(tso4) { offloads.insert(.tso4) }
    if features.contains(tso6) { offloads.insert(.tso6) }
    if features.contains(ecn) { offloads.insert(.ecn) }
    return offloads
  }
}
