/// What waits for a processor at its local APIC.
public struct VCPUEvents: OptionSet, Sendable {
  public let rawValue: UInt8
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  /// An interrupt above the processor's priority.
  public static let interrupt = VCPUEvents(rawValue: 1 << 0)
  public static let nmi = VCPUEvents(rawValue: 1 << 1)
  /// INIT.
  public static let initialize = VCPUEvents(rawValue: 1 << 2)
  /// A start-up IPI.
  public static let startup = VCPUEvents(rawValue: 1 << 3)
}

/// A local APIC (SDM vol. 3 chapter 11) in xAPIC and x2APIC mode: acceptance, priority and local interrupts.
/// Registers are in the extension of LocalAPICRegisters.swift.
struct LocalAPIC: Sendable {
  /// IA32_APIC_BASE bits 11 and 10 (§11.12.1).
  enum Mode: Sendable { case disabled, xAPIC, x2APIC }

  /// Entries of the local vector table (§11.5.1), in the order of their registers from 0x320 on.
  enum Local: Int, CaseIterable, Sendable { case timer, thermal, performance, lint0, lint1, error }

  /// Bits of an LVT entry.
  enum LVT {
    static let masked: UInt32 = 1 << 16
    static let level: UInt32 = 1 << 15
    static let external: UInt32 = 7 << 8
  }

  /// Bits of the error status register (§11.5.3).
  enum ErrorStatus {
    static let sendAccept: UInt32 = 1 << 2
    static let sendIllegalVector: UInt32 = 1 << 5
    static let receiveIllegalVector: UInt32 = 1 << 6
    static let illegalRegister: UInt32 = 1 << 7
  }

  /// What a register write does beyond this APIC.
  enum Effect: Sendable, Equatable {
    case none
    /// An interprocessor interrupt to the message's destination or the shorthand's.
    case send(InterruptMessage, Shorthand)
    /// The end of an interrupt, to be broadcast to the I/O APIC.
    case endOfInterrupt(UInt8)
  }

  /// ICR bits 19:18.
  enum Shorthand: UInt32, Sendable { case none, oneself, all, others }

  /// The initial APIC ID, as CPUID says.
  let processorID: UInt32
  let isBootstrap: Bool

  // Registers; LocalAPICRegisters.swift gives them their addresses.
  var base: UInt64
  var id: UInt8
  var taskPriority: UInt8 = 0
  var logicalDestination: UInt32 = 0
  var destinationFormat: UInt32 = .max
  var spurious: UInt32 = 0xFF
  var errorStatus: UInt32 = 0
  var command: UInt64 = 0
  var localVectors = [UInt32](repeating: LVT.masked, count: Local.allCases.count)
  var timer = LocalAPICTimer()
  private(set) var requests = VectorSet()
  private(set) var inService = VectorSet()
  private(set) var triggerModes = VectorSet()

  /// Errors since the last write of the error status register.
  var pendingErrors: UInt32 = 0
  /// The last timer interrupt, in nanoseconds of guest time.
  private var lastTimerInterrupt: UInt64 = 0
  private var isNMIPending = false
  private var isInitializePending = false
  private var startupVector: UInt8?
  /// An ExtINT message waits for the processor's INTA cycle.
  private var isExternalPending = false
  /// The guest may have ended the only interrupt in service without a write of EOI: see `SharedEOI`.
  private(set) var isEOIShared = false

  init(processorID: UInt32, isBootstrap: Bool) {
    self.processorID = processorID
    self.isBootstrap = isBootstrap
    id = UInt8(truncatingIfNeeded: processorID)
    base = Self.resetBase(isBootstrap: isBootstrap)
    resetRegisters()
  }

  // MARK: Reset

  /// Power-on and RESET (§11.4.7.1).
  mutating func reset() { self = LocalAPIC(processorID: processorID, isBootstrap: isBootstrap) }

  /// INIT (§11.4.7.3): IA32_APIC_BASE and the APIC ID stay, pending events are gone.
  mutating func initialize() {
    resetRegisters()
    isNMIPending = false
    isInitializePending = false
    isExternalPending = false
  }

  /// The state after reset (§11.4.7.1). The bootstrap processor's LINT0 lets the 8259 through, as firmware and
  /// systems that never program the APIC expect of a PC.
  mutating func resetRegisters() {
    taskPriority = 0
    logicalDestination = mode == .x2APIC ? Self.x2LogicalID(processorID) : 0
    destinationFormat = .max
    spurious = 0xFF
    errorStatus = 0
    pendingErrors = 0
    command = 0
    for index in localVectors.indices { localVectors[index] = LVT.masked }
    if isBootstrap { localVectors[Local.lint0.rawValue] = LVT.external }
    timer.reset()
    requests = VectorSet()
    inService = VectorSet()
    triggerModes = VectorSet()
    isEOIShared = false
  }

  // MARK: State

  var mode: Mode {
    guard base & Base.enable != 0 else { return .disabled }
    return base & Base.extended != 0 ? .x2APIC : .xAPIC
  }

  var isSoftwareEnabled: Bool { spurious & Spurious.enable != 0 }

  /// The logical x2APIC ID (§11.12.10.2).
  static func x2LogicalID(_ id: UInt32) -> UInt32 { (id >> 4) << 16 | 1 << (id & 0xF) }

  /// Whether the 8259's INTR reaches the processor: LINT0 is ExtINT, or the APIC is disabled and LINT0 is INTR.
  var acceptsExternal: Bool {
    let lint0 = localVectors[Local.lint0.rawValue]
    return mode == .disabled || lint0 & LVT.masked == 0 && DeliveryMode(bits: lint0) == .external
  }

  /// Whether LINT0 does something else with the 8259's INTR.
  var listensAtLINT0: Bool {
    mode != .disabled && !acceptsExternal && localVectors[Local.lint0.rawValue] & LVT.masked == 0
  }

  /// Processor priority (§11.8.3.1).
  var processorPriority: UInt8 {
    let served = inService.highest ?? 0
    return taskPriority >> 4 >= served >> 4 ? taskPriority : served & 0xF0
  }

  /// Arbitration priority (§11.6.2.4).
  var arbitrationPriority: UInt8 {
    let served = inService.highest ?? 0
    let requested = requests.highest ?? 0
    if taskPriority >> 4 >= requested >> 4, taskPriority >> 4 > served >> 4 { return taskPriority }
    return max(taskPriority & 0xF0, served & 0xF0, requested & 0xF0)
  }

  /// The fixed interrupt that the processor would take now.
  private var deliverable: UInt8? {
    guard mode != .disabled, let vector = requests.highest, vector >> 4 > processorPriority >> 4 else { return nil }
    return vector
  }

  /// What waits for the processor; an INTR of the 8259 through LINT0 is the board's to add.
  var events: VCPUEvents {
    var events: VCPUEvents = []
    // What is in service may be over, so that the processor must look.
    if isExternalPending || deliverable != nil || isEOIShared && requests.highest != nil { events.insert(.interrupt) }
    if isNMIPending { events.insert(.nmi) }
    if isInitializePending { events.insert(.initialize) }
    if startupVector != nil { events.insert(.startup) }
    return events
  }

  // MARK: Acceptance

  /// Takes a message that was addressed to this APIC (§11.8). False: it was refused.
  mutating func accept(_ message: InterruptMessage) -> Bool {
    guard mode != .disabled else { return false }
    switch message.mode {
    case .fixed, .lowestPriority: return accept(vector: message.vector, isLevel: message.isLevel)
    case .nmi: isNMIPending = true
    case .initialize:
      isInitializePending = true
      startupVector = nil
    case .startup: startupVector = message.vector
    case .external: isExternalPending = true
    // There is no system management mode.
    case .smi, .reserved: return false
    }
    return true
  }

  private mutating func accept(vector: UInt8, isLevel: Bool) -> Bool {
    guard isSoftwareEnabled else { return false }
    guard vector >= 16 else {
      report(ErrorStatus.receiveIllegalVector)
      return false
    }
    requests[vector] = true
    triggerModes[vector] = isLevel
    return true
  }

  /// INTA: the deliverable interrupt goes into service.
  mutating func acknowledge() -> UInt8? {
    guard let vector = deliverable else { return nil }
    requests[vector] = false
    inService[vector] = true
    return vector
  }

  /// Lets the guest end the interrupt that `acknowledge` gave without a write of EOI, where nothing depends on when it
  /// does: it is the only one in service, none waits, and it is no level. False: it must write.
  mutating func shareEOI(of vector: UInt8) -> Bool {
    var others = inService
    others[vector] = false
    isEOIShared = others.highest == nil && requests.highest == nil && !triggerModes[vector]
    return isEOIShared
  }

  /// Ends the sharing; `isOver`: the guest has ended the interrupt.
  mutating func settleEOI(isOver: Bool) -> Effect {
    guard isEOIShared else { return .none }
    isEOIShared = false
    return isOver ? endOfInterrupt() : .none
  }

  /// The processor runs an INTA cycle for an ExtINT message.
  mutating func takeExternal() -> Bool {
    defer { isExternalPending = false }
    return isExternalPending
  }

  mutating func takeNMI() -> Bool {
    defer { isNMIPending = false }
    return isNMIPending
  }

  /// Takes a pending INIT, which resets the APIC.
  mutating func takeInitialize() -> Bool {
    guard isInitializePending else { return false }
    initialize()
    return true
  }

  mutating func takeStartup() -> UInt8? {
    defer { startupVector = nil }
    return startupVector
  }

  /// EOI (§11.8.5): the highest interrupt in service is over.
  mutating func endOfInterrupt() -> Effect {
    guard let vector = inService.highest else { return .none }
    inService[vector] = false
    return .endOfInterrupt(vector)
  }

  // MARK: Local interrupts

  /// A local source's interrupt as its LVT entry says (§11.5.1).
  mutating func deliver(_ local: Local) {
    let entry = localVectors[local.rawValue]
    guard mode != .disabled else {
      // Without the APIC, LINT1 is the processor's NMI pin (§11.4.3).
      if local == .lint1 { isNMIPending = true }
      return
    }
    guard entry & LVT.masked == 0 else { return }
    let delivery = local == .timer || local == .error ? .fixed : DeliveryMode(bits: entry)
    switch delivery {
    case .fixed: _ = accept(vector: UInt8(truncatingIfNeeded: entry), isLevel: false)
    case .nmi: isNMIPending = true
    case .initialize:
      isInitializePending = true
      startupVector = nil
    // ExtINT is a level that `acceptsExternal` lets through.
    case .lowestPriority, .smi, .reserved, .startup, .external: break
    }
  }

  /// Notes an error and interrupts through the LVT's error entry (§11.5.3).
  mutating func report(_ error: UInt32) {
    let isNew = pendingErrors & error == 0
    pendingErrors |= error
    let entry = localVectors[Local.error.rawValue]
    // An illegal vector in the error entry itself must not report itself for ever.
    guard isNew, entry & LVT.masked == 0, entry & 0xF0 != 0, isSoftwareEnabled else { return }
    requests[UInt8(truncatingIfNeeded: entry)] = true
    triggerModes[UInt8(truncatingIfNeeded: entry)] = false
  }

  // MARK: Timer

  /// When the timer interrupts next; nil while it is stopped or masked.
  var nextDeadline: UInt64? {
    guard mode != .disabled, localVectors[Local.timer.rawValue] & LVT.masked == 0 else { return nil }
    return timer.nextInterrupt(after: lastTimerInterrupt)
  }

  /// Brings the timer up to date; an expiry interrupts through its LVT entry.
  mutating func advance(now: UInt64) {
    guard mode != .disabled, timer.takeExpiry(now: now) else { return }
    lastTimerInterrupt = now
    deliver(.timer)
  }
}
