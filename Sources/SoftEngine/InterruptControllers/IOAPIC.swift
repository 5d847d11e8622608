/// The 82093AA I/O APIC (Intel 290566-001) with 24 pins.
///
/// Inputs are asserted or not, whatever the polarity bit says: sources drive what the board wired.
struct IOAPIC: Sendable {
  static let pinCount = 24

  /// Memory-mapped registers (§3.1), by offset in the 256-byte window.
  enum Window {
    static let select: UInt64 = 0x00
    static let data: UInt64 = 0x10
  }
  /// Registers that IOREGSEL selects (§3.2).
  enum Register {
    static let id: UInt8 = 0x00
    static let version: UInt8 = 0x01
    static let arbitration: UInt8 = 0x02
    static let redirection: UInt8 = 0x10
  }
  /// IOAPICVER: version 0x11, 23 as the highest entry (§3.2.2).
  static let version = UInt32(pinCount - 1) << 16 | 0x11

  /// I/O redirection table entry (§3.2.4).
  enum Entry {
    static let logical: UInt64 = 1 << 11
    static let deliveryStatus: UInt64 = 1 << 12
    static let polarity: UInt64 = 1 << 13
    static let remoteIRR: UInt64 = 1 << 14
    static let level: UInt64 = 1 << 15
    static let mask: UInt64 = 1 << 16
    static let readOnly = deliveryStatus | remoteIRR
    /// Vector, delivery mode, the bits above, and the destination.
    static let implemented: UInt64 = 0xFF00_0000_0001_FFFF
  }

  /// A message and the pin that sends it.
  struct Request: Equatable {
    let pin: Int
    let message: InterruptMessage
  }

  private var selected: UInt8 = 0
  private var id: UInt32 = 0
  private(set) var entries = [UInt64](repeating: Entry.mask, count: IOAPIC.pinCount)
  /// Asserted inputs, one bit each.
  private var levels: UInt32 = 0

  // MARK: Pins

  /// Drives a pin, 0–23. Returns the message that it causes. An edge on a masked pin is lost (§3.4.2).
  mutating func setInput(_ pin: Int, _ level: Bool) -> Request? {
    guard entries.indices.contains(pin) else { return nil }
    let bit: UInt32 = 1 << UInt32(truncatingIfNeeded: pin)
    let wasAsserted = levels & bit != 0
    guard level else {
      levels &= ~bit
      return nil
    }
    levels |= bit
    return entries[pin] & Entry.level != 0 ? serveLevel(pin) : wasAsserted ? nil : request(pin)
  }

  /// Sends a level-triggered pin's interrupt where it is asserted, unmasked and not in service.
  private mutating func serveLevel(_ pin: Int) -> Request? {
    guard levels >> UInt32(truncatingIfNeeded: pin) & 1 != 0, entries[pin] & Entry.remoteIRR == 0,
      let request = request(pin)
    else { return nil }
    if request.message.isLevel { entries[pin] |= Entry.remoteIRR }
    return request
  }

  private func request(_ pin: Int) -> Request? {
    let entry = entries[pin]
    guard entry & Entry.mask == 0 else { return nil }
    let mode = DeliveryMode(bits: UInt32(truncatingIfNeeded: entry))
    // Start-up cannot be sent, and the others than fixed and lowest priority are edges (§3.2.4).
    guard mode != .startup, mode != .reserved else { return nil }
    let message = InterruptMessage(
      vector: UInt8(truncatingIfNeeded: entry), mode: mode,
      isLevel: entry & Entry.level != 0 && (mode == .fixed || mode == .lowestPriority),
      isLogical: entry & Entry.logical != 0,
      destination: InterruptMessage.destination(xAPIC: UInt8(truncatingIfNeeded: entry >> 56)))
    return Request(pin: pin, message: message)
  }

  /// No local APIC took the pin's message, so there will be no EOI to wait for.
  mutating func reject(_ pin: Int) { entries[pin] &= ~Entry.remoteIRR }

  /// A local APIC's EOI message. Returns the pins that carry the vector, one bit each, edge-triggered ones too.
  /// Sources may then change levels; `serveAgain` serves those that stay.
  mutating func endOfInterrupt(_ vector: UInt8) -> UInt32 {
    var pins: UInt32 = 0
    for pin in entries.indices where UInt8(truncatingIfNeeded: entries[pin]) == vector {
      entries[pin] &= ~Entry.remoteIRR
      pins |= 1 << UInt32(truncatingIfNeeded: pin)
    }
    return pins
  }

  /// The message of a level-triggered pin that is asserted and may interrupt anew.
  mutating func serveAgain(_ pin: Int) -> Request? {
    entries.indices.contains(pin) && entries[pin] & Entry.level != 0 ? serveLevel(pin) : nil
  }

  /// Vectors whose EOI means something here. A pin may be masked while its interrupt is in service.
  var vectors: VectorSet {
    var set = VectorSet()
    for entry in entries where entry & 0xF0 != 0 { set[UInt8(truncatingIfNeeded: entry)] = true }
    return set
  }

  func isMasked(_ pin: Int) -> Bool { entries[pin] & Entry.mask != 0 }

  // MARK: Registers

  func read(_ offset: UInt64) -> UInt32 {
    switch offset & 0xFC {
    case Window.select: return UInt32(selected)
    case Window.data:
      switch selected {
      case Register.id, Register.arbitration: return id
      case Register.version: return Self.version
      default:
        guard let (pin, isHigh) = entry else { return 0 }
        return UInt32(truncatingIfNeeded: isHigh ? entries[pin] >> 32 : entries[pin])
      }
    default: return 0
    }
  }

  /// Writes a register; returns the message of a pin that was thereby let through.
  mutating func write(_ offset: UInt64, _ value: UInt32) -> Request? {
    switch offset & 0xFC {
    case Window.select: selected = UInt8(truncatingIfNeeded: value)
    case Window.data:
      if selected == Register.id { id = value & 0x0F00_0000 }
      guard let (pin, isHigh) = entry else { return nil }
      return writeEntry(pin, isHigh: isHigh, value)
    default: break
    }
    return nil
  }

  private mutating func writeEntry(_ pin: Int, isHigh: Bool, _ value: UInt32) -> Request? {
    let old = entries[pin]
    let merged = isHigh ? old & 0xFFFF_FFFF | UInt64(value) << 32 : old & ~0xFFFF_FFFF | UInt64(value)
    entries[pin] = merged & Entry.implemented & ~Entry.readOnly | old & Entry.readOnly
    guard entries[pin] & Entry.level != 0 else {
      // Edge-triggered entries have no remote IRR; systems without an EOI register clear it this way.
      entries[pin] &= ~Entry.remoteIRR
      return nil
    }
    return serveLevel(pin)
  }

  private var entry: (pin: Int, isHigh: Bool)? {
    guard selected >= Register.redirection else { return nil }
    let pin = Int(selected - Register.redirection) / 2
    return pin < Self.pinCount ? (pin, selected & 1 != 0) : nil
  }
}
