/// A resource descriptor (ACPI 6.4 §6.4): what a device uses, or what a bridge passes on.
struct ResourceDescriptor: Sendable, Equatable {
  let bytes: [UInt8]

  /// Tags: the type and length of a small item, the type of a large one.
  private enum Tag {
    static let irqNoFlags: UInt8 = 0x22
    static let io: UInt8 = 0x47
    static let end: UInt8 = 0x79
    static let memory32Fixed: UInt8 = 0x86
    static let dwordAddressSpace: UInt8 = 0x87
    static let wordAddressSpace: UInt8 = 0x88
    static let extendedInterrupt: UInt8 = 0x89
  }

  /// Resource types of the address space descriptors (§6.4.3.5).
  private enum SpaceType {
    static let memory: UInt8 = 0
    static let io: UInt8 = 1
    static let busNumber: UInt8 = 2
  }

  /// General flags: a producer's range, decoded positively, whose ends are both fixed.
  private static let producerFixed: UInt8 = 0x0C

  private static func large(_ tag: UInt8, _ body: [UInt8]) -> ResourceDescriptor {
    ResourceDescriptor(bytes: [tag] + UInt16(body.count).littleEndianBytes + body)
  }

  /// An ISA IRQ (0–15), edge-triggered and not shared (§6.4.2.1).
  static func irq(_ number: Int) -> ResourceDescriptor {
    ResourceDescriptor(bytes: [Tag.irqNoFlags] + (UInt16(1) << UInt16(number & 15)).littleEndianBytes)
  }

  /// `count` fixed ports from `base`, decoded with all 16 address bits (§6.4.2.5).
  static func io(_ base: UInt16, count: UInt8) -> ResourceDescriptor {
    let decode16: UInt8 = 1
    let body = base.littleEndianBytes + base.littleEndianBytes + [0x01, count]
    return ResourceDescriptor(bytes: [Tag.io, decode16] + body)
  }

  /// A fixed range of read-only memory (§6.4.3.4).
  static func readOnlyMemory32Fixed(_ base: UInt32, size: UInt32) -> ResourceDescriptor {
    large(Tag.memory32Fixed, [0] + base.littleEndianBytes + size.littleEndianBytes)
  }

  /// A fixed range of memory that is written too (§6.4.3.4).
  static func memory32Fixed(_ base: UInt32, size: UInt32) -> ResourceDescriptor {
    large(Tag.memory32Fixed, [1] + base.littleEndianBytes + size.littleEndianBytes)
  }

  /// An input of the I/O APIC, edge-triggered, active high and not shared (§6.4.3.6).
  static func edgeInterrupt(_ number: UInt32) -> ResourceDescriptor {
    let consumerEdgeHighExclusive: UInt8 = 0x03
    return large(Tag.extendedInterrupt, [consumerEdgeHighExclusive, 1] + number.littleEndianBytes)
  }

  /// Interrupts the device may use, level-triggered, active high and shared (§6.4.3.6).
  static func sharedInterrupts(_ numbers: [UInt32]) -> ResourceDescriptor {
    let consumerLevelHighShared: UInt8 = 0x09
    return large(
      Tag.extendedInterrupt,
      [consumerLevelHighShared, UInt8(truncatingIfNeeded: numbers.count)] + numbers.flatMap(\.littleEndianBytes))
  }

  /// Where the interrupt number stands in a template that holds one `sharedInterrupts` of one number.
  static let interruptNumberOffset: UInt64 = 5

  /// A bridge's bus numbers (§6.4.3.5.3).
  static func busNumbers(_ range: ClosedRange<UInt16>) -> ResourceDescriptor {
    word(SpaceType.busNumber, flags: 0, range)
  }

  /// Ports that a bridge passes on (§6.4.3.5.3).
  static func ioWindow(_ range: ClosedRange<UInt16>) -> ResourceDescriptor {
    let entireRange: UInt8 = 0x03
    return word(SpaceType.io, flags: entireRange, range)
  }

  /// Writable, uncached memory that a bridge passes on (§6.4.3.5.2).
  static func memoryWindow(_ range: Range<UInt32>) -> ResourceDescriptor {
    let readWrite: UInt8 = 0x01
    let minimum = range.lowerBound
    let maximum = range.upperBound &- 1
    let zero = UInt32(0).littleEndianBytes
    var body = [SpaceType.memory, producerFixed, readWrite]
    body += zero + minimum.littleEndianBytes + maximum.littleEndianBytes + zero
    return large(Tag.dwordAddressSpace, body + (maximum &- minimum &+ 1).littleEndianBytes)
  }

  private static func word(_ type: UInt8, flags: UInt8, _ range: ClosedRange<UInt16>) -> ResourceDescriptor {
    let zero = UInt16(0).littleEndianBytes
    let count = range.upperBound &- range.lowerBound &+ 1
    var body = [type, producerFixed, flags]
    body += zero + range.lowerBound.littleEndianBytes + range.upperBound.littleEndianBytes + zero
    return large(Tag.wordAddressSpace, body + count.littleEndianBytes)
  }

  fileprivate static let endTag = ResourceDescriptor(bytes: [Tag.end, 0])
}

extension AML {
  /// A buffer of resource descriptors with its end tag; a checksum of zero means that none is kept (§6.4.2.9).
  static func resourceTemplate(_ descriptors: [ResourceDescriptor]) -> AML {
    .buffer((descriptors + [.endTag]).flatMap(\.bytes))
  }
}
