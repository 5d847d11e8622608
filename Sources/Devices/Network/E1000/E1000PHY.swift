/// The integrated 1000BASE-T PHY, an M88E1000 at address 1 (chapter 8.8 and §13.4.7; registers 0–15 are IEEE 802.3
/// clause 22 and 40).
struct E1000PHY: Sendable {
  static let address: UInt32 = 1

  private enum Register {
    static let control = 0
    static let status = 1
    static let identifier1 = 2
    static let identifier2 = 3
    static let advertisement = 4
    static let partnerAbility = 5
    static let expansion = 6
    static let nextPage = 7
    static let gigabitControl = 9
    static let gigabitStatus = 10
    static let extendedStatus = 15
    static let specificControl = 16
    static let specificStatus = 17
    static let interruptEnable = 18
    static let interruptStatus = 19
    static let extendedControl = 20
    static let pageSelect = 29
    static let pageData = 30
  }

  private enum Control {
    static let reset: UInt16 = 1 << 15
    static let loopback: UInt16 = 1 << 14
    static let autonegotiate: UInt16 = 1 << 12
    static let powerDown: UInt16 = 1 << 11
    static let restart: UInt16 = 1 << 9
    /// Autonegotiation, full duplex, 1000 Mb/s.
    static let powerOn: UInt16 = 0x1140
    /// Collision test and what is above it, less the bits that clear themselves.
    static let writable: UInt16 = 0x7DC0
  }

  /// How long two ends take to agree. Cards take seconds; nothing waits for it that long here.
  private static let negotiationTime: UInt64 = 100_000_000

  private var control = Control.powerOn
  private var advertisement: UInt16 = 0x0DE1
  private var gigabitControl: UInt16 = 0x0E00
  /// Registers that only hold what was written.
  private var held = [UInt16](repeating: 0, count: 32)
  /// The link was lost since the status register was read (latched low, IEEE 802.3 §22.2.4.2.13).
  private var lostLink = false
  private var isNegotiated = true
  private var hasCable = true
  /// When autonegotiation under way will be done.
  private(set) var negotiationEnd: UInt64?

  init() { reset() }

  private mutating func reset() {
    control = Control.powerOn
    advertisement = 0x0DE1
    gigabitControl = 0x0E00
    held = [UInt16](repeating: 0, count: 32)
    held[Register.nextPage] = 0x2001
    held[Register.specificControl] = 0x0360
    held[Register.extendedControl] = 0x0D60
  }

  /// CTRL.PHY_RST: everything back to power-on, and the link is made anew.
  mutating func reset(now: UInt64) {
    reset()
    restart(now)
  }

  private mutating func restart(_ now: UInt64) {
    lostLink = lostLink || isLinkUp
    isNegotiated = false
    guard hasCable else { return }
    negotiationEnd = now &+ Self.negotiationTime
  }

  /// What is sent comes back (register 0 bit 14).
  var isLoopback: Bool { control & Control.loopback != 0 }

  var isLinkUp: Bool {
    guard control & Control.powerDown == 0 else { return false }
    return isLoopback || hasCable && (control & Control.autonegotiate == 0 || isNegotiated)
  }

  mutating func setCable(_ isConnected: Bool, now: UInt64) {
    guard isConnected != hasCable else { return }
    lostLink = lostLink || isLinkUp
    hasCable = isConnected
    negotiationEnd = nil
    restart(now)
  }

  mutating func advance(now: UInt64) {
    guard let end = negotiationEnd, now >= end else { return }
    negotiationEnd = nil
    isNegotiated = true
  }

  mutating func read(_ register: Int) -> UInt16 {
    switch register {
    case Register.control: return control
    case Register.status:
      defer { lostLink = false }
      // 10 and 100 Mb/s both ways, extended status, preamble suppression, autonegotiation, extended registers.
      return 0x7949 | (isNegotiated ? 1 << 5 : 0) | (isLinkUp && !lostLink ? 1 << 2 : 0)
    case Register.identifier1: return 0x0141
    case Register.identifier2: return 0x0C20
    case Register.advertisement: return advertisement
    // A partner with all of 10 and 100 Mb/s and pause frames; it acknowledged.
    case Register.partnerAbility: return isNegotiated ? 0x4DE1 : 0
    case Register.expansion: return isNegotiated ? 0x000D : 0x0004
    case Register.gigabitControl: return gigabitControl
    // Both receivers are fine; the partner can do 1000BASE-T.
    case Register.gigabitStatus: return isLinkUp ? 0x3C00 : 0
    case Register.extendedStatus: return 0x3000
    // 1000 Mb/s full duplex, resolved, link.
    case Register.specificStatus: return isLinkUp ? 0xAC00 : 0x8000
    case Register.interruptStatus:
      defer { held[Register.interruptStatus] = 0 }
      return held[Register.interruptStatus]
    default: return 0..<32 ~= register ? held[register] : 0
    }
  }

  mutating func write(_ register: Int, _ value: UInt16, now: UInt64) {
    switch register {
    case Register.control:
      if value & Control.reset != 0 { return reset(now: now) }
      let before = isLinkUp
      control = value & Control.writable
      if control & Control.autonegotiate != 0, value & Control.restart != 0 { restart(now) }
      lostLink = lostLink || before && !isLinkUp
    case Register.advertisement: advertisement = value
    case Register.gigabitControl: gigabitControl = value & 0xFF00
    case Register.nextPage, Register.specificControl, Register.interruptEnable, Register.extendedControl,
      Register.pageSelect, Register.pageData:
      held[register] = value
    default: break
    }
  }
}
