import Testing

@testable import SoftEngine

/// An enabled bootstrap APIC in xAPIC mode.
private func enabled(id: UInt32 = 0) -> LocalAPIC {
  var apic = LocalAPIC(processorID: id, isBootstrap: id == 0)
  _ = apic.writePage(0xF0, 0x1FF, width: 4, now: 0)
  return apic
}

private func x2(id: UInt32 = 0) throws -> LocalAPIC {
  var apic = enabled(id: id)
  try apic.writeBase(apic.base | 1 << 10, physicalAddressBits: 40)
  return apic
}

extension LocalAPIC {
  fileprivate mutating func get(_ offset: UInt64, now: UInt64 = 0) -> UInt32 {
    UInt32(truncatingIfNeeded: readPage(offset, width: 4, now: now))
  }
  @discardableResult
  fileprivate mutating func set(_ offset: UInt64, _ value: UInt32, now: UInt64 = 0) -> Effect {
    writePage(offset, value, width: 4, now: now)
  }
  /// An x2APIC access of a copy.
  fileprivate func peekX2(_ msr: UInt32) throws -> UInt64 {
    var copy = self
    return try copy.readX2(msr, now: 0)
  }
  fileprivate func effectOfX2(_ msr: UInt32, _ value: UInt64) throws -> Effect {
    var copy = self
    return try copy.writeX2(msr, value, now: 0)
  }
  fileprivate mutating func take(_ vector: UInt8, isLevel: Bool = false) -> Bool {
    accept(.init(vector: vector, mode: .fixed, isLevel: isLevel, destination: 0))
  }
}

@Suite struct LocalAPICTests {
  @Test func powerOnIsSoftwareDisabledWithMaskedLocalVectors() {
    for isBootstrap in [true, false] {
      var apic = LocalAPIC(processorID: 3, isBootstrap: isBootstrap)
      #expect(apic.base == (isBootstrap ? 0xFEE0_0900 : 0xFEE0_0800))
      #expect(apic.get(0x20) == 3 << 24 && apic.get(0x30) == 0x0005_0014)
      #expect(apic.get(0xF0) == 0xFF && apic.get(0xE0) == 0xFFFF_FFFF && apic.get(0xD0) == 0)
      #expect(apic.get(0x320) == 0x10000 && apic.get(0x360) == 0x10000)
      #expect(apic.get(0x350) == (isBootstrap ? 0x700 : 0x10000))
      #expect(apic.acceptsExternal == isBootstrap)
      #expect(apic.take(0x30) == false)
    }
  }

  @Test(
    arguments: [
      // Task priority, vectors in service, request, whether it is delivered, PPR.
      (tpr: 0x00, served: [], request: 0x10, isDelivered: true, ppr: 0x00),
      (tpr: 0x2F, served: [], request: 0x2F, isDelivered: false, ppr: 0x2F),
      (tpr: 0x2F, served: [], request: 0x30, isDelivered: true, ppr: 0x2F),
      (tpr: 0x20, served: [0x41], request: 0x4F, isDelivered: false, ppr: 0x40),
      (tpr: 0x45, served: [0x41], request: 0x50, isDelivered: true, ppr: 0x45),
      (tpr: 0x00, served: [0x41, 0x92], request: 0x91, isDelivered: false, ppr: 0x90),
      (tpr: 0xFF, served: [], request: 0xFF, isDelivered: false, ppr: 0xFF),
    ] as [(tpr: UInt32, served: [UInt8], request: UInt8, isDelivered: Bool, ppr: UInt32)])
  func onlyHigherClassesInterrupt(
    tpr: UInt32, served: [UInt8], request: UInt8, isDelivered: Bool, ppr: UInt32
  ) {
    var apic = enabled()
    for vector in served {
      #expect(apic.take(vector) == true)
      #expect(apic.acknowledge() == vector)
    }
    apic.set(0x80, tpr)
    #expect(apic.get(0xA0) == ppr)
    _ = apic.take(request)
    #expect(apic.events.contains(.interrupt) == isDelivered)
    #expect(apic.acknowledge() == (isDelivered ? request : nil))
  }

  @Test func theBitmapsFollowAnInterrupt() {
    var apic = enabled()
    _ = apic.take(0x45, isLevel: true)
    #expect(apic.get(0x220) == 1 << 5 && apic.get(0x1A0) == 1 << 5)
    _ = apic.acknowledge()
    #expect(apic.get(0x220) == 0 && apic.get(0x120) == 1 << 5)
    #expect(apic.set(0xB0, 0) == .endOfInterrupt(0x45))
    #expect(apic.get(0x120) == 0)
    #expect(apic.set(0xB0, 0) == .none)
    _ = apic.take(0x45)
    #expect(apic.get(0x1A0) == 0)
  }

  @Test func eoiEndsTheHighest() {
    var apic = enabled()
    for vector in [0x31, 0x52, 0xE3] as [UInt8] {
      _ = apic.take(vector)
      _ = apic.acknowledge()
    }
    #expect(apic.set(0xB0, 0) == .endOfInterrupt(0xE3))
    #expect(apic.set(0xB0, 0) == .endOfInterrupt(0x52))
    #expect(apic.get(0xA0) == 0x30)
  }

  @Test func disablingBySoftwareMasksLocalVectorsAndRefusesFixedInterrupts() {
    var apic = enabled()
    apic.set(0x350, 0x700)
    #expect(apic.acceptsExternal)
    _ = apic.take(0x40)
    apic.set(0xF0, 0xFF)
    #expect(apic.get(0x350) == 0x10700 && !apic.acceptsExternal)
    apic.set(0x320, 0x40)
    #expect(apic.get(0x320) == 0x10040)
    #expect(apic.take(0x50) == false)
    #expect(apic.accept(.init(vector: 0, mode: .nmi, destination: 0)) && apic.takeNMI() && !apic.takeNMI())
    #expect(apic.acknowledge() == 0x40)
  }

  @Test(
    arguments: [
      (low: 0x0000_4031, mode: .fixed, isLogical: false, shorthand: .none),
      (low: 0x0000_0831, mode: .fixed, isLogical: true, shorthand: .none),
      (low: 0x0000_0931, mode: .lowestPriority, isLogical: true, shorthand: .none),
      (low: 0x0004_0031, mode: .fixed, isLogical: false, shorthand: .oneself),
      (low: 0x0008_0431, mode: .nmi, isLogical: false, shorthand: .all),
      (low: 0x000C_4531, mode: .initialize, isLogical: false, shorthand: .others),
      (low: 0x000C_4631, mode: .startup, isLogical: false, shorthand: .others),
    ] as [(low: UInt32, mode: DeliveryMode, isLogical: Bool, shorthand: LocalAPIC.Shorthand)])
  func theCommandRegisterSends(low: UInt32, mode: DeliveryMode, isLogical: Bool, shorthand: LocalAPIC.Shorthand) {
    var apic = enabled()
    #expect(apic.set(0x310, 5 << 24) == .none)
    let message = InterruptMessage(vector: 0x31, mode: mode, isLogical: isLogical, destination: 5)
    #expect(apic.set(0x300, low) == .send(message, shorthand))
    #expect(apic.get(0x300) == low && apic.get(0x310) == 5 << 24)
  }

  @Test(
    arguments: [
      (low: 0x0000_000F, error: 1 << 5), (low: 0x0000_8500, error: 0), (low: 0x0000_0231, error: 0),
      (low: 0x0000_0731, error: 1 << 2), (low: 0x0000_0331, error: 1 << 2),
    ] as [(low: UInt32, error: UInt32)])
  func whatCannotBeSentIsNot(low: UInt32, error: UInt32) {
    var apic = enabled()
    #expect(apic.set(0x300, low) == .none)
    apic.set(0x280, 0)
    #expect(apic.get(0x280) == error)
  }

  @Test func errorsShowAfterAWriteAndInterruptOnce() {
    var apic = enabled()
    apic.set(0x370, 0xFE)
    #expect(apic.take(0x05) == false)
    #expect(apic.get(0x280) == 0)
    apic.set(0x280, 0)
    #expect(apic.get(0x280) == 1 << 6)
    #expect(apic.acknowledge() == 0xFE)
    _ = apic.get(0x3D0)
    apic.set(0x280, 0)
    #expect(apic.get(0x280) == 1 << 7)
    apic.set(0x280, 0)
    #expect(apic.get(0x280) == 0)
  }

  @Test func localSourcesFollowTheirEntries() {
    var apic = enabled()
    apic.deliver(.lint1)
    #expect(apic.events.isEmpty)
    apic.set(0x360, 0x400)
    apic.deliver(.lint1)
    #expect(apic.takeNMI() == true)
    apic.set(0x350, 0x45)
    #expect(apic.listensAtLINT0)
    apic.deliver(.lint0)
    #expect(apic.acknowledge() == 0x45)
  }

  @Test func initKeepsTheBaseAndTheIDAndOverrulesAnEarlierStartup() throws {
    var apic = enabled(id: 2)
    apic.set(0x20, 9 << 24)
    apic.set(0xD0, 4 << 24)
    _ = apic.take(0x40)
    _ = apic.accept(.init(vector: 0x10, mode: .startup, destination: 2))
    _ = apic.accept(.init(vector: 0, mode: .initialize, destination: 2))
    #expect(apic.events.contains(.initialize) && apic.takeStartup() == nil)
    _ = apic.accept(.init(vector: 0x9A, mode: .startup, destination: 2))
    #expect(apic.takeInitialize() && !apic.takeInitialize())
    #expect(apic.get(0x20) == 9 << 24 && apic.get(0xD0) == 0 && apic.get(0xF0) == 0xFF && apic.get(0x220) == 0)
    #expect(apic.takeStartup() == 0x9A && apic.takeStartup() == nil)
  }

  @Test func narrowAndOddAccesses() {
    var apic = enabled()
    #expect(apic.readPage(0x31, width: 1, now: 0) == 0x00)
    #expect(apic.readPage(0x30, width: 1, now: 0) == 0x14)
    #expect(apic.readPage(0x32, width: 2, now: 0) == 0x05)
    #expect(apic.readPage(0x32, width: 4, now: 0) == 0)
    #expect(apic.readPage(0x30, width: 8, now: 0) == 0)
    _ = apic.writePage(0x80, 0x30, width: 1, now: 0)
    _ = apic.writePage(0x84, 0x30, width: 4, now: 0)
    #expect(apic.get(0x80) == 0)
  }
}

@Suite struct AddressingTests {
  private func apic(id: UInt32, ldr: UInt32 = 0, dfr: UInt32 = .max, x2: Bool = false) throws -> Addressing {
    var apic = enabled(id: id)
    apic.set(0xD0, ldr << 24)
    apic.set(0xE0, dfr)
    if x2 { try apic.writeBase(apic.base | 1 << 10, physicalAddressBits: 40) }
    return Addressing(apic)
  }

  @Test(
    arguments: [
      (id: 3, ldr: 0, dfr: .max, isLogical: false, destination: 3, matches: true),
      (id: 3, ldr: 0, dfr: .max, isLogical: false, destination: 2, matches: false),
      (id: 3, ldr: 0, dfr: .max, isLogical: false, destination: .max, matches: true),
      (id: 3, ldr: 0x08, dfr: .max, isLogical: true, destination: 0x18, matches: true),
      (id: 3, ldr: 0x08, dfr: .max, isLogical: true, destination: 0x17, matches: false),
      (id: 3, ldr: 0x21, dfr: 0, isLogical: true, destination: 0x23, matches: true),
      (id: 3, ldr: 0x21, dfr: 0, isLogical: true, destination: 0x13, matches: false),
      (id: 3, ldr: 0x21, dfr: 0, isLogical: true, destination: 0x22, matches: false),
      (id: 3, ldr: 0, dfr: 0, isLogical: true, destination: .max, matches: true),
    ] as [(id: UInt32, ldr: UInt32, dfr: UInt32, isLogical: Bool, destination: UInt32, matches: Bool)])
  func xAPICDestinations(
    id: UInt32, ldr: UInt32, dfr: UInt32, isLogical: Bool, destination: UInt32, matches: Bool
  ) throws {
    let message = InterruptMessage(vector: 0x30, mode: .fixed, isLogical: isLogical, destination: destination)
    #expect(try apic(id: id, ldr: ldr, dfr: dfr).matches(message) == matches)
  }

  @Test(
    arguments: [
      (isLogical: false, destination: 0x12, matches: true), (isLogical: false, destination: .max, matches: true),
      (isLogical: true, destination: 0x0001_0004, matches: true),
      (isLogical: true, destination: 0x0001_0003, matches: false),
      (isLogical: true, destination: 0x0002_0004, matches: false), (isLogical: true, destination: 4, matches: false),
    ] as [(isLogical: Bool, destination: UInt32, matches: Bool)])
  func x2APICDestinations(isLogical: Bool, destination: UInt32, matches: Bool) throws {
    let message = InterruptMessage(vector: 0x30, mode: .fixed, isLogical: isLogical, destination: destination)
    #expect(try apic(id: 0x12, x2: true).matches(message) == matches)
  }
}

@Suite struct X2APICTests {
  @Test(
    arguments: [
      (from: 0x800, to: 0x000, isLegal: true), (from: 0x800, to: 0xC00, isLegal: true),
      (from: 0x800, to: 0x400, isLegal: false), (from: 0xC00, to: 0x800, isLegal: false),
      (from: 0xC00, to: 0x000, isLegal: true), (from: 0xC00, to: 0x400, isLegal: false),
      (from: 0x000, to: 0xC00, isLegal: false), (from: 0x000, to: 0x800, isLegal: true),
      (from: 0x000, to: 0x400, isLegal: false), (from: 0x800, to: 0xA00, isLegal: false),
      (from: 0x800, to: 0x801, isLegal: false), (from: 0x800, to: 0x100_0000_0800, isLegal: false),
    ] as [(from: UInt64, to: UInt64, isLegal: Bool)])
  func onlySomeTransitionsOfTheBaseAreLegal(from: UInt64, to: UInt64, isLegal: Bool) throws {
    var apic = LocalAPIC(processorID: 1, isBootstrap: false)
    if from != 0x800 { try apic.writeBase(0xFEE0_0000 | from, physicalAddressBits: 40) }
    let before = apic.base
    do throws(GeneralProtection) {
      try apic.writeBase(0xFEE0_0000 | to, physicalAddressBits: 40)
      #expect(isLegal && apic.base == 0xFEE0_0000 | to)
    } catch {
      #expect(!isLegal && apic.base == before)
    }
  }

  @Test func enteringX2APICFixesTheIDsAndLeavingResets() throws {
    var apic = enabled(id: 0x25)
    apic.set(0x20, 0x77 << 24)
    apic.set(0x80, 0x30)
    try apic.writeBase(0xFEE0_0C00, physicalAddressBits: 40)
    #expect(try apic.peekX2(0x802) == 0x25)
    #expect(try apic.peekX2(0x80D) == 0x0002_0020)
    #expect(try apic.peekX2(0x808) == 0x30)
    try apic.writeBase(0xFEE0_0000, physicalAddressBits: 40)
    #expect(apic.acceptsExternal)
    try apic.writeBase(0xFEE0_0800, physicalAddressBits: 40)
    #expect(apic.get(0x20) == 0x25 << 24 && apic.get(0x80) == 0 && apic.get(0xF0) == 0xFF)
  }

  @Test func registersThatDoNotExistFault() throws {
    let readable: Set<UInt32> = Set(
      [0x802, 0x803, 0x808, 0x80A, 0x80D, 0x80F, 0x828, 0x830, 0x83E] + Array(0x810...0x827) + Array(0x832...0x839))
    let writable: Set<UInt32> = [
      0x808, 0x80B, 0x80F, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83E, 0x83F,
    ]
    for msr in 0x800...0x8FF as ClosedRange<UInt32> {
      let apic = try x2()
      #expect((try? apic.peekX2(msr)) != nil ? readable.contains(msr) : !readable.contains(msr))
      #expect((try? apic.effectOfX2(msr, 0)) != nil ? writable.contains(msr) : !writable.contains(msr))
      let xAPIC = enabled()
      #expect(throws: GeneralProtection()) { try xAPIC.peekX2(msr) }
      #expect(throws: GeneralProtection()) { try xAPIC.effectOfX2(msr, 0) }
    }
  }

  @Test(
    arguments: [
      (0x808, 0x100), (0x808, 1 << 32), (0x80B, 1), (0x80F, 1 << 12), (0x828, 1), (0x830, 1 << 20), (0x832, 1 << 8),
      (0x835, 1 << 17), (0x837, 1 << 8), (0x83E, 4), (0x83F, 0x100), (0x838, 1 << 32),
    ] as [(UInt32, UInt64)])
  func reservedBitsFault(msr: UInt32, value: UInt64) throws {
    let apic = try x2()
    #expect(throws: GeneralProtection()) { try apic.effectOfX2(msr, value) }
  }

  @Test func ipisHave32BitDestinations() throws {
    var apic = try x2()
    let message = InterruptMessage(vector: 0x40, mode: .fixed, destination: 0x1234)
    #expect(try apic.effectOfX2(0x830, 0x1234 << 32 | 0x40) == .send(message, .none))
    _ = try apic.writeX2(0x830, 0x1234 << 32 | 0x40, now: 0)
    #expect(try apic.peekX2(0x830) == 0x1234 << 32 | 0x40)
    let own = InterruptMessage(vector: 0x55, mode: .fixed, destination: 0)
    #expect(try apic.effectOfX2(0x83F, 0x55) == .send(own, .oneself))
    #expect(try apic.effectOfX2(0x83F, 0x05) == .none)
    #expect(try apic.effectOfX2(0x80B, 0) == .none)
  }
}

@Suite struct LocalAPICTimerTests {
  @Test(
    arguments: [
      (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xA, 128), (0xB, 1),
    ] as [(UInt32, UInt64)])
  func divisors(configuration: UInt32, divisor: UInt64) {
    var apic = enabled()
    apic.set(0x3E0, configuration | 0x10)
    #expect(apic.get(0x3E0) == configuration)
    apic.set(0x320, 0x40)
    apic.set(0x380, 1000)
    #expect(apic.nextDeadline == 1000 * divisor)
    #expect(apic.get(0x390, now: 250 * divisor) == 750)
  }

  @Test func aOneShotCountsToZeroAndInterruptsOnce() {
    var apic = enabled()
    apic.set(0x3E0, 0xB)
    apic.set(0x320, 0x40)
    apic.set(0x380, 1000, now: 500)
    apic.advance(now: 1499)
    #expect(apic.events.isEmpty && apic.get(0x390, now: 1499) == 1)
    apic.advance(now: 1500)
    #expect(apic.acknowledge() == 0x40 && apic.nextDeadline == nil)
    #expect(apic.get(0x390, now: 9999) == 0 && apic.get(0x380) == 1000)
  }

  @Test func aPeriodicTimerGoesOnAndMissedPeriodsAreOne() {
    var apic = enabled()
    apic.set(0x3E0, 0xB)
    apic.set(0x320, 0x20040)
    apic.set(0x380, 1_000_000)
    apic.advance(now: 3_500_000)
    #expect(apic.nextDeadline == 4_000_000)
    #expect(apic.get(0x390, now: 3_500_000) == 500_000)
    #expect(apic.acknowledge() == 0x40)
    apic.set(0x380, 0, now: 3_600_000)
    #expect(apic.nextDeadline == nil)
  }

  @Test func tinyPeriodsDoNotWakeTheHostEachTime() {
    var apic = enabled()
    apic.set(0x3E0, 0xB)
    apic.set(0x320, 0x20040)
    apic.set(0x380, 1)
    apic.advance(now: 1_000_000)
    #expect(apic.nextDeadline == 1_200_000)
    apic.set(0x380, .max, now: .max - 10)
    _ = apic.get(0x390, now: .max)
  }

  @Test func aMaskedTimerCountsInSilence() {
    var apic = enabled()
    apic.set(0x380, 100)
    #expect(apic.nextDeadline == nil)
    #expect(apic.get(0x390, now: 300) == 0)
    apic.set(0x320, 0x40, now: 400)
    #expect(apic.events.isEmpty && apic.nextDeadline == nil)
  }

  @Test func aNewDivisorGoesOnWithTheCount() {
    var apic = enabled()
    apic.set(0x3E0, 0xB)
    apic.set(0x320, 0x40)
    apic.set(0x380, 1000)
    apic.set(0x3E0, 0x0, now: 400)
    #expect(apic.nextDeadline == 400 + 600 * 2)
  }

  @Test func theTSCDeadlineIsArmedOnlyInItsMode() {
    var apic = enabled()
    apic.writeTSCDeadline(5000, due: 2000, now: 0)
    #expect(apic.readTSCDeadline(now: 0) == 0)
    apic.set(0x320, 0x40040)
    apic.set(0x380, 1000)
    #expect(apic.get(0x380) == 0 && apic.get(0x390) == 0)
    apic.writeTSCDeadline(5000, due: 2000, now: 0)
    #expect(apic.readTSCDeadline(now: 1999) == 5000 && apic.nextDeadline == 2000)
    apic.advance(now: 2000)
    #expect(apic.readTSCDeadline(now: 2000) == 0 && apic.acknowledge() == 0x40)
    apic.writeTSCDeadline(9000, due: 4000, now: 2000)
    apic.set(0x320, 0x00040, now: 2000)
    #expect(apic.nextDeadline == nil && apic.readTSCDeadline(now: 2000) == 0)
  }
}
