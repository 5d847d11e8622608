/// The 8259A programmable interrupt controller (Intel 231468-003) in 8086 mode, with the edge/level control register
/// that the PIIX3 puts in place of LTIM (290550-002 §2.5.6).
///
/// An edge stays latched when its line falls before the acknowledge, so that a pulse is an interrupt.
struct I8259A: Sendable {
  /// Initialisation command words ("ICW format").
  enum ICW1 {
    static let needsICW4: UInt8 = 1 << 0
    static let single: UInt8 = 1 << 1
    static let isICW1: UInt8 = 1 << 4
  }
  enum ICW4 {
    static let automaticEOI: UInt8 = 1 << 1
    static let specialFullyNested: UInt8 = 1 << 4
  }
  /// OCW2 bits 7:5: R, SL, EOI.
  private enum OCW2: UInt8 {
    case rotateInAutomaticEOIClear, nonSpecificEOI, noOperation, specificEOI
    case rotateInAutomaticEOISet, rotateOnNonSpecificEOI, setPriority, rotateOnSpecificEOI
  }
  enum OCW3 {
    static let readISR: UInt8 = 1 << 0
    static let readCommand: UInt8 = 1 << 1
    static let poll: UInt8 = 1 << 2
    static let isOCW3: UInt8 = 1 << 3
    static let specialMask: UInt8 = 1 << 5
    static let specialMaskCommand: UInt8 = 1 << 6
  }

  private enum Initialisation { case done, icw2, icw3, icw4 }

  /// The outcome of an INTA cycle.
  struct Acknowledgement: Equatable {
    let line: Int
    let vector: UInt8
    /// No request stood, so line 7's vector was given and nothing is in service.
    let isSpurious: Bool
  }

  private(set) var requests: UInt8 = 0
  private(set) var inService: UInt8 = 0
  private(set) var mask: UInt8 = 0
  /// Lines whose inputs are high.
  private var levels: UInt8 = 0
  /// One bit for each level-triggered line.
  private(set) var levelTriggered: UInt8 = 0
  /// Bits of the ELCR that can be set.
  private let levelCapable: UInt8

  private var initialisation = Initialisation.done
  /// Whether a whole sequence of ICWs was written: before, and during one, INT stays low.
  private var isInitialised = false
  private var icw1: UInt8 = 0
  private var vectorBase: UInt8 = 0
  /// ICW3: lines with a slave on a master; a slave's identity on a slave, where no line carries one.
  private var cascade: UInt8 = 0
  private let isMaster: Bool
  private var icw4: UInt8 = 0
  /// The line of lowest priority.
  private var lowest: UInt8 = 7
  private var rotatesInAutomaticEOI = false
  private var isSpecialMask = false
  private var readsISR = false
  private var isPolled = false
  /// Lines whose service ended since the last call of `takeEnded`.
  private var ended: UInt8 = 0

  init(isMaster: Bool, levelCapable: UInt8) {
    self.isMaster = isMaster
    self.levelCapable = levelCapable
  }

  // MARK: Pins

  /// The INT output.
  var isRequesting: Bool { highestRequest != nil }

  /// Drives IR0–IR7.
  mutating func setInput(_ line: Int, _ level: Bool) {
    let bit: UInt8 = 1 << UInt8(truncatingIfNeeded: line & 7)
    if level {
      if levelTriggered & bit != 0 || levels & bit == 0 { requests |= bit }
      levels |= bit
    } else {
      if levelTriggered & bit != 0 { requests &= ~bit }
      levels &= ~bit
    }
  }

  /// One INTA cycle: the highest request goes into service.
  mutating func acknowledge() -> Acknowledgement {
    guard let line = highestRequest else {
      return Acknowledgement(line: 7, vector: vectorBase | 7, isSpurious: true)
    }
    let bit: UInt8 = 1 << line
    if levelTriggered & bit == 0 { requests &= ~bit }
    if icw4 & ICW4.automaticEOI != 0 {
      ended |= bit
      if rotatesInAutomaticEOI { lowest = line }
    } else {
      inService |= bit
    }
    return Acknowledgement(line: Int(line), vector: vectorBase | line, isSpurious: false)
  }

  /// Lines whose interrupt the processor ended, by a command or automatically, since the last call.
  mutating func takeEnded() -> UInt8 {
    defer { ended = 0 }
    return ended
  }

  // MARK: Priority

  /// 0 for the line of highest priority.
  private func rank(_ line: UInt8) -> UInt8 { (line &- lowest &- 1) & 7 }

  private func highest(of lines: UInt8) -> UInt8? {
    guard lines != 0 else { return nil }
    // Rotated so that the line of highest priority is bit 0.
    let first = (lowest &+ 1) & 7
    let rotated = lines >> first | lines << ((8 &- first) & 7)
    return (UInt8(truncatingIfNeeded: (first == 0 ? lines : rotated).trailingZeroBitCount) &+ first) & 7
  }

  /// The request that INT stands for: unmasked and above everything in service.
  private var highestRequest: UInt8? {
    guard isInitialised, let line = highest(of: requests & ~mask) else { return nil }
    // In special mask mode a masked line in service holds nothing back.
    guard let served = highest(of: isSpecialMask ? inService & ~mask : inService) else { return line }
    if rank(line) < rank(served) { return line }
    // A slave of a specially fully nested master may interrupt its own service.
    let isNested = icw4 & ICW4.specialFullyNested != 0 && isMaster && cascade >> line & 1 != 0
    return line == served && isNested ? line : nil
  }

  // MARK: Registers

  /// Reads with A0 low (`data` false) or high.
  mutating func read(data: Bool) -> UInt8 {
    if isPolled {
      isPolled = false
      guard isRequesting else { return 0 }
      return 0x80 | UInt8(truncatingIfNeeded: acknowledge().line)
    }
    if data { return mask }
    return readsISR ? inService : requests
  }

  /// Writes with A0 low (`data` false) or high.
  mutating func write(data: Bool, _ value: UInt8) {
    if data {
      writeData(value)
    } else if value & ICW1.isICW1 != 0 {
      initialize(value)
    } else if value & OCW3.isOCW3 != 0 {
      writeOCW3(value)
    } else {
      writeOCW2(value)
    }
  }

  /// "Initialization Command Words 1 and 2": what ICW1 starts anew. Interrupts in service are over.
  private mutating func initialize(_ value: UInt8) {
    ended |= inService | requests & ~levelTriggered
    icw1 = value
    requests &= levelTriggered
    inService = 0
    mask = 0
    lowest = 7
    rotatesInAutomaticEOI = false
    isSpecialMask = false
    readsISR = false
    isPolled = false
    icw4 = 0
    cascade = 0
    isInitialised = false
    initialisation = .icw2
  }

  private mutating func writeData(_ value: UInt8) {
    let last: Initialisation = icw1 & ICW1.needsICW4 != 0 ? .icw4 : .done
    switch initialisation {
    case .done:
      mask = value
      return
    case .icw2:
      vectorBase = value & 0xF8
      initialisation = icw1 & ICW1.single == 0 ? .icw3 : last
    case .icw3:
      cascade = isMaster ? value : 0
      initialisation = last
    case .icw4:
      icw4 = value
      initialisation = .done
    }
    if initialisation == .done { isInitialised = true }
  }

  private mutating func writeOCW2(_ value: UInt8) {
    let line = value & 7
    switch OCW2(rawValue: value >> 5) ?? .noOperation {
    case .rotateInAutomaticEOIClear: rotatesInAutomaticEOI = false
    case .rotateInAutomaticEOISet: rotatesInAutomaticEOI = true
    case .nonSpecificEOI: _ = endHighest()
    case .rotateOnNonSpecificEOI: if let line = endHighest() { lowest = line }
    case .specificEOI: end(line)
    case .rotateOnSpecificEOI:
      end(line)
      lowest = line
    case .setPriority: lowest = line
    case .noOperation: break
    }
  }

  /// A non-specific EOI; in special mask mode it leaves masked lines in service.
  private mutating func endHighest() -> UInt8? {
    guard let line = highest(of: isSpecialMask ? inService & ~mask : inService) else { return nil }
    end(line)
    return line
  }

  private mutating func end(_ line: UInt8) {
    let bit: UInt8 = 1 << line
    ended |= inService & bit
    inService &= ~bit
  }

  private mutating func writeOCW3(_ value: UInt8) {
    if value & OCW3.specialMaskCommand != 0 { isSpecialMask = value & OCW3.specialMask != 0 }
    if value & OCW3.poll != 0 {
      isPolled = true
    } else if value & OCW3.readCommand != 0 {
      readsISR = value & OCW3.readISR != 0
    }
  }

  /// ELCR: lines 0–2, 8 and 13 stay edge-triggered. A line takes its request along from its level.
  mutating func setLevelTriggered(_ value: UInt8) {
    let changed = (value & levelCapable) ^ levelTriggered
    levelTriggered = value & levelCapable
    let nowLevel = changed & levelTriggered
    requests = requests & ~nowLevel | levels & nowLevel
  }
}

/// The two 8259As of a PC: the slave's INT is the master's IR2.
struct I8259APair: Sendable {
  /// Where the slave is.
  static let cascadeLine = 2

  private(set) var master = I8259A(isMaster: true, levelCapable: 0xF8)
  private(set) var slave = I8259A(isMaster: false, levelCapable: 0xDE)

  /// The INT output to the processors.
  var isRequesting: Bool { master.isRequesting }

  /// IRQs that were ended since the last call, one bit each; the cascade is not one.
  mutating func takeEnded() -> UInt16 {
    UInt16(master.takeEnded() & ~(1 << UInt8(Self.cascadeLine))) | UInt16(slave.takeEnded()) << 8
  }

  /// Whether an edge of the IRQ would be noticed: its mask, and for 8–15 the cascade's, is clear.
  func isMasked(_ irq: Int) -> Bool {
    irq < 8
      ? master.mask >> UInt8(truncatingIfNeeded: irq & 7) & 1 != 0
      : slave.mask >> UInt8(truncatingIfNeeded: irq & 7) & 1 != 0 || master.mask & 1 << Self.cascadeLine != 0
  }

  /// Drives IRQ 0–15; IRQ 2 is the cascade and takes nothing.
  mutating func setInput(_ irq: Int, _ level: Bool) {
    guard irq != Self.cascadeLine else { return }
    if irq < 8 {
      master.setInput(irq, level)
    } else {
      slave.setInput(irq & 7, level)
      joinSlave()
    }
  }

  /// The INTA cycles of both chips.
  mutating func acknowledge() -> UInt8 {
    let outer = master.acknowledge()
    guard outer.line == Self.cascadeLine, !outer.isSpurious else { return outer.vector }
    let inner = slave.acknowledge()
    rejoinSlave()
    return inner.vector
  }

  mutating func read(isSlave: Bool, data: Bool) -> UInt8 {
    guard isSlave else { return master.read(data: data) }
    let wasRequesting = slave.isRequesting
    let value = slave.read(data: data)
    // A poll is an INTA cycle.
    if wasRequesting { rejoinSlave() }
    return value
  }

  mutating func write(isSlave: Bool, data: Bool, _ value: UInt8) {
    guard isSlave else { return master.write(data: data, value) }
    slave.write(data: data, value)
    joinSlave()
  }

  /// ELCR1 (0x4D0) and ELCR2 (0x4D1).
  subscript(elcr isSlave: Bool) -> UInt8 {
    get { isSlave ? slave.levelTriggered : master.levelTriggered }
    set {
      if isSlave { slave.setLevelTriggered(newValue) } else { master.setLevelTriggered(newValue) }
      joinSlave()
    }
  }

  private mutating func joinSlave() { master.setInput(Self.cascadeLine, slave.isRequesting) }

  /// INT falls in an INTA cycle, so a further request of the slave is a new edge.
  private mutating func rejoinSlave() {
    master.setInput(Self.cascadeLine, false)
    joinSlave()
  }
}
