import Buses
import DeviceKit
import TestKit
import Testing

@testable import Devices

/// A card whose shared registers a processor reads and writes itself, ringing the doorbell where it is told to.
private struct SharedCard {
  typealias Register = E1000Register

  let reach = ReachedRegisters()
  let card: E1000Card

  init() throws { card = try E1000Card(mmio: .mmio(postedRanges: reach)) }

  func take(_ register: Int) throws -> UInt32 {
    let access = try #require(reach.registers.find(UInt64(register), width: 4))
    return try #require(reach.registers.read(access))
  }

  @discardableResult
  func put(_ register: Int, _ value: UInt32) throws -> Bool {
    let access = try #require(reach.registers.find(UInt64(register), width: 4))
    let rings = try #require(reach.registers.write(access, value) as Bool?)
    if rings { #expect(card.fake.workers.ring(.sharedRegisters(4))) }
    return rings
  }

  var isInterrupting: Bool { reach.registers.asserts(11) }
  func takeTriggers() -> Int { card.fake.interrupts.takeTriggers(11) }
}

@Suite struct E1000SharedRegisterTests {
  private typealias Register = E1000Register
  private static let frame = TestFrame.ethernet(TestFrame.pattern(100))

  @Test func aDriversInterruptNeedsNoAccessToTheCard() throws {
    let shared = try SharedCard()
    let card = shared.card
    try card.startReceiving()
    try shared.put(Register.ims, E1000Cause.receiveTimer)
    for _ in 0..<3 {
      card.network.inject(Self.frame)
      #expect(shared.isInterrupting && shared.takeTriggers() == 1)
      #expect(try shared.take(Register.icr) & E1000Cause.receiveTimer != 0)
      #expect(!shared.isInterrupting)
      try shared.put(Register.imc, .max)
      #expect(try shared.take(Register.status) == card[Register.status])
      card.network.inject(Self.frame)
      #expect(shared.takeTriggers() == 0, "it is masked")
      #expect(try shared.take(Register.icr) & E1000Cause.receiveTimer != 0)
      #expect(try !shared.put(Register.ims, E1000Cause.receiveTimer))
    }
  }

  @Test func aCauseThatWaitsInterruptsWhenItIsUnmasked() throws {
    let shared = try SharedCard()
    try shared.card.startReceiving()
    shared.card.network.inject(Self.frame)
    #expect(!shared.isInterrupting)
    #expect(try shared.put(Register.ims, E1000Cause.receiveTimer))
    #expect(shared.isInterrupting && shared.takeTriggers() == 1)
    #expect(try shared.take(Register.ims) == E1000Cause.receiveTimer)
    #expect(shared.card[Register.ims] == E1000Cause.receiveTimer)
  }

  @Test func throttlingHoldsWhatIsUnmaskedAndFollowsITR() throws {
    let shared = try SharedCard()
    let card = shared.card
    card.fake.advance(nanoseconds: 1_000_000)
    try shared.put(Register.itr, 100)
    try shared.put(Register.ims, 1)
    #expect(try shared.put(Register.ics, 1))
    #expect(shared.isInterrupting && shared.takeTriggers() == 1)
    _ = try shared.take(Register.icr)
    #expect(try shared.put(Register.ics, 1))
    #expect(!shared.isInterrupting)
    card.fake.advance(nanoseconds: 25_599)
    #expect(!shared.isInterrupting)
    card.fake.advance(nanoseconds: 1)
    #expect(shared.isInterrupting && shared.takeTriggers() == 1)
    _ = try shared.take(Register.icr)
    try shared.put(Register.ics, 1)
    #expect(!shared.isInterrupting)
    #expect(try shared.put(Register.itr, 0), "what holds the pin is changed")
    #expect(shared.isInterrupting && shared.takeTriggers() == 1)
    #expect(try !shared.put(Register.itr, 5))
  }

  @Test func tailsAreTakenFromWhereTheProcessorPutsThem() throws {
    let shared = try SharedCard()
    let card = shared.card
    card.startTransmitting()
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(100))
    try frame.withUnsafeBytes { try card.fake.board.memory.write(E1000Card.buffers, from: $0) }
    for index in 0..<20 {
      try card.put(index, E1000Card.buffers, E1000Card.legacy(frame.count, E1000Card.eop | E1000Card.ifcs))
      #expect(try shared.put(Register.tdt, UInt32((index + 1) % E1000Card.ringCount)), "nothing is being sent")
      #expect(card.network.takeSent().map(\.bytes) == [frame])
      #expect(card[Register.tdh] == card[Register.tdt])
    }
  }

  @Test func aReceiveTailWakesACardThatHadNoRoom() throws {
    let shared = try SharedCard()
    let card = shared.card
    try card.startReceiving(free: 1)
    card.network.inject(Self.frame)
    #expect(try !shared.put(Register.rdt, 1))
    card.network.inject(Self.frame)
    #expect(card.network.waiting == 1 && card.network.resumes == 0)
    #expect(try shared.put(Register.rdt, 2))
    #expect(card.network.resumes == 1)
    card.network.deliver()
    #expect(card.network.waiting == 0)
    #expect(try card.received(1).bytes == Self.frame)
  }

  @Test func aResetClearsWhatIsShared() throws {
    let shared = try SharedCard()
    try shared.put(Register.ims, 1)
    try shared.put(Register.ics, 1)
    try shared.put(Register.itr, 77)
    shared.card[Register.ctrl] = E1000Control.reset
    #expect(!shared.isInterrupting)
    #expect(try shared.take(Register.ims) == 0 && shared.take(Register.icr) == 0 && shared.take(Register.itr) == 0)
    #expect(try shared.take(Register.status) == shared.card[Register.status])
  }

  @Test func thePCIStatusFollowsThePin() throws {
    let shared = try SharedCard()
    try shared.put(Register.ims, 1)
    try shared.put(Register.ics, 1)
    func status() -> UInt32 { shared.card.fake.board.pci.read(slot: 3, function: 0, register: 6, .word) & 8 }
    #expect(status() == 8)
    _ = try shared.take(Register.icr)
    #expect(status() == 0)
  }

  /// Whatever a processor leaves in the words, the card goes on.
  @Test func anyTailsAreHarmless() throws {
    let shared = try SharedCard()
    let card = shared.card
    try card.startReceiving()
    card.startTransmitting()
    for _ in 0..<2000 {
      for index in 0..<SharedRegisters.valueCount {
        shared.reach.registers.setValue(index, .random(in: 0...UInt32.max))
      }
      if Bool.random() { shared.reach.registers.setValue(2, .random(in: 0..<8)) }
      if Bool.random() { shared.reach.registers.setValue(1, .random(in: 0..<8)) }
      card.fake.workers.ring(.sharedRegisters(4))
      card.network.inject(Self.frame)
      _ = (card[Register.rdt], card[Register.tdt], card[Register.icr])
    }
  }
}
