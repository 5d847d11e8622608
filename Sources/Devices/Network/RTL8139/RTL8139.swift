import GuestMemory

/// The registers of a Realtek RTL8139C and what they do, without lock, thread or host.
///
/// `now` is guest time in nanoseconds. Registers are bytes: an access of several bytes writes them in ascending order.
struct RTL8139: NetworkChip {
  typealias Register = RTL8139Register

  /// A frame to be sent: descriptor 0–3 and its memory.
  struct Transmission: Sendable {
    let index: Int
    let address: UInt64
    let count: Int
    let isLoopback: Bool
    let hasCRC: Bool
  }

  /// Longest frame that a descriptor can send (§5.2).
  static let longestFrame = 1792
  /// TCTR counts the PCI clock of 33 MHz (§5.9): 1000 ns are 33 counts.
  private static let timerNumerator: UInt64 = 33
  private static let timerDenominator: UInt64 = 1000
  private static let negotiationTime: UInt64 = 100_000_000

  /// EEM of 9346CR (§5.11).
  private enum EEPROMMode {
    static let mask: UInt8 = 0xC0
    static let autoload: UInt8 = 0x40
    static let program: UInt8 = 0x80
    static let configure: UInt8 = 0xC0
  }

  private var bytes = [UInt8](repeating: 0, count: 256)
  private var eeprom: MicrowireEEPROM
  private var currentTransmit = 0
  private var timerStart: UInt64 = 0
  /// The timeout of the present lap of TCTR was signalled.
  private var timerFired = false
  private var hasCable = true
  private var negotiationEnd: UInt64?
  private var wasLinkUp = true

  init(_ address: EthernetAddress) {
    // §6.1: identification, vendor and device, subsystem, then the address from word 7 on.
    var words = [UInt16](repeating: 0, count: MicrowireEEPROM.wordCount)
    words[0..<6] = [0x8129, 0x10EC, 0x8139, 0x10EC, 0x8139, 0x4020]
    words[6] = 0xE512
    for index in 0..<3 { words[7 + index] = address.word(index) }
    eeprom = MicrowireEEPROM(words)
    powerOn(now: 0)
  }

  /// Power-on. What the guest wrote into the EEPROM stays.
  mutating func powerOn(now: UInt64) {
    bytes = [UInt8](repeating: 0, count: 256)
    loadEEPROM()
    bytes[Register.config1] = 0x0C
    bytes[Register.config3] = 0x01
    put(Register.basicControl, 0x3100)
    put(Register.advertisement, 0x05E1)
    timerStart = now
    negotiationEnd = nil
    wasLinkUp = isLinkUp
    reset(now: now)
  }

  /// CR.RST: everything but identification, configuration and the PHY (§5.4).
  private mutating func reset(now: UInt64) {
    for register in Register.transmitStatus { bytes[register] = 0 }
    for index in 0..<4 { setTransmitStatus(index, RTL8139TransmitStatus.own) }
    for register in Register.transmitAddress { bytes[register] = 0 }
    for register in Register.receiveStart { bytes[register] = 0 }
    bytes[Register.command] = 0
    put(Register.readPointer, 0xFFF0)
    put(Register.writePointer, 0)
    put(Register.interruptMask, 0)
    put(Register.interruptStatus, 0)
    put32(Register.transmitConfiguration, 0)
    put32(Register.receiveConfiguration, 0)
    put32(Register.missed, 0)
    put32(Register.timerInterrupt, 0)
    bytes[Register.eeprom] = 0
    currentTransmit = 0
    timerStart = now
    timerFired = false
  }

  private mutating func loadEEPROM() {
    for index in 0..<6 {
      bytes[Register.identifier.lowerBound + index] =
        UInt8(truncatingIfNeeded: eeprom.word(7 + index / 2) >> UInt16(index % 2 * 8))
    }
  }

  // MARK: Fields

  private func word(_ range: Range<Int>) -> UInt16 {
    UInt16(bytes[range.lowerBound]) | UInt16(bytes[range.lowerBound + 1]) << 8
  }
  private func dword(_ at: Int) -> UInt32 {
    (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << UInt32($1 * 8) }
  }
  private mutating func put(_ range: Range<Int>, _ value: UInt16) {
    bytes[range.lowerBound] = UInt8(truncatingIfNeeded: value)
    bytes[range.lowerBound + 1] = UInt8(truncatingIfNeeded: value >> 8)
  }
  private mutating func put32(_ range: Range<Int>, _ value: UInt32) {
    for index in 0..<4 { bytes[range.lowerBound + index] = UInt8(truncatingIfNeeded: value >> UInt32(index * 8)) }
  }
  private mutating func raise(_ bits: UInt16) {
    put(Register.interruptStatus, word(Register.interruptStatus) | bits)
  }
  private func transmitStatus(_ index: Int) -> UInt32 { dword(Register.transmitStatus.lowerBound + index * 4) }
  private mutating func setTransmitStatus(_ index: Int, _ value: UInt32) {
    let start = Register.transmitStatus.lowerBound + index * 4
    put32(start..<start + 4, value)
  }

  private var receiveConfiguration: UInt32 { dword(Register.receiveConfiguration.lowerBound) }
  private var transmitConfiguration: UInt32 { dword(Register.transmitConfiguration.lowerBound) }

  /// The level of the interrupt pin.
  var isInterrupting: Bool { word(Register.interruptStatus) & word(Register.interruptMask) != 0 }

  // MARK: Link and timer

  /// Whether anything can go over the cable now.
  var isLinkUp: Bool { hasCable && negotiationEnd == nil }
  var isLoopback: Bool {
    transmitConfiguration & RTL8139TransmitConfiguration.loopback == RTL8139TransmitConfiguration.loopback
  }

  mutating func setCable(_ isConnected: Bool, now: UInt64) {
    guard isConnected != hasCable else { return }
    hasCable = isConnected
    negotiationEnd = isConnected ? now &+ Self.negotiationTime : nil
  }

  mutating func advance(now: UInt64) {
    if let end = negotiationEnd, now >= end { negotiationEnd = nil }
    if isLinkUp != wasLinkUp {
      wasLinkUp = isLinkUp
      raise(RTL8139Interrupt.linkChange)
    }
    if let end = timeout, now >= end {
      timerFired = true
      raise(RTL8139Interrupt.timeout)
    }
  }

  var nextDeadline: UInt64? {
    let ends = [negotiationEnd, timeout].compactMap { $0 }
    return ends.min()
  }

  /// When TCTR reaches TimerInt; nil while that is zero or signalled (§5.12).
  private var timeout: UInt64? {
    let count = UInt64(dword(Register.timerInterrupt.lowerBound))
    guard count != 0, !timerFired else { return nil }
    return timerStart &+ (count &* Self.timerDenominator &+ Self.timerNumerator - 1) / Self.timerNumerator
  }

  private func timerCount(_ now: UInt64) -> UInt32 {
    let passed = now &- timerStart
    let whole = passed / Self.timerDenominator
    let rest = passed % Self.timerDenominator
    return UInt32(
      truncatingIfNeeded: whole &* Self.timerNumerator &+ rest &* Self.timerNumerator / Self.timerDenominator)
  }

  // MARK: Registers

  mutating func read(_ register: Int, now: UInt64) -> UInt8 {
    switch register {
    case Register.command:
      return bytes[register] | (isReceiveEmpty ? RTL8139Command.bufferEmpty : 0)
    case Register.transmitConfiguration:
      let value = transmitConfiguration | RTL8139TransmitConfiguration.version
      return UInt8(truncatingIfNeeded: value >> UInt32((register & 3) * 8))
    case Register.timerCount: return UInt8(truncatingIfNeeded: timerCount(now) >> UInt32((register & 3) * 8))
    case Register.eeprom:
      return bytes[register] & ~1 | (eeprom.output ? 1 : 0)
    // LINKB is low while the link is there; 100 Mb/s; auxiliary power.
    case Register.mediaStatus: return bytes[register] & 0xC0 | 0x10 | (isLinkUp ? 0 : 1 << 2)
    case Register.revision: return 0x10
    case Register.transmitSummary: return UInt8(truncatingIfNeeded: transmitSummary >> UInt16((register & 1) * 8))
    case Register.basicStatus:
      let status: UInt16 = 0x7809 | (isLinkUp ? 0x24 : 0)
      return UInt8(truncatingIfNeeded: status >> UInt16((register & 1) * 8))
    case Register.partnerAbility:
      let ability: UInt16 = isLinkUp ? 0x45E1 : 0
      return UInt8(truncatingIfNeeded: ability >> UInt16((register & 1) * 8))
    case Register.expansion: return register == Register.expansion.lowerBound && isLinkUp ? 1 : 0
    default: return 0..<256 ~= register ? bytes[register] : 0xFF
    }
  }

  /// TSAD: the states of the four descriptors together (§5.14).
  private var transmitSummary: UInt16 {
    var summary: UInt16 = 0
    for index in 0..<4 {
      let status = transmitStatus(index)
      if status & RTL8139TransmitStatus.own != 0 { summary |= 1 << UInt16(index) }
      if status & RTL8139TransmitStatus.aborted != 0 { summary |= 1 << UInt16(index + 4) }
      if status & RTL8139TransmitStatus.underrun != 0 { summary |= 1 << UInt16(index + 8) }
      if status & RTL8139TransmitStatus.ok != 0 { summary |= 1 << UInt16(index + 12) }
    }
    return summary
  }

  mutating func write(_ register: Int, _ value: UInt8, now: UInt64) -> NetworkChipEffect {
    let canConfigure = bytes[Register.eeprom] & EEPROMMode.mask == EEPROMMode.configure
    let shift = UInt32((register & 3) * 8)
    func keep(_ mask: UInt32) -> UInt8 { value & UInt8(truncatingIfNeeded: mask >> shift) }
    switch register {
    case Register.identifier: if canConfigure { bytes[register] = value }
    case Register.multicast, Register.transmitAddress, Register.interruptMask, Register.multipleInterrupt,
      Register.advertisement:
      bytes[register] = value
    case Register.transmitStatus:
      // Status bits go with the new command.
      bytes[register] = keep(RTL8139TransmitStatus.writable)
      return .transmit
    case Register.receiveStart: bytes[register] = value
    case Register.command: return writeCommand(value, now)
    case Register.readPointer:
      bytes[register] = value
      return .receive
    case Register.interruptStatus: bytes[register] &= ~value
    case Register.transmitConfiguration: bytes[register] = keep(RTL8139TransmitConfiguration.writable)
    case Register.receiveConfiguration:
      bytes[register] = value
      return .receive
    case Register.timerCount: restartTimer(now)
    case Register.missed: put32(Register.missed, 0)
    case Register.eeprom: writeEEPROM(value)
    case Register.config0, Register.config1, Register.config3, Register.config4:
      if canConfigure { bytes[register] = value }
    case Register.timerInterrupt:
      bytes[register] = value
      timerFired = false
      // A count that has passed already comes again with the next lap.
      if let end = timeout, end <= now { timerFired = true }
    case Register.mediaStatus: bytes[register] = value & 0xC0
    case Register.basicControl:
      bytes[register] = value
      if register == Register.basicControl.upperBound - 1 { writeBasicControl(now) }
    default: break
    }
    return []
  }

  private mutating func restartTimer(_ now: UInt64) {
    timerStart = now
    timerFired = false
  }

  private mutating func writeCommand(_ value: UInt8, _ now: UInt64) -> NetworkChipEffect {
    guard value & RTL8139Command.reset == 0 else {
      reset(now: now)
      return .receive
    }
    let enabled = value & (RTL8139Command.transmit | RTL8139Command.receive)
    let changed = enabled ^ bytes[Register.command]
    bytes[Register.command] = enabled
    // Switching the transmitter off and on starts at descriptor 0 (§5.4).
    if changed & RTL8139Command.transmit != 0 { currentTransmit = 0 }
    return [.transmit, .receive]
  }

  private mutating func writeEEPROM(_ value: UInt8) {
    bytes[Register.eeprom] = value & ~1
    switch value & EEPROMMode.mask {
    case EEPROMMode.autoload:
      loadEEPROM()
      bytes[Register.eeprom] &= ~EEPROMMode.mask
    case EEPROMMode.program:
      eeprom.drive(select: value & 1 << 3 != 0, clock: value & 1 << 2 != 0, input: value & 1 << 1 != 0)
    default: break
    }
  }

  /// A reset of the PHY and a restart of autonegotiation end at once and clear themselves.
  private mutating func writeBasicControl(_ now: UInt64) {
    var control = word(Register.basicControl)
    if control & 1 << 15 != 0 { control = 0x3100 | 1 << 9 }
    if control & 1 << 9 != 0, control & 1 << 12 != 0, hasCable { negotiationEnd = now &+ Self.negotiationTime }
    put(Register.basicControl, control & 0x7D80)
  }

  // MARK: Transmission

  /// The frame of the next descriptor that software has handed over; they go in turn (§5.2).
  var nextTransmission: Transmission? {
    let status = transmitStatus(currentTransmit)
    guard bytes[Register.command] & RTL8139Command.transmit != 0, status & RTL8139TransmitStatus.own == 0 else {
      return nil
    }
    return Transmission(
      index: currentTransmit,
      address: UInt64(dword(Register.transmitAddress.lowerBound + currentTransmit * 4)),
      count: Int(status & RTL8139TransmitStatus.size), isLoopback: isLoopback,
      hasCRC: transmitConfiguration & RTL8139TransmitConfiguration.noCRC != 0)
  }

  /// The frame is on its way; `isAborted`: it could not be sent.
  mutating func transmitted(_ frame: Transmission, isAborted: Bool) {
    let status = transmitStatus(frame.index) | RTL8139TransmitStatus.own
    setTransmitStatus(frame.index, status | (isAborted ? RTL8139TransmitStatus.aborted : RTL8139TransmitStatus.ok))
    raise(isAborted ? RTL8139Interrupt.transmitError : RTL8139Interrupt.transmitOK)
    currentTransmit = (currentTransmit + 1) & 3
  }

  /// The card could not read memory.
  mutating func systemFailed() { raise(RTL8139Interrupt.systemError) }

  // MARK: Reception

  var isReceiving: Bool { bytes[Register.command] & RTL8139Command.receive != 0 }

  /// Bytes in the receive ring (RBLEN).
  private var ringSize: Int { 8192 << Int(receiveConfiguration >> 11 & 3) }
  private var writeOffset: Int { Int(word(Register.writePointer)) & (ringSize - 1) }
  private var readOffset: Int { Int(word(Register.readPointer) &+ 16) & (ringSize - 1) }
  private var isReceiveEmpty: Bool { writeOffset == readOffset }

  /// The FIFO ran over because memory could not be reached.
  mutating func missedFrame() {
    let count = dword(Register.missed.lowerBound)
    put32(Register.missed, min(count &+ 1, 0x00FF_FFFF))
  }

  /// Stores a frame without FCS. false: the ring has no room, and the frame is to be offered again after an effect
  /// `receive`.
  mutating func receive(_ frame: UnsafeRawBufferPointer, memory: GuestMemory) -> Bool {
    guard isReceiving, frame.count >= Ethernet.headerSize, var status = accept(frame) else { return true }
    status |= RTL8139ReceiveStatus.ok
    var pieces = ReceivedPieces(frame)
    pieces.finish(minimum: Ethernet.minimumSize, withFCS: true)
    let size = ringSize
    let needed = (pieces.count + 4 + 3) & ~3
    // Longer than the ring, or longer than a length can be.
    guard needed < size, pieces.count <= Int(UInt16.max) else { return true }
    let (start, end) = (writeOffset, readOffset)
    let room = start == end ? size : (end - start + size) & (size - 1)
    // One that fills the ring to the brim would look like none.
    guard needed < room else {
      raise(RTL8139Interrupt.receiveOverflow)
      return false
    }
    let base = UInt64(dword(Register.receiveStart.lowerBound))
    let header = UInt32(status) | UInt32(truncatingIfNeeded: pieces.count) << 16
    try? memory.store(header, at: base &+ UInt64(start))
    let data = (start + 4) & (size - 1)
    // With WRAP set a packet goes on behind the ring's end; a ring of 64 KiB always wraps (§5.8).
    let goesOn = receiveConfiguration & RTL8139ReceiveConfiguration.noWrap != 0 && size < 65536
    let first = goesOn ? pieces.count : min(pieces.count, size - data)
    pieces.write(0..<first, to: base &+ UInt64(data), memory)
    if first < pieces.count { pieces.write(first..<pieces.count, to: base, memory) }
    put(Register.writePointer, UInt16(truncatingIfNeeded: (start + needed) & (size - 1)))
    raise(RTL8139Interrupt.receiveOK)
    return true
  }

  /// The status of a frame that the filters of RCR let pass.
  private func accept(_ frame: UnsafeRawBufferPointer) -> UInt16? {
    typealias Configuration = RTL8139ReceiveConfiguration
    let destination = EthernetAddress(frame)
    let configuration = receiveConfiguration
    if destination.isBroadcast {
      let accepts = configuration & (Configuration.acceptBroadcast | Configuration.acceptAll) != 0
      return accepts ? RTL8139ReceiveStatus.broadcast : nil
    }
    if destination.isGroup {
      if configuration & Configuration.acceptMulticast != 0, isInMulticastTable(frame) {
        return RTL8139ReceiveStatus.multicast
      }
      return configuration & Configuration.acceptAll != 0 ? RTL8139ReceiveStatus.multicast : nil
    }
    let own = bytes.withUnsafeBytes { EthernetAddress($0) }
    if configuration & Configuration.acceptMatch != 0, destination == own { return RTL8139ReceiveStatus.match }
    return configuration & Configuration.acceptAll != 0 ? 0 : nil
  }

  /// MAR: the six most significant bits of the address's CRC choose one of 64 bits (§5.8).
  private func isInMulticastTable(_ frame: UnsafeRawBufferPointer) -> Bool {
    var crc = FrameCheckSequence()
    crc.add(UnsafeRawBufferPointer(rebasing: frame[..<6]))
    // The CRC is kept with its bits reversed: the most significant ones are the lowest here.
    var index = 0
    for bit in 0..<6 { index = index << 1 | Int(~crc.value >> UInt32(bit) & 1) }
    return bytes[Register.multicast.lowerBound + index / 8] >> UInt8(index & 7) & 1 != 0
  }
}
