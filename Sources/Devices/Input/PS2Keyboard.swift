/// A PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)") as a value.
/// It does not repeat keys by itself: whoever presses them does.
struct PS2Keyboard: Sendable {
  /// Commands from the system.
  enum Command {
    static let setIndicators: UInt8 = 0xED
    static let echo: UInt8 = 0xEE
    static let scanCodeSet: UInt8 = 0xF0
    static let readID: UInt8 = 0xF2
    static let setTypematic: UInt8 = 0xF3
    static let enable: UInt8 = 0xF4
    static let defaultDisable: UInt8 = 0xF5
    static let setDefault: UInt8 = 0xF6
    static let allTypematic: UInt8 = 0xF7
    static let allMakeBreak: UInt8 = 0xF8
    static let allMake: UInt8 = 0xF9
    static let allTypematicMakeBreak: UInt8 = 0xFA
    static let keyTypematic: UInt8 = 0xFB
    static let keyMakeBreak: UInt8 = 0xFC
    static let keyMake: UInt8 = 0xFD
    static let resend: UInt8 = 0xFE
    static let reset: UInt8 = 0xFF
  }

  /// Bytes to the system.
  enum Reply {
    static let acknowledge: UInt8 = 0xFA
    static let resend: UInt8 = 0xFE
    static let selfTestPassed: UInt8 = 0xAA
    static let identity: [UInt8] = [0xAB, 0x83]
    static let breakPrefix: UInt8 = 0xF0
    static let extendedPrefix: UInt8 = 0xE0
  }

  /// Scroll, Num and Caps Lock in bits 0–2.
  private(set) var indicators: UInt8 = 0
  private(set) var scanCodeSet: UInt8 = 2
  private(set) var isScanning = true
  private var replies = ByteQueue(capacity: 16)
  private var codes = ByteQueue(capacity: 64)
  private var overrun = false
  private var awaitsOptionOf: UInt8?
  private var lastSent: UInt8 = 0
  /// Whether set 3 sends a break code, by make code.
  private var sendsBreak = PS2Keyboard.defaultBreaks
  /// Modifier keys that are down; bit n is usage 0xE0 + n.
  private var modifiers: UInt8 = 0

  /// In set 3 only the modifiers send break codes from power-on.
  private static let defaultBreaks: [Bool] = {
    var breaks = [Bool](repeating: false, count: 256)
    for usage in UInt8(0xE0)...0xE7 {
      if let code = ScanCode.of(KeyCode(rawValue: usage)) { breaks[Int(code.set3)] = true }
    }
    return breaks
  }()

  var hasData: Bool { !replies.isEmpty || isScanning && !codes.isEmpty }

  /// The next byte on the wire.
  mutating func next() -> UInt8? {
    let byte = replies.removeFirst() ?? (isScanning ? codes.removeFirst() : nil)
    if let byte { lastSent = byte }
    if codes.isEmpty { overrun = false }
    return byte
  }

  /// Takes a byte from the system.
  mutating func receive(_ byte: UInt8) {
    // A command in place of an option ends the earlier command.
    if let command = awaitsOptionOf, byte < Command.setIndicators {
      takeOption(byte, of: command)
      return
    }
    awaitsOptionOf = nil
    switch byte {
    case Command.echo: reply(Command.echo)
    case Command.resend: reply(lastSent)
    case Command.setIndicators, Command.scanCodeSet, Command.setTypematic:
      awaitsOptionOf = byte
      acknowledge()
    case Command.keyTypematic, Command.keyMakeBreak, Command.keyMake:
      // Key types end with the next command.
      awaitsOptionOf = byte
      acknowledge()
    case Command.readID:
      acknowledge()
      for byte in Reply.identity { reply(byte) }
    case Command.enable:
      codes.removeAll()
      isScanning = true
      acknowledge()
    case Command.defaultDisable:
      setDefaults()
      isScanning = false
      acknowledge()
    case Command.setDefault:
      setDefaults()
      acknowledge()
    case Command.allTypematic, Command.allMake:
      sendsBreak = [Bool](repeating: false, count: 256)
      acknowledge()
    case Command.allMakeBreak, Command.allTypematicMakeBreak:
      sendsBreak = [Bool](repeating: true, count: 256)
      acknowledge()
    case Command.reset:
      replies.removeAll()
      setDefaults()
      indicators = 0
      isScanning = true
      acknowledge()
      reply(Reply.selfTestPassed)
    default: reply(Reply.resend)
    }
  }

  private mutating func takeOption(_ option: UInt8, of command: UInt8) {
    switch command {
    case Command.setIndicators:
      awaitsOptionOf = nil
      indicators = option & 7
      acknowledge()
    case Command.scanCodeSet:
      awaitsOptionOf = nil
      guard option <= 3 else {
        reply(Reply.resend)
        return
      }
      acknowledge()
      if option == 0 {
        reply(scanCodeSet)
      } else {
        scanCodeSet = option
        codes.removeAll()
      }
    case Command.keyTypematic, Command.keyMake:
      sendsBreak[Int(option)] = false
      acknowledge()
    case Command.keyMakeBreak:
      sendsBreak[Int(option)] = true
      acknowledge()
    default:
      awaitsOptionOf = nil
      acknowledge()
    }
  }

  private mutating func setDefaults() {
    codes.removeAll()
    overrun = false
    scanCodeSet = 2
    sendsBreak = Self.defaultBreaks
  }

  private mutating func acknowledge() { reply(Reply.acknowledge) }
  private mutating func reply(_ byte: UInt8) { replies.append(byte) }

  /// A key goes down or up. A key that keyboards do not have does nothing.
  mutating func key(_ key: KeyCode, isPressed: Bool) {
    if 0xE0...0xE7 ~= key.rawValue {
      let bit: UInt8 = 1 << (key.rawValue & 7)
      modifiers = isPressed ? modifiers | bit : modifiers & ~bit
    }
    guard isScanning, let code = ScanCode.of(key) else { return }
    var sequence: [UInt8]
    if scanCodeSet == 3 {
      if isPressed {
        sequence = [code.set3]
      } else {
        sequence = sendsBreak[Int(code.set3)] ? [Reply.breakPrefix, code.set3] : []
      }
    } else {
      sequence = set2Sequence(key, code, isPressed: isPressed)
      if scanCodeSet == 1 { sequence = Self.set1(sequence) }
    }
    guard sequence.count <= codes.room - 1 else {
      // The last place is for the overrun code: 00 in sets 2 and 3, FF in set 1.
      if !overrun { codes.append(scanCodeSet == 1 ? 0xFF : 0x00) }
      overrun = true
      return
    }
    for byte in sequence { codes.append(byte) }
  }

  private func set2Sequence(_ key: KeyCode, _ code: ScanCode, isPressed: Bool) -> [UInt8] {
    let control = modifiers & 0x11 != 0
    let shift = modifiers & 0x22 != 0
    let alt = modifiers & 0x44 != 0
    switch key {
    case .pause:
      // Pause sends make and break at once, and is Break with Control held.
      guard isPressed else { return [] }
      return control ? [0xE0, 0x7E, 0xE0, 0xF0, 0x7E] : [0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77]
    case .printScreen:
      // With Alt it is SysRq; without Control or Shift it brings a shift of its own.
      if alt { return isPressed ? [0x84] : [0xF0, 0x84] }
      if control || shift { return isPressed ? [0xE0, 0x7C] : [0xE0, 0xF0, 0x7C] }
      return isPressed ? [0xE0, 0x12, 0xE0, 0x7C] : [0xE0, 0xF0, 0x7C, 0xE0, 0xF0, 0x12]
    default:
      let prefix: [UInt8] = code.isExtended ? [Reply.extendedPrefix] : []
      return prefix + (isPressed ? [] : [Reply.breakPrefix]) + [code.set2]
    }
  }

  /// Set 1 is set 2 translated, with the break mark in bit 7.
  private static func set1(_ sequence: [UInt8]) -> [UInt8] {
    var result: [UInt8] = []
    var isBreak = false
    for byte in sequence {
      switch byte {
      case Reply.breakPrefix: isBreak = true
      case Reply.extendedPrefix, 0xE1: result.append(byte)
      default:
        result.append(ScanCode.translated(byte) | (isBreak ? 0x80 : 0))
        isBreak = false
      }
    }
    return result
  }
}
