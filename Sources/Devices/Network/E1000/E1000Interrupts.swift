import Buses

/// Interrupt causes, their delays and their throttling (§3.2.7, §3.4.3, §13.4.17–21, §13.4.30–31, §13.4.41, §13.4.44).
///
/// Causes, mask and pin are shared with processors, which see a cause as soon as it is set. What is masked interrupts
/// nobody, so its cause is not delayed.
struct E1000Interrupts: Sendable {
  /// Delay timers count units of 1.024 µs, ITR units of 256 ns.
  private static let delayUnit: UInt64 = 1_024
  private static let throttleUnit: UInt64 = 256

  private let registers: SharedRegisters
  /// The value that is ITR.
  static let throttleIndex = 3
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
  private var isHeld = false
  /// How often the pin rose, modulo 2^32.
  private(set) var rises: UInt32 = 0

  init(_ registers: SharedRegisters) { self.registers = registers }

  /// ITR: least distance of interrupts.
  var throttle: UInt32 { registers.value(Self.throttleIndex) & 0xFFFF }
  var mask: UInt32 { registers.mask }
  /// The level of the interrupt pin.
  var isAsserted: Bool { registers.isAsserted }

  /// Power-on or a reset of the card.
  mutating func reset() {
    hold(false)
    let rises = rises
    self = E1000Interrupts(registers)
    self.rises = rises
  }

  func raise(_ bits: UInt32) { registers.setCauses(bits & E1000Cause.all) }

  /// A packet was stored: RXT0 now, or when the delay of RDTR is over (§3.2.7.1).
  mutating func received(_ now: UInt64) {
    if receiveDelay == 0 || mask & E1000Cause.receiveTimer == 0 {
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
    if delayed, transmitDelay != 0, mask & E1000Cause.transmitWrittenBack != 0 {
      transmit.start(now, delay: transmitDelay, absolute: transmitAbsolute)
    } else {
      raise(E1000Cause.transmitWrittenBack)
    }
  }

  /// ICR is cleared by a read (§13.4.17).
  mutating func takeCauses(_ now: UInt64) -> UInt32 {
    expire(now)
    return registers.takeCauses()
  }

  mutating func clear(_ bits: UInt32, _ now: UInt64) {
    expire(now)
    registers.clearCauses(bits)
  }

  func setMask(_ bits: UInt32) { registers.setMask(bits & E1000Cause.all) }
  func clearMask(_ bits: UInt32) { registers.clearMask(bits) }
  func setThrottle(_ value: UInt32) { registers.setValue(Self.throttleIndex, value & 0xFFFF) }

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
    let throttle = throttle
    guard let lastAssertion, throttle != 0 else { return 0 }
    return lastAssertion &+ UInt64(throttle) &* Self.throttleUnit
  }

  /// Brings delays and the pin up to the present.
  mutating func advance(now: UInt64) {
    expire(now)
    guard registers.wantsPin else { return hold(false) }
    if now < nextAllowed {
      // An ITR that is written from here on is told of.
      hold(true)
      guard now >= nextAllowed else { return }
    }
    hold(false)
    guard registers.raisePin() else { return }
    rises &+= 1
    lastAssertion = now
  }

  /// ITR keeps the pin low, so that its writes matter at once.
  private mutating func hold(_ isHeld: Bool) {
    guard isHeld != self.isHeld else { return }
    self.isHeld = isHeld
    registers.setAwaited(Self.throttleIndex, isHeld)
  }

  /// When `advance` next has something to do that can be seen from outside.
  var nextDeadline: UInt64? {
    let allowed = nextAllowed
    if registers.wantsPin { return allowed }
    let next = min(receive.end ?? .max, transmit.end ?? .max)
    return next == .max ? nil : max(next, allowed)
  }
}
