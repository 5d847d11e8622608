import Engines
import Glibc
import KVMEngine
import LinuxSystem
import Testing

@Suite(.enabled("/dev/kvm is missing or cannot be used here") { kvmIsUsable })
struct KVMMachineTests {
  /// mov al, value; out port, al
  private static func out(_ port: UInt8, _ value: UInt8) -> [UInt8] { [0xB0, value, 0xE6, port] }
  private static let spin: [UInt8] = [0xEB, 0xFE]

  @Test func eachAccessIsOneExitAndTheGuestGoesOnWithTheAnswer() throws {
    let program: [UInt8] = [
      0xB0, 0x5A, 0xE6, 0xE0,  // mov al, 5Ah; out E0h, al
      0xBA, 0x34, 0x12, 0xED, 0xEF,  // mov dx, 1234h; in ax, dx; out dx, ax
      0xB8, 0x00, 0xB8, 0x8E, 0xC0,  // mov ax, B800h; mov es, ax
      0x26, 0xA1, 0x10, 0x00, 0x26, 0xA3, 0x20, 0x00,  // mov ax, es:[10h]; mov es:[20h], ax
      0x66, 0xB8, 0x44, 0x33, 0x22, 0x11, 0x66, 0x26, 0xA3, 0x24, 0x00,  // mov eax, 11223344h; mov es:[24h], eax
      0xE4, 0xE1, 0xE6, 0xE2,  // in al, E1h; out E2h, al
    ]
    let seen = try onVCPUThread(try TinyMachine(program + Self.spin)) { tiny in
      var seen = [tiny.run(), tiny.run(answer: [0xEF, 0xBE]), tiny.run(), tiny.run(answer: [0x22, 0x11])]
      seen += [tiny.run(), tiny.run(), tiny.run(answer: [0x99])]
      // Only finishes the access; the next instruction is the guest's first of the run after it.
      seen += [tiny.run(.finish), tiny.run()]
      return seen
    }
    #expect(
      seen == [
        .output(port: 0xE0, width: 1, [0x5A]), .input(port: 0x1234, width: 2, count: 1),
        .output(port: 0x1234, width: 2, [0xEF, 0xBE]), .load(0xB_8010, width: 2), .store(0xB_8020, [0x22, 0x11]),
        .store(0xB_8024, [0x44, 0x33, 0x22, 0x11]), .input(port: 0xE1, width: 1, count: 1), .interrupted,
        .output(port: 0xE2, width: 1, [0x99]),
      ])
  }

  @Test func stringAccessesCarryEveryItem() throws {
    let program: [UInt8] = [
      0xFC, 0xBE, 0x00, 0x05, 0xB9, 0x21, 0x00, 0xBA, 0xE4, 0x00, 0xF3, 0x6E,  // rep outsb, 33 bytes at 0500h to E4h
      0xBF, 0x00, 0x06, 0xB9, 0x11, 0x00, 0x42, 0x42, 0xF3, 0x6D,  // rep insw, 17 words from E6h to 0600h
      0xE6, 0xEF,
    ]
    let tiny = try TinyMachine(program + Self.spin)
    let source = (0..<33).map { UInt8($0 + 1) }
    tiny.put(0x500, source)
    let (sent, received) = try onVCPUThread(tiny) { tiny -> ([UInt8], Int) in
      var sent: [UInt8] = []
      var received = 0
      for _ in 0..<200 {
        switch tiny.run(answer: [0xCD, 0xAB]) {
        case .output(port: 0xE4, width: 1, let bytes): sent += bytes
        case .input(port: 0xE6, width: 2, let count): received += count
        default: return (sent, received)
        }
      }
      return (sent, received)
    }
    #expect(sent == source)
    #expect(received == 17)
    #expect((0x600..<0x622).map { tiny[$0] } == (0..<17).flatMap { _ in [0xCD, 0xAB] as [UInt8] })
    #expect(tiny[0x622] == 0)
  }

  @Test func aKickStopsTheGuestAndOneBeforeTheRunIsNotLost() throws {
    let tiny = try TinyMachine(Self.spin)
    tiny.cpu.kick()
    let first = try onVCPUThread(tiny) { tiny in
      let early = tiny.run()
      let kicker = try? HostThread("kicker") {
        let pause = try? EventDescriptor()
        pause?.wait(milliseconds: 50)
        tiny.cpu.kick()
      }
      let late = tiny.run()
      kicker?.join()
      return [early, late]
    }
    #expect(first == [.interrupted, .interrupted])
  }

  /// RLIMIT_SIGPENDING counts the waiting signals of all the user's processes; real-time ones fail beyond it.
  @Test func aKickArrivesThoughTheUserHasTooManySignalsWaiting() throws {
    let pending: __rlimit_resource_t = 11
    var limit = rlimit()
    try #require(getrlimit(pending, &limit) == 0)
    let seen = try onVCPUThread(try TinyMachine(Self.out(0xE0, 1) + Self.spin)) { [limit] tiny in
      let first = tiny.run()
      let kicker = try? HostThread("kicker") {
        let pause = try? EventDescriptor()
        pause?.wait(milliseconds: 50)
        var none = limit
        none.rlim_cur = 0
        setrlimit(pending, &none)
        tiny.cpu.kick()
        var restored = limit
        setrlimit(pending, &restored)
      }
      let start = monotonicNanoseconds()
      let second = tiny.run()
      kicker?.join()
      return (first, second, monotonicNanoseconds() - start)
    }
    #expect(seen.1 == .interrupted)
    #expect(seen.2 < 15_000_000_000, "by the kick, not by the watchdog")
  }

  @Test func aHaltedGuestSleepsInTheEngineUntilAKick() throws {
    let seen = try onVCPUThread(try TinyMachine(Self.out(0xE0, 1) + [0xFA, 0xF4] + Self.spin)) { tiny in
      let first = tiny.run()
      let kicker = try? HostThread("kicker") {
        let pause = try? EventDescriptor()
        pause?.wait(milliseconds: 50)
        tiny.cpu.kick()
      }
      let second = tiny.run()
      kicker?.join()
      return [first, second]
    }
    #expect(seen == [.output(port: 0xE0, width: 1, [1]), .interrupted])
  }

  @Test func aResetStartsAtTheResetVectorAgain() throws {
    // mov al, [0700h]; out E0h, al; inc byte [0700h]; mov sp, 1234h; then spins, far from where it began.
    let program: [UInt8] = [0xA0, 0x00, 0x07, 0xE6, 0xE0, 0xFE, 0x06, 0x00, 0x07, 0xBC, 0x34, 0x12, 0xE6, 0xE1]
    let seen = try onVCPUThread(try TinyMachine(program + Self.spin)) { tiny in
      var seen = [tiny.run(), tiny.run()]
      for _ in 0..<2 {
        do throws(EngineFailure) { try tiny.cpu.reset() } catch { seen.append(.failure(error.description)) }
        seen += [tiny.run(), tiny.run()]
      }
      return seen
    }
    let outputs: [Seen] = (0..<3).flatMap { round in
      [.output(port: 0xE0, width: 1, [UInt8(round)]), .output(port: 0xE1, width: 1, [UInt8(round)])] as [Seen]
    }
    #expect(seen == outputs)
  }

  /// Initialises the master 8259 for vectors 20h and up with IRQ 5 alone unmasked.
  private static let initialise8259: [UInt8] =
    out(0x20, 0x11) + out(0x21, 0x20) + out(0x21, 0x04) + out(0x21, 0x01) + out(0x21, 0xDF)
  /// Handler of vector 25h at 0000:1800: says so, ends the interrupt.
  private static let handler: [UInt8] = out(0xE0, 0x77) + out(0x20, 0x20) + [0xCF]
  /// out E1h: ready; sti; hlt; again.
  private static let waitForInterrupts: [UInt8] = out(0xE1, 1) + [0xFB, 0xF4, 0xEB, 0xFD]

  private func interruptMachine(level: Bool) throws -> TinyMachine {
    // ELCR1, bit 5.
    let trigger: [UInt8] = level ? [0xBA, 0xD0, 0x04, 0xB0, 0x20, 0xEE] : []
    let tiny = try TinyMachine(Self.initialise8259 + trigger + Self.waitForInterrupts)
    tiny.put(0x1800, Self.handler)
    tiny.vector(0x25, 0x1800)
    return tiny
  }

  @Test func anEdgeReachesTheGuestOncePerSignal() throws {
    let tiny = try interruptMachine(level: false)
    let event = try SharedEvent()
    try tiny.machine.connect(input: 5, edge: event.event)
    let seen = try onVCPUThread(tiny) { tiny in
      var seen = [tiny.run()]
      for _ in 0..<3 {
        event.event.signal()
        seen.append(tiny.run())
      }
      return seen
    }
    let interrupt = Seen.output(port: 0xE0, width: 1, [0x77])
    #expect(seen == [.output(port: 0xE1, width: 1, [1]), interrupt, interrupt, interrupt])
  }

  @Test func aLevelStaysUntilTheEndOfInterruptWhichAsksTheSource() throws {
    let tiny = try interruptMachine(level: true)
    let trigger = try SharedEvent()
    let resample = try SharedEvent()
    try tiny.machine.connect(input: 5, trigger: trigger.event, resample: resample.event)
    let seen = try onVCPUThread(tiny) { tiny in
      var seen = [tiny.run()]
      var resamples: [UInt64] = []
      for _ in 0..<3 {
        trigger.event.signal()
        seen.append(tiny.run())
        resamples.append(resample.event.drain())
        // The guest ends the interrupt on its way to the next halt, where a kick finds it.
        let kicker = try? HostThread("kicker") {
          resample.event.wait(milliseconds: 10_000)
          resample.event.signal()
          tiny.cpu.kick()
        }
        seen.append(tiny.run())
        kicker?.join()
        resamples.append(resample.event.drain())
      }
      return (seen, resamples)
    }
    let interrupt = Seen.output(port: 0xE0, width: 1, [0x77])
    #expect(seen.0 == [.output(port: 0xE1, width: 1, [1])] + (0..<3).flatMap { _ in [interrupt, .interrupted] })
    #expect(seen.1 == [0, 1, 0, 1, 0, 1])
  }

  @Test func aDoorbellTakesTheWriteWithoutAnExit() throws {
    let tiny = try TinyMachine(Self.out(0xE8, 1) + [0xE7, 0xE8] + Self.out(0xE0, 2) + Self.spin)
    let bell = try SharedEvent()
    try tiny.machine.connect(doorbell: .port(0xE8), event: bell.event)
    let seen = try onVCPUThread(tiny) { $0.run() }
    #expect(seen == .output(port: 0xE0, width: 1, [2]))
    #expect(bell.event.drain() == 2)
  }

  @Test func aDoorbellThatHasMovedTakesNoWritesAtItsOldPlace() throws {
    let tiny = try TinyMachine(Self.out(0xE8, 1) + Self.out(0xE9, 1) + Self.spin)
    let bell = try SharedEvent()
    try tiny.machine.connect(doorbell: .port(0xE8), event: bell.event)
    #expect(throws: EngineFailure.self) { try tiny.machine.connect(doorbell: .port(0xE8), event: bell.event) }
    try tiny.machine.disconnect(doorbell: .port(0xE8), event: bell.event)
    try tiny.machine.connect(doorbell: .memory(0xFE00_0000), event: bell.event)
    try tiny.machine.connect(doorbell: .port(0xE9), event: bell.event)
    let seen = try onVCPUThread(tiny) { tiny in
      let first = tiny.run()
      let kicker = try? HostThread("kicker") {
        bell.event.wait(milliseconds: 10_000)
        bell.event.signal()
        tiny.cpu.kick()
      }
      defer { kicker?.join() }
      return [first, tiny.run()]
    }
    #expect(seen == [.output(port: 0xE8, width: 1, [1]), .interrupted])
    #expect(bell.event.drain() == 1)
  }

  @Test func aMessageInterruptSendsWhatItIsRoutedToNow() throws {
    // mov ecx, 1Bh; rdmsr; or eax, C00h; wrmsr: x2APIC; mov ecx, 80Fh; mov eax, 1FFh; xor edx, edx; wrmsr: enabled.
    let enable: [UInt8] = [
      0x66, 0xB9, 0x1B, 0, 0, 0, 0x0F, 0x32, 0x66, 0x0D, 0x00, 0x0C, 0, 0, 0x0F, 0x30,
      0x66, 0xB9, 0x0F, 0x08, 0, 0, 0x66, 0xB8, 0xFF, 0x01, 0, 0, 0x66, 0x31, 0xD2, 0x0F, 0x30,
    ]
    let tiny = try TinyMachine(enable + Self.waitForInterrupts)
    // mov ecx, 80Bh; xor eax, eax; xor edx, edx; wrmsr: the end of the interrupt.
    let end: [UInt8] = [0x66, 0xB9, 0x0B, 0x08, 0, 0, 0x66, 0x31, 0xC0, 0x66, 0x31, 0xD2, 0x0F, 0x30]
    tiny.put(0x1800, Self.out(0xE0, 0x77) + end + [0xCF])
    tiny.vector(0x41, 0x1800)
    let event = try SharedEvent()
    try tiny.machine.connect(message: 3, event: event.event)
    let seen = try onVCPUThread(tiny) { tiny in
      var seen = [tiny.run()]
      // To nobody, then to this processor.
      for address: UInt64 in [0xFEE0_5000, 0xFEE0_0000] {
        guard (try? tiny.machine.route([MessageRoute(index: 3, address: address, data: 0x41)])) != nil else { break }
        event.event.signal()
      }
      for _ in 0..<2 {
        seen.append(tiny.run())
        event.event.signal()
      }
      return seen
    }
    let interrupt = Seen.output(port: 0xE0, width: 1, [0x77])
    #expect(seen == [.output(port: 0xE1, width: 1, [1]), interrupt, interrupt])
  }

  @Test func aStoreToReadOnlyMemoryArrivesAndALoadDoesNot() throws {
    let program: [UInt8] = [
      0xB8, 0x00, 0x20, 0x8E, 0xD8,  // mov ax, 2000h; mov ds, ax
      0xA0, 0x10, 0x00, 0xE6, 0xE0,  // mov al, [10h]; out E0h, al
      0xA2, 0x11, 0x00,  // mov [11h], al
      0xA0, 0x11, 0x00, 0xE6, 0xE0,  // mov al, [11h]; out E0h, al
    ]
    let tiny = try TinyMachine(program + Self.spin)
    let page = try Mapping(anonymous: 4096)
    page.bytes[0x10] = 0x42
    page.bytes[0x11] = 0x43
    #expect(
      tiny.machine.map(slot: 2, HostMapping(guestAddress: 0x2_0000, size: 4096, host: page.base, readOnly: true)))
    let seen = try onVCPUThread(tiny) { [$0.run(), $0.run(), $0.run()] }
    #expect(
      seen == [
        .output(port: 0xE0, width: 1, [0x42]), .store(0x2_0011, [0x42]), .output(port: 0xE0, width: 1, [0x43]),
      ])
    withExtendedLifetime(page.base) {}
  }

  @Test func mappingsThatOverlapAreRefusedAndAnEmptiedSlotMakesRoom() throws {
    let tiny = try TinyMachine(Self.spin)
    let other = HostMapping(guestAddress: 0xF000, size: 0x2000, host: tiny.ram, readOnly: false)
    #expect(!tiny.machine.map(slot: 2, other))
    let high = HostMapping(guestAddress: 0x4_0000, size: 0x2000, host: tiny.ram, readOnly: false)
    #expect(tiny.machine.map(slot: 2, high))
    #expect(!tiny.machine.map(slot: 3, high))
    #expect(tiny.machine.map(slot: 2, nil))
    #expect(tiny.machine.map(slot: 3, high))
  }

  @Test(.enabled("this host's processor runs the instruction itself") { !Processor.hasHardwareVirtualisation })
  func anInstructionThatKVMCannotEmulateIsNamedByAddressAndBytes() throws {
    let tiny = try TinyMachine([0x90, 0xF3, 0x0F, 0xB8, 0xC3] + Self.spin)  // popcnt ax, bx
    guard case .failure(let text) = try onVCPUThread(tiny, { $0.run() }) else {
      Issue.record("the guest went on")
      return
    }
    #expect(text.contains("RIP 0x1001"))
    #expect(text.contains("instruction bytes f3 0f b8 c3"))
  }

  @Test func moreProcessorsThanKVMHasAreRefusedByTheirOption() throws {
    #expect(throws: EngineFailure.self) { _ = try KVMMachine(try KVMHost(), vcpus: 100_000) }
  }
}
