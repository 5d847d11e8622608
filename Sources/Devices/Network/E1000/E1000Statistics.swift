/// The statistics registers (§13.7): 32 bits each, cleared by a read; a counter that is full stays so.
struct E1000Statistics: Sendable {
  /// Offsets from 0x4000.
  private enum Counter {
    static let receivedBySize = 0x5C
    static let received = 0x74
    static let receivedBroadcast = 0x78
    static let receivedMulticast = 0x7C
    static let sent = 0x80
    static let receivedOctets = 0x88
    static let sentOctets = 0x90
    static let noBuffer = 0xA0
    static let oversize = 0xAC
    static let totalReceivedOctets = 0xC0
    static let totalSentOctets = 0xC8
    static let totalReceived = 0xD0
    static let totalSent = 0xD4
    static let sentBySize = 0xD8
    static let sentMulticast = 0xF0
    static let sentBroadcast = 0xF4
    static let segmentationContexts = 0xF8
    static let failedSegmentations = 0xFC
    /// Counters of 64 bits: reading the upper half clears both.
    static let wide = [receivedOctets, sentOctets, totalReceivedOctets, totalSentOctets]
  }

  private var counters = [UInt32](repeating: 0, count: 64)

  mutating func read(_ offset: Int) -> UInt32 {
    let index = offset / 4
    guard counters.indices.contains(index) else { return 0 }
    let value = counters[index]
    for low in Counter.wide {
      if offset == low { return value }
      if offset == low + 4 { counters[index - 1] = 0 }
    }
    counters[index] = 0
    return value
  }

  /// A frame that passed the filters. `length` is with its FCS.
  mutating func countReceived(_ destination: EthernetAddress, _ length: Int) {
    count(Counter.received)
    count(Counter.receivedBySize + Self.sizeClass(length) * 4)
    if destination.isBroadcast {
      count(Counter.receivedBroadcast)
    } else if destination.isGroup {
      count(Counter.receivedMulticast)
    }
    add(Counter.receivedOctets, length)
  }

  /// Any frame on the wire, whatever the filters say.
  mutating func countOnWire(_ length: Int) {
    count(Counter.totalReceived)
    add(Counter.totalReceivedOctets, length)
  }

  mutating func countOversize() { count(Counter.oversize) }
  mutating func countNoBuffer() { count(Counter.noBuffer) }
  mutating func countSegmentation(failed: Bool) {
    count(failed ? Counter.failedSegmentations : Counter.segmentationContexts)
  }

  /// A frame that was sent. `length` is with its FCS.
  mutating func countSent(_ destination: EthernetAddress, _ length: Int) {
    count(Counter.sent)
    count(Counter.totalSent)
    count(Counter.sentBySize + Self.sizeClass(length) * 4)
    if destination.isBroadcast {
      count(Counter.sentBroadcast)
    } else if destination.isGroup {
      count(Counter.sentMulticast)
    }
    add(Counter.sentOctets, length)
    add(Counter.totalSentOctets, length)
  }

  private static func sizeClass(_ length: Int) -> Int {
    switch length {
    case ...64: 0
    case ...127: 1
    case ...255: 2
    case ...511: 3
    case ...1023: 4
    default: 5
    }
  }

  private mutating func count(_ offset: Int) {
    let index = offset / 4
    if counters[index] != .max { counters[index] += 1 }
  }

  private mutating func add(_ offset: Int, _ bytes: Int) {
    let index = offset / 4
    let sum = UInt64(counters[index]) | UInt64(counters[index + 1]) << 32
    let (next, overflow) = sum.addingReportingOverflow(UInt64(bytes))
    let value = overflow ? .max : next
    counters[index] = UInt32(truncatingIfNeeded: value)
    counters[index + 1] = UInt32(truncatingIfNeeded: value >> 32)
  }
}
