import Synchronization

/// The interrupt controllers and timers of a PC for an engine that brings its own processors: an 8259A pair, an 8254,
/// an I/O APIC and a local APIC for each processor.
///
/// Each local APIC has a lock of its own, so that interprocessor interrupts and EOIs of different processors do not
/// meet; the other chips share one, which may be held while a local APIC's is taken, never the other way round.
/// Notifications are made with no lock held.
public final class InterruptControllers: Sendable {
  public static let maximumVCPUs = 64
  /// Guest physical address of the I/O APIC's page.
  public static let ioAPICAddress: UInt64 = 0xFEC0_0000

  /// What the engine is told. Any thread may call them, a vCPU's own too.
  public struct Notifications: Sendable {
    /// Something new waits for a vCPU: it must leave guest code, or wake from HLT, and look at its events.
    public var kick: @Sendable (_ vcpu: Int) -> Void
    /// A deadline in nanoseconds of guest time that is earlier than what `advance()` returned last.
    public var rearm: @Sendable (_ deadline: UInt64) -> Void
    /// The guest ended an interrupt of an input that `trigger` had raised; it is low now.
    public var endOfInterrupt: @Sendable (_ input: Int) -> Void

    public init(
      kick: @escaping @Sendable (_ vcpu: Int) -> Void, rearm: @escaping @Sendable (_ deadline: UInt64) -> Void,
      endOfInterrupt: @escaping @Sendable (_ input: Int) -> Void
    ) {
      self.kick = kick
      self.rearm = rearm
      self.endOfInterrupt = endOfInterrupt
    }
  }

  /// A local APIC and what others may know of it without its lock.
  final class Processor: Sendable {
    let apic: Mutex<LocalAPIC>
    let addressing: Atomic<UInt64>
    let events: Atomic<UInt8>
    /// When the timer interrupts next, `UInt64.max` for never.
    let deadline = Atomic<UInt64>(.max)
    /// The page of the registers, 0 while there is none.
    let page: Atomic<UInt64>

    init(id: Int) {
      let apic = LocalAPIC(processorID: UInt32(truncatingIfNeeded: id), isBootstrap: id == 0)
      addressing = Atomic(Addressing(apic).rawValue)
      events = Atomic(apic.events.rawValue)
      page = Atomic(LocalAPIC.defaultAddress)
      self.apic = Mutex(apic)
    }
  }

  /// What is to be told once no lock is held.
  struct Outbox: ~Copyable {
    /// vCPUs to kick, one bit each.
    var kicks: UInt64 = 0
    /// Inputs whose interrupt ended, one bit each.
    var ended: UInt32 = 0
    var deadline = UInt64.max
  }

  let processors: [Processor]
  let legacy: Mutex<LegacyControllers>
  /// The 8259A pair's INTR.
  let isINTRHigh = Atomic<Bool>(false)
  let legacyDeadline = Atomic<UInt64>(.max)
  /// What the timer thread waits for.
  let armedDeadline = Atomic<UInt64>(.max)
  /// Vectors whose EOI the I/O APIC must see.
  let ioAPICVectors: InlineArray<4, Atomic<UInt64>>
  /// Where the search for a lowest-priority target begins.
  let arbitration = Atomic<Int>(0)
  let tscFrequency: UInt64
  let physicalAddressBits: Int
  /// The 8259A pair and the 8254 are there.
  let hasLegacyChips: Bool
  let clock: @Sendable () -> UInt64
  let notifications: Notifications

  /// `clock` is guest time in nanoseconds, never set back; `tscFrequency` is in hertz, not zero.
  public init(
    vcpus: Int, tscFrequency: UInt64, physicalAddressBits: Int, hasLegacyChips: Bool = true,
    clock: @escaping @Sendable () -> UInt64, notifications: Notifications
  ) {
    precondition((1...Self.maximumVCPUs).contains(vcpus) && tscFrequency > 0)
    processors = (0..<vcpus).map(Processor.init(id:))
    ioAPICVectors = InlineArray { _ in Atomic(0) }
    self.tscFrequency = tscFrequency
    self.physicalAddressBits = physicalAddressBits
    self.hasLegacyChips = hasLegacyChips
    legacy = Mutex(LegacyControllers(hasPICs: hasLegacyChips))
    self.clock = clock
    self.notifications = notifications
  }

  // MARK: Locks and notifications

  /// Changes a local APIC, makes the change known and notes whom to tell.
  func change<Result>(_ vcpu: Int, _ outbox: inout Outbox, _ body: (inout LocalAPIC) -> Result) -> Result {
    let processor = processors[vcpu]
    return processor.apic.withLock { apic in
      let result = body(&apic)
      let (isNews, deadline) = publish(apic, processor)
      if isNews { outbox.kicks |= 1 << UInt64(vcpu) }
      outbox.deadline = min(outbox.deadline, deadline)
      return result
    }
  }

  /// Publishes a local APIC's state. Returns whether something new waits, and its deadline where that is earlier.
  private func publish(_ apic: LocalAPIC, _ processor: Processor) -> (isNews: Bool, deadline: UInt64) {
    let old = Addressing(rawValue: processor.addressing.load(ordering: .relaxed))
    let new = Addressing(apic)
    if new != old {
      processor.addressing.store(new.rawValue, ordering: .sequentiallyConsistent)
    }
    processor.page.store(apic.mode == .xAPIC ? apic.base & LocalAPIC.Base.address : 0, ordering: .relaxed)
    let events = apic.events.rawValue
    let before = processor.events.exchange(events, ordering: .sequentiallyConsistent)
    let deadline = apic.nextDeadline ?? .max
    let last = processor.deadline.load(ordering: .relaxed)
    if deadline != last { processor.deadline.store(deadline, ordering: .sequentiallyConsistent) }
    let letsINTRThrough =
      new.acceptsExternal && !old.acceptsExternal && isINTRHigh.load(ordering: .sequentiallyConsistent)
    return (events & ~before != 0 || letsINTRThrough, deadline < last ? deadline : .max)
  }

  /// Changes the shared chips, then moves on what follows from it.
  func changeLegacy<Result>(_ body: (inout LegacyControllers, inout Outbox, UInt64) -> Result) -> Result {
    let now = clock()
    var outbox = Outbox()
    let result = legacy.withLock { chips in
      chips.countTicks(now: now)
      tick(&chips, &outbox)
      let result = body(&chips, &outbox, now)
      settle(&chips, &outbox)
      return result
    }
    tell(outbox)
    return result
  }

  private func settle(_ chips: inout LegacyControllers, _ outbox: inout Outbox) {
    let ended = chips.pics.takeEnded()
    for input in 0..<16 where ended >> UInt16(input) & 1 != 0 { end(input, &chips, &outbox) }
    tick(&chips, &outbox)
    let isHigh = chips.pics.isRequesting
    if isINTRHigh.exchange(isHigh, ordering: .sequentiallyConsistent) != isHigh, isHigh { raiseINTR(&outbox) }
    let deadline = chips.nextDeadline ?? .max
    let last = legacyDeadline.exchange(deadline, ordering: .sequentiallyConsistent)
    if deadline < last { outbox.deadline = min(outbox.deadline, deadline) }
  }

  private func tick(_ chips: inout LegacyControllers, _ outbox: inout Outbox) {
    guard let tick = chips.injectTick() else { return }
    let isSent = send(tick.request, &chips, &outbox)
    chips.tickWasTaken(isSent || tick.isLatched)
  }

  func end(_ input: Int, _ chips: inout LegacyControllers, _ outbox: inout Outbox) {
    if chips.end(input) { outbox.ended |= 1 << UInt32(input) }
  }

  /// INTR is wired to LINT0 of every local APIC.
  private func raiseINTR(_ outbox: inout Outbox) {
    for vcpu in processors.indices {
      let addressing = Addressing(rawValue: processors[vcpu].addressing.load(ordering: .sequentiallyConsistent))
      if addressing.acceptsExternal { outbox.kicks |= 1 << UInt64(vcpu) }
      if addressing.listensAtLINT0 { change(vcpu, &outbox) { $0.deliver(.lint0) } }
    }
  }

  func tell(_ outbox: borrowing Outbox) {
    var kicks = outbox.kicks
    while kicks != 0 {
      notifications.kick(kicks.trailingZeroBitCount)
      kicks &= kicks - 1
    }
    var ended = outbox.ended
    while ended != 0 {
      notifications.endOfInterrupt(ended.trailingZeroBitCount)
      ended &= ended - 1
    }
    if outbox.deadline < armedDeadline.load(ordering: .sequentiallyConsistent) { notifications.rearm(outbox.deadline) }
  }
}
