import CSoftCPU
import Testing
import X86

@testable import SoftEngine

/// KVM's paravirtual interface as a guest sees it.
@Suite struct ParavirtualTests {
  private static let area: UInt64 = 0x5000
  private static let vmcall: [UInt8] = [0x0F, 0x01, 0xC1]
  private static let vmmcall: [UInt8] = [0x0F, 0x01, 0xD9]
  private static let wrmsr: [UInt8] = [0x0F, 0x30]
  private static let rdmsr: [UInt8] = [0x0F, 0x32]

  private func set(_ bench: ExceptionBench, _ number: UInt8, _ value: UInt64) {
    register(bench.cpu.state, Slot.general(number), as: UInt64.self).pointee = value
  }

  private func get(_ bench: ExceptionBench, _ number: UInt8) -> UInt64 {
    register(bench.cpu.state, Slot.general(number), as: UInt64.self).pointee
  }

  /// Writes an MSR; the exception's vector.
  private func write(_ bench: ExceptionBench, msr: UInt32, _ value: UInt64) -> UInt8? {
    set(bench, General.rcx, UInt64(msr))
    set(bench, General.rax, value & 0xFFFF_FFFF)
    set(bench, General.rdx, value >> 32)
    return bench.step(Self.wrmsr)
  }

  @Test func cpuidShowsWhatThereIsAndNoMore() {
    let identity = ProcessorIdentity(.max, index: 0, count: 2, tscFrequency: 1_000_000_000)
    let features = identity.leaf(0x4000_0001, 0)
    // Clock, no I/O delay, new clock, steal time, EOI, TLB flush, send IPI, poll control, stable clock.
    #expect(features.eax == 0x0100_1A6B)
    #expect(features.edx == 0)
    // What kernels ask before they do without an 8254: ARAT, the TSC deadline timer and the counter's rate.
    #expect(identity.leaf(6, 0).eax & 4 != 0)
    #expect(identity.leaf(1, 0).ecx & 1 << 24 != 0)
    #expect(identity.leaf(0x4000_0010, 0).eax == 1_000_000)
  }

  @Test(arguments: [vmcall, vmmcall]) func unknownHypercallsAreAnsweredAsKVMDoes(instruction: [UInt8]) {
    let bench = ExceptionBench()
    set(bench, General.rax, 77)
    #expect(bench.step(instruction) == nil)
    #expect(get(bench, General.rax) == UInt64(bitPattern: -1000))
  }

  @Test func hypercallsOfProgramsAreNotPermitted() {
    let bench = ExceptionBench()
    bench.cpu.state.pointee.cpl = 3
    set(bench, General.rax, 10)
    #expect(bench.step(Self.vmcall) == nil)
    #expect(get(bench, General.rax) == UInt64(bitPattern: -1))
  }

  @Test func stealTimeIsWrittenAndSleepersTakeFlushes() {
    let bench = ExceptionBench()
    #expect(write(bench, msr: StealTime.register, Self.area | 2) == Vector.generalProtection)
    #expect(write(bench, msr: StealTime.register, Self.area | 1) == nil)
    #expect(bench.read(Self.area + 8, 4) == 2, "the version is even and counts")
    let context = bench.cpu.state.context
    context.pointee.msr.stealTime.beginSleep(&context.pointee.map)
    #expect(bench.read(Self.area + 16, 1) == 1)
    var flushes = context.pointee.msr.stealTime.endSleep(&context.pointee.map)
    #expect(!flushes)
    #expect(bench.read(Self.area + 16, 1) == 0)
    context.pointee.msr.stealTime.beginSleep(&context.pointee.map)
    bench.write(Self.area + 16, [3])
    flushes = context.pointee.msr.stealTime.endSleep(&context.pointee.map)
    #expect(flushes)
    #expect(bench.read(Self.area + 16, 1) == 0)
  }

  @Test func resetTurnsStealTimeOff() throws {
    let bench = ExceptionBench()
    #expect(write(bench, msr: StealTime.register, Self.area | 1) == nil)
    try bench.cpu.reset()
    let context = bench.cpu.state.context
    context.pointee.msr.stealTime.beginSleep(&context.pointee.map)
    #expect(bench.read(Self.area + 16, 1) == 0, "the new system's memory is not touched")
  }

  @Test func addressesWithoutMemoryAreHarmless() {
    let bench = ExceptionBench()
    for address: UInt64 in [0x7FC0, 0x8000, 0xFFFF_FFFF_FFFF_FFC0] {
      #expect(write(bench, msr: StealTime.register, address | 1) == nil)
      let context = bench.cpu.state.context
      context.pointee.msr.stealTime.beginSleep(&context.pointee.map)
      _ = context.pointee.msr.stealTime.endSleep(&context.pointee.map)
    }
  }

  @Test func pollControlKeepsItsBit() {
    let bench = ExceptionBench()
    #expect(write(bench, msr: PollControl.register, 2) == Vector.generalProtection)
    #expect(write(bench, msr: PollControl.register, 0) == nil)
    set(bench, General.rcx, UInt64(PollControl.register))
    #expect(bench.step(Self.rdmsr) == nil)
    #expect(get(bench, General.rax) == 0)
  }

  /// Local APICs, enabled by bit 8 of the spurious interrupt register.
  private func controllers(_ vcpus: Int) -> InterruptControllers {
    let chips = InterruptControllers(
      vcpus: vcpus, tscFrequency: 1_000_000_000, physicalAddressBits: 40, clock: { 0 },
      notifications: .init(kick: { _ in }, rearm: { _ in }, endOfInterrupt: { _ in }))
    for vcpu in 0..<vcpus { chips.writeLocalAPIC(of: vcpu, 0xF0, 0x1FF, width: 4) }
    return chips
  }

  @Test func interruptsEndWhenTheGuestClearsTheirBit() {
    let bench = ExceptionBench()
    #expect(write(bench, msr: SharedEOI.register, Self.area | 3) == Vector.generalProtection)
    #expect(write(bench, msr: SharedEOI.register, Self.area | 1) == nil)
    let context = bench.cpu.state.context
    func offer() -> Bool { context.pointee.msr.sharedEOI.offer(&context.pointee.map) }
    func take() -> Bool { context.pointee.msr.sharedEOI.take(&context.pointee.map) }
    #expect(offer())
    #expect(bench.read(Self.area, 1) == 1)
    #expect(!take(), "the guest has not been there")
    #expect(bench.read(Self.area, 1) == 0, "so it must write EOI")
    #expect(offer())
    bench.write(Self.area, [0])
    #expect(take())
    #expect(write(bench, msr: SharedEOI.register, 0x8001) == nil)
    #expect(!offer(), "there is no memory")
  }

  @Test func whatComesBehindASharedEOIMakesTheProcessorLook() {
    let chips = controllers(1)
    #expect(chips.send(0x41, to: 1, first: 0) == 1)
    var isShared = true
    #expect(chips.acknowledgeInterrupt(of: 0, sharesEOI: &isShared) == 0x41)
    #expect(isShared)
    #expect(chips.events(of: 0).isEmpty)
    #expect(chips.send(0x31, to: 1, first: 0) == 1)
    #expect(chips.events(of: 0) == .interrupt, "it may be over")
    chips.settleEOI(of: 0, isOver: false)
    #expect(chips.events(of: 0).isEmpty, "it is not")
    chips.writeLocalAPIC(of: 0, 0xB0, 0, width: 4)
    isShared = true
    #expect(chips.acknowledgeInterrupt(of: 0, sharesEOI: &isShared) == 0x31)
    #expect(isShared)
    #expect(chips.send(0x32, to: 1, first: 0) == 1)
    chips.settleEOI(of: 0, isOver: true)
    #expect(chips.acknowledgeInterrupt(of: 0) == 0x32)
  }

  @Test func nestedAndWaitingInterruptsNeedAWriteOfEOI() {
    let chips = controllers(1)
    #expect(chips.send(0x31, to: 1, first: 0) == 1)
    #expect(chips.acknowledgeInterrupt(of: 0) == 0x31)
    #expect(chips.send(0x41, to: 1, first: 0) == 1)
    var isShared = true
    #expect(chips.acknowledgeInterrupt(of: 0, sharesEOI: &isShared) == 0x41)
    #expect(!isShared, "another is in service")
    for _ in 0..<2 { chips.writeLocalAPIC(of: 0, 0xB0, 0, width: 4) }
    #expect(chips.send(0x31, to: 1, first: 0) == 1)
    #expect(chips.send(0x41, to: 1, first: 0) == 1)
    isShared = true
    #expect(chips.acknowledgeInterrupt(of: 0, sharesEOI: &isShared) == 0x41)
    #expect(!isShared, "another waits")
  }

  @Test func oneCallInterruptsEveryProcessorOfTheBitmap() {
    let chips = controllers(3)
    #expect(chips.send(0x41, to: 0b101, first: 0) == 2)
    #expect([0, 1, 2].map { chips.acknowledgeInterrupt(of: $0) } == [0x41, nil, 0x41])
    #expect(chips.send(0x42, to: .max, first: 1) == 2)
    #expect(chips.send(0x42, to: .max, first: .max - 1) == 0)
    #expect(chips.send(0x400, to: 0b10, first: 0) == 1)
    #expect(chips.takeNMI(of: 1))
  }
}
