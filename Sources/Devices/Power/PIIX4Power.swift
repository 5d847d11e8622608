/// Addresses and values of the PIIX4's power management that firmware and ACPI tables must agree on.
public enum PIIX4Power {
  /// PMBASE as SeaBIOS programs it; the FADT's PM1a event block is here.
  public static let base: UInt64 = 0x600
  /// I/O ports at PMBASE.
  public static let size: UInt64 = 64
  public static let pm1Event: UInt64 = 0x00
  public static let pm1EventLength: UInt8 = 4
  public static let pm1Control: UInt64 = 0x04
  public static let pm1ControlLength: UInt8 = 2
  public static let timer: UInt64 = 0x08
  public static let timerLength: UInt8 = 4
  /// PM timer ticks per second; the counter has 24 bits.
  public static let timerFrequency: UInt64 = 3_579_545
  /// APMC, FADT's SMI_CMD; APMS is the port after it.
  public static let smiCommandPort: UInt64 = 0xB2
  /// What sets SCI_EN when written to `smiCommandPort`, and what clears it.
  public static let acpiEnable: UInt8 = 0xF1
  public static let acpiDisable: UInt8 = 0xF0
  /// General purpose event block: two bytes of status, two of enable.
  public static let gpe0: UInt64 = 0xAFE0
  public static let gpe0Length: UInt8 = 4
  /// ISA interrupt of the SCI, level-triggered, active high.
  public static let sciInterrupt = 9
  /// SLP_TYP of S5 (soft off).
  public static let sleepTypeS5: UInt8 = 0
  /// Where the SMBus host is from power-on.
  public static let smbusBase: UInt16 = 0xB100
  /// The PIIX3's reset control register, FADT's RESET_REG, and the value that resets.
  public static let resetPort: UInt64 = 0xCF9
  public static let resetValue: UInt8 = 0x06
}

/// The power management registers of the 82371AB (PIIX4, April 1997, §7.2) as a value.
struct PIIX4PowerManagement: Sendable {
  /// PMSTS (§7.2.1) and, where it exists, the bit's enable in PMEN (§7.2.2).
  enum Status {
    /// The timer's top bit changed.
    static let timer: UInt16 = 1 << 0
    static let busMaster: UInt16 = 1 << 4
    static let global: UInt16 = 1 << 5
    static let powerButton: UInt16 = 1 << 8
    static let clock: UInt16 = 1 << 10
    static let wake: UInt16 = 1 << 15
  }

  /// PMCNTRL (§7.2.3).
  enum Control {
    static let sciEnable: UInt16 = 1 << 0
    static let busMasterReload: UInt16 = 1 << 1
    static let globalRelease: UInt16 = 1 << 2
    static let sleepType: UInt16 = 7 << 10
    static let sleepEnable: UInt16 = 1 << 13
    static let stored = sciEnable | busMasterReload | sleepType
  }

  private static let enableBits = Status.timer | Status.global | Status.powerButton | Status.clock
  private static let timerBits: UInt64 = 24
  /// Sleep types from power-on suspend with context lost to power-on suspend (§7.2.3); the processor wakes at once.
  private static let shallowSleeps: ClosedRange<UInt16> = 2...4

  private var status: UInt16 = 0
  private var enable: UInt16 = 0
  private var control: UInt16 = 0
  /// Half-periods of the timer that `Status.timer` accounts for.
  private var seenHalves: UInt64
  private var gpeEnable: UInt16 = 0
  private(set) var smiCommand: UInt8 = 0
  private(set) var smiStatus: UInt8 = 0
  private var powerOffRequested = false

  init(now: UInt64) { seenHalves = Self.halves(now) }

  // MARK: Pins

  /// SCI: an enabled event while the chip is in ACPI mode.
  func sci(now: UInt64) -> Bool {
    control & Control.sciEnable != 0 && currentStatus(now) & enable & Self.enableBits != 0
  }

  /// When the timer raises the SCI; nil where it does not.
  func nextTimerEvent(now: UInt64) -> UInt64? {
    guard control & Control.sciEnable != 0, enable & Status.timer != 0, currentStatus(now) & Status.timer == 0 else {
      return nil
    }
    return Self.time(ofTick: (Self.halves(now) + 1) << (Self.timerBits - 1))
  }

  /// The power button was pressed.
  mutating func pressPowerButton() { status |= Status.powerButton }

  /// Whether the guest switched the machine off since the last call.
  mutating func takePowerOff() -> Bool {
    defer { powerOffRequested = false }
    return powerOffRequested
  }

  // MARK: Timer

  /// Ticks since power-on. Split, because the product would not fit after 85 minutes.
  private static func ticks(_ now: UInt64) -> UInt64 {
    now / 1_000_000_000 * PIIX4Power.timerFrequency
      + now % 1_000_000_000 * PIIX4Power.timerFrequency / 1_000_000_000
  }

  /// The first nanosecond at which `ticks` is this many.
  private static func time(ofTick tick: UInt64) -> UInt64 {
    let (seconds, rest) = (tick / PIIX4Power.timerFrequency, tick % PIIX4Power.timerFrequency)
    return seconds * 1_000_000_000
      + (rest * 1_000_000_000 + PIIX4Power.timerFrequency - 1) / PIIX4Power.timerFrequency
  }

  /// How often bit 23 changed.
  private static func halves(_ now: UInt64) -> UInt64 { ticks(now) >> (timerBits - 1) }

  private func currentStatus(_ now: UInt64) -> UInt16 {
    status | (Self.halves(now) != seenHalves ? Status.timer : 0)
  }

  // MARK: Registers

  /// Reads a byte at PMBASE. A wider access reads all its bytes at the same `now`.
  func read(_ offset: UInt64, now: UInt64) -> UInt8 {
    let register: UInt64
    switch offset {
    case 0...1: register = UInt64(currentStatus(now))
    case 2...3: register = UInt64(enable)
    case 4...5: register = UInt64(control)
    case PIIX4Power.timer..<PIIX4Power.timer + 4:
      let ticks = Self.ticks(now) & (1 << Self.timerBits - 1)
      return UInt8(truncatingIfNeeded: ticks >> ((offset - PIIX4Power.timer) * 8))
    default: return 0
    }
    return UInt8(truncatingIfNeeded: register >> ((offset & 1) * 8))
  }

  /// Writes a byte at PMBASE.
  mutating func write(_ offset: UInt64, _ value: UInt8, now: UInt64) {
    let shift = (offset & 1) * 8
    let bits = UInt16(value) << shift
    let mask = UInt16(0xFF) << shift
    switch offset {
    case 0...1:
      if bits & Status.timer != 0 { seenHalves = Self.halves(now) }
      status &= ~bits
    case 2...3: enable = (enable & ~mask | bits) & Self.enableBits
    case 4...5:
      control = control & ~mask | bits & Control.stored
      if bits & Control.sleepEnable != 0 { sleep() }
    default: break
    }
  }

  private mutating func sleep() {
    let type = (control & Control.sleepType) >> 10
    if type == UInt16(PIIX4Power.sleepTypeS5) {
      powerOffRequested = true
    } else if Self.shallowSleeps.contains(type) {
      status |= Status.wake
    }
  }

  /// Reads a byte of the general purpose event block. Nothing on the board raises one.
  func readGPE(_ offset: UInt64) -> UInt8 {
    2...3 ~= offset ? UInt8(truncatingIfNeeded: gpeEnable >> ((offset & 1) * 8)) : 0
  }

  mutating func writeGPE(_ offset: UInt64, _ value: UInt8) {
    guard 2...3 ~= offset else { return }
    let shift = (offset & 1) * 8
    gpeEnable = gpeEnable & ~(0xFF << shift) | UInt16(value) << shift
  }

  /// Writes APMC. There is no system management mode: the chip does what its handler would.
  mutating func writeSMICommand(_ value: UInt8) {
    smiCommand = value
    switch value {
    case PIIX4Power.acpiEnable: control |= Control.sciEnable
    case PIIX4Power.acpiDisable: control &= ~Control.sciEnable
    default: break
    }
  }

  mutating func writeSMIStatus(_ value: UInt8) { smiStatus = value }
}

/// The PIIX4's SMBus host controller (§7.1) with nothing on its bus: every transfer ends without an answer.
struct PIIX4SMBus: Sendable {
  static let size: UInt64 = 16

  enum Register {
    static let hostStatus: UInt64 = 0x0
    static let hostControl: UInt64 = 0x2
    static let blockData: UInt64 = 0x7
  }

  /// SMBHSTSTS: the device did not answer.
  private static let deviceError: UInt8 = 1 << 2
  private static let statusBits: UInt8 = 0x1E
  /// SMBHSTCNT.
  private static let start: UInt8 = 1 << 6

  private var status: UInt8 = 0
  private var registers = [UInt8](repeating: 0, count: 16)

  func read(_ offset: UInt64) -> UInt8 {
    offset == Register.hostStatus ? status : (offset < Self.size ? registers[Int(offset)] : 0xFF)
  }

  mutating func write(_ offset: UInt64, _ value: UInt8) {
    switch offset {
    case Register.hostStatus: status &= ~(value & Self.statusBits)
    case Register.hostControl:
      registers[Int(Register.hostControl)] = value & 0x1F
      if value & Self.start != 0 { status |= Self.deviceError }
    // Command, address, data and block data. The slave registers beyond stay idle.
    case 3...Register.blockData: registers[Int(offset)] = value
    default: break
    }
  }
}
