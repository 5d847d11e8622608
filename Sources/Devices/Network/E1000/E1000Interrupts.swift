/// Interrupt causes, their delays and their throttling (§3.2.7, §3.4.3, §13.4.17–21, §13.4.30–31, §13.4.41, §13.4.44).
///
/// A delay that has run out changes something only once somebody looks: a register read or a free interrupt output. So
/// no host timer is armed for delays while the output is asserted or their cause is masked.
struct E1000Interrupts: Sendable {
  /// Delay timers count units of 1.024 µs, ITR units of 256 ns.
  private static let delayUnit: UInt64 = 1_024
  private static let throttleUnit: UInt64 = 256

  private(set) var causes: UInt32 = 0
  private(set) var mask: UInt32 = 0
  /// ITR: least distance of interrupts.
  private(set) var throttle: UInt32 = 0
  /// RDTR, RADV, TIDV and TADV.
  var receiveDelay: UInt32 = 0
  var receiveAbsolute: UInt32 = 0
  var transmitDelay: UInt32 = 0
  var transmitAbsolute: UInt32 = 0

  /// A packet timer that starts again with each event, and an absolute one that runs from the first.
  private struct Delay: Sendable {
    var packet: UInt64?
    var absolute: UInt64?

    var end: UInt64? {
      guard let packet else { return nil }
      return min(packet, absolute ?? .max)
    }

    mutating func start(_ now: UInt64, delay: UInt32, absolute limit: UInt32) {
      packet = now &+ UInt64(delay) &* E1000Interrupts.delayUnit
      if absolute == nil, limit != 0 { absolute = now &+ UInt64(limit) &* E1000Interrupts.delayUnit }
    }
  }

  private var receive = Delay()
  private var transmit = Delay()
  private var lastAssertion: UInt64?
  /// The level of the interrupt pin.
  private(set) var isAsserted = false

  mutating func raise(_ bits: UInt32) { causes |= bits & E1000Cause.all }

  /// A packet was stored: RXT0 now, or when the delay of RDTR is over (§3.2.7.1).
  mutating func received(_ now: UInt64) {
    if receiveDelay == 0 {
      raise(E1000Cause.receiveTimer)
    } else {
      receive.start(now, delay: receiveDelay, absolute: receiveAbsolute)
    }
  }

  /// RDTR.FPD: what waits for the delay waits no longer.
  mutating func flushReceive() {
    guard receive.packet != nil else { return }
    receive = Delay()
    raise(E1000Cause.receiveTimer)
  }

  /// Descriptors were written back: TXDW now, or after the delay of TIDV where all of them asked for that (IDE).
  mutating func writtenBack(delayed: Bool, _ now: UInt64) {
    if delayed, transmitDelay != 0 {
      transmit.start(now, delay: transmitDelay, absolute: transmitAbsolute)
    } else {
      raise(E1000Cause.transmitWrittenBack)
    }
  }

  /// ICR is cleared by a read (§13.4.17).
  mutating func takeCauses(_ now: UInt64) -> UInt32 {
    expire(now)
    defer { causes = 0 }
    return causes
  }

  mutating func clear(_ bits: UInt32, _ now: UInt64) {
    expire(now)
    causes &= ~bits
  }

  mutating func setMask(_ bits: UInt32) { mask |= bits & E1000Cause.all }
  mutating func clearMask(_ bits: UInt32) { mask &= ~bits }
  mutating func setThrottle(_ value: UInt32) { throttle = value & 0xFFFF }

  private mutating func expire(_ now: UInt64) {
    if let end = receive.end, now >= end {
      receive = Delay()
      raise(E1000Cause.receiveTimer)
    }
    if let end = transmit.end, now >= end {
      transmit = Delay()
      raise(E1000Cause.transmitWrittenBack)
    }
  }

  /// The earliest time at which the pin may rise again (§13.4.18).
  private var nextAllowed: UInt64 {
    guard let lastAssertion else { return 0 }
    return lastAssertion &+ UInt64(throttle) &* Self.throttleUnit
  }

  /// Brings delays and the pin up to the present.
  mutating func advance(now: UInt64) {
    expire(now)
    guard causes & mask != 0 else {
      isAsserted = false
      return
    }
    guard !isAsserted, throttle == 0 || now >= nextAllowed else { return }
    isAsserted = true
    lastAssertion = now
  }

  /// When `advance` next has something to do that can be seen from outside.
  var nextDeadline: UInt64? {
    guard !isAsserted else { return nil }
    let allowed = throttle == 0 ? 0 : nextAllowed
    if causes & mask != 0 { return allowed }
    var next: UInt64?
    if mask & E1000Cause.receiveTimer != 0 { next = receive.end }
    if mask & E1000Cause.transmitWrittenBack != 0, let end = transmit.end { next = min(end, next ?? .max) }
    return next.map { max($0, allowed) }
  }
}
