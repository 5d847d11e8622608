/// The PC's 8042 keyboard and auxiliary device controller (IBM PS/2 Hardware Interface Technical Reference, "Keyboard
/// and Auxiliary Device Controller") as a value, with the keyboard and the mouse on its two wires.
struct KeyboardController8042: Sendable {
  /// Status register, port 0x64.
  enum Status {
    static let outputFull: UInt8 = 1 << 0
    static let systemFlag: UInt8 = 1 << 2
    /// The last write was to port 0x64.
    static let command: UInt8 = 1 << 3
    /// The keyboard lock is open.
    static let notInhibited: UInt8 = 1 << 4
    static let auxiliaryData: UInt8 = 1 << 5
  }

  /// Bits of the command byte (controller RAM byte 0).
  enum CommandByte {
    static let keyboardInterrupt: UInt8 = 1 << 0
    static let auxiliaryInterrupt: UInt8 = 1 << 1
    static let systemFlag: UInt8 = 1 << 2
    static let disableKeyboard: UInt8 = 1 << 4
    static let disableAuxiliary: UInt8 = 1 << 5
    static let translate: UInt8 = 1 << 6
  }

  /// Output port.
  enum OutputPort {
    /// Low resets the processor.
    static let notReset: UInt8 = 1 << 0
    static let a20: UInt8 = 1 << 1
    static let auxiliaryFull: UInt8 = 1 << 5
    static let keyboardFull: UInt8 = 1 << 4
    /// Clock and data of the two wires, idle.
    static let idleWires: UInt8 = 0xC0
  }

  /// Commands, port 0x64.
  enum Command {
    static let readRAM: ClosedRange<UInt8> = 0x20...0x3F
    static let writeRAM: ClosedRange<UInt8> = 0x60...0x7F
    static let disableAuxiliary: UInt8 = 0xA7
    static let enableAuxiliary: UInt8 = 0xA8
    static let testAuxiliary: UInt8 = 0xA9
    static let selfTest: UInt8 = 0xAA
    static let testKeyboard: UInt8 = 0xAB
    static let disableKeyboard: UInt8 = 0xAD
    static let enableKeyboard: UInt8 = 0xAE
    static let readInputPort: UInt8 = 0xC0
    static let readOutputPort: UInt8 = 0xD0
    static let writeOutputPort: UInt8 = 0xD1
    static let writeKeyboardOutput: UInt8 = 0xD2
    static let writeAuxiliaryOutput: UInt8 = 0xD3
    static let writeAuxiliaryDevice: UInt8 = 0xD4
    static let disableA20: UInt8 = 0xDD
    static let enableA20: UInt8 = 0xDF
    static let pulse: ClosedRange<UInt8> = 0xF0...0xFF
  }

  /// Nanoseconds between two bytes of a device. A byte takes about a millisecond on the wire; a program may read
  /// the same byte twice within it, and drivers of old do.
  static let byteTime: UInt64 = 300_000

  var keyboard = PS2Keyboard()
  var mouse = PS2Mouse()
  /// Controller RAM; byte 0 is the command byte.
  private var ram: [UInt8]
  private var output: UInt8 = 0
  private var outputFull = false
  private var outputIsAuxiliary = false
  private var lastWriteWasCommand = true
  private var outputPort = OutputPort.notReset | OutputPort.a20 | OutputPort.idleWires
  /// The command whose parameter comes next at port 0x60.
  private var awaitsParameterOf: UInt8?
  /// An answer that waits for the output buffer.
  private var answer: (byte: UInt8, isAuxiliary: Bool)?
  /// The translation saw a break prefix.
  private var breakSeen = false
  /// When a device may put its next byte into the output buffer.
  private var readyAt: UInt64 = 0
  private var resetRequested = false

  init() {
    ram = [UInt8](repeating: 0, count: 32)
    ram[0] = CommandByte.keyboardInterrupt | CommandByte.auxiliaryInterrupt
  }

  private var commandByte: UInt8 {
    get { ram[0] }
    set { ram[0] = newValue }
  }

  // MARK: Pins

  /// IRQ1: the output buffer holds keyboard data.
  var keyboardInterrupt: Bool {
    outputFull && !outputIsAuxiliary && commandByte & CommandByte.keyboardInterrupt != 0
  }
  /// IRQ12: the output buffer holds mouse data.
  var auxiliaryInterrupt: Bool {
    outputFull && outputIsAuxiliary && commandByte & CommandByte.auxiliaryInterrupt != 0
  }
  /// Whether the guest lets address line 20 through.
  var isA20Enabled: Bool { outputPort & OutputPort.a20 != 0 }

  /// Whether the reset pin was pulled since the last call.
  mutating func takeReset() -> Bool {
    defer { resetRequested = false }
    return resetRequested
  }

  /// Puts the next byte into the output buffer if it is free. Returns when to call again, if a byte has to wait.
  mutating func advance(now: UInt64) -> UInt64? {
    guard !outputFull else { return nil }
    if let answer {
      self.answer = nil
      fill(answer.byte, isAuxiliary: answer.isAuxiliary)
      return nil
    }
    let keyboardReady = keyboard.hasData && commandByte & CommandByte.disableKeyboard == 0
    let mouseReady = mouse.hasData && commandByte & CommandByte.disableAuxiliary == 0
    guard keyboardReady || mouseReady else { return nil }
    guard now >= readyAt else { return readyAt }
    while keyboardReady, let byte = keyboard.next() {
      guard let code = translate(byte) else { continue }
      fill(code, isAuxiliary: false)
      return nil
    }
    if mouseReady, let byte = mouse.next() { fill(byte, isAuxiliary: true) }
    return nil
  }

  private mutating func fill(_ byte: UInt8, isAuxiliary: Bool) {
    output = byte
    outputFull = true
    outputIsAuxiliary = isAuxiliary
  }

  /// Set 2 to set 1: a break prefix becomes bit 7 of the code that follows.
  private mutating func translate(_ byte: UInt8) -> UInt8? {
    guard commandByte & CommandByte.translate != 0 else { return byte }
    if byte == PS2Keyboard.Reply.breakPrefix {
      breakSeen = true
      return nil
    }
    defer { breakSeen = false }
    return ScanCode.translated(byte) | (breakSeen ? 0x80 : 0)
  }

  // MARK: Ports

  /// Reads port 0x60.
  mutating func readData(now: UInt64) -> UInt8 {
    if outputFull {
      outputFull = false
      readyAt = now &+ Self.byteTime
    }
    return output
  }

  /// Reads port 0x64.
  func readStatus() -> UInt8 {
    var status = Status.notInhibited
    if outputFull { status |= Status.outputFull }
    if outputFull, outputIsAuxiliary { status |= Status.auxiliaryData }
    if commandByte & CommandByte.systemFlag != 0 { status |= Status.systemFlag }
    if lastWriteWasCommand { status |= Status.command }
    return status
  }

  /// Writes port 0x60.
  mutating func writeData(_ value: UInt8) {
    lastWriteWasCommand = false
    guard let command = awaitsParameterOf else {
      // Sending starts the keyboard's clock.
      commandByte &= ~CommandByte.disableKeyboard
      keyboard.receive(value)
      return
    }
    awaitsParameterOf = nil
    switch command {
    case Command.writeRAM: ram[Int(command & 0x1F)] = value
    case Command.writeOutputPort: setOutputPort(value)
    case Command.writeKeyboardOutput: answer = (value, false)
    case Command.writeAuxiliaryOutput: answer = (value, true)
    case Command.writeAuxiliaryDevice:
      commandByte &= ~CommandByte.disableAuxiliary
      mouse.receive(value)
    default: break
    }
  }

  /// Writes port 0x64.
  mutating func writeCommand(_ command: UInt8) {
    lastWriteWasCommand = true
    awaitsParameterOf = nil
    switch command {
    case Command.readRAM: answer = (ram[Int(command & 0x1F)], false)
    case Command.writeRAM, Command.writeOutputPort, Command.writeKeyboardOutput, Command.writeAuxiliaryOutput,
      Command.writeAuxiliaryDevice:
      awaitsParameterOf = command
    case Command.disableAuxiliary: commandByte |= CommandByte.disableAuxiliary
    case Command.enableAuxiliary: commandByte &= ~CommandByte.disableAuxiliary
    case Command.testAuxiliary, Command.testKeyboard: answer = (0x00, false)
    case Command.selfTest:
      commandByte |= CommandByte.systemFlag
      answer = (0x55, false)
    case Command.disableKeyboard: commandByte |= CommandByte.disableKeyboard
    case Command.enableKeyboard: commandByte &= ~CommandByte.disableKeyboard
    // Keyboard not locked, colour display, no manufacturing jumper.
    case Command.readInputPort: answer = (0x80, false)
    case Command.readOutputPort: answer = (readOutputPort(), false)
    case Command.disableA20: outputPort &= ~OutputPort.a20
    case Command.enableA20: outputPort |= OutputPort.a20
    case Command.pulse:
      // Each zero among bits 3–0 pulses that line of the output port low.
      if command & OutputPort.notReset == 0 { resetRequested = true }
    default: break
    }
  }

  private func readOutputPort() -> UInt8 {
    var value = outputPort
    if outputFull { value |= outputIsAuxiliary ? OutputPort.auxiliaryFull : OutputPort.keyboardFull }
    return value
  }

  private mutating func setOutputPort(_ value: UInt8) {
    outputPort = value & ~(OutputPort.auxiliaryFull | OutputPort.keyboardFull) | OutputPort.notReset
    if value & OutputPort.notReset == 0 { resetRequested = true }
  }
}
