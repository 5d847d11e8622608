import Synchronization

/// Ports, memory and MSRs as the processors see them, and time.
extension InterruptControllers {
  // MARK: Ports

  /// Whether a port is one of these chips': 8259A pair, ELCR, 8254, port 0x61, the coprocessor error's 0xF0.
  public func handles(port: UInt16) -> Bool {
    guard hasLegacyChips else { return false }
    return switch port {
    case 0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x40...0x43, 0x61, FloatingPointError.port: true
    default: false
    }
  }

  // MARK: x87 errors

  /// An x87 exception is pending that CR0.NE keeps from being #MF: IRQ 13 is requested. True: the guest has said at port
  /// 0xF0 that the processor is to go on.
  public func raiseFloatingPointError() -> Bool {
    changeLegacy { chips, outbox, _ in
      let (isIgnored, request) = chips.raiseFloatingPointError()
      _ = send(request, &chips, &outbox)
      return isIgnored
    }
  }

  /// No x87 exception is pending any more.
  public func lowerFloatingPointError() { legacy.withLock { $0.lowerFloatingPointError() } }

  // MARK: Ports

  /// Reads `width` bytes (1, 2 or 4) from a port and those after it; ports of others give ones.
  public func readPort(_ port: UInt16, width: Int) -> UInt32 {
    changeLegacy { chips, _, now in
      (0..<4).reduce(0) { value, index in
        guard index < width else { return value }
        return value | UInt32(chips.read(port: port &+ UInt16(index), now: now)) << UInt32(8 * index)
      }
    }
  }

  /// Writes `width` bytes (1, 2 or 4) to a port and those after it.
  public func writePort(_ port: UInt16, _ value: UInt32, width: Int) {
    changeLegacy { chips, _, now in
      for index in 0..<4 where index < width {
        chips.write(
          port: port &+ UInt16(index), UInt8(truncatingIfNeeded: value >> UInt32(8 * index)), now: now)
      }
    }
  }

  // MARK: I/O APIC page

  /// Reads up to 8 bytes at an offset of the I/O APIC's page.
  public func readIOAPIC(_ offset: UInt64, width: Int) -> UInt64 {
    legacy.withLock { UInt64($0.ioapic.read(offset)) >> (8 * (offset & 3)) }
  }

  /// Writes a register of the I/O APIC; byte writes reach IOREGSEL, others must be of the whole register.
  public func writeIOAPIC(_ offset: UInt64, _ value: UInt64, width: Int) {
    guard offset & 0xF == 0, width >= 4 || offset & 0xFF == IOAPIC.Window.select else { return }
    let value = UInt32(truncatingIfNeeded: width == 1 ? value & 0xFF : width == 2 ? value & 0xFFFF : value)
    changeLegacy { chips, outbox, _ in
      let request = chips.writeIOAPIC(offset, value)
      let vectors = chips.ioapic.vectors
      for index in 0..<4 { ioAPICVectors[index].store(vectors.word(index), ordering: .sequentiallyConsistent) }
      _ = send(request, &chips, &outbox)
    }
  }

  // MARK: Local APIC

  /// Guest physical address of a vCPU's register page; nil while it has none (disabled or x2APIC). Takes no lock.
  public func localAPICPage(of vcpu: Int) -> UInt64? {
    let page = processors[vcpu].page.load(ordering: .relaxed)
    return page == 0 ? nil : page
  }

  /// Reads 1–8 bytes at an offset of a vCPU's own page.
  public func readLocalAPIC(of vcpu: Int, _ offset: UInt64, width: Int) -> UInt64 {
    access(vcpu) { apic, now in
      apic.mode == .xAPIC ? (apic.readPage(offset, width: width, now: now), .none) : (.max, .none)
    }
  }

  public func writeLocalAPIC(of vcpu: Int, _ offset: UInt64, _ value: UInt64, width: Int) {
    access(vcpu) { apic, now in
      guard apic.mode == .xAPIC else { return ((), .none) }
      return ((), apic.writePage(offset, UInt32(truncatingIfNeeded: value), width: width, now: now))
    }
  }

  /// CR8: the upper half of the task priority.
  public func taskPriority(of vcpu: Int) -> UInt8 { access(vcpu) { apic, _ in (apic.taskPriority >> 4, .none) } }

  /// Writes CR8, 0–15.
  public func setTaskPriority(of vcpu: Int, _ value: UInt8) {
    access(vcpu) { apic, _ in
      apic.taskPriority = value << 4
      return ((), .none)
    }
  }

  // MARK: MSRs

  /// Whether an MSR is the local APIC's: IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800–0x8FF.
  public static func handles(msr: UInt32) -> Bool {
    msr == LocalAPIC.MSR.base || msr == LocalAPIC.MSR.tscDeadline || LocalAPIC.MSR.x2APIC.contains(msr)
  }

  public func readMSR(of vcpu: Int, _ msr: UInt32) throws(GeneralProtection) -> UInt64 {
    try access(vcpu) { apic, now in
      let result = Result { () throws(GeneralProtection) in
        switch msr {
        case LocalAPIC.MSR.base: apic.base
        case LocalAPIC.MSR.tscDeadline: apic.readTSCDeadline(now: now)
        default: try apic.readX2(msr, now: now)
        }
      }
      return (result, .none)
    }.get()
  }

  /// `tsc` is the vCPU's time-stamp counter now, for IA32_TSC_DEADLINE.
  public func writeMSR(of vcpu: Int, _ msr: UInt32, _ value: UInt64, tsc: UInt64) throws(GeneralProtection) {
    try access(vcpu) { apic, now in
      var effect = LocalAPIC.Effect.none
      let result = Result { () throws(GeneralProtection) in
        switch msr {
        case LocalAPIC.MSR.base: try apic.writeBase(value, physicalAddressBits: physicalAddressBits)
        case LocalAPIC.MSR.tscDeadline:
          apic.writeTSCDeadline(value, due: due(value, tsc: tsc, now: now), now: now)
        default: effect = try apic.writeX2(msr, value, now: now)
        }
      }
      return (result, effect)
    }.get()
  }

  /// The guest set the vCPU's time-stamp counter, which moves an armed deadline.
  public func tscChanged(of vcpu: Int, tsc: UInt64) {
    access(vcpu) { apic, now in
      let value = apic.readTSCDeadline(now: now)
      if value != 0 { apic.writeTSCDeadline(value, due: due(value, tsc: tsc, now: now), now: now) }
      return ((), .none)
    }
  }

  /// When the counter reaches `value`, rounded up; nil past the end of time.
  private func due(_ value: UInt64, tsc: UInt64, now: UInt64) -> UInt64? {
    guard value > tsc else { return now }
    let product = (value - tsc).multipliedFullWidth(by: 1_000_000_000)
    guard product.high < tscFrequency else { return nil }
    let (quotient, remainder) = tscFrequency.dividingFullWidth(product)
    let (wait, overflow) = quotient.addingReportingOverflow(remainder == 0 ? 0 : 1)
    let (due, beyond) = now.addingReportingOverflow(wait)
    return overflow || beyond ? nil : due
  }

  /// A processor's access to its local APIC and what it causes.
  private func access<Value>(
    _ vcpu: Int, _ body: (inout LocalAPIC, _ now: UInt64) -> (Value, LocalAPIC.Effect)
  ) -> Value {
    let now = clock()
    var outbox = Outbox()
    let (value, effect) = change(vcpu, &outbox) { body(&$0, now) }
    perform(effect, of: vcpu, &outbox)
    tell(outbox)
    return value
  }

  // MARK: Time

  /// For the timer thread: does what is due and returns when to call again, in nanoseconds of guest time; nil for not
  /// before `rearm` says so.
  public func advance() -> UInt64? {
    // Whoever arms a timer from here on sees that nobody waits for it, or is seen below.
    armedDeadline.store(.max, ordering: .sequentiallyConsistent)
    let now = clock()
    if legacyDeadline.load(ordering: .sequentiallyConsistent) <= now { changeLegacy { _, _, _ in } }
    for vcpu in processors.indices { advance(vcpu, now: now) }
    var next = legacyDeadline.load(ordering: .sequentiallyConsistent)
    for processor in processors { next = min(next, processor.deadline.load(ordering: .sequentiallyConsistent)) }
    armedDeadline.store(next, ordering: .sequentiallyConsistent)
    return next == .max ? nil : next
  }

  /// When a vCPU's own timer interrupts next, for a vCPU thread that sleeps that long itself. Takes no lock.
  public func nextDeadline(of vcpu: Int) -> UInt64? {
    let deadline = processors[vcpu].deadline.load(ordering: .sequentiallyConsistent)
    return deadline == .max ? nil : deadline
  }

  /// Brings a vCPU's own timer up to date.
  public func advance(of vcpu: Int) { advance(vcpu, now: clock()) }

  private func advance(_ vcpu: Int, now: UInt64) {
    guard processors[vcpu].deadline.load(ordering: .sequentiallyConsistent) <= now else { return }
    var outbox = Outbox()
    change(vcpu, &outbox) { $0.advance(now: now) }
    tell(outbox)
  }

  /// Whether the HPET drives input 0 in place of the 8254.
  public func setLegacyReplacement(_ enabled: Bool) {
    changeLegacy { chips, _, _ in chips.setLegacyReplacement(enabled) }
  }

  // MARK: Reset

  /// All chips go back to power-on. vCPUs are stopped.
  public func reset() {
    for vcpu in processors.indices {
      var outbox = Outbox()
      change(vcpu, &outbox) { $0.reset() }
    }
    changeLegacy { chips, _, _ in
      chips = LegacyControllers(hasPICs: hasLegacyChips)
      for index in 0..<4 { ioAPICVectors[index].store(0, ordering: .sequentiallyConsistent) }
    }
  }
}
