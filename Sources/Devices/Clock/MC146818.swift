/// The MC146818A real-time clock with 114 bytes of RAM (Motorola, 1984) as a value, with the century at 0x32 as PCs
/// have it. It follows a wall clock that the caller reads, at an offset that setting the time changes.
struct MC146818: Sendable {
  enum Register {
    static let seconds = 0x00
    static let secondsAlarm = 0x01
    static let minutes = 0x02
    static let minutesAlarm = 0x03
    static let hours = 0x04
    static let hoursAlarm = 0x05
    static let dayOfWeek = 0x06
    static let dayOfMonth = 0x07
    static let month = 0x08
    static let year = 0x09
    static let a = 0x0A
    static let b = 0x0B
    static let c = 0x0C
    static let d = 0x0D
    static let century = 0x32
  }

  /// Register A: rate select in bits 3–0, divider in bits 6–4.
  enum RegisterA {
    static let updateInProgress: UInt8 = 1 << 7
    static let divider: UInt8 = 0x70
    /// With a 32.768 kHz crystal; 1 024 Hz periodic rate: what PC firmware sets.
    static let initial: UInt8 = 0x26
    /// Divider values 11x hold the divider chain in reset.
    static let dividerReset: UInt8 = 0x60
  }

  enum RegisterB {
    static let daylightSaving: UInt8 = 1 << 0
    static let hours24: UInt8 = 1 << 1
    static let binary: UInt8 = 1 << 2
    static let squareWave: UInt8 = 1 << 3
    static let updateEndedInterrupt: UInt8 = 1 << 4
    static let alarmInterrupt: UInt8 = 1 << 5
    static let periodicInterrupt: UInt8 = 1 << 6
    static let set: UInt8 = 1 << 7
  }

  /// The flags stand where register B has their enable bits.
  enum RegisterC {
    static let updateEnded: UInt8 = 1 << 4
    static let alarm: UInt8 = 1 << 5
    static let periodic: UInt8 = 1 << 6
    static let interruptRequest: UInt8 = 1 << 7
  }

  private static let timeRegisters = [
    Register.seconds, Register.minutes, Register.hours, Register.dayOfWeek, Register.dayOfMonth, Register.month,
    Register.year, Register.century,
  ]

  /// Register D: RAM and time are valid.
  static let validRAM: UInt8 = 1 << 7

  /// UIP shows this many nanoseconds before an update (t_BUC).
  private static let updateWarning: Int64 = 244_000
  private static let nanoseconds: Int64 = 1_000_000_000
  private static let crystal: Int64 = 32_768
  /// Hours register bit for PM in 12-hour mode.
  private static let afternoon: UInt8 = 0x80

  private var ram = [UInt8](repeating: 0, count: 128)
  /// Added to the wall clock's nanoseconds: the phase of the divider chain, 0 ..< one second.
  private var phase: Int64 = 0
  /// Added to the seconds: how far the guest set the clock off.
  private var offset: Int64 = 0
  /// Days that the day-of-week counter is ahead of the calendar.
  private var weekdayShift: Int64 = 0
  private var flags: UInt8 = 0
  /// The second and the periodic tick that the flags account for.
  private var lastSecond: Int64 = 0
  private var lastTick: Int64 = 0

  init() {
    ram[Register.a] = RegisterA.initial
    ram[Register.b] = RegisterB.hours24
  }

  /// The pin RESET# (§"RESET"): interrupts off, time and RAM untouched.
  mutating func reset() {
    ram[Register.b] &=
      ~(RegisterB.periodicInterrupt | RegisterB.alarmInterrupt | RegisterB.updateEndedInterrupt | RegisterB.squareWave)
    flags = 0
  }

  /// Fills RAM bytes, as a battery kept them while the machine was off.
  mutating func load(_ contents: [UInt8: UInt8]) {
    for (register, value) in contents where register > UInt8(Register.d) && register < 0x80 {
      if Int(register) != Register.century { ram[Int(register)] = value }
    }
  }

  /// Starts accounting for flags at the wall clock's time.
  mutating func synchronise(wall: Int64) {
    lastSecond = seconds(wall)
    lastTick = tick(wall)
  }

  // MARK: Pins

  /// IRQ#, active.
  var interrupt: Bool { flags & ram[Register.b] & 0x70 != 0 }

  /// Wall-clock nanoseconds at which the next enabled interrupt comes; nil while there is none to come or one is
  /// still unacknowledged.
  func nextInterrupt(wall: Int64) -> Int64? {
    guard !interrupt else { return nil }
    let enabled = ram[Register.b]
    var next: Int64?
    if enabled & RegisterB.periodicInterrupt != 0, let period = periodTicks {
      // The first nanosecond of the next tick.
      let start = (tick(wall) &+ 1) &* period
      let (whole, rest) = (start / Self.crystal, start % Self.crystal)
      next = whole &* Self.nanoseconds &+ (rest &* Self.nanoseconds &+ Self.crystal - 1) / Self.crystal &- phase
    }
    guard !isHalted else { return next }
    let second = seconds(wall)
    let boundary = { (seconds: Int64) in
      (seconds &- offset) &* Self.nanoseconds &- phase
    }
    if enabled & RegisterB.updateEndedInterrupt != 0 { next = min(next ?? .max, boundary(second &+ 1)) }
    if enabled & RegisterB.alarmInterrupt != 0, let wait = secondsToAlarm(after: second) {
      next = min(next ?? .max, boundary(second &+ wait))
    }
    return next
  }

  /// Raises the flags of what happened up to the wall clock's time.
  mutating func advance(wall: Int64) {
    let tick = tick(wall)
    if tick != lastTick, periodTicks != nil { flags |= RegisterC.periodic }
    lastTick = tick
    guard !isHalted else { return }
    let second = seconds(wall)
    if second > lastSecond {
      flags |= RegisterC.updateEnded
      if let wait = secondsToAlarm(after: lastSecond), wait <= second &- lastSecond { flags |= RegisterC.alarm }
    }
    // A wall clock that was set back just moves the time.
    lastSecond = second
  }

  // MARK: Registers

  mutating func read(_ register: UInt8, wall: Int64) -> UInt8 {
    advance(wall: wall)
    let index = Int(register & 0x7F)
    switch index {
    case Register.seconds, Register.minutes, Register.hours, Register.dayOfWeek...Register.year, Register.century:
      return isHalted ? ram[index] : encoded(index, time(wall))
    case Register.a: return ram[index] & 0x7F | (isUpdateNear(wall) ? RegisterA.updateInProgress : 0)
    case Register.c:
      let value = flags | (interrupt ? RegisterC.interruptRequest : 0)
      flags = 0
      return value
    case Register.d: return Self.validRAM
    default: return ram[index]
    }
  }

  mutating func write(_ register: UInt8, _ value: UInt8, wall: Int64) {
    advance(wall: wall)
    let index = Int(register & 0x7F)
    switch index {
    case Register.seconds, Register.minutes, Register.hours, Register.dayOfWeek...Register.year, Register.century:
      if !isHalted { freeze(wall) }
      ram[index] = value
      if !isHalted { resume(wall) }
    case Register.a: changeMode(wall) { $0[Register.a] = value & 0x7F }
    case Register.b:
      // Setting SET ends an update and its interrupt (§"register B").
      let kept = value & RegisterB.set != 0 ? value & ~RegisterB.updateEndedInterrupt : value
      changeMode(wall) { $0[Register.b] = kept }
    case Register.c, Register.d: break
    default: ram[index] = value
    }
  }

  private var isDividerReset: Bool { ram[Register.a] & RegisterA.dividerReset == RegisterA.dividerReset }
  /// The time stands still: the guest sets it or holds the divider.
  private var isHalted: Bool { ram[Register.b] & RegisterB.set != 0 || isDividerReset }

  private func isUpdateNear(_ wall: Int64) -> Bool {
    !isHalted && subsecond(wall) >= Self.nanoseconds - Self.updateWarning
  }

  private mutating func changeMode(_ wall: Int64, _ change: (inout [UInt8]) -> Void) {
    let wasHalted = isHalted
    let wasReset = isDividerReset
    if !wasHalted { freeze(wall) }
    change(&ram)
    // The first update comes half a second after the divider is let go (§"register A").
    if wasReset, !isDividerReset { phase = Self.remainder(Self.nanoseconds / 2 &- wall, Self.nanoseconds) }
    if !isHalted, wasHalted { resume(wall) }
    lastTick = tick(wall)
  }

  /// Puts the present time into the registers.
  private mutating func freeze(_ wall: Int64) {
    let time = time(wall)
    for index in Self.timeRegisters { ram[index] = encoded(index, time) }
  }

  /// Goes on from the time in the registers; the divider's phase stays.
  private mutating func resume(_ wall: Int64) {
    let time = decoded()
    offset = time.secondsSince1970 &- (seconds(wall) &- offset)
    let shift = Int64(decode(ram[Register.dayOfWeek])) - time.dayOfWeek
    weekdayShift = Self.remainder(shift, 7)
    lastSecond = seconds(wall)
  }

  // MARK: Time

  private func chain(_ wall: Int64) -> Int64 { wall &+ phase }
  private func seconds(_ wall: Int64) -> Int64 { chain(wall) / Self.nanoseconds &+ offset }
  private func subsecond(_ wall: Int64) -> Int64 { Self.remainder(chain(wall), Self.nanoseconds) }
  private func time(_ wall: Int64) -> CivilTime { CivilTime(secondsSince1970: seconds(wall)) }

  private static func remainder(_ value: Int64, _ divisor: Int64) -> Int64 {
    let rest = value % divisor
    return rest < 0 ? rest + divisor : rest
  }

  /// Cycles of the crystal in a periodic interrupt's period (table 5); nil where it is off.
  private var periodTicks: Int64? {
    let rate = Int64(ram[Register.a] & 0x0F)
    guard rate > 0, !isDividerReset else { return nil }
    // Rates 1 and 2 repeat 8 and 9 with this crystal.
    return 1 << (rate < 3 ? rate + 6 : rate - 1)
  }

  /// Periods since 1970.
  private func tick(_ wall: Int64) -> Int64 {
    guard let period = periodTicks else { return 0 }
    let chain = chain(wall)
    let (whole, rest) = (chain / Self.nanoseconds, chain % Self.nanoseconds)
    return (whole &* Self.crystal &+ rest &* Self.crystal / Self.nanoseconds) / period
  }

  /// Seconds from `second` to the next one that the alarm registers match, at most a day; nil where none does.
  private func secondsToAlarm(after second: Int64) -> Int64? {
    let hour = alarmField(Register.hoursAlarm, decodedHour)
    let minute = alarmField(Register.minutesAlarm, decode)
    let wanted = alarmField(Register.secondsAlarm, decode)
    // What no time has never matches, and would be looked for in every second of the day.
    guard hour ?? 0 < 24, minute ?? 0 < 60, wanted ?? 0 < 60 else { return nil }
    var candidate = second &+ 1
    let limit = second &+ 86_400
    // At most 24 + 60 + 60 steps: each skips to the next hour, minute or second.
    while candidate <= limit {
      let ofDay = Self.remainder(candidate, 86_400)
      if let hour, hour != ofDay / 3_600 {
        candidate &+= 3_600 - ofDay % 3_600
      } else if let minute, minute != ofDay / 60 % 60 {
        candidate &+= 60 - ofDay % 60
      } else if let wanted, wanted != ofDay % 60 {
        candidate &+= 1
      } else {
        return candidate &- second
      }
    }
    return nil
  }

  /// An alarm register's value; nil where it matches anything (bits 7 and 6 set).
  private func alarmField(_ register: Int, _ decode: (UInt8) -> Int64) -> Int64? {
    ram[register] & 0xC0 == 0xC0 ? nil : decode(ram[register])
  }

  private var isBinary: Bool { ram[Register.b] & RegisterB.binary != 0 }

  private func decode(_ value: UInt8) -> Int64 {
    isBinary ? Int64(value) : Int64(value >> 4) * 10 + Int64(value & 0x0F)
  }

  private func encode(_ value: Int64) -> UInt8 {
    let value = UInt8(truncatingIfNeeded: Self.remainder(value, 100))
    return isBinary ? value : (value / 10) << 4 | value % 10
  }

  private func decodedHour(_ value: UInt8) -> Int64 {
    if ram[Register.b] & RegisterB.hours24 != 0 { return decode(value) }
    let hour = decode(value & ~Self.afternoon) % 12
    return value & Self.afternoon != 0 ? hour + 12 : hour
  }

  private func encodedHour(_ hour: Int64) -> UInt8 {
    if ram[Register.b] & RegisterB.hours24 != 0 { return encode(hour) }
    return encode(hour % 12 == 0 ? 12 : hour % 12) | (hour >= 12 ? Self.afternoon : 0)
  }

  /// What a register of `timeRegisters` shows of a time.
  private func encoded(_ register: Int, _ time: CivilTime) -> UInt8 {
    switch register {
    case Register.seconds: encode(time.second)
    case Register.minutes: encode(time.minute)
    case Register.hours: encodedHour(time.hour)
    case Register.dayOfWeek: encode((time.dayOfWeek - 1 + weekdayShift) % 7 + 1)
    case Register.dayOfMonth: encode(time.day)
    case Register.month: encode(time.month)
    case Register.year: encode(time.year)
    default: encode(time.year / 100)
    }
  }

  private func decoded() -> CivilTime {
    CivilTime(
      year: decode(ram[Register.century]) * 100 + decode(ram[Register.year]), month: decode(ram[Register.month]),
      day: decode(ram[Register.dayOfMonth]), hour: decodedHour(ram[Register.hours]),
      minute: decode(ram[Register.minutes]), second: decode(ram[Register.seconds]))
  }
}
