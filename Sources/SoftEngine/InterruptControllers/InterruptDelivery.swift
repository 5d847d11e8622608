import Synchronization

/// Inputs, messages, and what processors take.
extension InterruptControllers {
  // MARK: Inputs

  /// The level of an input, 0–23, whose source says when it changes. Inputs 0–15 reach the 8259A pair and the I/O
  /// APIC pin of their number (0: pin 2), 16–23 the I/O APIC alone.
  public func setInput(_ input: Int, level: Bool) {
    guard (0..<LegacyControllers.inputCount).contains(input) else { return }
    changeLegacy { chips, outbox, _ in _ = send(chips.hold(input, level), &chips, &outbox) }
  }

  /// A rising and a falling edge of an input.
  public func pulse(_ input: Int) {
    guard (0..<LegacyControllers.inputCount).contains(input) else { return }
    changeLegacy { chips, outbox, _ in _ = send(chips.pulse(input), &chips, &outbox) }
  }

  /// Raises an input until the guest ends its interrupt, which lowers it and calls `endOfInterrupt`.
  public func trigger(_ input: Int) {
    guard (0..<LegacyControllers.inputCount).contains(input) else { return }
    changeLegacy { chips, outbox, _ in _ = send(chips.trigger(input), &chips, &outbox) }
  }

  /// A message-signalled interrupt: a write of `data` to `address` in 0xFEE00000–0xFEEFFFFF.
  public func sendMSI(address: UInt64, data: UInt32) {
    var outbox = Outbox()
    _ = deliver(InterruptMessage(msiAddress: address, data: data), &outbox)
    tell(outbox)
  }

  /// The board's NMI: LINT1 of every local APIC.
  public func pulseNMI() {
    var outbox = Outbox()
    for vcpu in processors.indices { change(vcpu, &outbox) { $0.deliver(.lint1) } }
    tell(outbox)
  }

  // MARK: Messages

  /// Delivers a pin's message. False: nobody took it.
  func send(_ request: IOAPIC.Request?, _ chips: inout LegacyControllers, _ outbox: inout Outbox) -> Bool {
    guard let request else { return false }
    let isTaken = deliver(request.message, &outbox)
    if !isTaken { chips.ioapic.reject(request.pin) }
    return isTaken
  }

  /// Delivers a message to whom it is addressed to. False: nobody took it.
  func deliver(_ message: InterruptMessage, _ outbox: inout Outbox) -> Bool {
    // Most messages have one target, whose ID is its number.
    if !message.isLogical, let vcpu = Int(exactly: message.destination), vcpu < processors.count,
      matches(vcpu, message)
    {
      return change(vcpu, &outbox) { $0.accept(message) }
    }
    if message.mode == .lowestPriority { return deliverToLowest(message, &outbox) }
    var isTaken = false
    for vcpu in processors.indices where matches(vcpu, message) {
      if change(vcpu, &outbox, { $0.accept(message) }) { isTaken = true }
    }
    return isTaken
  }

  private func matches(_ vcpu: Int, _ message: InterruptMessage) -> Bool {
    Addressing(rawValue: processors[vcpu].addressing.load(ordering: .acquiring)).matches(message)
  }

  /// Lowest priority delivery (SDM vol. 3 §11.6.2.4): the processor of lowest priority, in turn among equals.
  private func deliverToLowest(_ message: InterruptMessage, _ outbox: inout Outbox) -> Bool {
    let first = arbitration.load(ordering: .relaxed)
    var best: (vcpu: Int, priority: UInt8)?
    for offset in processors.indices {
      let vcpu = (first + offset) % processors.count
      guard matches(vcpu, message) else { continue }
      let priority = processors[vcpu].apic.withLock { $0.isSoftwareEnabled ? $0.processorPriority : nil }
      if let priority, best.map({ priority < $0.priority }) ?? true { best = (vcpu, priority) }
    }
    guard let best else { return false }
    arbitration.store((best.vcpu + 1) % processors.count, ordering: .relaxed)
    return change(best.vcpu, &outbox) { $0.accept(message) }
  }

  /// Does what a register write of `vcpu` causes elsewhere.
  func perform(_ effect: LocalAPIC.Effect, of vcpu: Int, _ outbox: inout Outbox) {
    switch effect {
    case .none: break
    case .endOfInterrupt(let vector): endOfInterrupt(vector)
    case .send(let message, .none): _ = deliver(message, &outbox)
    case .send(let message, .oneself): change(vcpu, &outbox) { _ = $0.accept(message) }
    case .send(let message, .all):
      for target in processors.indices { change(target, &outbox) { _ = $0.accept(message) } }
    case .send(let message, .others):
      for target in processors.indices where target != vcpu { change(target, &outbox) { _ = $0.accept(message) } }
    }
  }

  /// The EOI message of a local APIC. Those that mean nothing to the I/O APIC cost no lock.
  private func endOfInterrupt(_ vector: UInt8) {
    guard isAwaitedByIOAPIC(vector) else { return }
    changeLegacy { chips, outbox, _ in
      let pins = chips.ioapic.endOfInterrupt(vector)
      for pin in 0..<IOAPIC.pinCount where pins >> UInt32(pin) & 1 != 0 {
        if let input = LegacyControllers.input(of: pin) { end(input, &chips, &outbox) }
        _ = send(chips.ioapic.serveAgain(pin), &chips, &outbox)
      }
    }
  }

  private func isAwaitedByIOAPIC(_ vector: UInt8) -> Bool {
    let word = ioAPICVectors[Int(vector >> 6)].load(ordering: .sequentiallyConsistent)
    return word >> UInt64(vector & 63) & 1 != 0
  }

  // MARK: Processors

  /// What waits for a vCPU. Takes no lock; to be looked at before guest code runs on after a kick, and when the guest
  /// has enabled interrupts, written its APIC or CR8, or ended a shadow.
  public func events(of vcpu: Int) -> VCPUEvents {
    var events = VCPUEvents(rawValue: processors[vcpu].events.load(ordering: .sequentiallyConsistent))
    if isINTRHigh.load(ordering: .sequentiallyConsistent), letsINTRThrough(vcpu) { events.insert(.interrupt) }
    return events
  }

  private func letsINTRThrough(_ vcpu: Int) -> Bool {
    Addressing(rawValue: processors[vcpu].addressing.load(ordering: .sequentiallyConsistent)).acceptsExternal
  }

  /// The INTA cycle of a vCPU that can take an interrupt: the vector to call, or nil if there is none any more.
  /// The 8259A pair comes before the local APIC.
  public func acknowledgeInterrupt(of vcpu: Int) -> UInt8? {
    var sharesEOI = false
    return acknowledgeInterrupt(of: vcpu, sharesEOI: &sharesEOI)
  }

  /// - Parameter sharesEOI: the guest would end the interrupt without a write of EOI; false afterwards: it cannot.
  func acknowledgeInterrupt(of vcpu: Int, sharesEOI: inout Bool) -> UInt8? {
    let wantsToShare = sharesEOI
    sharesEOI = false
    if isINTRHigh.load(ordering: .sequentiallyConsistent), letsINTRThrough(vcpu) {
      // Another processor may have been faster.
      let vector = changeLegacy { chips, _, _ in chips.pics.isRequesting ? chips.pics.acknowledge() : nil }
      if let vector { return vector }
    }
    var outbox = Outbox()
    let (vector, isExternal, isShared) = change(vcpu, &outbox) { apic -> (UInt8?, Bool, Bool) in
      guard !apic.takeExternal() else { return (nil, true, false) }
      let vector = apic.acknowledge()
      guard wantsToShare, let vector, !isAwaitedByIOAPIC(vector) else { return (vector, false, false) }
      return (vector, false, apic.shareEOI(of: vector))
    }
    tell(outbox)
    sharesEOI = isShared
    // An ExtINT message promises an INTA cycle, spurious or not.
    return isExternal ? changeLegacy { chips, _, _ in chips.pics.acknowledge() } : vector
  }

  /// What became of the interrupt whose end was left to the guest. The vCPU's own thread.
  func settleEOI(of vcpu: Int, isOver: Bool) {
    var outbox = Outbox()
    let effect = change(vcpu, &outbox) { $0.settleEOI(isOver: isOver) }
    perform(effect, of: vcpu, &outbox)
    tell(outbox)
  }

  /// Whether an NMI was pending; it no longer is.
  public func takeNMI(of vcpu: Int) -> Bool { take(vcpu) { $0.takeNMI() } }

  /// Whether an INIT was pending. The local APIC is reset by it; the engine resets the processor, and all but the
  /// bootstrap processor then wait for a start-up IPI.
  public func takeINIT(of vcpu: Int) -> Bool { take(vcpu) { $0.takeInitialize() } }

  /// The vector of a pending start-up IPI: CS:IP is vector << 8:0. It is dropped by a processor that does not wait
  /// for one, which is the caller's to do. An INIT is to be taken first.
  public func takeSIPI(of vcpu: Int) -> UInt8? { take(vcpu) { $0.takeStartup() } }

  private func take<Result>(_ vcpu: Int, _ body: (inout LocalAPIC) -> Result) -> Result {
    var outbox = Outbox()
    let result = change(vcpu, &outbox, body)
    tell(outbox)
    return result
  }
}
