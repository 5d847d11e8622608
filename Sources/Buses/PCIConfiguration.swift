/// What a base address register decodes (PCI 3.0 §6.2.5.1).
public enum BARKind: Sendable, Equatable {
  case io
  case memory32
  case memory64
  case prefetchable32
  case prefetchable64
}

/// Registers of the type 0 configuration header (PCI 3.0 §6.1, figure 6-1).
public enum PCIRegister {
  public static let vendorID = 0x00
  public static let deviceID = 0x02
  public static let command = 0x04
  public static let status = 0x06
  public static let revisionID = 0x08
  public static let programmingInterface = 0x09
  public static let subclass = 0x0A
  public static let classCode = 0x0B
  public static let cacheLineSize = 0x0C
  public static let latencyTimer = 0x0D
  public static let headerType = 0x0E
  public static let bar0 = 0x10
  public static let subsystemVendorID = 0x2C
  public static let subsystemID = 0x2E
  public static let expansionROM = 0x30
  public static let capabilities = 0x34
  public static let interruptLine = 0x3C
  public static let interruptPin = 0x3D
}

/// Bits of the command register (PCI 3.0 §6.2.2).
public struct PCICommand: OptionSet, Sendable {
  public let rawValue: UInt16
  public init(rawValue: UInt16) { self.rawValue = rawValue }
  public static let ioSpace = PCICommand(rawValue: 1 << 0)
  public static let memorySpace = PCICommand(rawValue: 1 << 1)
  public static let busMaster = PCICommand(rawValue: 1 << 2)
  public static let parityErrorResponse = PCICommand(rawValue: 1 << 6)
  public static let serr = PCICommand(rawValue: 1 << 8)
  public static let interruptDisable = PCICommand(rawValue: 1 << 10)
}

/// Bits of the status register (PCI 3.0 §6.2.3).
public struct PCIStatus: OptionSet, Sendable {
  public let rawValue: UInt16
  public init(rawValue: UInt16) { self.rawValue = rawValue }
  /// The function asks for an interrupt, whether or not the command register lets it.
  public static let interrupt = PCIStatus(rawValue: 1 << 3)
  public static let capabilitiesList = PCIStatus(rawValue: 1 << 4)
  public static let fastBackToBack = PCIStatus(rawValue: 1 << 7)
  /// DEVSEL# timing of one more clock than the fastest.
  public static let mediumTiming = PCIStatus(rawValue: 1 << 9)
}

/// The identity of a PCI function.
public struct PCIIdentity: Sendable {
  public var vendor: UInt16
  public var device: UInt16
  public var revision: UInt8
  /// Class, subclass and programming interface as one number: 0x010180 is an IDE controller.
  public var classCode: UInt32
  public var subsystemVendor: UInt16
  public var subsystem: UInt16

  public init(
    vendor: UInt16, device: UInt16, revision: UInt8 = 0, classCode: UInt32, subsystemVendor: UInt16 = 0,
    subsystem: UInt16 = 0
  ) {
    self.vendor = vendor
    self.device = device
    self.revision = revision
    self.classCode = classCode
    self.subsystemVendor = subsystemVendor
    self.subsystem = subsystem
  }
}

/// The 256 bytes of a function's configuration space: values and which bits a write may change.
public struct PCIConfiguration: Sendable {
  public struct BAR: Sendable, Equatable {
    public let kind: BARKind
    /// A power of two: at least 4 for I/O, 16 for memory.
    public let size: UInt64
  }

  public private(set) var bytes = [UInt8](repeating: 0, count: 256)
  private var writable = [UInt8](repeating: 0, count: 256)
  private var clearOnOne = [UInt8](repeating: 0, count: 256)
  private var initial: [UInt8] = []
  /// BARs by register index 0–5; index 6 is the expansion ROM.
  public private(set) var bars = [BAR?](repeating: nil, count: 7)
  /// The register that the next capability's number goes to.
  private var lastCapability = PCIRegister.capabilities
  private var nextCapability = 0x40
  /// The register of MSI-X Message Control.
  private var messageControl: Int?

  public init(_ identity: PCIIdentity) {
    set16(PCIRegister.vendorID, identity.vendor)
    set16(PCIRegister.deviceID, identity.device)
    bytes[PCIRegister.revisionID] = identity.revision
    bytes[PCIRegister.programmingInterface] = UInt8(truncatingIfNeeded: identity.classCode)
    bytes[PCIRegister.subclass] = UInt8(truncatingIfNeeded: identity.classCode >> 8)
    bytes[PCIRegister.classCode] = UInt8(truncatingIfNeeded: identity.classCode >> 16)
    set16(PCIRegister.subsystemVendorID, identity.subsystemVendor)
    set16(PCIRegister.subsystemID, identity.subsystem)
    let command: PCICommand = [.ioSpace, .memorySpace, .busMaster, .parityErrorResponse, .serr, .interruptDisable]
    allowWrite16(PCIRegister.command, command.rawValue)
    // Received and signalled aborts and parity errors are cleared by writing one (§6.2.3).
    clearOnOne[PCIRegister.status + 1] = 0xF9
    allowWrite(PCIRegister.cacheLineSize, 0xFF)
    allowWrite(PCIRegister.latencyTimer, 0xFF)
    allowWrite(PCIRegister.interruptLine, 0xFF)
  }

  /// Makes BAR `index` (0–5) decode `size` bytes, or the expansion ROM where `index` is 6.
  /// A 64-bit BAR takes the next index too.
  public mutating func addBAR(_ index: Int, _ kind: BARKind, size: UInt64) {
    bars[index] = BAR(kind: kind, size: size)
    let register = barRegister(index)
    let mask = ~(size - 1)
    if index == 6 {
      allowWrite32(register, UInt32(truncatingIfNeeded: mask) & 0xFFFF_F800 | 1)
      return
    }
    switch kind {
    case .io:
      bytes[register] = 0x01
      allowWrite32(register, UInt32(truncatingIfNeeded: mask) & ~0x3)
    case .memory32, .prefetchable32:
      bytes[register] = kind == .memory32 ? 0x00 : 0x08
      allowWrite32(register, UInt32(truncatingIfNeeded: mask) & ~0xF)
    case .memory64, .prefetchable64:
      bytes[register] = kind == .memory64 ? 0x04 : 0x0C
      allowWrite32(register, UInt32(truncatingIfNeeded: mask) & ~0xF)
      allowWrite32(register + 4, UInt32(truncatingIfNeeded: mask >> 32))
    }
  }

  private func barRegister(_ index: Int) -> Int {
    index == 6 ? PCIRegister.expansionROM : PCIRegister.bar0 + index * 4
  }

  /// Adds a capability (PCI 3.0 §6.7) of `body` behind its two-byte header, in the order that software will find them.
  /// Returns the register where it starts, a multiple of 4.
  public mutating func addCapability(_ id: UInt8, _ body: [UInt8]) -> Int {
    let register = nextCapability
    bytes[lastCapability] = UInt8(truncatingIfNeeded: register)
    lastCapability = register + 1
    bytes[register] = id
    for (index, byte) in body.enumerated() { bytes[register + 2 + index] = byte }
    nextCapability = (register + 2 + body.count + 3) & ~3
    setStatus(.capabilitiesList, true)
    return register
  }

  /// Adds the MSI-X capability of a table that BAR `bar` holds at its start, and that BAR (PCI 3.0 §6.8.2).
  public mutating func addMSIX(_ table: MSIXTable, bar: Int) {
    addBAR(bar, .memory32, size: table.size)
    let size = UInt16(truncatingIfNeeded: table.vectors - 1)
    let indicator = UInt8(truncatingIfNeeded: bar)
    let pending = UInt32(truncatingIfNeeded: table.pendingOffset) | UInt32(indicator)
    let register = addCapability(
      MSIXTable.capabilityID,
      [UInt8(truncatingIfNeeded: size), UInt8(truncatingIfNeeded: size >> 8), indicator, 0, 0, 0]
        + (0..<4).map { UInt8(truncatingIfNeeded: pending >> UInt32($0 * 8)) })
    allowWrite(register + 3, 0xC0)
    messageControl = register + 2
  }

  /// Message Control of MSI-X; empty in a function that has none.
  public var msixControl: MSIXTable.Control {
    messageControl.map { MSIXTable.Control(rawValue: get16($0)).intersection([.enable, .functionMask]) } ?? []
  }

  /// Makes the function drive INTA#–INTD# (`pin` 1–4).
  public mutating func setInterruptPin(_ pin: UInt8) { bytes[PCIRegister.interruptPin] = pin }

  /// Sets power-on values; they are what `reset` goes back to once `seal` was called.
  public mutating func set8(_ register: Int, _ value: UInt8) { bytes[register] = value }
  public mutating func set16(_ register: Int, _ value: UInt16) {
    bytes[register] = UInt8(truncatingIfNeeded: value)
    bytes[register + 1] = UInt8(truncatingIfNeeded: value >> 8)
  }
  public mutating func set32(_ register: Int, _ value: UInt32) {
    set16(register, UInt16(truncatingIfNeeded: value))
    set16(register + 2, UInt16(truncatingIfNeeded: value >> 16))
  }

  /// Lets the guest change the bits of `mask`.
  public mutating func allowWrite(_ register: Int, _ mask: UInt8) { writable[register] = mask }
  public mutating func allowWrite16(_ register: Int, _ mask: UInt16) {
    writable[register] = UInt8(truncatingIfNeeded: mask)
    writable[register + 1] = UInt8(truncatingIfNeeded: mask >> 8)
  }
  public mutating func allowWrite32(_ register: Int, _ mask: UInt32) {
    allowWrite16(register, UInt16(truncatingIfNeeded: mask))
    allowWrite16(register + 2, UInt16(truncatingIfNeeded: mask >> 16))
  }

  /// Lets the guest clear bits of `mask` by writing ones to them.
  public mutating func allowWriteOneToClear(_ register: Int, _ mask: UInt8) { clearOnOne[register] = mask }

  /// Fixes the present values as the power-on values.
  public mutating func seal() { initial = bytes }
  /// Goes back to the power-on values.
  public mutating func reset() { if !initial.isEmpty { bytes = initial } }

  public func get8(_ register: Int) -> UInt8 { bytes[register] }
  public func get16(_ register: Int) -> UInt16 { UInt16(bytes[register]) | UInt16(bytes[register + 1]) << 8 }
  public func get32(_ register: Int) -> UInt32 {
    UInt32(get16(register)) | UInt32(get16(register + 2)) << 16
  }

  /// Sets or clears status bits from the device's side.
  public mutating func setStatus(_ bits: PCIStatus, _ isSet: Bool) {
    let status = get16(PCIRegister.status)
    set16(PCIRegister.status, isSet ? status | bits.rawValue : status & ~bits.rawValue)
  }

  public var command: PCICommand { PCICommand(rawValue: get16(PCIRegister.command)) }

  /// A configuration read of 1, 2 or 4 bytes; beyond the 256 bytes the bus reads ones.
  public func read(_ register: Int, _ width: AccessWidth) -> UInt32 {
    var value: UInt32 = 0
    for index in 0..<width.bytes {
      let byte = register + index < bytes.count ? bytes[register + index] : 0xFF
      value |= UInt32(byte) << UInt32(index * 8)
    }
    return value
  }

  /// A configuration write: only writable bits change.
  public mutating func write(_ register: Int, _ width: AccessWidth, _ value: UInt32) {
    for index in 0..<width.bytes where register + index < bytes.count {
      let at = register + index
      let byte = UInt8(truncatingIfNeeded: value >> UInt32(index * 8))
      bytes[at] = (bytes[at] & ~writable[at] | byte & writable[at]) & ~(byte & clearOnOne[at])
    }
  }

  /// Where BAR `index` decodes now; nil while the command register or the ROM enable bit turns it off, at 0, and
  /// at the top of its space, where software that sizes a BAR with decoding on puts it for a moment (§6.2.5.1).
  public func decodedBase(_ index: Int) -> UInt64? {
    guard let bar = bars[index], command.contains(bar.kind == .io ? .ioSpace : .memorySpace) else { return nil }
    let register = barRegister(index)
    let raw = get32(register)
    let base: UInt64
    var top = UInt64(UInt32.max)
    if index == 6 {
      guard raw & 1 != 0 else { return nil }
      base = UInt64(raw & 0xFFFF_F800)
    } else {
      switch bar.kind {
      case .io:
        base = UInt64(raw & ~0x3)
        top = 0x1_0000
      case .memory32, .prefetchable32:
        base = UInt64(raw & ~0xF)
      case .memory64, .prefetchable64:
        base = UInt64(raw & ~0xF) | UInt64(get32(register + 4)) << 32
        top = .max
      }
    }
    let (last, overflow) = base.addingReportingOverflow(bar.size - 1)
    return base != 0 && !overflow && last < top && last != UInt64(UInt32.max) ? base : nil
  }
}
