/// Registers by their offset in the memory BAR (PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
/// Manual, 317453, table 13-2). Section numbers in this folder are that manual's.
enum E1000Register {
  static let ctrl = 0x0000
  /// The same register again (§13.4.1).
  static let ctrlDuplicate = 0x0004
  static let status = 0x0008
  static let eecd = 0x0010
  static let eerd = 0x0014
  static let ctrlExtended = 0x0018
  static let mdic = 0x0020
  static let fcal = 0x0028
  static let fcah = 0x002C
  static let fct = 0x0030
  static let vet = 0x0038
  static let icr = 0x00C0
  static let itr = 0x00C4
  static let ics = 0x00C8
  static let ims = 0x00D0
  static let imc = 0x00D8
  static let rctl = 0x0100
  static let fcttv = 0x0170
  static let txcw = 0x0178
  static let rxcw = 0x0180
  static let tctl = 0x0400
  static let tipg = 0x0410
  static let ait = 0x0458
  static let ledctl = 0x0E00
  static let pba = 0x1000
  static let fcrtl = 0x2160
  static let fcrth = 0x2168
  static let rdbal = 0x2800
  static let rdbah = 0x2804
  static let rdlen = 0x2808
  static let rdh = 0x2810
  static let rdt = 0x2818
  static let rdtr = 0x2820
  static let rxdctl = 0x2828
  static let radv = 0x282C
  static let rsrpd = 0x2C00
  static let tdbal = 0x3800
  static let tdbah = 0x3804
  static let tdlen = 0x3808
  static let tdh = 0x3810
  static let tdt = 0x3818
  static let tidv = 0x3820
  static let txdctl = 0x3828
  static let tadv = 0x382C
  static let tspmt = 0x3830
  static let statistics = 0x4000..<0x4100
  static let rxcsum = 0x5000
  static let mta = 0x5200..<0x5400
  static let ra = 0x5400..<0x5480
  static let vfta = 0x5600..<0x5800
  static let wuc = 0x5800
  static let wufc = 0x5808
  static let wus = 0x5810
  static let manc = 0x5820
  static let ipav = 0x5838
  /// Addresses and patterns of the wake-up unit (§13.6).
  static let wakeAddresses = 0x5840..<0x5890
  static let wupl = 0x5900
  static let wakeMemory = 0x5A00..<0x5A80
  static let flexibleLengths = 0x5F00..<0x5F20
  static let flexibleMasks = 0x9000..<0x9400
  static let flexibleValues = 0x9800..<0x9C00

  /// Offsets of the 82542 that still work (table 13-2, "alternate" column).
  static func canonical(_ offset: Int) -> Int {
    switch offset {
    case ctrlDuplicate: ctrl
    case 0x0040..<0x00C0: ra.lowerBound + offset - 0x0040
    case 0x0108: rdtr
    case 0x0110: rdbal
    case 0x0114: rdbah
    case 0x0118: rdlen
    case 0x0120: rdh
    case 0x0128: rdt
    case 0x0200..<0x0400: mta.lowerBound + offset - 0x0200
    case 0x0420: tdbal
    case 0x0424: tdbah
    case 0x0428: tdlen
    case 0x0430: tdh
    case 0x0438: tdt
    case 0x0440: tidv
    case 0x0600..<0x0800: vfta.lowerBound + offset - 0x0600
    default: offset
    }
  }
}

/// Device control, §13.4.1.
enum E1000Control {
  static let fullDuplex: UInt32 = 1 << 0
  static let setLinkUp: UInt32 = 1 << 6
  static let speed1000: UInt32 = 0b10 << 8
  static let reset: UInt32 = 1 << 26
  static let vlanMode: UInt32 = 1 << 30
  static let phyReset: UInt32 = 1 << 31
  /// Full duplex, 1000 Mb/s, link up, software pins 0 and 2 high: what the EEPROM of the card loads.
  static let powerOn: UInt32 = 0x0014_0241
}

/// Device status, §13.4.2.
enum E1000Status {
  static let fullDuplex: UInt32 = 1 << 0
  static let linkUp: UInt32 = 1 << 1
  static let transmitPaused: UInt32 = 1 << 4
  static let speed1000: UInt32 = 0b10 << 6
  static let autoSpeed1000: UInt32 = 0b10 << 8
}

/// EEPROM/Flash control, §13.4.3.
enum E1000EEPROMControl {
  static let clock: UInt32 = 1 << 0
  static let select: UInt32 = 1 << 1
  static let dataIn: UInt32 = 1 << 2
  static let dataOut: UInt32 = 1 << 3
  static let flashWrite: UInt32 = 0b11 << 4
  static let request: UInt32 = 1 << 6
  static let grant: UInt32 = 1 << 7
  static let present: UInt32 = 1 << 8
}

/// Interrupt causes: ICR, ICS, IMS and IMC, §13.4.17.
enum E1000Cause {
  static let transmitWrittenBack: UInt32 = 1 << 0
  static let transmitQueueEmpty: UInt32 = 1 << 1
  static let linkChange: UInt32 = 1 << 2
  static let receiveMinimum: UInt32 = 1 << 4
  static let receiveOverrun: UInt32 = 1 << 6
  static let receiveTimer: UInt32 = 1 << 7
  static let mdioAccess: UInt32 = 1 << 9
  static let transmitLow: UInt32 = 1 << 15
  static let smallPacket: UInt32 = 1 << 16
  static let all: UInt32 = 0x0001_F6DF
}

/// Receive control, §13.4.22.
enum E1000ReceiveControl {
  static let enable: UInt32 = 1 << 1
  static let unicastPromiscuous: UInt32 = 1 << 3
  static let multicastPromiscuous: UInt32 = 1 << 4
  static let longPackets: UInt32 = 1 << 5
  static let loopback: UInt32 = 0b11 << 6
  static let acceptBroadcast: UInt32 = 1 << 15
  static let vlanFilter: UInt32 = 1 << 18
  static let canonicalEnable: UInt32 = 1 << 19
  static let canonicalValue: UInt32 = 1 << 20
  static let sizeExtension: UInt32 = 1 << 25
  static let stripCRC: UInt32 = 1 << 26
  /// Reserved bits 0, 10–11, 14, 21, 24 and 27–31 read as zero.
  static let implemented: UInt32 = 0x06DF_B3FE
}

/// Transmit control, §13.4.33.
enum E1000TransmitControl {
  static let enable: UInt32 = 1 << 1
  static let padShort: UInt32 = 1 << 3
}

/// Receive checksum control, §13.4.47.
enum E1000ReceiveChecksum {
  static let start: UInt32 = 0xFF
  static let ip: UInt32 = 1 << 8
  static let tcpUDP: UInt32 = 1 << 9
  static let ipv6: UInt32 = 1 << 10
}

/// A descriptor ring: RDBAL–RDT or TDBAL–TDT, §3.2.6 and §3.4.
struct E1000Ring: Sendable {
  static let descriptorSize = 16

  private(set) var base: UInt64 = 0
  private(set) var length: UInt32 = 0
  var head: UInt32 = 0
  var tail: UInt32 = 0

  /// Descriptors in the ring.
  var count: UInt32 { length / UInt32(Self.descriptorSize) }
  /// Head and tail are indices of the ring: with others the hardware would run into foreign memory, so nothing moves.
  var isUsable: Bool { head < count && tail < count }
  /// Nothing can be taken from it.
  var isEmpty: Bool { !isUsable || head == tail }
  /// Descriptors that belong to the hardware.
  var available: UInt32 { isUsable ? (tail >= head ? tail - head : count - head + tail) : 0 }

  var low: UInt32 {
    get { UInt32(truncatingIfNeeded: base) }
    set { base = base & ~0xFFFF_FFFF | UInt64(newValue & ~0xF) }
  }
  var high: UInt32 {
    get { UInt32(truncatingIfNeeded: base >> 32) }
    set { base = base & 0xFFFF_FFFF | UInt64(newValue) << 32 }
  }
  mutating func setLength(_ value: UInt32) { length = value & 0x000F_FF80 }

  /// Where descriptor `index` is in guest memory.
  func address(_ index: UInt32) -> UInt64 { base &+ UInt64(index) &* UInt64(Self.descriptorSize) }
  func next(_ index: UInt32) -> UInt32 { index &+ 1 < count ? index &+ 1 : 0 }
}
