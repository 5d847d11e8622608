import Buses
import Engines
import LinuxSystem
import Synchronization
import Testing

@testable import SoftEngine

/// Interrupts, doorbells, sleep and kicks of a whole software machine, with real-mode code at 0000:1000.
struct SoftMachineTests {
  // Safety: the mappings live as long as the machine.
  private final class Tiny: @unchecked Sendable {
    let machine: SoftMachine
    let cpu: SoftVCPU
    private let memory: Mapping
    private let rom: Mapping

    /// How many ports the guest has written to.
    private let writes = Atomic(0)

    /// Devices post interrupts here, but as for a machine that has been told nothing of it there may be none.
    let posted: PostedInterrupts?

    /// `isAsserted`: what level-triggered sources say; nil: nothing is posted and asserted.
    init(
      _ program: [UInt8], handler: [UInt8] = [], processor: Int = 0,
      isAsserted: (@Sendable (_ input: Int) -> Bool)? = nil
    ) throws {
      memory = try Mapping(anonymous: 64 << 10)
      rom = try Mapping(anonymous: 64 << 10)
      // jmp far 0000:1000, at FFFF:FFF0.
      rom.bytes[0xFFF0..<0xFFF5].copyBytes(from: [0xEA, 0x00, 0x10, 0x00, 0x00])
      memory.bytes[0x1000..<0x1000 + program.count].copyBytes(from: program)
      // Vector 0DH is IRQ 5's and #GP's; 8 is #DF's.
      memory.bytes[0x34..<0x38].copyBytes(from: [0x00, 0x11, 0, 0])
      memory.bytes[0x20..<0x24].copyBytes(from: [0x00, 0x11, 0, 0])
      memory.bytes[0x1100..<0x1100 + handler.count].copyBytes(from: handler)
      machine = try SoftMachine(vcpus: processor + 1)
      posted = isAsserted == nil ? nil : PostedInterrupts(processors: processor + 1)
      if let posted, let isAsserted { machine.share(posted, isAsserted: isAsserted) }
      for (slot, (address, host)) in [(UInt64(0), memory.base), (0xFFFF_0000, rom.base)].enumerated() {
        let mapping = HostMapping(guestAddress: address, size: 64 << 10, host: host, readOnly: slot == 1)
        guard machine.map(slot: slot, mapping) else { throw EngineFailure(reason: "mapping refused") }
      }
      cpu = try machine.makeVCPU(processor)
      try machine.start { true }
    }

    /// Kicks the guest if it writes to no port for long: one that is asleep for good would not be seen otherwise.
    func watched(_ body: () -> Void) throws {
      let done = try SharedEvent()
      let watchdog = try HostThread("watchdog") { [self] in
        var seen = -1
        while seen != writes.load(ordering: .relaxed) {
          seen = writes.load(ordering: .relaxed)
          if done.event.wait(milliseconds: 10_000) { return }
        }
        cpu.kick()
      }
      body()
      done.event.signal()
      watchdog.join()
    }

    /// The port that the guest writes to next; nil: the vCPU was interrupted.
    func nextPort() -> UInt16? {
      while true {
        switch cpu.run(.run) {
        case .portOut(let port, _, _, _):
          writes.add(1, ordering: .relaxed)
          return port
        case .interrupted: return nil
        default: continue
        }
      }
    }
  }

  /// The 8259A pair with IRQ 5 alone, then HLT for ever.
  private static let sleeper: [UInt8] = [
    0xFA, 0xB0, 0x11, 0xE6, 0x20, 0xB0, 0x08, 0xE6, 0x21, 0xB0, 0x04, 0xE6, 0x21, 0xB0, 0x01, 0xE6, 0x21,
    0xB0, 0xDF, 0xE6, 0x21, 0xE6, 0xE1, 0xFB, 0xF4, 0xEB, 0xFD,
  ]
  /// EOI, out E0h, iret.
  private static let handler: [UInt8] = [0xB0, 0x20, 0xE6, 0x20, 0xE6, 0xE0, 0xCF]

  @Test func noEdgeIsLostHoweverItMeetsHLT() throws {
    let tiny = try Tiny(Self.sleeper, handler: Self.handler)
    let edge = try EventDescriptor()
    try tiny.machine.connect(input: 5, edge: edge)
    #expect(tiny.nextPort() == 0xE1)
    var taken = 0
    // A lost one would leave the guest asleep.
    try tiny.watched {
      for round in 0..<30_000 {
        edge.signal()
        // Sometimes the guest is asleep by then, sometimes not.
        for _ in 0..<round % 509 { spinHint() }
        guard tiny.nextPort() == 0xE0 else { break }
        taken += 1
      }
    }
    #expect(taken == 30_000)
  }

  /// `sleeper` with another end than STI, HLT and the jump back to HLT.
  private static func endless(_ end: [UInt8]) -> [UInt8] {
    let start = [UInt8](sleeper[..<(sleeper.count - 4)])
    return start + end + [0xEB, UInt8(bitPattern: Int8(-2 - end.count))]
  }

  @Test func anInterruptComesAfterTheInstructionBehindSTIThoughCLIFollows() throws {
    // sti; nop; cli
    let tiny = try Tiny(Self.endless([0xFB, 0x90, 0xFA]), handler: Self.handler)
    let edge = try EventDescriptor()
    try tiny.machine.connect(input: 5, edge: edge)
    #expect(tiny.nextPort() == 0xE1)
    var taken = 0
    try tiny.watched {
      for _ in 0..<2_000 {
        edge.signal()
        guard tiny.nextPort() == 0xE0 else { break }
        taken += 1
      }
    }
    #expect(taken == 2_000)
  }

  @Test func nothingComesBetweenSTIAndCLI() throws {
    let tiny = try Tiny(Self.endless([0xFB, 0xFA]), handler: Self.handler)
    let edge = try EventDescriptor()
    try tiny.machine.connect(input: 5, edge: edge)
    #expect(tiny.nextPort() == 0xE1)
    let never = try SharedEvent()
    let watchdog = try HostThread("watchdog") {
      for _ in 0..<200 {
        edge.signal()
        never.event.wait(milliseconds: 1)
      }
      tiny.cpu.kick()
    }
    #expect(tiny.nextPort() == nil)
    watchdog.join()
  }

  /// Loops that never end, behind STI: each goes round in another way. Branches of 32 bits, as those of 16 are not
  /// translated.
  private static let loops: [[UInt8]] = [
    [0x66, 0xEB, 0xFD],  // jmp itself
    [0x90, 0x66, 0xEB, 0x01, 0xF4, 0x66, 0xEB, 0xF8],  // nop; jmp over a byte; jmp back
    [0x66, 0xEB, 0x05, 0xF4, 0xF4, 0x66, 0xEB, 0xFD, 0x66, 0xEB, 0xFA],  // jmp over; jmp itself; jmp to that
    [0x85, 0xC0, 0x66, 0x74, 0xFB, 0x66, 0xEB, 0xF8],  // test ax, ax; jz back; jmp back
    [0x66, 0xE8, 0x03, 0x00, 0x00, 0x00, 0x66, 0xEB, 0xF7, 0x66, 0xC3],  // call; jmp back; ret
    [0x66, 0xBB, 0x00, 0x00, 0x00, 0x00, 0x66, 0xFF, 0xE3],  // mov ebx, here; jmp ebx
  ]

  @Test(arguments: loops.indices)
  func aPostedEdgeIsFoundInEveryLoop(_ index: Int) throws {
    var program = [UInt8](Self.sleeper.dropLast(3) + Self.loops[index])
    if index == Self.loops.count - 1 {
      let here = 0x1000 + program.count - 9
      (program[program.count - 7], program[program.count - 6]) = (UInt8(here & 0xFF), UInt8(here >> 8))
    }
    let tiny = try Tiny(program, handler: Self.handler) { _ in false }
    let posted = try #require(tiny.posted)
    #expect(tiny.nextPort() == 0xE1)
    var taken = 0
    try tiny.watched {
      for _ in 0..<50 {
        // Posted while the guest goes round.
        let device = try? HostThread("device") {
          (try? EventDescriptor())?.wait(milliseconds: 2)
          _ = posted.post(5)
        }
        guard tiny.nextPort() == 0xE0 else { break }
        device?.join()
        taken += 1
      }
    }
    #expect(taken == 50)
  }

  @Test func noPostedEdgeIsLostHoweverItMeetsHLT() throws {
    let tiny = try Tiny(Self.sleeper, handler: Self.handler) { _ in false }
    let posted = try #require(tiny.posted)
    let edge = try SharedEvent()
    try tiny.machine.connect(input: 5, edge: edge.event)
    #expect(tiny.nextPort() == 0xE1)
    let rounds = 30_000
    let taken = Atomic<Int>(0)
    let found = Atomic<Int>(0)
    let isOver = Atomic<Bool>(false)
    let device = try HostThread("device") {
      for round in 0..<rounds {
        while taken.load(ordering: .acquiring) < round, !isOver.load(ordering: .relaxed) { spinHint() }
        for _ in 0..<round % 509 { spinHint() }
        if posted.post(5) { found.add(1, ordering: .relaxed) } else { edge.event.signal() }
      }
    }
    try tiny.watched {
      for _ in 0..<rounds {
        guard tiny.nextPort() == 0xE0 else { break }
        taken.add(1, ordering: .releasing)
      }
    }
    isOver.store(true, ordering: .relaxed)
    device.join()
    #expect(taken.load(ordering: .relaxed) == rounds)
    let count = found.load(ordering: .relaxed)
    #expect(count > 0 && count < rounds, "both ways are taken: \(count)")
  }

  @Test func aGuestGoesOnAfterItsTranslationsWereDropped() throws {
    let tiny = try Tiny(Self.sleeper, handler: Self.handler)
    tiny.cpu.idleWatch.period = 100_000_000
    let edge = try SharedEvent()
    try tiny.machine.connect(input: 5, edge: edge.event)
    #expect(tiny.nextPort() == 0xE1)
    var (idle, busy, taken) = (0, 0, 0)
    try tiny.watched {
      for round in 0..<16 {
        // Bursts that have the handler translated, then an interrupt now and then.
        let isBurst = round / 4 % 2 == 0
        let bell = try? HostThread("bell") {
          let never = try? EventDescriptor()
          if !isBurst { never?.wait(milliseconds: 200) }
          edge.event.signal()
        }
        let end = monotonicNanoseconds() + 30_000_000
        while tiny.nextPort() == 0xE0 {
          taken += 1
          guard isBurst, monotonicNanoseconds() < end else { break }
          edge.event.signal()
        }
        bell?.join()
        if tiny.cpu.idleWatch.isIdle { idle += 1 } else { busy += 1 }
      }
    }
    #expect(idle > 0 && busy > 0 && taken >= 16, "\(idle) \(busy) \(taken)")
  }

  @Test func anInterruptComesAgainWhileItsLevelTriggeredSourceIsAsserted() throws {
    // ELCR bit 5 first.
    let program: [UInt8] = [0xBA, 0xD0, 0x04, 0xB0, 0x20, 0xEE] + Self.sleeper
    let interruptsLeft = Countdown(3)
    let tiny = try Tiny(program, handler: Self.handler) { input in input == 5 && interruptsLeft.next() }
    let trigger = try EventDescriptor()
    let resample = try EventDescriptor()
    try tiny.machine.connect(input: 5, trigger: trigger, resample: resample)
    #expect(tiny.nextPort() == 0xE1)
    trigger.signal()
    // Asserted at the end of the first two.
    for _ in 0..<3 { #expect(tiny.nextPort() == 0xE0) }
    trigger.signal()
    #expect(tiny.nextPort() == 0xE0)
    #expect(interruptsLeft.value == 0)
    #expect(resample.drain() == 0, "the engine has asked")
  }

  /// Says so often that something is left.
  private final class Countdown: Sendable {
    private let count: Mutex<Int>
    init(_ count: Int) { self.count = Mutex(count) }
    var value: Int { count.withLock { $0 } }
    func next() -> Bool {
      count.withLock { count in
        count = max(0, count - 1)
        return count > 0
      }
    }
  }

  @Test func doorbellSignalsItsEventAndTheGuestGoesOn() throws {
    // out E8h, al twice; out E1h, al; mov [B800:0], al is memory.
    let tiny = try Tiny([0xE6, 0xE8, 0xE7, 0xE8, 0xB8, 0x00, 0xB8, 0x8E, 0xC0, 0x26, 0xA2, 0, 0, 0xE6, 0xE1])
    let port = try EventDescriptor()
    let memory = try EventDescriptor()
    try tiny.machine.connect(doorbell: .port(0xE8), event: port)
    try tiny.machine.connect(doorbell: .memory(0xB_8000), event: memory)
    #expect(tiny.nextPort() == 0xE1)
    #expect(port.drain() == 2)
    #expect(memory.drain() == 1)
  }

  @Test func doorbellsOfOneRegisterAreToldApartByValue() throws {
    // mov dword [B800:0], 7 by way of EAX, then 8; out E1h, al.
    let store: [UInt8] = [0x66, 0x26, 0xA3, 0, 0]
    let tiny = try Tiny(
      [0xB8, 0x00, 0xB8, 0x8E, 0xC0, 0x66, 0xB8, 7, 0, 0, 0] + store + [0x66, 0xB8, 8, 0, 0, 0] + store
        + [0xE6, 0xE1])
    let bells = [try SharedEvent(), try SharedEvent()]
    for (index, bell) in bells.enumerated() {
      try tiny.machine.connect(doorbell: .register(0xB_8000, value: 7 + UInt32(index)), event: bell.event)
    }
    #expect(tiny.nextPort() == 0xE1)
    #expect(bells.map { $0.event.drain() } == [1, 1])
  }

  @Test func doorbellThatHasMovedTakesNoWritesAtItsOldPlace() throws {
    let tiny = try Tiny([0xE6, 0xE8, 0xE6, 0xE9, 0xE6, 0xE1])
    let bell = try EventDescriptor()
    try tiny.machine.connect(doorbell: .port(0xE8), event: bell)
    #expect(throws: EngineFailure.self) { try tiny.machine.connect(doorbell: .port(0xE8), event: bell) }
    try tiny.machine.disconnect(doorbell: .port(0xE8), event: bell)
    try tiny.machine.connect(doorbell: .port(0xE9), event: bell)
    #expect(tiny.nextPort() == 0xE8)
    #expect(tiny.nextPort() == 0xE1)
    #expect(bell.drain() == 1)
  }

  @Test func messageInterruptSendsWhatItIsRoutedToNow() throws {
    // IRET is all that the handler of vector 2 (NMI) needs besides its OUT.
    let tiny = try Tiny(
      [0xC7, 0x06, 0x08, 0x00, 0x00, 0x11, 0xC7, 0x06, 0x0A, 0x00, 0x00, 0x00, 0xE6, 0xE1, 0xF4, 0xEB, 0xFD],
      handler: [0xE6, 0xE0, 0xCF])
    let event = try EventDescriptor()
    try tiny.machine.connect(message: 3, event: event)
    #expect(tiny.nextPort() == 0xE1)
    event.signal()
    try tiny.machine.route([MessageRoute(index: 3, address: 0xFEE0_5000, data: 0x400)])
    event.signal()
    try tiny.machine.route([MessageRoute(index: 3, address: 0xFEE0_0000, data: 0x400)])
    for _ in 0..<3 {
      event.signal()
      #expect(tiny.nextPort() == 0xE0)
    }
  }

  @Test func kickWakesASleeperAndOneBeforeTheRunIsNotLost() throws {
    let tiny = try Tiny([0xFA, 0xF4])
    tiny.cpu.kick()
    #expect(tiny.nextPort() == nil)
    for _ in 0..<200 {
      let kicker = try HostThread("kicker") { tiny.cpu.kick() }
      #expect(tiny.nextPort() == nil)
      kicker.join()
    }
  }

  @Test func finishExecutesNothing() throws {
    let tiny = try Tiny([0xE6, 0xE1, 0xE6, 0xE2])
    #expect(tiny.nextPort() == 0xE1)
    guard case .interrupted = tiny.cpu.run(.finish) else { throw EngineFailure(reason: "not interrupted") }
    #expect(tiny.nextPort() == 0xE2)
    try tiny.cpu.reset()
    #expect(tiny.nextPort() == 0xE1)
  }

  @Test func initEndsHLTBeforeTheStartUpIPIComes() throws {
    // out E1h, al; cli; hlt.
    let tiny = try Tiny([0xE6, 0xE1, 0xFA, 0xF4], processor: 1)
    let controllers = tiny.machine.controllers
    let done = try SharedEvent()
    let sender = try HostThread("sender") {
      for _ in 0..<10 {
        controllers.sendMSI(address: 0xFEE0_1000, data: 0x4500)
        while controllers.events(of: 1).contains(.initialize) { yieldProcessor() }
        controllers.sendMSI(address: 0xFEE0_1000, data: 0x4601)
        done.event.wait(milliseconds: 20_000)
      }
      tiny.cpu.kick()
    }
    var started = 0
    while let port = tiny.nextPort() {
      #expect(port == 0xE1)
      started += 1
      done.event.signal()
    }
    sender.join()
    #expect(started == 10)
  }

  /// The IDT ends before the interrupt's vector: with #GP's, with #DF's, or before both.
  @Test(arguments: [UInt8(0x37), 0x23, 0x1F])
  func faultOfAnInterruptsDeliveryIsDeliveredOrShutsDown(limit: UInt8) throws {
    // lidt cs:[1080h], then the sleeper with vectors from 18h on: IRQ 5 is 1DH.
    var program: [UInt8] = [0x2E, 0x0F, 0x01, 0x1E, 0x80, 0x10] + Self.sleeper
    program[12] = 0x18
    program += [UInt8](repeating: 0, count: 0x80 - program.count) + [limit, 0, 0, 0, 0, 0]
    let tiny = try Tiny(program, handler: Self.handler)
    let edge = try EventDescriptor()
    try tiny.machine.connect(input: 5, edge: edge)
    #expect(tiny.nextPort() == 0xE1)
    edge.signal()
    var isShutDown = false
    loop: while true {
      switch tiny.cpu.run(.run) {
      case .portOut(let port, _, _, _):
        #expect(port == 0xE0)
        break loop
      case .tripleFault:
        isShutDown = true
        break loop
      default: continue
      }
    }
    #expect(isShutDown == (limit == 0x1F))
  }

  @Test func timeStampCounterCountsNanosecondsOfTheClock() throws {
    // rdtsc; out E1h, al; rdtsc; out E2h, al.
    let program: [UInt8] = [0x0F, 0x31, 0xE6, 0xE1, 0x0F, 0x31, 0xE6, 0xE2]
    let tiny = try Tiny(program)
    let before = tiny.machine.clock()
    #expect(tiny.nextPort() == 0xE1)
    let first = tiny.cpu.processorState.general[0]
    #expect(tiny.nextPort() == 0xE2)
    let second = tiny.cpu.processorState.general[0]
    #expect(before <= first && first < second && second <= tiny.machine.clock())
  }
}
