/// The three forms of transmit descriptor (§3.3), as the 16 bytes in memory.
struct E1000TransmitDescriptor: Sendable {
  let low: UInt64
  let high: UInt64

  /// Command bits that all forms have (§3.3.3.1, §3.3.6, §3.3.7.1).
  enum Command {
    static let endOfPacket: UInt8 = 1 << 0
    static let insertFCS: UInt8 = 1 << 1
    /// Legacy: insert a checksum. Extended: segmentation.
    static let insertChecksum: UInt8 = 1 << 2
    static let segmentation: UInt8 = 1 << 2
    static let reportStatus: UInt8 = 1 << 3
    static let extended: UInt8 = 1 << 5
    static let vlan: UInt8 = 1 << 6
    static let delayInterrupt: UInt8 = 1 << 7
    /// Context: the packet type is TCP, or else UDP; IPv4, or else IPv6.
    static let tcp: UInt8 = 1 << 0
    static let ipv4: UInt8 = 1 << 1
  }

  /// POPTS of a data descriptor (§3.3.7.3).
  enum PacketOption {
    static let insertIPChecksum: UInt8 = 1 << 0
    static let insertTransportChecksum: UInt8 = 1 << 1
  }

  enum Kind: Sendable {
    case legacy
    case context
    case data
  }

  var command: UInt8 { UInt8(truncatingIfNeeded: high >> 24) }
  var isExtended: Bool { command & Command.extended != 0 }
  var kind: Kind {
    guard isExtended else { return .legacy }
    // DTYP; the values above 1 are reserved and are taken as data, whose length and address they have.
    return high >> 20 & 0xF == 0 ? .context : .data
  }
  var isEndOfPacket: Bool { command & Command.endOfPacket != 0 }
  var reportsStatus: Bool { command & Command.reportStatus != 0 }
  var delaysInterrupt: Bool { command & Command.delayInterrupt != 0 }
  /// Bytes of data: 16 bits in a legacy descriptor, 20 in an extended one.
  var dataLength: Int { Int(truncatingIfNeeded: high & (isExtended ? 0xF_FFFF : 0xFFFF)) }
  var packetOptions: UInt8 { UInt8(truncatingIfNeeded: high >> 40) }
  var special: UInt16 { UInt16(truncatingIfNeeded: high >> 48) }
  /// CSO and CSS of a legacy descriptor.
  var checksumOffset: Int { Int(truncatingIfNeeded: high >> 16 & 0xFF) }
  var checksumStart: Int { Int(truncatingIfNeeded: high >> 40 & 0xFF) }
}

/// What a context descriptor says about the packets after it (§3.3.6). Offsets count from the packet's start.
struct E1000TransmitContext: Sendable {
  /// A checksum: where its range starts, where it is put, and the last byte of the range (0: the packet's end).
  struct Sum: Sendable {
    var start = 0
    var offset = 0
    var end = 0

    /// The bytes that are summed up in a packet of `count` bytes; nil where the checksum would lie outside.
    func range(_ count: Int) -> Range<Int>? {
      let end = end == 0 ? count : min(end + 1, count)
      return start < end && offset + 2 <= count ? start..<end : nil
    }
  }

  var ip = Sum()
  var transport = Sum()
  var isTCP = false
  var isIPv4 = false
  var payloadLength = 0
  var headerLength = 0
  var segmentSize = 0

  init() {}

  init(_ descriptor: E1000TransmitDescriptor) {
    func byte(_ shift: UInt64) -> Int { Int(truncatingIfNeeded: descriptor.low >> shift & 0xFF) }
    func word(_ shift: UInt64) -> Int { Int(truncatingIfNeeded: descriptor.low >> shift & 0xFFFF) }
    ip = Sum(start: byte(0), offset: byte(8), end: word(16))
    transport = Sum(start: byte(32), offset: byte(40), end: word(48))
    isTCP = descriptor.command & E1000TransmitDescriptor.Command.tcp != 0
    isIPv4 = descriptor.command & E1000TransmitDescriptor.Command.ipv4 != 0
    payloadLength = descriptor.dataLength
    headerLength = Int(truncatingIfNeeded: descriptor.high >> 40 & 0xFF)
    segmentSize = Int(truncatingIfNeeded: descriptor.high >> 48 & 0xFFFF)
  }
}
