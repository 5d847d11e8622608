import Backends

/// Which frames the driver wants (virtio 1.2 §5.1.6.5.1–3).
struct NetworkFilter: Sendable {
  /// Addresses that each table holds; with more, every frame of the kind passes.
  static let tableLimit = 64

  /// The device's own address.
  var address: EthernetAddress
  /// Until the driver says otherwise every frame passes: drivers from before the filter know nothing of it.
  private var promiscuous = true
  private var allMulticast = false
  private var allUnicast = false
  private var noMulticast = false
  private var noUnicast = false
  private var noBroadcast = false
  private var unicast: [EthernetAddress] = []
  private var multicast: [EthernetAddress] = []
  private var unicastOverflows = false
  private var multicastOverflows = false
  /// One bit for each VLAN; nil until the driver filters them.
  private var vlans: [UInt64]?

  init(_ address: EthernetAddress) { self.address = address }

  /// With VIRTIO_NET_F_CTRL_VLAN no VLAN passes that the driver has not named.
  mutating func filterVLANs() { vlans = [UInt64](repeating: 0, count: 64) }

  /// Whether a frame, at least an Ethernet header long, is wanted.
  func accepts(_ frame: UnsafeRawBufferPointer) -> Bool {
    if let vlans, frame.bigEndian16(Ethernet.typeOffset) == Ethernet.typeVLAN,
      frame.count >= Ethernet.headerSize + Ethernet.tagSize
    {
      let identifier = Int(frame.bigEndian16(Ethernet.headerSize) & 0xFFF)
      guard vlans[identifier >> 6] >> UInt64(identifier & 63) & 1 != 0 else { return false }
    }
    if promiscuous { return true }
    let destination = EthernetAddress(frame)
    if destination.isBroadcast { return !noBroadcast }
    if destination.isGroup {
      return !noMulticast && (allMulticast || multicastOverflows || multicast.contains(destination))
    }
    if noUnicast { return false }
    return allUnicast || unicastOverflows || destination == address || unicast.contains(destination)
  }

  /// VIRTIO_NET_CTRL_RX. False: there is no such mode.
  mutating func setMode(_ command: UInt8, _ isOn: Bool) -> Bool {
    switch command {
    case 0: promiscuous = isOn
    case 1: allMulticast = isOn
    case 2: allUnicast = isOn
    case 3: noMulticast = isOn
    case 4: noUnicast = isOn
    case 5: noBroadcast = isOn
    default: return false
    }
    return true
  }

  /// VIRTIO_NET_CTRL_MAC_TABLE_SET: two tables, each after its number of entries. False: they do not fill `bytes`.
  mutating func setTables(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var offset = 0
    func table() -> (addresses: [EthernetAddress], overflows: Bool)? {
      guard bytes.count - offset >= 4 else { return nil }
      let count = Int(bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
      offset += 4
      guard count <= (bytes.count - offset) / 6 else { return nil }
      let start = offset
      offset += count * 6
      guard count <= Self.tableLimit else { return ([], true) }
      return ((0..<count).map { EthernetAddress(bytes, at: start + $0 * 6) }, false)
    }
    guard let first = table(), let second = table() else { return false }
    (unicast, unicastOverflows) = (first.addresses, first.overflows)
    (multicast, multicastOverflows) = (second.addresses, second.overflows)
    return true
  }

  /// VIRTIO_NET_CTRL_VLAN. False: there is no such VLAN.
  mutating func setVLAN(_ identifier: UInt16, _ passes: Bool) -> Bool {
    guard vlans != nil, identifier < 4096 else { return false }
    let bit: UInt64 = 1 << UInt64(identifier & 63)
    if passes { vlans?[Int(identifier >> 6)] |= bit } else { vlans?[Int(identifier >> 6)] &= ~bit }
    return true
  }
}
