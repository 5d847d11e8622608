import Synchronization
import Testing

@testable import SoftEngine

/// The board part with a clock that the test sets, and vCPUs that only note what they are told.
private final class FakeEngine: Sendable {
  struct Notes {
    var kicks: [Int] = []
    var deadlines: [UInt64] = []
    var ended: [Int] = []
  }

  private final class Recorder: Sendable {
    let now = Atomic<UInt64>(0)
    let notes = Mutex(Notes())
  }

  private let recorder = Recorder()
  let chips: InterruptControllers

  init(vcpus: Int = 1) {
    let recorder = recorder
    chips = InterruptControllers(
      vcpus: vcpus, tscFrequency: 2_000_000_000, physicalAddressBits: 40,
      clock: { recorder.now.load(ordering: .relaxed) },
      notifications: .init(
        kick: { vcpu in recorder.notes.withLock { $0.kicks.append(vcpu) } },
        rearm: { deadline in recorder.notes.withLock { $0.deadlines.append(deadline) } },
        endOfInterrupt: { input in recorder.notes.withLock { $0.ended.append(input) } }))
  }

  func takeNotes() -> Notes {
    recorder.notes.withLock { notes in
      defer { notes = Notes() }
      return notes
    }
  }

  /// Sets the clock, and lets the timer thread work.
  @discardableResult
  func advance(to nanoseconds: UInt64) -> UInt64? {
    recorder.now.store(nanoseconds, ordering: .relaxed)
    return chips.advance()
  }

  func out(_ port: UInt16, _ values: UInt8...) {
    for value in values { chips.writePort(port, UInt32(value), width: 1) }
  }

  func apic(_ vcpu: Int, _ offset: UInt64, _ value: UInt64) {
    chips.writeLocalAPIC(of: vcpu, offset, value, width: 4)
  }

  func readAPIC(_ vcpu: Int, _ offset: UInt64) -> UInt64 { chips.readLocalAPIC(of: vcpu, offset, width: 4) }

  /// Programs an I/O APIC entry.
  func route(_ pin: UInt64, _ low: UInt64, destination: UInt64 = 0) {
    for (register, value) in [(0x11 + 2 * pin, destination << 24), (0x10 + 2 * pin, low)] {
      chips.writeIOAPIC(0x00, register, width: 4)
      chips.writeIOAPIC(0x10, value, width: 4)
    }
  }

  /// The 8259A pair as a PC's firmware leaves it: bases 0x08 and 0x70, all unmasked.
  func startPICs() {
    out(0x20, 0x11)
    out(0x21, 0x08, 0x04, 0x01, 0x00)
    out(0xA0, 0x11)
    out(0xA1, 0x70, 0x02, 0x01, 0x00)
  }

  func enableAPICs(_ count: Int) {
    for vcpu in 0..<count { apic(vcpu, 0xF0, 0x1FF) }
  }

  func takeVector(_ vcpu: Int = 0) -> UInt8? {
    chips.events(of: vcpu).contains(.interrupt) ? chips.acknowledgeInterrupt(of: vcpu) : nil
  }
}

@Suite struct InterruptControllersTests {
  @Test func inputsReachThePICsAsAfterPowerOn() {
    let engine = FakeEngine(vcpus: 2)
    engine.startPICs()
    for (input, vector) in [(0, 0x08), (1, 0x09), (8, 0x70), (15, 0x77)] as [(Int, UInt8)] {
      engine.chips.pulse(input)
      #expect(engine.takeNotes().kicks == [0])
      #expect(engine.chips.events(of: 1).isEmpty)
      #expect(engine.takeVector() == vector)
      #expect(engine.takeVector() == nil)
      engine.out(0xA0, 0x20)
      engine.out(0x20, 0x20)
    }
    for input in [2, 16, 23, 24, -1] {
      engine.chips.pulse(input)
      #expect(engine.takeVector() == nil)
    }
  }

  @Test func inputsReachTheirIOAPICPins() {
    let engine = FakeEngine()
    engine.enableAPICs(1)
    for pin in 0..<24 as Range<UInt64> { engine.route(pin, 0x40 + pin) }
    for input in 0..<24 {
      engine.chips.pulse(input)
      #expect(engine.takeVector() == (input == 2 ? nil : UInt8(0x40 + (input == 0 ? 2 : input))))
      engine.apic(0, 0xB0, 0)
    }
  }

  @Test func aTriggeredLevelIsReportedAtItsEOIInTheIOAPIC() {
    let engine = FakeEngine()
    engine.enableAPICs(1)
    engine.route(16, 0x50 | 1 << 15)
    engine.chips.trigger(16)
    #expect(engine.takeVector() == 0x50)
    engine.chips.trigger(16)
    #expect(engine.takeVector() == nil && engine.takeNotes().ended.isEmpty)
    engine.apic(0, 0xB0, 0)
    #expect(engine.takeNotes().ended == [16])
    #expect(engine.takeVector() == nil)
    engine.chips.trigger(16)
    #expect(engine.takeVector() == 0x50)
  }

  @Test func aTriggeredLevelIsReportedAtItsEOIInThePIC() {
    let engine = FakeEngine()
    engine.startPICs()
    engine.out(0x4D1, 0x0C)
    engine.chips.trigger(11)
    #expect(engine.takeVector() == 0x73)
    engine.out(0xA0, 0x20)
    #expect(engine.takeNotes().ended == [11])
    engine.out(0x20, 0x20)
    #expect(engine.takeVector() == nil)
  }

  @Test func aHeldLevelInterruptsAgainAfterItsEOI() {
    let engine = FakeEngine()
    engine.enableAPICs(1)
    engine.route(10, 0x50 | 1 << 15)
    engine.chips.setInput(10, level: true)
    #expect(engine.takeVector() == 0x50)
    engine.apic(0, 0xB0, 0)
    #expect(engine.takeVector() == 0x50)
    engine.chips.setInput(10, level: false)
    engine.apic(0, 0xB0, 0)
    #expect(engine.takeVector() == nil && engine.takeNotes().ended.isEmpty)
  }

  @Test func aLevelThatNobodyTakesIsNotInService() {
    let engine = FakeEngine()
    engine.route(16, 0x50 | 1 << 15)
    engine.chips.trigger(16)
    engine.enableAPICs(1)
    engine.chips.trigger(16)
    #expect(engine.takeVector() == 0x50)
  }

  @Test func thePICComesBeforeTheLocalAPIC() {
    let engine = FakeEngine()
    engine.startPICs()
    engine.enableAPICs(1)
    engine.apic(0, 0x350, 0x700)
    engine.chips.sendMSI(address: 0xFEE0_0000, data: 0xF0)
    engine.chips.pulse(1)
    #expect(engine.takeVector() == 0x09)
    #expect(engine.takeVector() == 0xF0)
  }

  @Test func anINTRThatFellIsNotAcknowledged() {
    let engine = FakeEngine()
    engine.startPICs()
    engine.chips.pulse(1)
    engine.out(0x21, 0x02)
    #expect(engine.chips.acknowledgeInterrupt(of: 0) == nil)
    engine.out(0x21, 0x00)
    #expect(engine.takeVector() == 0x09)
  }

  @Test func anExtINTMessageIsAnINTACycleOnItsTarget() {
    let engine = FakeEngine(vcpus: 2)
    engine.startPICs()
    engine.out(0x21, 0xFD)
    engine.route(5, 0x700, destination: 1)
    engine.chips.pulse(5)
    #expect(engine.takeVector(1) == 0x0F)
    engine.chips.pulse(5)
    engine.chips.pulse(1)
    #expect(engine.takeVector(1) == 0x09)
  }

  @Test func lint0AsNMIWatchesThePIC() {
    let engine = FakeEngine(vcpus: 2)
    engine.startPICs()
    engine.enableAPICs(2)
    engine.apic(1, 0x350, 0x400)
    engine.chips.pulse(0)
    #expect(engine.chips.events(of: 1) == .nmi && engine.chips.takeNMI(of: 1) && !engine.chips.takeNMI(of: 1))
    engine.apic(1, 0x360, 0x400)
    engine.chips.pulseNMI()
    #expect(engine.chips.takeNMI(of: 1) && !engine.chips.takeNMI(of: 0))
  }

  @Test func ipisReachThoseTheyAreFor() {
    let engine = FakeEngine(vcpus: 4)
    engine.enableAPICs(4)
    func kicked(_ high: UInt64, _ low: UInt64) -> [Int] {
      _ = engine.takeNotes()
      engine.apic(1, 0x310, high << 24)
      engine.apic(1, 0x300, low)
      defer {
        for vcpu in 0..<4 where engine.takeVector(vcpu) != nil { engine.apic(vcpu, 0xB0, 0) }
      }
      return engine.takeNotes().kicks
    }
    for vcpu in 0..<4 as Range<UInt64> { engine.apic(Int(vcpu), 0xD0, 1 << (24 + vcpu)) }
    #expect(kicked(2, 0x40) == [2])
    #expect(kicked(9, 0x40) == [])
    #expect(kicked(0xFF, 0x40) == [0, 1, 2, 3])
    #expect(kicked(0x0A, 0x840) == [1, 3])
    #expect(kicked(0, 0x4_0040) == [1])
    #expect(kicked(0, 0x8_0040) == [0, 1, 2, 3])
    #expect(kicked(0, 0xC_0040) == [0, 2, 3])
  }

  @Test func lowestPriorityGoesToTheLeastBusyInTurn() {
    let engine = FakeEngine(vcpus: 3)
    engine.enableAPICs(3)
    for vcpu in 0..<3 as Range<UInt64> { engine.apic(Int(vcpu), 0xD0, 1 << (24 + vcpu)) }
    engine.apic(1, 0x80, 0x20)
    var targets: [Int] = []
    for _ in 0..<4 {
      engine.chips.sendMSI(address: 0xFEE0_700C, data: 0x0141)
      for vcpu in 0..<3 where engine.takeVector(vcpu) == 0x41 {
        targets.append(vcpu)
        engine.apic(vcpu, 0xB0, 0)
      }
    }
    #expect(targets == [0, 2, 0, 2])
  }

  @Test func initAndStartupStartAProcessor() {
    let engine = FakeEngine(vcpus: 2)
    engine.enableAPICs(2)
    engine.apic(0, 0x310, 1 << 24)
    engine.apic(0, 0x300, 0x4500)
    engine.apic(0, 0x300, 0x8500)
    engine.apic(0, 0x300, 0x4610)
    #expect(engine.chips.events(of: 1) == [.initialize, .startup])
    #expect(engine.chips.takeINIT(of: 1) && engine.readAPIC(1, 0xF0) == 0xFF)
    #expect(engine.chips.takeSIPI(of: 1) == 0x10 && engine.chips.events(of: 1).isEmpty)
  }

  @Test func theTaskPriorityIsCR8() {
    let engine = FakeEngine()
    engine.enableAPICs(1)
    engine.chips.setTaskPriority(of: 0, 9)
    #expect(engine.readAPIC(0, 0x80) == 0x90)
    engine.chips.sendMSI(address: 0xFEE0_0000, data: 0x95)
    #expect(engine.takeVector() == nil)
    engine.apic(0, 0x80, 0x8F)
    #expect(engine.chips.taskPriority(of: 0) == 8 && engine.takeVector() == 0x95)
  }

  @Test func theRegisterPageFollowsTheBase() throws {
    let engine = FakeEngine()
    #expect(engine.chips.localAPICPage(of: 0) == 0xFEE0_0000)
    try engine.chips.writeMSR(of: 0, 0x1B, 0xFED0_0900, tsc: 0)
    #expect(engine.chips.localAPICPage(of: 0) == 0xFED0_0000)
    try engine.chips.writeMSR(of: 0, 0x1B, 0xFED0_0D00, tsc: 0)
    #expect(engine.chips.localAPICPage(of: 0) == nil && engine.readAPIC(0, 0x20) == .max)
    #expect(try engine.chips.readMSR(of: 0, 0x803) == 0x50014)
    #expect(throws: GeneralProtection()) { try engine.chips.writeMSR(of: 0, 0x1B, 0xFED0_0900, tsc: 0) }
  }
}

@Suite struct InterruptTimersTests {
  private func engineWithTicks(_ count: UInt16 = 11932) -> FakeEngine {
    let engine = FakeEngine()
    engine.startPICs()
    engine.out(0x43, 0x34)
    engine.out(0x40, UInt8(truncatingIfNeeded: count), UInt8(truncatingIfNeeded: count >> 8))
    return engine
  }

  @Test func theTimerTicksOnIRQ0AtItsTime() {
    let engine = engineWithTicks()
    #expect(engine.takeNotes().deadlines.last == 10_000_989)
    #expect(engine.advance(to: 10_000_988) == 10_000_989)
    #expect(engine.takeVector() == nil)
    #expect(engine.advance(to: 10_000_989) == 20_001_140)
    #expect(engine.takeVector() == 0x08)
  }

  @Test func missedTicksFollowTheEndOfTheOneBefore() {
    let engine = engineWithTicks()
    engine.advance(to: 35_000_000)
    for _ in 0..<3 {
      #expect(engine.takeVector() == 0x08)
      #expect(engine.takeVector() == nil)
      engine.out(0x20, 0x20)
    }
    #expect(engine.takeVector() == nil)
  }

  @Test func aThousandTicksWaitAndNoMore() {
    let engine = engineWithTicks(1193)
    engine.advance(to: 5_000_000_000)
    var ticks = 0
    while engine.takeVector() != nil {
      ticks += 1
      engine.out(0x20, 0x20)
    }
    #expect(ticks == TickQueue.capacity)
  }

  @Test func missedTicksAreForgottenWhenTheTimerIsProgrammedAnew() {
    let engine = engineWithTicks()
    engine.advance(to: 100_000_000)
    #expect(engine.takeVector() == 0x08)
    engine.out(0x43, 0x34)
    engine.out(0x20, 0x20)
    #expect(engine.takeVector() == nil)
  }

  @Test func ticksThroughTheIOAPICAreReinjectedAtItsEOI() {
    let engine = engineWithTicks()
    engine.out(0x21, 0xFF)
    engine.enableAPICs(1)
    engine.route(2, 0x30)
    engine.advance(to: 35_000_000)
    for _ in 0..<3 {
      #expect(engine.takeVector() == 0x30)
      engine.apic(0, 0xB0, 0)
    }
    #expect(engine.takeVector() == nil)
  }

  @Test func ticksGoOnWhenTheVectorOfOneInServiceChanges() {
    let engine = engineWithTicks()
    engine.out(0x21, 0xFF)
    engine.enableAPICs(1)
    engine.route(2, 0x30)
    engine.advance(to: 11_000_000)
    #expect(engine.takeVector() == 0x30)
    engine.route(2, 0x31)
    engine.apic(0, 0xB0, 0)
    engine.advance(to: 21_000_000)
    #expect(engine.takeVector() == 0x31)
  }

  @Test func aTickThatIsMaskedEverywhereWakesNobody() {
    let engine = engineWithTicks()
    engine.out(0x21, 0x01)
    #expect(engine.advance(to: 50_000_000) == nil)
    engine.out(0x21, 0x00)
    #expect(engine.takeVector() == 0x08)
    engine.out(0x20, 0x20)
    #expect(engine.takeVector() == nil)
    #expect(engine.advance(to: 50_000_000) == 50_001_593)
  }

  @Test func theHPETTakesInput0OverFromTheTimer() {
    let engine = engineWithTicks()
    engine.chips.setLegacyReplacement(true)
    #expect(engine.advance(to: 50_000_000) == nil)
    #expect(engine.takeVector() == nil)
    engine.chips.pulse(0)
    #expect(engine.takeVector() == 0x08)
    engine.out(0x20, 0x20)
    engine.chips.setLegacyReplacement(false)
    #expect(engine.advance(to: 70_000_000) != nil && engine.takeVector() == 0x08)
  }

  @Test func localTimersHaveTheirDeadlines() throws {
    let engine = FakeEngine(vcpus: 2)
    engine.enableAPICs(2)
    engine.apic(1, 0x3E0, 0xB)
    engine.apic(1, 0x320, 0x41)
    engine.apic(1, 0x380, 1_000_000)
    #expect(engine.takeNotes().deadlines == [1_000_000])
    #expect(engine.advance(to: 0) == 1_000_000)
    engine.apic(0, 0x320, 0x40042)
    // A counter of 2 GHz reaches 1000 more in 500 ns.
    try engine.chips.writeMSR(of: 0, 0x6E0, 6000, tsc: 5000)
    #expect(engine.takeNotes().deadlines == [500] && engine.chips.nextDeadline(of: 0) == 500)
    #expect(try engine.chips.readMSR(of: 0, 0x6E0) == 6000)
    engine.chips.tscChanged(of: 0, tsc: 4000)
    #expect(engine.chips.nextDeadline(of: 0) == 1000)
    engine.advance(to: 1000)
    #expect(engine.takeVector(0) == 0x42 && engine.takeNotes().kicks == [0])
    #expect(engine.advance(to: 1_000_000) == nil && engine.takeVector(1) == 0x41)
    try engine.chips.writeMSR(of: 0, 0x6E0, 1, tsc: 5000)
    engine.apic(0, 0xB0, 0)
    #expect(engine.takeVector(0) == 0x42)
    try engine.chips.writeMSR(of: 0, 0x6E0, .max, tsc: 0)
  }

  @Test func resetIsPowerOn() throws {
    let engine = engineWithTicks()
    engine.enableAPICs(1)
    engine.route(16, 0x8050)
    engine.chips.trigger(16)
    engine.advance(to: 20_000_000)
    try engine.chips.writeMSR(of: 0, 0x1B, 0xFEE0_0D00, tsc: 0)
    engine.chips.reset()
    #expect(engine.takeVector() == nil && engine.chips.events(of: 0).isEmpty)
    #expect(engine.advance(to: 90_000_000) == nil)
    #expect(engine.chips.localAPICPage(of: 0) == 0xFEE0_0000 && engine.readAPIC(0, 0xF0) == 0xFF)
    #expect(engine.chips.readPort(0x21, width: 1) == 0)
    #expect(engine.chips.readPort(0x4CF, width: 4) == 0xFF00_00FF)
  }
}

@Suite struct InterruptHostilityTests {
  /// SplitMix64.
  private struct Random: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      state &+= 0x9E37_79B9_7F4A_7C15
      var value = (state ^ state >> 30) &* 0xBF58_476D_1CE4_E5B9
      value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
      return value ^ value >> 31
    }
  }

  @Test(arguments: [1, 2, 3, 4] as [UInt64]) func noSequenceOfAccessesTraps(seed: UInt64) {
    var random = Random(state: seed)
    let engine = FakeEngine(vcpus: 3)
    let chips = engine.chips
    let ports: [UInt16] = [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x40, 0x41, 0x42, 0x43, 0x61]
    var now: UInt64 = 0
    func value() -> UInt64 {
      let raw = random.next()
      return [raw, raw & 0xFF, raw & 0xFFFF_FFFF, .max, 0, 1 << (raw & 63)].randomElement(using: &random) ?? 0
    }
    for _ in 0..<20_000 {
      let vcpu = Int.random(in: 0..<3, using: &random)
      let width = [1, 2, 4, 8].randomElement(using: &random) ?? 1
      switch Int.random(in: 0..<14, using: &random) {
      case 0, 1:
        let port = ports.randomElement(using: &random) ?? 0x20
        chips.writePort(port, UInt32(truncatingIfNeeded: value()), width: min(width, 4))
      case 2: _ = chips.readPort(UInt16(truncatingIfNeeded: value()), width: min(width, 4))
      case 3: chips.writeIOAPIC(0, UInt64.random(in: 0..<0x48, using: &random), width: 4)
      case 4: chips.writeIOAPIC(value(), value(), width: width)
      case 5: chips.writeIOAPIC(0x10, value(), width: 4)
      case 6: _ = chips.readIOAPIC(value(), width: width)
      case 7: chips.writeLocalAPIC(of: vcpu, UInt64.random(in: 0..<0x40, using: &random) << 4, value(), width: 4)
      case 8: chips.writeLocalAPIC(of: vcpu, value(), value(), width: width)
      case 9: _ = chips.readLocalAPIC(of: vcpu, value() & 0xFFF, width: width)
      case 10:
        let msr = [0x1B, 0x6E0, 0x800 + UInt32.random(in: 0..<0x40, using: &random)].randomElement(using: &random)
        let written = msr == 0x1B ? 0xFEE0_0000 | value() & 0xF00 : value()
        try? chips.writeMSR(of: vcpu, msr ?? 0, written, tsc: value())
        _ = try? chips.readMSR(of: vcpu, msr ?? 0)
      case 11:
        let input = Int.random(in: -1...24, using: &random)
        if Bool.random(using: &random) { chips.trigger(input) } else { chips.pulse(input) }
        chips.setInput(input, level: Bool.random(using: &random))
      case 12:
        now = max(now, [now &+ random.next() & 0xFFFF_FFF, random.next() >> 2].randomElement(using: &random) ?? 0)
        engine.advance(to: Int.random(in: 0..<50, using: &random) == 0 ? now : min(now, now >> 8 + 1))
      default:
        _ = chips.acknowledgeInterrupt(of: vcpu)
        _ = chips.takeNMI(of: vcpu)
        _ = chips.takeINIT(of: vcpu)
        _ = chips.takeSIPI(of: vcpu)
        chips.setTaskPriority(of: vcpu, UInt8(truncatingIfNeeded: value() & 0xF))
      }
    }
    engine.advance(to: .max)
    _ = chips.readPort(0x40, width: 4)
  }

  private final class Counts: Sendable {
    let laps = Atomic<Int>(0)
    let levels = Atomic<Int>(0)
  }

  /// Each processor sends the next one an IPI for every one it takes, while devices interrupt: none is lost.
  @Test func processorsInterruptEachOtherInParallel() async {
    let count = 4
    let rounds = 2000
    let engine = FakeEngine(vcpus: count)
    engine.enableAPICs(count)
    engine.route(16, 0x8060)
    engine.apic(0, 0x310, 1 << 24)
    engine.apic(0, 0x300, 0x41)
    let chips = engine.chips
    let counts = Counts()
    await withTaskGroup(of: Void.self) { group in
      for vcpu in 0..<count {
        group.addTask {
          while counts.laps.load(ordering: .relaxed) < rounds {
            guard chips.events(of: vcpu).contains(.interrupt), let vector = chips.acknowledgeInterrupt(of: vcpu) else {
              if vcpu == 3 { chips.trigger(16) }
              await Task.yield()
              continue
            }
            if vector == 0x60 { counts.levels.add(1, ordering: .relaxed) }
            chips.writeLocalAPIC(of: vcpu, 0xB0, 0, width: 4)
            if vector == 0x41 {
              counts.laps.add(1, ordering: .relaxed)
              chips.writeLocalAPIC(of: vcpu, 0x310, UInt64((vcpu + 1) % count) << 24, width: 4)
              chips.writeLocalAPIC(of: vcpu, 0x300, 0x41, width: 4)
            }
          }
        }
      }
    }
    #expect(counts.laps.load(ordering: .relaxed) >= rounds)
    #expect(engine.takeNotes().ended.count == counts.levels.load(ordering: .relaxed))
  }
}
