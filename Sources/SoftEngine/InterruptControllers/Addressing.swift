/// What senders need to know of a local APIC, in a word that they read without its lock.
struct Addressing: RawRepresentable, Sendable, Equatable {
  private enum Bit {
    static let logical: UInt64 = 32
    static let enabled: UInt64 = 1 << 40
    static let x2: UInt64 = 1 << 41
    static let flat: UInt64 = 1 << 42
    static let acceptsExternal: UInt64 = 1 << 43
    static let listensAtLINT0: UInt64 = 1 << 44
  }

  let rawValue: UInt64
  init(rawValue: UInt64) { self.rawValue = rawValue }

  init(_ apic: LocalAPIC) {
    var word = apic.mode == .x2APIC ? UInt64(apic.processorID) : UInt64(apic.id)
    word |= UInt64(apic.logicalDestination >> 24) << Bit.logical
    if apic.mode != .disabled { word |= Bit.enabled }
    if apic.mode == .x2APIC { word |= Bit.x2 }
    if apic.destinationFormat >> 28 == 0xF { word |= Bit.flat }
    if apic.acceptsExternal { word |= Bit.acceptsExternal }
    if apic.listensAtLINT0 { word |= Bit.listensAtLINT0 }
    rawValue = word
  }

  private func has(_ bit: UInt64) -> Bool { rawValue & bit != 0 }
  private var id: UInt32 { UInt32(truncatingIfNeeded: rawValue) }
  var acceptsExternal: Bool { has(Bit.acceptsExternal) }
  var listensAtLINT0: Bool { has(Bit.listensAtLINT0) }

  /// Whether the message is addressed to this APIC (SDM vol. 3 §11.6.2, §11.12.10).
  func matches(_ message: InterruptMessage) -> Bool {
    guard has(Bit.enabled) else { return false }
    let destination = message.destination
    if destination == InterruptMessage.broadcast { return true }
    guard message.isLogical else { return destination == id }
    if has(Bit.x2) {
      let own = LocalAPIC.x2LogicalID(id)
      return destination >> 16 == own >> 16 && destination & own & 0xFFFF != 0
    }
    guard destination <= 0xFF else { return false }
    let own = UInt32(truncatingIfNeeded: rawValue >> Bit.logical) & 0xFF
    if has(Bit.flat) { return destination & own != 0 }
    return destination >> 4 == own >> 4 && destination & own & 0xF != 0
  }
}
