import Buses
import GuestMemory

/// The registers of an Intel 82540EM and what they do, without lock, thread or host.
///
/// `now` is guest time in nanoseconds. Frames come in by `receive`; they go out by an `E1000Transmitter`, which asks
/// for the ring and the settings and reports what it has done.
struct E1000: NetworkChip {
  /// EEPROM words (§5.6, table 5-2).
  private enum EEPROMWord {
    static let initControl1 = 0x0A
    static let subsystem = 0x0B
    static let subsystemVendor = 0x0C
    static let device = 0x0D
    static let vendor = 0x0E
    static let initControl2 = 0x0F
    static let checksum = 0x3F
    /// The sum of all words.
    static let sum: UInt16 = 0xBABA
  }

  /// Values of the shared registers.
  private enum Shared {
    static let status = 0
    static let receiveTail = 1
    static let transmitTail = 2
    static let throttle = E1000Interrupts.throttleIndex
  }

  /// Registers that a driver uses for each interrupt and each burst of frames.
  static let sharedRegisters = [
    SharedRegister(E1000Register.status, read: .value, index: Shared.status),
    SharedRegister(E1000Register.icr, read: .takeCauses),
    SharedRegister(E1000Register.itr, read: .value, write: .value, index: Shared.throttle, writable: 0xFFFF),
    SharedRegister(E1000Register.ics, write: .setCauses, writable: E1000Cause.all),
    SharedRegister(E1000Register.ims, read: .mask, write: .setMask, writable: E1000Cause.all),
    SharedRegister(E1000Register.imc, write: .clearMask),
    SharedRegister(E1000Register.rdt, read: .value, write: .value, index: Shared.receiveTail, writable: 0xFFFF),
    SharedRegister(E1000Register.tdt, read: .value, write: .value, index: Shared.transmitTail, writable: 0xFFFF),
  ]

  private let shared: SharedRegisters
  private var eeprom: MicrowireEEPROM
  var phy = E1000PHY()
  var interrupts: E1000Interrupts
  var statistics = E1000Statistics()
  var filter: E1000ReceiveFilter
  var receiveRing = E1000Ring()
  var transmitRing = E1000Ring()
  private(set) var control = E1000Control.powerOn
  private(set) var receiveControl: UInt32 = 0
  private(set) var transmitControl: UInt32 = 0
  private(set) var receiveChecksum: UInt32 = 0
  private(set) var vlanType = UInt32(Ethernet.typeVLAN)
  /// RSRPD: packets of at most this many bytes are small.
  private(set) var smallPacketSize: UInt32 = 0
  private var eecd = E1000EEPROMControl.present
  private var eerd: UInt32 = 0
  private var mdic: UInt32 = 1 << 28
  /// Registers that only hold what was written, by offset / 4.
  private var held = [UInt32](repeating: 0, count: 0xA000 / 4)
  private var wasLinkUp = true
  /// Whether writes of the tails wake the card's thread.
  private var isTransmitAwaited = false
  private var isReceiveAwaited = false

  /// - Parameter shared: made of `sharedRegisters`.
  init(_ address: EthernetAddress, shared: SharedRegisters) {
    self.shared = shared
    interrupts = E1000Interrupts(shared)
    eeprom = MicrowireEEPROM(Self.eepromWords(address))
    filter = E1000ReceiveFilter(address)
    resetRegisters()
  }

  private static func eepromWords(_ address: EthernetAddress) -> [UInt16] {
    var words = [UInt16](repeating: 0xFFFF, count: MicrowireEEPROM.wordCount)
    for index in 0..<3 { words[index] = address.word(index) }
    // Compatibility: a copper card for servers and clients; image version and part number are not given.
    words[3] = 0x0200
    words[EEPROMWord.initControl1] = 0x640A
    words[EEPROMWord.subsystem] = 0x001E
    words[EEPROMWord.subsystemVendor] = 0x8086
    words[EEPROMWord.device] = 0x100E
    words[EEPROMWord.vendor] = 0x8086
    words[EEPROMWord.initControl2] = 0xB040
    words[EEPROMWord.checksum] = words[..<EEPROMWord.checksum].reduce(EEPROMWord.sum) { $0 &- $1 }
    return words
  }

  /// The address that the EEPROM holds now.
  private var eepromAddress: EthernetAddress {
    EthernetAddress(bits: (0..<3).reduce(0) { $0 | UInt64(eeprom.word($1)) << UInt64($1 * 16) })
  }

  /// Power-on. What the guest wrote into the EEPROM stays, as it does without power.
  mutating func reset(now: UInt64) {
    phy = E1000PHY()
    resetRegisters()
    wasLinkUp = isLinkUp
  }

  /// CTRL.RST: everything but the PHY and the EEPROM (§13.4.1).
  private mutating func resetRegisters() {
    shared.reset()
    interrupts.reset()
    statistics = E1000Statistics()
    filter = E1000ReceiveFilter(eepromAddress)
    receiveRing = E1000Ring()
    transmitRing = E1000Ring()
    // Nothing is being sent.
    _ = setTransmitAwaited(true)
    setReceiveAwaited(false)
    control = E1000Control.powerOn
    receiveControl = 0
    transmitControl = 0
    receiveChecksum = 0
    vlanType = UInt32(Ethernet.typeVLAN)
    smallPacketSize = 0
    eecd = E1000EEPROMControl.present
    eerd = 0
    mdic = 1 << 28
    for index in held.indices { held[index] = 0 }
    held[E1000Register.pba / 4] = 0x0010_0030
    held[E1000Register.tipg / 4] = 0x0060_2008
    held[E1000Register.ledctl / 4] = 0x0706_8302
    held[E1000Register.fcal / 4] = 0x00C2_8001
    held[E1000Register.fcah / 4] = 0x0100
    held[E1000Register.fct / 4] = 0x8808
  }

  // MARK: Link

  /// The MAC takes the link of its PHY while CTRL.SLU lets it.
  var isLinkUp: Bool { phy.isLinkUp && control & E1000Control.setLinkUp != 0 }

  /// Brings everything that time changes up to the present.
  mutating func advance(now: UInt64) {
    phy.advance(now: now)
    if isLinkUp != wasLinkUp {
      wasLinkUp = isLinkUp
      interrupts.raise(E1000Cause.linkChange)
    }
    let status = status
    if shared.value(Shared.status) != status { shared.setValue(Shared.status, status) }
    interrupts.advance(now: now)
  }

  var isInterrupting: Bool { interrupts.isAsserted }
  var interruptRises: UInt32 { interrupts.rises }

  var nextDeadline: UInt64? {
    guard let link = phy.negotiationEnd else { return interrupts.nextDeadline }
    return min(link, interrupts.nextDeadline ?? .max)
  }

  private var status: UInt32 {
    var status = E1000Status.speed1000 | E1000Status.autoSpeed1000
    if control & E1000Control.fullDuplex != 0 { status |= E1000Status.fullDuplex }
    if isLinkUp { status |= E1000Status.linkUp }
    return status
  }

  /// The cable is in or out; a new link is negotiated.
  mutating func setCable(_ isConnected: Bool, now: UInt64) { phy.setCable(isConnected, now: now) }

  // MARK: Transmission

  var isTransmitting: Bool { transmitControl & E1000TransmitControl.enable != 0 }

  /// What holds for the next step of the transmitter.
  mutating func takeTransmitSettings() -> E1000TransmitSettings {
    transmitRing.tail = shared.value(Shared.transmitTail) & 0xFFFF
    return E1000TransmitSettings(
      ring: transmitRing,
      vlanType: control & E1000Control.vlanMode != 0 ? UInt16(truncatingIfNeeded: vlanType) : nil,
      padsShort: transmitControl & E1000TransmitControl.padShort != 0, isLoopback: isLoopback)
  }

  /// Whether a write of the transmit tail is to wake who sends. True: it has been written since the last step.
  mutating func setTransmitAwaited(_ isAwaited: Bool) -> Bool {
    if isAwaited != isTransmitAwaited {
      isTransmitAwaited = isAwaited
      shared.setAwaited(Shared.transmitTail, isAwaited)
    }
    return shared.value(Shared.transmitTail) & 0xFFFF != transmitRing.tail
  }

  /// Takes the receive tail as processors have left it.
  mutating func takeReceiveTail() { receiveRing.tail = shared.value(Shared.receiveTail) & 0xFFFF }

  /// Whether a write of the receive tail is to wake the card.
  mutating func setReceiveAwaited(_ isAwaited: Bool) {
    guard isAwaited != isReceiveAwaited else { return }
    isReceiveAwaited = isAwaited
    shared.setAwaited(Shared.receiveTail, isAwaited)
  }

  /// Whether the write makes the transmitter forget the packet under way.
  static func abandonsTransmission(_ offset: Int, _ value: UInt32) -> Bool {
    switch E1000Register.canonical(offset) {
    case E1000Register.ctrl: value & E1000Control.reset != 0
    case E1000Register.tdh: true
    default: false
    }
  }

  /// Descriptors were taken from the ring.
  mutating func gathered(_ progress: E1000Transmitter.Progress, now: UInt64) {
    transmitRing.head = progress.head
    if progress.wroteBack { interrupts.writtenBack(delayed: progress.delays, now) }
  }

  /// A packet is done with.
  mutating func finished(_ packet: E1000Transmitter.Finished, now: UInt64) {
    if let cut = packet.segmentation { statistics.countSegmentation(failed: !cut) }
    if packet.wroteBack { interrupts.writtenBack(delayed: packet.delays, now) }
    transmitRing.tail = shared.value(Shared.transmitTail) & 0xFFFF
    if transmitRing.available == 0 { interrupts.raise(E1000Cause.transmitQueueEmpty) }
    if transmitRing.available < transmitLowThreshold { interrupts.raise(E1000Cause.transmitLow) }
  }

  // MARK: Registers

  /// Reads the register at a multiple of 4; what is not implemented reads zero.
  mutating func read(_ offset: Int, now: UInt64) -> UInt32 {
    let offset = E1000Register.canonical(offset)
    switch offset {
    case E1000Register.ctrl: return control
    case E1000Register.status:
      phy.advance(now: now)
      return status
    case E1000Register.eecd: return eecd | (eeprom.output ? E1000EEPROMControl.dataOut : 0)
    case E1000Register.eerd: return eerd
    case E1000Register.mdic: return mdic
    case E1000Register.vet: return vlanType
    case E1000Register.icr: return interrupts.takeCauses(now)
    case E1000Register.itr: return interrupts.throttle
    case E1000Register.ims: return interrupts.mask
    case E1000Register.rctl: return receiveControl
    case E1000Register.tctl: return transmitControl
    case E1000Register.rdbal: return receiveRing.low
    case E1000Register.rdbah: return receiveRing.high
    case E1000Register.rdlen: return receiveRing.length
    case E1000Register.rdh: return receiveRing.head
    case E1000Register.rdt: return shared.value(Shared.receiveTail)
    case E1000Register.rdtr: return interrupts.receiveDelay
    case E1000Register.radv: return interrupts.receiveAbsolute
    case E1000Register.rsrpd: return smallPacketSize
    case E1000Register.tdbal: return transmitRing.low
    case E1000Register.tdbah: return transmitRing.high
    case E1000Register.tdlen: return transmitRing.length
    case E1000Register.tdh: return transmitRing.head
    case E1000Register.tdt: return shared.value(Shared.transmitTail)
    case E1000Register.tidv: return interrupts.transmitDelay
    case E1000Register.tadv: return interrupts.transmitAbsolute
    case E1000Register.rxcsum: return receiveChecksum
    case E1000Register.statistics: return statistics.read(offset - E1000Register.statistics.lowerBound)
    default:
      if let value = filter.read(offset) { return value }
      return Self.heldBits(offset) != 0 ? held[offset / 4] : 0
    }
  }

  /// Writes the register at a multiple of 4.
  mutating func write(_ offset: Int, _ value: UInt32, now: UInt64) -> NetworkChipEffect {
    let offset = E1000Register.canonical(offset)
    switch offset {
    case E1000Register.ctrl: return writeControl(value, now)
    case E1000Register.eecd: writeEECD(value)
    case E1000Register.eerd: readEEPROM(value)
    case E1000Register.mdic: accessPHY(value, now)
    case E1000Register.ctrlExtended:
      held[offset / 4] = value & Self.heldBits(offset)
      // EE_RST loads the EEPROM again (§13.4.6).
      if value & 1 << 13 != 0 { filter.load(eepromAddress) }
    case E1000Register.vet: vlanType = value & 0xFFFF
    case E1000Register.icr: interrupts.clear(value, now)
    case E1000Register.itr: interrupts.setThrottle(value)
    case E1000Register.ics: interrupts.raise(value)
    case E1000Register.ims: interrupts.setMask(value)
    case E1000Register.imc: interrupts.clearMask(value)
    case E1000Register.rctl:
      receiveControl = value & E1000ReceiveControl.implemented
      return .receive
    case E1000Register.tctl:
      transmitControl = value & 0x07FF_FFFA
      return .transmit
    case E1000Register.rdbal: receiveRing.low = value
    case E1000Register.rdbah: receiveRing.high = value
    case E1000Register.rdlen: receiveRing.setLength(value)
    case E1000Register.rdh: receiveRing.head = value & 0xFFFF
    case E1000Register.rdt:
      shared.setValue(Shared.receiveTail, value & 0xFFFF)
      return .receive
    case E1000Register.rdtr:
      interrupts.receiveDelay = value & 0xFFFF
      if value & 1 << 31 != 0 { interrupts.flushReceive() }
    case E1000Register.radv: interrupts.receiveAbsolute = value & 0xFFFF
    case E1000Register.rsrpd: smallPacketSize = value & 0xFFF
    case E1000Register.tdbal: transmitRing.low = value
    case E1000Register.tdbah: transmitRing.high = value
    case E1000Register.tdlen: transmitRing.setLength(value)
    case E1000Register.tdh: transmitRing.head = value & 0xFFFF
    case E1000Register.tdt:
      shared.setValue(Shared.transmitTail, value & 0xFFFF)
      return .transmit
    case E1000Register.tidv: interrupts.transmitDelay = value & 0xFFFF
    case E1000Register.tadv: interrupts.transmitAbsolute = value & 0xFFFF
    case E1000Register.rxcsum: receiveChecksum = value & 0x7FF
    default:
      if filter.write(offset, value) { return [] }
      let bits = Self.heldBits(offset)
      if bits != 0 { held[offset / 4] = value & bits }
    }
    return []
  }

  private mutating func writeControl(_ value: UInt32, _ now: UInt64) -> NetworkChipEffect {
    if value & E1000Control.phyReset != 0 { phy.reset(now: now) }
    guard value & E1000Control.reset == 0 else {
      resetRegisters()
      return []
    }
    control = value & ~(E1000Control.reset | E1000Control.phyReset)
    return []
  }

  /// Bit-banging of the EEPROM's pins. Access is granted when asked for (§5.3.1).
  private mutating func writeEECD(_ value: UInt32) {
    typealias Bit = E1000EEPROMControl
    eecd = value & (Bit.clock | Bit.select | Bit.dataIn | Bit.flashWrite | Bit.request) | Bit.present
    if value & Bit.request != 0 { eecd |= Bit.grant }
    eeprom.drive(select: value & Bit.select != 0, clock: value & Bit.clock != 0, input: value & Bit.dataIn != 0)
  }

  /// EERD: a read of one word, done at once (§13.4.4).
  private mutating func readEEPROM(_ value: UInt32) {
    guard value & 1 != 0 else {
      eerd = value & 0xFF00
      return
    }
    let address = Int(value >> 8 & 0xFF)
    eerd = UInt32(eeprom.word(address)) << 16 | value & 0xFF00 | 1 << 4
  }

  /// MDIC: a PHY register is read or written at once; another PHY does not answer (§13.4.7).
  private mutating func accessPHY(_ value: UInt32, _ now: UInt64) {
    let ready: UInt32 = 1 << 28
    let interrupt: UInt32 = 1 << 29
    let error: UInt32 = 1 << 30
    let register = Int(value >> 16 & 0x1F)
    mdic = value & 0x2FFF_FFFF | ready
    if value >> 21 & 0x1F != E1000PHY.address {
      mdic |= error
    } else {
      phy.advance(now: now)
      switch value >> 26 & 3 {
      case 1: phy.write(register, UInt16(truncatingIfNeeded: value), now: now)
      case 2: mdic = mdic & ~0xFFFF | UInt32(phy.read(register))
      default: mdic |= error
      }
    }
    if value & interrupt != 0 { interrupts.raise(E1000Cause.mdioAccess) }
  }

  /// The writable bits of a register that only holds what was written; 0 where there is none.
  private static func heldBits(_ offset: Int) -> UInt32 {
    switch offset {
    case E1000Register.ctrlExtended: 0x01CF_DFFF
    case E1000Register.fcal, E1000Register.ledctl, E1000Register.wuc, E1000Register.wufc, E1000Register.manc: .max
    case E1000Register.fcah, E1000Register.fct, E1000Register.fcttv: 0xFFFF
    case E1000Register.txcw: 0xC000_FFFF
    case E1000Register.tipg: 0x3FFF_FFFF
    case E1000Register.ait, E1000Register.pba: .max
    case E1000Register.fcrtl: 0x8000_FFF8
    case E1000Register.fcrth: 0xFFF8
    case E1000Register.rxdctl, E1000Register.txdctl, E1000Register.tspmt: .max
    case E1000Register.ipav, E1000Register.wakeAddresses, E1000Register.wakeMemory: .max
    case E1000Register.flexibleLengths, E1000Register.flexibleMasks, E1000Register.flexibleValues: .max
    default: 0
    }
  }

  /// The number of free transmit descriptors below which TXD_LOW is raised: LWTHRESH in units of 8 (§13.4.43).
  var transmitLowThreshold: UInt32 { held[E1000Register.txdctl / 4] >> 25 &* 8 }
}
