/// The register page of the xAPIC, the MSRs of the x2APIC, and IA32_APIC_BASE.
extension LocalAPIC {
  /// Registers by number (SDM vol. 3 tables 11-1 and 11-6): the xAPIC's offset is 16 times, the x2APIC's MSR 0x800 more.
  enum Register {
    static let id: UInt32 = 0x02
    static let version: UInt32 = 0x03
    static let taskPriority: UInt32 = 0x08
    /// xAPIC only, as the next but one.
    static let arbitrationPriority: UInt32 = 0x09
    static let processorPriority: UInt32 = 0x0A
    static let endOfInterrupt: UInt32 = 0x0B
    static let remoteRead: UInt32 = 0x0C
    static let logicalDestination: UInt32 = 0x0D
    /// xAPIC only.
    static let destinationFormat: UInt32 = 0x0E
    static let spurious: UInt32 = 0x0F
    static let inService: UInt32 = 0x10
    static let triggerMode: UInt32 = 0x18
    static let request: UInt32 = 0x20
    static let errorStatus: UInt32 = 0x28
    static let command: UInt32 = 0x30
    /// xAPIC only.
    static let commandHigh: UInt32 = 0x31
    static let localVectors: UInt32 = 0x32
    static let initialCount: UInt32 = 0x38
    static let currentCount: UInt32 = 0x39
    static let divideConfiguration: UInt32 = 0x3E
    /// x2APIC only (§11.12.11).
    static let selfIPI: UInt32 = 0x3F
  }

  /// MSR numbers (SDM vol. 4).
  enum MSR {
    static let base: UInt32 = 0x1B
    static let tscDeadline: UInt32 = 0x6E0
    static let x2APIC: ClosedRange<UInt32> = 0x800...0x8FF
  }

  /// IA32_APIC_BASE (§11.4.4, §11.12.1).
  enum Base {
    static let bootstrap: UInt64 = 1 << 8
    static let extended: UInt64 = 1 << 10
    static let enable: UInt64 = 1 << 11
    static let address: UInt64 = ~0xFFF
    static let reserved: UInt64 = 0x2FF
  }

  /// Spurious-interrupt vector register (§11.9); EOI broadcasts cannot be suppressed.
  enum Spurious {
    static let enable: UInt32 = 1 << 8
    static let implemented: UInt32 = 0x3FF
  }

  /// Interrupt command register, low half (§11.6.1).
  enum Command {
    static let logical: UInt32 = 1 << 11
    static let deliveryStatus: UInt32 = 1 << 12
    static let assert: UInt32 = 1 << 14
    static let level: UInt32 = 1 << 15
    static let implemented: UInt32 = 0x000C_DFFF
  }

  /// Six LVT entries, version 0x14, no directed EOI: what KVM's says (§11.4.8).
  static let version: UInt32 = 0x0005_0014

  /// Where the registers are after reset.
  static let defaultAddress: UInt64 = 0xFEE0_0000

  static func resetBase(isBootstrap: Bool) -> UInt64 {
    defaultAddress | Base.enable | (isBootstrap ? Base.bootstrap : 0)
  }

  /// Bits that software sets in an LVT entry (§11.5.1).
  private static func writable(_ local: Local) -> UInt32 {
    switch local {
    case .timer: 0x0007_00FF
    case .thermal, .performance: 0x0001_07FF
    case .lint0, .lint1: 0x0001_A7FF
    case .error: 0x0001_00FF
    }
  }

  /// Delivery status and, of the LINTs, remote IRR: ignored when written.
  private static func readOnly(_ local: Local) -> UInt32 { local == .lint0 || local == .lint1 ? 0x5000 : 0x1000 }

  // MARK: xAPIC page

  /// Reads up to 4 bytes within one register; anything else is zero.
  mutating func readPage(_ offset: UInt64, width: Int, now: UInt64) -> UInt64 {
    let shift = offset & 0xF
    guard shift + UInt64(width) <= 4 else { return 0 }
    let number = UInt32(truncatingIfNeeded: offset & 0xFFF) >> 4
    guard Self.isReadable(number), number != Register.selfIPI else {
      if number != Register.endOfInterrupt { report(ErrorStatus.illegalRegister) }
      return 0
    }
    return UInt64(read(number, now: now)) >> (8 * shift) & (1 << UInt64(8 * width) - 1)
  }

  /// Writes of whole registers; others are ignored (§11.4.1 leaves them undefined).
  mutating func writePage(_ offset: UInt64, _ value: UInt32, width: Int, now: UInt64) -> Effect {
    guard width == 4, offset & 0xF == 0 else { return .none }
    let number = UInt32(truncatingIfNeeded: offset & 0xFFF) >> 4
    switch number {
    case Register.id: id = UInt8(truncatingIfNeeded: value >> 24)
    case Register.logicalDestination: logicalDestination = value & 0xFF00_0000
    case Register.destinationFormat: destinationFormat = value | 0x0FFF_FFFF
    case Register.commandHigh: command = command & 0xFFFF_FFFF | UInt64(value & 0xFF00_0000) << 32
    case Register.command:
      command = command & ~0xFFFF_FFFF | UInt64(value & Command.implemented & ~Command.deliveryStatus)
      return send()
    default:
      guard Self.isWritable(number) else {
        if !Self.isReadable(number) { report(ErrorStatus.illegalRegister) }
        return .none
      }
      return write(number, value, now: now)
    }
    return .none
  }

  private static func isReadable(_ number: UInt32) -> Bool {
    switch number {
    case Register.id, Register.version, Register.taskPriority...Register.processorPriority,
      Register.remoteRead...Register.spurious, Register.inService...Register.errorStatus,
      Register.command...Register.currentCount, Register.divideConfiguration:
      true
    default: false
    }
  }

  /// Registers that both modes write alike.
  private static func isWritable(_ number: UInt32) -> Bool {
    switch number {
    case Register.taskPriority, Register.endOfInterrupt, Register.spurious, Register.errorStatus,
      Register.localVectors...Register.initialCount, Register.divideConfiguration:
      true
    default: false
    }
  }

  private mutating func read(_ number: UInt32, now: UInt64) -> UInt32 {
    switch number {
    case Register.id: return mode == .x2APIC ? processorID : UInt32(id) << 24
    case Register.version: return Self.version
    case Register.taskPriority: return UInt32(taskPriority)
    case Register.arbitrationPriority: return UInt32(arbitrationPriority)
    case Register.processorPriority: return UInt32(processorPriority)
    case Register.logicalDestination: return logicalDestination
    case Register.destinationFormat: return destinationFormat
    case Register.spurious: return spurious
    case Register.inService..<Register.triggerMode: return inService.register(Int(number - Register.inService))
    case Register.triggerMode..<Register.request: return triggerModes.register(Int(number - Register.triggerMode))
    case Register.request..<Register.errorStatus: return requests.register(Int(number - Register.request))
    case Register.errorStatus: return errorStatus
    case Register.command: return UInt32(truncatingIfNeeded: command)
    case Register.commandHigh: return UInt32(truncatingIfNeeded: command >> 32)
    case Register.localVectors..<Register.initialCount: return localVectors[Int(number - Register.localVectors)]
    case Register.initialCount: return timer.initialCount
    case Register.currentCount:
      advance(now: now)
      return timer.currentCount(now: now)
    case Register.divideConfiguration: return timer.divideConfiguration
    default: return 0
    }
  }

  private mutating func write(_ number: UInt32, _ value: UInt32, now: UInt64) -> Effect {
    switch number {
    case Register.taskPriority: taskPriority = UInt8(truncatingIfNeeded: value)
    case Register.endOfInterrupt: return endOfInterrupt()
    case Register.spurious:
      spurious = value & Spurious.implemented
      // Disabling by software masks the LVT (§11.4.7.2).
      if !isSoftwareEnabled { for index in localVectors.indices { localVectors[index] |= LVT.masked } }
    case Register.errorStatus:
      // A write makes the errors since the last one visible (§11.5.3).
      errorStatus = pendingErrors
      pendingErrors = 0
    case Register.initialCount:
      advance(now: now)
      timer.setInitialCount(value, now: now)
    case Register.divideConfiguration:
      advance(now: now)
      timer.setDivideConfiguration(value, now: now)
    case Register.localVectors..<Register.initialCount:
      if let local = Local(rawValue: Int(number - Register.localVectors)) { setLocalVector(local, value, now: now) }
    default: break
    }
    return .none
  }

  private mutating func setLocalVector(_ local: Local, _ value: UInt32, now: UInt64) {
    if local == .timer { advance(now: now) }
    localVectors[local.rawValue] = value & Self.writable(local) | (isSoftwareEnabled ? 0 : LVT.masked)
    if local == .timer { timer.setMode(LocalAPICTimer.Mode(rawValue: value >> 17 & 3) ?? .reserved) }
  }

  // MARK: Interprocessor interrupts

  /// Sends what the ICR says (§11.6.1).
  private mutating func send() -> Effect {
    let low = UInt32(truncatingIfNeeded: command)
    let isX2 = mode == .x2APIC
    let target = UInt32(truncatingIfNeeded: command >> 32)
    let message = InterruptMessage(
      vector: UInt8(truncatingIfNeeded: low), mode: DeliveryMode(bits: low), isLevel: false,
      isLogical: low & Command.logical != 0,
      destination: isX2 ? target : InterruptMessage.destination(xAPIC: UInt8(truncatingIfNeeded: target >> 24)))
    switch message.mode {
    case .fixed, .lowestPriority:
      guard message.vector >= 16 else {
        report(ErrorStatus.sendIllegalVector)
        return .none
      }
    case .initialize:
      // INIT level de-assert only synchronised the arbitration IDs of old processors.
      if low & (Command.level | Command.assert) == Command.level { return .none }
    case .nmi, .startup: break
    case .smi: return .none
    // No processor sends ExtINT; no other APIC would accept it.
    case .external, .reserved:
      report(ErrorStatus.sendAccept)
      return .none
    }
    return .send(message, Shorthand(rawValue: low >> 18 & 3) ?? .none)
  }

  // MARK: MSRs

  /// An x2APIC register (0x800–0x8FF).
  mutating func readX2(_ msr: UInt32, now: UInt64) throws(GeneralProtection) -> UInt64 {
    guard mode == .x2APIC, MSR.x2APIC.contains(msr) else { throw GeneralProtection() }
    let number = msr - MSR.x2APIC.lowerBound
    switch number {
    case Register.command: return command
    case Register.arbitrationPriority, Register.remoteRead, Register.destinationFormat, Register.commandHigh:
      throw GeneralProtection()
    default:
      guard Self.isReadable(number) else { throw GeneralProtection() }
      return UInt64(read(number, now: now))
    }
  }

  /// Reserved bits fault (§11.12.1.3).
  mutating func writeX2(_ msr: UInt32, _ value: UInt64, now: UInt64) throws(GeneralProtection) -> Effect {
    guard mode == .x2APIC, MSR.x2APIC.contains(msr) else { throw GeneralProtection() }
    let number = msr - MSR.x2APIC.lowerBound
    if number == Register.command {
      let low = UInt32(truncatingIfNeeded: value)
      guard low & ~Command.implemented == 0 else { throw GeneralProtection() }
      command = value & ~UInt64(Command.deliveryStatus)
      return send()
    }
    guard value >> 32 == 0 else { throw GeneralProtection() }
    let value = UInt32(truncatingIfNeeded: value)
    if number == Register.selfIPI {
      guard value <= 0xFF else { throw GeneralProtection() }
      guard value >= 16 else {
        report(ErrorStatus.sendIllegalVector)
        return .none
      }
      let message = InterruptMessage(
        vector: UInt8(truncatingIfNeeded: value), mode: .fixed, destination: processorID)
      return .send(message, .oneself)
    }
    guard Self.isWritable(number), value & ~Self.allowed(number) == 0 else { throw GeneralProtection() }
    return write(number, value, now: now)
  }

  /// Bits of an x2APIC register that do not fault.
  private static func allowed(_ number: UInt32) -> UInt32 {
    switch number {
    case Register.taskPriority: return 0xFF
    case Register.endOfInterrupt, Register.errorStatus: return 0
    case Register.spurious: return Spurious.implemented
    case Register.divideConfiguration: return 0xB
    default:
      guard let local = Local(rawValue: Int(number) - Int(Register.localVectors)) else { return .max }
      return writable(local) | readOnly(local)
    }
  }

  /// IA32_APIC_BASE. Reserved bits and transitions that table 11-5 does not have fault (§11.12.5).
  mutating func writeBase(_ value: UInt64, physicalAddressBits: Int) throws(GeneralProtection) {
    let beyond: UInt64 = ~0 << UInt64(clamping: physicalAddressBits)
    guard value & (Base.reserved | beyond) == 0 else { throw GeneralProtection() }
    let old = mode
    switch (old, value & Base.enable != 0, value & Base.extended != 0) {
    case (_, false, true), (.disabled, true, true), (.x2APIC, true, false): throw GeneralProtection()
    default: break
    }
    base = value
    guard mode != old else { return }
    switch mode {
    case .disabled: resetRegisters()
    case .xAPIC: id = UInt8(truncatingIfNeeded: processorID)
    case .x2APIC:
      id = UInt8(truncatingIfNeeded: processorID)
      logicalDestination = Self.x2LogicalID(processorID)
    }
  }

  /// IA32_TSC_DEADLINE; zero where the timer has expired or is in another mode.
  mutating func readTSCDeadline(now: UInt64) -> UInt64 {
    advance(now: now)
    return timer.tscDeadline
  }

  mutating func writeTSCDeadline(_ value: UInt64, due: UInt64?, now: UInt64) {
    advance(now: now)
    timer.setTSCDeadline(value, due: due)
    advance(now: now)
  }
}
