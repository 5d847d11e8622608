/// Which frames are for this card: receive addresses, the multicast table and the VLAN table (§3.2.1, §13.5).
struct E1000ReceiveFilter: Sendable {
  enum Match: Sendable {
    case none
    case exact
    /// By the multicast table alone: software has to look again (status bit PIF).
    case inexact
  }

  static let addressCount = 16
  private static let addressValid: UInt32 = 1 << 31

  /// RAL and RAH in turn.
  private var addresses = [UInt32](repeating: 0, count: addressCount * 2)
  private var multicast = [UInt32](repeating: 0, count: 128)
  private var vlans = [UInt32](repeating: 0, count: 128)

  /// Receive address 0 is the EEPROM's after a reset (§13.5.2).
  init(_ address: EthernetAddress) { load(address) }

  mutating func load(_ address: EthernetAddress) {
    addresses[0] = UInt32(truncatingIfNeeded: address.bits)
    addresses[1] = UInt32(truncatingIfNeeded: address.bits >> 32) | Self.addressValid
  }

  /// The register at a canonical offset; nil where the filters have none.
  func read(_ offset: Int) -> UInt32? {
    switch offset {
    case E1000Register.mta: multicast[(offset - E1000Register.mta.lowerBound) / 4]
    case E1000Register.ra: addresses[(offset - E1000Register.ra.lowerBound) / 4]
    case E1000Register.vfta: vlans[(offset - E1000Register.vfta.lowerBound) / 4]
    default: nil
    }
  }

  mutating func write(_ offset: Int, _ value: UInt32) -> Bool {
    switch offset {
    case E1000Register.mta: multicast[(offset - E1000Register.mta.lowerBound) / 4] = value
    case E1000Register.ra:
      let index = (offset - E1000Register.ra.lowerBound) / 4
      // RAH has the upper 16 bits, two of address select and AV.
      addresses[index] = index & 1 == 0 ? value : value & 0x8003_FFFF
    case E1000Register.vfta: vlans[(offset - E1000Register.vfta.lowerBound) / 4] = value
    default: return false
    }
    return true
  }

  /// `control` is RCTL.
  func match(_ destination: EthernetAddress, source: EthernetAddress, control: UInt32) -> Match {
    if destination.isBroadcast, control & E1000ReceiveControl.acceptBroadcast != 0 { return .exact }
    let promiscuous =
      destination.isGroup ? E1000ReceiveControl.multicastPromiscuous : E1000ReceiveControl.unicastPromiscuous
    if control & promiscuous != 0 { return .exact }
    for index in 0..<Self.addressCount {
      let high = addresses[index * 2 + 1]
      guard high & Self.addressValid != 0 else { continue }
      let address = EthernetAddress(bits: UInt64(addresses[index * 2]) | UInt64(high & 0xFFFF) << 32)
      switch high >> 16 & 3 {
      case 0: if address == destination { return .exact }
      case 1: if address == source { return .exact }
      default: break
      }
    }
    guard destination.isGroup else { return .none }
    // RCTL.MO chooses which 12 bits of the address index the table.
    let shift: UInt64 =
      switch control >> 12 & 3 {
      case 0: 36
      case 1: 35
      case 2: 34
      default: 32
      }
    let hash = Int(truncatingIfNeeded: destination.bits >> shift & 0xFFF)
    return multicast[hash >> 5] >> UInt32(hash & 31) & 1 != 0 ? .inexact : .none
  }

  /// Whether frames of this VLAN pass.
  func acceptsVLAN(_ tag: UInt16) -> Bool {
    let identifier = Int(tag & 0xFFF)
    return vlans[identifier >> 5] >> UInt32(identifier & 31) & 1 != 0
  }
}
