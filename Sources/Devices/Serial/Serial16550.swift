import Buses

/// The PC16550D UART (National Semiconductor, June 1995) as a value. Transmission takes no time once the line
/// takes the byte; the interrupts are those of the chip.
struct Serial16550: Sendable {
  /// Register addresses A2–A0 (table I). 0 and 1 are the divisor latch while LCR bit 7 is set.
  enum Register {
    /// RBR on reads, THR on writes.
    static let data: UInt64 = 0
    static let interruptEnable: UInt64 = 1
    /// IIR on reads, FCR on writes.
    static let interruptIdentification: UInt64 = 2
    static let lineControl: UInt64 = 3
    static let modemControl: UInt64 = 4
    static let lineStatus: UInt64 = 5
    static let modemStatus: UInt64 = 6
    static let scratch: UInt64 = 7
  }

  /// Interrupt enable register (§8.7).
  enum IER {
    static let receivedData: UInt8 = 1 << 0
    static let transmitterEmpty: UInt8 = 1 << 1
    static let lineStatus: UInt8 = 1 << 2
    static let modemStatus: UInt8 = 1 << 3
  }

  /// Values of the interrupt identification register, highest priority first (table IV).
  enum IIR {
    static let lineStatus: UInt8 = 0x06
    static let receivedData: UInt8 = 0x04
    static let characterTimeout: UInt8 = 0x0C
    static let transmitterEmpty: UInt8 = 0x02
    static let modemStatus: UInt8 = 0x00
    static let none: UInt8 = 0x01
    static let fifosEnabled: UInt8 = 0xC0
  }

  /// FIFO control register (§8.5).
  enum FCR {
    static let enable: UInt8 = 1 << 0
    static let resetReceiver: UInt8 = 1 << 1
    static let resetTransmitter: UInt8 = 1 << 2
    /// RCVR trigger levels in bytes, by bits 7–6.
    static let triggerLevels = [1, 4, 8, 14]
  }

  /// Line control register (§8.1).
  enum LCR {
    static let setBreak: UInt8 = 1 << 6
    static let divisorLatchAccess: UInt8 = 1 << 7
  }

  /// Modem control register (§8.8).
  enum MCR {
    static let dataTerminalReady: UInt8 = 1 << 0
    static let requestToSend: UInt8 = 1 << 1
    static let out1: UInt8 = 1 << 2
    static let out2: UInt8 = 1 << 3
    static let loop: UInt8 = 1 << 4
  }

  /// Line status register (§8.4).
  enum LSR {
    static let dataReady: UInt8 = 1 << 0
    static let overrun: UInt8 = 1 << 1
    static let parityError: UInt8 = 1 << 2
    static let framingError: UInt8 = 1 << 3
    static let breakInterrupt: UInt8 = 1 << 4
    static let transmitterHoldingEmpty: UInt8 = 1 << 5
    static let transmitterEmpty: UInt8 = 1 << 6
    static let errorInFIFO: UInt8 = 1 << 7
  }

  /// Modem status register (§8.9): deltas in bits 3–0, inputs in bits 7–4.
  enum MSR {
    static let deltaClearToSend: UInt8 = 1 << 0
    static let deltaDataSetReady: UInt8 = 1 << 1
    static let trailingEdgeRing: UInt8 = 1 << 2
    static let deltaCarrierDetect: UInt8 = 1 << 3
    static let clearToSend: UInt8 = 1 << 4
    static let dataSetReady: UInt8 = 1 << 5
    static let ring: UInt8 = 1 << 6
    static let carrierDetect: UInt8 = 1 << 7
  }

  /// What the board does with the timer of the character timeout (§8.6).
  enum TimeoutChange: Sendable, Equatable {
    case keep
    /// Starts anew, for this many nanoseconds.
    case restart(UInt64)
    case cancel
  }

  /// Bytes that each FIFO holds.
  static let fifoSize = 16
  /// Bytes that may wait to be sent: beside the FIFO's those that a processor has posted before it could know that THRE
  /// is clear.
  static let transmitterSize = fifoSize + SharedRegisters.postedWrites
  /// Oscillator of PC serial ports in hertz; a bit takes divisor × 16 of its cycles.
  private static let oscillator: UInt64 = 1_843_200

  private var divisor: UInt16 = 12
  private var interruptEnable: UInt8 = 0
  private var lineControl: UInt8 = 0
  private var modemControl: UInt8 = 0
  private var scratch: UInt8 = 0
  private var modemStatus: UInt8
  private var fifosEnabled = false
  private var triggerLevel = 1
  private var receiver = ByteQueue(capacity: Serial16550.fifoSize)
  /// LSR error bits of each byte in `receiver`, in step with it.
  private var receiverErrors = ByteQueue(capacity: Serial16550.fifoSize)
  private var transmitter = ByteQueue(capacity: Serial16550.transmitterSize)
  /// Errors that the line status register shows.
  private var lineErrors: UInt8 = 0
  private var transmitterEmptyPending = false
  private var timeoutPending = false
  private var timeoutChange = TimeoutChange.keep
  /// Bits 7–4 of the modem status register as the connector drives them.
  private var modemInputs: UInt8 = MSR.clearToSend | MSR.dataSetReady | MSR.carrierDetect

  init() { modemStatus = MSR.clearToSend | MSR.dataSetReady | MSR.carrierDetect }

  /// Master reset (table III). Scratch register and divisor latch keep their values, as in the chip.
  mutating func reset() {
    let kept = (divisor, scratch)
    self = Serial16550()
    (divisor, scratch) = kept
    timeoutChange = .cancel
  }

  // MARK: Pins

  /// INTR.
  var interrupt: Bool { identification != IIR.none }

  var isLoopback: Bool { modemControl & MCR.loop != 0 }

  /// Bytes that the receiver takes from the line without an overrun; none in loopback (§8.8), which cuts the line off.
  var receiveRoom: Int { isLoopback ? 0 : (fifosEnabled ? receiver.room : (receiver.isEmpty ? 1 : 0)) }

  var isReceiverEmpty: Bool { receiver.isEmpty }

  /// A character from the line. Where there is no room it is lost and the overrun shows.
  mutating func receive(_ byte: UInt8, errors: UInt8 = 0) {
    if fifosEnabled {
      if receiver.append(byte) {
        receiverErrors.append(errors)
      } else {
        lineErrors |= LSR.overrun
      }
    } else {
      // Without FIFOs the new character takes the place of the old one (§8.4 bit 1).
      if !receiver.isEmpty { lineErrors |= LSR.overrun }
      receiver.removeAll()
      receiverErrors.removeAll()
      receiver.append(byte)
      receiverErrors.append(errors)
    }
    if receiver.count == 1 { lineErrors |= errors }
    restartTimeout()
  }

  /// The line was held at space for longer than a character: one zero character with the break mark (§8.4 bit 4).
  mutating func receiveBreak() { receive(0, errors: LSR.breakInterrupt) }

  /// The modem's outputs changed: CTS, DSR, RI and DCD in the positions of the modem status register.
  mutating func setModemInputs(_ inputs: UInt8) {
    modemInputs = inputs & 0xF0
    updateModemStatus()
  }

  /// Copies what waits to be sent, oldest first. In loopback nothing leaves.
  func copyOutput(into buffer: UnsafeMutableRawBufferPointer) -> Int { transmitter.copyFirst(into: buffer) }

  /// The line took the first `count` bytes.
  mutating func sent(_ count: Int) {
    guard count > 0, !transmitter.isEmpty else { return }
    transmitter.removeFirst(count)
    if transmitter.isEmpty { transmitterEmptyPending = true }
  }

  /// What became of the timeout since the last call.
  mutating func takeTimeoutChange() -> TimeoutChange {
    defer { timeoutChange = .keep }
    return timeoutChange
  }

  /// Four character times passed without a character received or read.
  mutating func timeoutExpired() { if fifosEnabled, !receiver.isEmpty { timeoutPending = true } }

  // MARK: Registers

  mutating func read(_ register: UInt64) -> UInt8 {
    let latch = lineControl & LCR.divisorLatchAccess != 0
    switch register {
    case Register.data: return latch ? UInt8(truncatingIfNeeded: divisor) : readData()
    case Register.interruptEnable: return latch ? UInt8(truncatingIfNeeded: divisor >> 8) : interruptEnable
    case Register.interruptIdentification:
      let source = identification
      if source == IIR.transmitterEmpty { transmitterEmptyPending = false }
      return source | (fifosEnabled ? IIR.fifosEnabled : 0)
    case Register.lineControl: return lineControl
    case Register.modemControl: return modemControl
    case Register.lineStatus: return readLineStatus()
    case Register.modemStatus:
      defer { modemStatus &= 0xF0 }
      return modemStatus
    case Register.scratch: return scratch
    default: return 0xFF
    }
  }

  mutating func write(_ register: UInt64, _ value: UInt8) {
    let latch = lineControl & LCR.divisorLatchAccess != 0
    switch register {
    case Register.data:
      if latch { divisor = divisor & 0xFF00 | UInt16(value) } else { writeData(value) }
    case Register.interruptEnable:
      if latch {
        divisor = divisor & 0x00FF | UInt16(value) << 8
      } else {
        let enabled = value & ~interruptEnable
        interruptEnable = value & 0x0F
        // Enabling the interrupt while the register is empty raises it at once; drivers start output this way.
        if enabled & IER.transmitterEmpty != 0, transmitter.isEmpty { transmitterEmptyPending = true }
      }
    case Register.interruptIdentification: writeFIFOControl(value)
    case Register.lineControl:
      let rising = value & ~lineControl
      lineControl = value
      if rising & LCR.setBreak != 0, isLoopback { receiveBreak() }
    case Register.modemControl:
      modemControl = value & 0x1F
      updateModemStatus()
    case Register.scratch: scratch = value
    // The status registers are for factory tests only (§8.4); writes do nothing.
    default: break
    }
  }

  /// What processors read of the registers themselves. THR is written for each character that is sent: it changes the
  /// others once the line takes the character, which takes its time in the chip as well.
  static let sharedRegisters = [
    SharedRegister(Int(Register.lineStatus), .byte, read: .value, index: Shared.lineStatus),
    SharedRegister(Int(Register.modemStatus), .byte, read: .value, index: Shared.modemStatus),
    SharedRegister(Int(Register.interruptIdentification), .byte, read: .value, index: Shared.interruptIdentification),
    SharedRegister(Int(Register.interruptEnable), .byte, read: .value, index: Shared.interruptEnable),
    SharedRegister(Int(Register.data), .byte, write: .unrelated),
  ]

  /// Has processors read what the registers are, or ask where reading changes something.
  func show(in shared: SharedRegisters) {
    let latch = lineControl & LCR.divisorLatchAccess != 0
    let source = identification
    let errors = lineStatus & ~(LSR.dataReady | LSR.transmitterHoldingEmpty | LSR.transmitterEmpty)
    func set(_ index: Int, _ value: UInt8, isPlain: Bool) { shared.setValue(index, isPlain ? UInt32(value) : .max) }
    set(Shared.lineStatus, lineStatus, isPlain: errors == 0)
    set(Shared.modemStatus, modemStatus, isPlain: modemStatus & 0x0F == 0)
    set(
      Shared.interruptIdentification, source | (fifosEnabled ? IIR.fifosEnabled : 0),
      isPlain: source != IIR.transmitterEmpty)
    set(Shared.interruptEnable, interruptEnable, isPlain: !latch)
  }

  /// Values of `sharedRegisters`.
  private enum Shared {
    static let lineStatus = 0
    static let modemStatus = 1
    static let interruptIdentification = 2
    static let interruptEnable = 3
  }

  private var identification: UInt8 {
    if interruptEnable & IER.lineStatus != 0, lineErrors != 0 { return IIR.lineStatus }
    if interruptEnable & IER.receivedData != 0 {
      if receiver.count >= (fifosEnabled ? triggerLevel : 1) { return IIR.receivedData }
      if timeoutPending { return IIR.characterTimeout }
    }
    if interruptEnable & IER.transmitterEmpty != 0, transmitterEmptyPending { return IIR.transmitterEmpty }
    if interruptEnable & IER.modemStatus != 0, modemStatus & 0x0F != 0 { return IIR.modemStatus }
    return IIR.none
  }

  private mutating func readData() -> UInt8 {
    guard let byte = receiver.removeFirst() else { return 0 }
    receiverErrors.removeFirst(1)
    lineErrors |= receiverErrors.first ?? 0
    restartTimeout()
    return byte
  }

  private mutating func readLineStatus() -> UInt8 {
    // Reading clears the errors shown, those of the first byte among them (§8.4).
    defer {
      lineErrors = 0
      receiverErrors.replaceFirst(0)
    }
    return lineStatus
  }

  private var lineStatus: UInt8 {
    var value = lineErrors
    if !receiver.isEmpty { value |= LSR.dataReady }
    if transmitter.isEmpty { value |= LSR.transmitterHoldingEmpty | LSR.transmitterEmpty }
    if fifosEnabled, receiverErrors.contains(where: { $0 != 0 }) { value |= LSR.errorInFIFO }
    return value
  }

  private mutating func writeData(_ value: UInt8) {
    transmitterEmptyPending = false
    if isLoopback {
      receive(value)
      transmitterEmptyPending = true
      return
    }
    // A byte beyond is lost: the program did not wait for THRE.
    transmitter.append(value)
  }

  private mutating func writeFIFOControl(_ value: UInt8) {
    let enable = value & FCR.enable != 0
    // Changing the mode empties both FIFOs; other bits count only while bit 0 is written as one (§8.5).
    if enable != fifosEnabled || value & (FCR.enable | FCR.resetReceiver) == FCR.enable | FCR.resetReceiver {
      receiver.removeAll()
      receiverErrors.removeAll()
      lineErrors &= LSR.overrun
      timeoutPending = false
      timeoutChange = .cancel
    }
    if enable != fifosEnabled || value & (FCR.enable | FCR.resetTransmitter) == FCR.enable | FCR.resetTransmitter {
      if !transmitter.isEmpty { transmitterEmptyPending = true }
      transmitter.removeAll()
    }
    fifosEnabled = enable
    triggerLevel = enable ? FCR.triggerLevels[Int(value >> 6)] : 1
  }

  /// §8.8: in loopback the four outputs drive the four inputs.
  private mutating func updateModemStatus() {
    var inputs = modemInputs
    if isLoopback {
      inputs = 0
      if modemControl & MCR.requestToSend != 0 { inputs |= MSR.clearToSend }
      if modemControl & MCR.dataTerminalReady != 0 { inputs |= MSR.dataSetReady }
      if modemControl & MCR.out1 != 0 { inputs |= MSR.ring }
      if modemControl & MCR.out2 != 0 { inputs |= MSR.carrierDetect }
    }
    let changed = inputs ^ modemStatus & 0xF0
    var deltas = changed >> 4 & ~MSR.trailingEdgeRing
    // RI shows only its end (§8.9 bit 2).
    if changed & MSR.ring != 0, inputs & MSR.ring == 0 { deltas |= MSR.trailingEdgeRing }
    modemStatus = inputs | modemStatus & 0x0F | deltas
  }

  private mutating func restartTimeout() {
    timeoutPending = false
    timeoutChange = fifosEnabled && !receiver.isEmpty ? .restart(4 * characterTime) : .cancel
  }

  /// Nanoseconds that a character takes: start bit, data, parity and stop bits (§8.1) at the divisor's rate (§8.3).
  private var characterTime: UInt64 {
    let bits = 1 + 5 + UInt64(lineControl & 3) + UInt64(lineControl >> 3 & 1) + 1 + UInt64(lineControl >> 2 & 1)
    return bits * UInt64(max(divisor, 1)) * 16 * 1_000_000_000 / Self.oscillator
  }
}
