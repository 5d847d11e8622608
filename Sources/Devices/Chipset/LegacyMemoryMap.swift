import DeviceKit

/// What the 82441FX does with the addresses 0xA0000–0xFFFFF (82441FX data sheet, PAM0–PAM6 at
/// 0x59–0x5F and SMRAM at 0x72).
struct LegacyMemoryMap: Equatable, Sendable {
  /// Where reads and writes of a segment go: to DRAM where the bit is set, else to the PCI side.
  struct Attributes: OptionSet, Sendable {
    let rawValue: UInt8
    static let readDRAM = Attributes(rawValue: 1 << 0)
    static let writeDRAM = Attributes(rawValue: 1 << 1)
  }

  struct Segment: Equatable, Sendable {
    let base: UInt64
    let size: UInt64
    var attributes: Attributes
  }

  /// 0xA0000–0xBFFFF: the VGA window, or DRAM while SMRAM is open.
  static let smramBase: UInt64 = 0xA_0000
  static let smramSize: UInt64 = 0x2_0000
  static let pamBase: UInt64 = 0xC_0000
  static let end: UInt64 = 0x10_0000
  /// At most this much of the firmware's end is seen below 1 MiB.
  static let firmwareLimit: UInt64 = 0x2_0000

  /// The 13 segments in ascending order.
  private(set) var segments: [Segment]
  /// The SMM space DRAM is visible outside SMM.
  private(set) var isSMRAMOpen: Bool

  /// Decodes PAM0–PAM6 and SMRAM. PAM0 holds the 64 KiB at 0xF0000 in its high nibble; each later register two
  /// segments of 16 KiB from 0xC0000 on, the lower one in its low nibble.
  init(pam: [UInt8], smram: SMRAMControl) {
    segments = []
    for index in 0..<12 {
      let nibble = pam[1 + index / 2] >> UInt8(index % 2 * 4)
      segments.append(
        Segment(
          base: Self.pamBase + UInt64(index) * 0x4000, size: 0x4000, attributes: Attributes(rawValue: nibble & 3)))
    }
    segments.append(Segment(base: 0xF_0000, size: 0x1_0000, attributes: Attributes(rawValue: pam[0] >> 4 & 3)))
    isSMRAMOpen = smram.contains(.open) && !smram.contains(.closed)
  }

  /// The attributes of the segment that holds an address; none outside 0xC0000–0xFFFFF.
  func attributes(at address: UInt64) -> Attributes {
    guard address >= Self.pamBase, address < Self.end else { return [] }
    return segments[min(Int((address - Self.pamBase) / 0x4000), segments.count - 1)].attributes
  }

  /// The mappings that make the map so, in ascending order, neighbours of the same kind joined. What is not mapped
  /// arrives at the board as MMIO: the VGA window, empty addresses, and segments that only take writes.
  func mappings(firmwareSize: UInt64) -> [MemoryMapping] {
    var result: [MemoryMapping] = []
    if isSMRAMOpen {
      result.append(
        MemoryMapping(
          guestAddress: Self.smramBase, size: Self.smramSize, source: .ram(Self.smramBase), readOnly: false))
    }
    for segment in segments {
      guard let mapping = mapping(of: segment, firmwareSize: firmwareSize) else { continue }
      if let joined = result.last.flatMap({ Self.join($0, mapping) }) {
        result[result.count - 1] = joined
      } else {
        result.append(mapping)
      }
    }
    return result
  }

  private func mapping(of segment: Segment, firmwareSize: UInt64) -> MemoryMapping? {
    if segment.attributes.contains(.readDRAM) {
      return MemoryMapping(
        guestAddress: segment.base, size: segment.size, source: .ram(segment.base),
        readOnly: !segment.attributes.contains(.writeDRAM))
    }
    // A segment that begins below the firmware's part does not see it at all, or only its end.
    let start = max(segment.base, Self.end - min(firmwareSize, Self.firmwareLimit))
    guard segment.attributes.isEmpty, start < segment.base + segment.size else { return nil }
    return MemoryMapping(
      guestAddress: start, size: segment.base + segment.size - start,
      source: .firmware(firmwareSize - (Self.end - start)), readOnly: true)
  }

  /// One mapping for two that follow each other in address, source and access.
  private static func join(_ first: MemoryMapping, _ second: MemoryMapping) -> MemoryMapping? {
    guard first.guestAddress + first.size == second.guestAddress, first.readOnly == second.readOnly else { return nil }
    switch (first.source, second.source) {
    case (.ram(let base), .ram(let next)) where base + first.size == next,
      (.firmware(let base), .firmware(let next)) where base + first.size == next:
      var joined = first
      joined.size += second.size
      return joined
    default:
      return nil
    }
  }
}

/// The SMRAM control register (82441FX data sheet, offset 0x72).
struct SMRAMControl: OptionSet, Sendable {
  let rawValue: UInt8
  /// C_BASE_SEG, hard-wired: SMM space is 0xA0000–0xBFFFF.
  static let baseSegment = SMRAMControl(rawValue: 0b010)
  static let enabled = SMRAMControl(rawValue: 1 << 3)
  /// D_LCK: until reset, D_OPEN is 0 and all bits but D_CLS are read-only.
  static let locked = SMRAMControl(rawValue: 1 << 4)
  static let closed = SMRAMControl(rawValue: 1 << 5)
  static let open = SMRAMControl(rawValue: 1 << 6)

  static let powerOn = baseSegment
  static let writable: SMRAMControl = [.enabled, .locked, .closed, .open]
  static let writableWhenLocked = closed
}
