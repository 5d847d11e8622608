/// The 8254 programmable interval timer (Intel 231164-005) with the gate and the speaker bits of port 0x61
/// (82371SB, 290550-002 §2.5.5). Time is guest time in nanoseconds.
struct I8254: Sendable {
  /// Hertz of the CLK inputs: 105/88 MHz.
  static let frequency: UInt64 = 1_193_182

  /// The control word: SC1 and SC0, and the commands in it.
  enum ControlWord {
    static let readBack = 3
    static let latchCommandMask: UInt8 = 0x30
    /// Read-back: a low bit latches.
    static let noCount: UInt8 = 1 << 5
    static let noStatus: UInt8 = 1 << 4
  }

  /// Port 0x61: NMI status and control.
  enum SystemControl {
    static let gate2: UInt8 = 1 << 0
    static let speaker: UInt8 = 1 << 1
    /// Enables of the parity and IOCHK NMIs, which have no source here.
    static let nmiEnables: UInt8 = 3 << 2
    static let refresh: UInt8 = 1 << 4
    static let output2: UInt8 = 1 << 5
  }
  /// Nanoseconds between two toggles of the refresh bit, as channel 1 of a PC makes them.
  static let refreshPeriod: UInt64 = 15_085

  private var channels = [
    I8254Channel(gate: true), I8254Channel(gate: true), I8254Channel(gate: false),
  ]
  private var systemControl: UInt8 = 0

  // MARK: Time

  /// Clocks that began until `nanoseconds`.
  static func clocks(_ nanoseconds: UInt64) -> Int {
    // The high half stays below the frequency, which is below the divisor.
    Int(
      truncatingIfNeeded: UInt64(1_000_000_000).dividingFullWidth(nanoseconds.multipliedFullWidth(by: frequency))
        .quotient)
  }

  /// When a clock begins, rounded up; nil past the end of time.
  static func nanoseconds(_ clock: Int) -> UInt64? {
    let product = UInt64(clamping: clock).multipliedFullWidth(by: 1_000_000_000)
    guard product.high < frequency else { return nil }
    let (quotient, remainder) = frequency.dividingFullWidth(product)
    let (result, overflow) = quotient.addingReportingOverflow(remainder == 0 ? 0 : 1)
    return overflow ? nil : result
  }

  // MARK: Pins

  /// When OUT of channel 0 rises next.
  var nextDeadline: UInt64? { channels[0].nextRise.flatMap(Self.nanoseconds) }

  /// Rising edges of channel 0's OUT until `now` that were not taken before.
  mutating func takeEdges(now: UInt64) -> Int {
    channels[0].advance(to: Self.clocks(now))
    return channels[0].takeEdges()
  }

  /// OUT of a channel, 0–2.
  func output(_ channel: Int, now: UInt64) -> Bool {
    var channel = channels[channel]
    channel.advance(to: Self.clocks(now))
    return channel.output(Self.clocks(now))
  }

  /// GATE of a channel, 0–2. A PC ties those of 0 and 1 high.
  mutating func setGate(_ channel: Int, _ level: Bool, now: UInt64) {
    channels[channel].setGate(level, now: Self.clocks(now))
  }

  // MARK: Registers

  /// Ports 0x40–0x43 as 0–3. The control word cannot be read.
  mutating func read(_ register: Int, now: UInt64) -> UInt8 {
    guard channels.indices.contains(register) else { return 0xFF }
    return channels[register].read(now: Self.clocks(now))
  }

  mutating func write(_ register: Int, _ value: UInt8, now: UInt64) {
    let clock = Self.clocks(now)
    guard register == 3 else {
      if channels.indices.contains(register) { channels[register].write(value, now: clock) }
      return
    }
    let selected = Int(value >> 6)
    if selected == ControlWord.readBack {
      for index in channels.indices where value >> UInt8(index + 1) & 1 != 0 {
        if value & ControlWord.noCount == 0 { channels[index].latchCount(now: clock) }
        if value & ControlWord.noStatus == 0 { channels[index].latchStatus(now: clock) }
      }
    } else if value & ControlWord.latchCommandMask == 0 {
      channels[selected].latchCount(now: clock)
    } else {
      channels[selected].setControl(value, now: clock)
    }
  }

  /// Port 0x61.
  func readSystemControl(now: UInt64) -> UInt8 {
    systemControl | (now / Self.refreshPeriod & 1 != 0 ? SystemControl.refresh : 0)
      | (output(2, now: now) ? SystemControl.output2 : 0)
  }

  mutating func writeSystemControl(_ value: UInt8, now: UInt64) {
    systemControl = value & (SystemControl.gate2 | SystemControl.speaker | SystemControl.nmiEnables)
    setGate(2, value & SystemControl.gate2 != 0, now: now)
  }
}
