import Backends
import TestKit
import Testing

@testable import Devices

@Suite struct E1000RegisterTests {
  typealias Register = E1000Register

  @Test func theFunctionIsAn82540EM() throws {
    let card = try E1000Card()
    let pci = card.fake.board.pci
    #expect(pci.read(slot: 3, function: 0, register: 0, .dword) == 0x100E_8086)
    #expect(pci.read(slot: 3, function: 0, register: 0x0A, .word) == 0x0200)
    pci.write(slot: 3, function: 0, register: 0x10, .dword, 0xFFFF_FFFF)
    #expect(pci.read(slot: 3, function: 0, register: 0x10, .dword) == 0xFFFE_0000)
  }

  @Test func statusSaysGigabitLinkFullDuplex() throws {
    let card = try E1000Card()
    #expect(card[Register.status] & 0xC3 == 0x83)
  }

  @Test func registersAnswerAtTheOldOffsetsAndThroughIOPorts() throws {
    let card = try E1000Card()
    card[0x0110] = 0x1234_5670
    #expect(card[Register.rdbal] == 0x1234_5670)
    card.fake.outl(0xC000, UInt32(Register.rdbal))
    #expect(card.fake.inl(0xC004) == 0x1234_5670)
    card.fake.outl(0xC004, 0x10)
    #expect(card[Register.rdbal] == 0x10)
    card.fake.outl(0xC000, 0xFFFF_FFFF)
    card.fake.outl(0xC004, 0x10)
    #expect(card.fake.inl(0xC004) == 0)
  }

  /// The bits that each register keeps, as the register test of drivers has them.
  static let masks: [(register: Int, mask: UInt32)] = [
    (Register.fcal, .max), (Register.fcah, 0xFFFF), (Register.fct, 0xFFFF), (Register.vet, 0xFFFF),
    (Register.rdtr, 0xFFFF), (Register.rdbah, .max), (Register.rdlen, 0xFFF80), (Register.rdh, 0xFFFF),
    (Register.rdt, 0xFFFF), (Register.fcrth, 0xFFF8), (Register.fcttv, 0xFFFF), (Register.tipg, 0x3FFF_FFFF),
    (Register.tdbah, .max), (Register.tdlen, 0xFFF80), (Register.rdbal, 0xFFFF_FFF0), (Register.tdbal, 0xFFFF_FFF0),
    (Register.txcw, 0xC000_FFFF), (Register.tidv, 0xFFFF), (0x5400, .max), (0x5404, 0x8003_FFFF), (0x5200, .max),
    (0x57FC, .max),
  ]

  @Test(arguments: masks)
  func registersKeepTheirBits(register: Int, mask: UInt32) throws {
    let card = try E1000Card()
    for pattern in [0x5A5A_5A5A, 0xA5A5_A5A5, 0, .max] as [UInt32] {
      card[register] = pattern
      #expect(card[register] == pattern & mask)
    }
  }

  @Test func everyOffsetCanBeReadAndWritten() throws {
    let card = try E1000Card()
    for offset in stride(from: 0, to: 0x2_0000, by: 4) {
      _ = card[offset]
      card[offset] = .max
      _ = card.fake.board.mmio.read(E1000Card.base + UInt64(offset) + 1, .byte)
      _ = card.fake.board.mmio.read(E1000Card.base + UInt64(offset), .qword)
    }
  }

  @Test func theEEPROMHoldsTheAddressAndItsChecksum() throws {
    let card = try E1000Card()
    let words = (0..<64).map { index -> UInt16 in
      card[Register.eerd] = UInt32(index << 8 | 1)
      let value = card[Register.eerd]
      #expect(value & 1 << 4 != 0)
      return UInt16(value >> 16)
    }
    #expect(Array(words[..<3]) == [0x5452, 0x1200, 0x5634])
    #expect(words.reduce(0, &+) == 0xBABA)
    #expect(card[Register.ra.lowerBound] == 0x1200_5452)
    #expect(card[Register.ra.lowerBound + 4] == 0x8000_5634)
  }

  @Test func theEEPROMIsReadAndWrittenByItsPins() throws {
    let card = try E1000Card()
    let pins = EEPROMPins(card)
    #expect(pins.read(1) == 0x1200)
    // Writes need to be enabled first.
    pins.command(0b01, 1, data: 0xABCD)
    #expect(pins.read(1) == 0x1200)
    pins.command(0b00, 0x30)
    pins.command(0b01, 1, data: 0xABCD)
    #expect(pins.read(1) == 0xABCD)
    // A reset loads the address from there.
    card[Register.ctrl] = E1000Control.reset
    #expect(card[Register.ra.lowerBound] == 0xABCD_5452)
  }

  @Test func thePHYIdentifiesItselfAndOthersDoNotAnswer() throws {
    let card = try E1000Card()
    #expect(card.phy(2) == 0x0141)
    #expect(card.phy(3) == 0x0C20)
    card[Register.mdic] = 2 << 26 | 2 << 21 | 2 << 16
    #expect(card[Register.mdic] & 1 << 30 != 0)
  }

  @Test func autonegotiationTakesTheLinkAwayForAMoment() throws {
    let card = try E1000Card()
    card[Register.ims] = E1000Cause.linkChange
    #expect(card.phy(1) & 0x24 == 0x24)
    card[Register.mdic] = 1 << 26 | 1 << 21 | 0x1340
    #expect(card[Register.status] & 2 == 0)
    #expect(card[Register.icr] & E1000Cause.linkChange != 0)
    #expect(card.phy(1) & 0x24 == 0)
    card.fake.advance(nanoseconds: 1_000_000_000)
    #expect(card.isInterrupting)
    #expect(card[Register.status] & 2 != 0)
    #expect(card.phy(1) & 0x24 == 0x24)
  }

  @Test func theLinkFollowsTheBackend() throws {
    let card = try E1000Card()
    card[Register.ims] = E1000Cause.linkChange
    card.network.setLink(false)
    #expect(card.isInterrupting)
    #expect(card[Register.status] & 2 == 0)
    _ = card[Register.icr]
    card.network.setLink(true)
    card.fake.advance(nanoseconds: 1_000_000_000)
    #expect(card.isInterrupting)
    #expect(card[Register.status] & 2 != 0)
  }

  @Test func causesAreMaskedSetAndCleared() throws {
    let card = try E1000Card()
    card[Register.ics] = E1000Cause.linkChange
    #expect(!card.isInterrupting)
    card[Register.ims] = E1000Cause.linkChange
    #expect(card.isInterrupting)
    card[Register.imc] = E1000Cause.linkChange
    #expect(!card.isInterrupting)
    card[Register.ims] = E1000Cause.linkChange
    card[Register.icr] = E1000Cause.linkChange
    #expect(!card.isInterrupting)
    #expect(card[Register.ims] == E1000Cause.linkChange)
  }

  @Test func throttlingKeepsInterruptsApart() throws {
    let card = try E1000Card()
    card.fake.advance(nanoseconds: 1_000_000)
    card[Register.ims] = .max
    card[Register.itr] = 100
    card[Register.ics] = 1
    #expect(card.isInterrupting)
    #expect(card[Register.icr] == 1)
    card.fake.advance(nanoseconds: 10_000)
    card[Register.ics] = 1
    #expect(!card.isInterrupting)
    card.fake.advance(nanoseconds: 15_599)
    #expect(!card.isInterrupting)
    card.fake.advance(nanoseconds: 1)
    #expect(card.isInterrupting)
  }

  @Test func aSoftwareResetLeavesThePCIFunctionAlone() throws {
    let card = try E1000Card()
    card[Register.ims] = 1
    card[Register.ics] = 1
    card[Register.ctrl] = E1000Control.reset
    #expect(!card.isInterrupting)
    #expect(card[Register.ims] == 0)
    #expect(card[Register.ctrl] == E1000Control.powerOn)
  }

  @Test func aMachineResetStopsEverything() throws {
    let card = try E1000Card()
    card.startTransmitting()
    card[Register.ims] = 1
    card[Register.ics] = 1
    card.device.reset()
    #expect(!card.isInterrupting)
    #expect(card[Register.tctl] == UInt32.max)
  }
}

extension E1000Card {
  func phy(_ register: UInt32) -> UInt32 {
    self[Register.mdic] = 2 << 26 | 1 << 21 | register << 16
    return self[Register.mdic] & 0xFFFF
  }
}

/// Drives a card's EEPROM pins as a driver does.
private struct EEPROMPins {
  let card: E1000Card

  init(_ card: E1000Card) { self.card = card }

  func command(_ opcode: UInt32, _ address: UInt32, data: UInt32? = nil) {
    select()
    shiftOut(1 << 8 | opcode << 6 | address, 9)
    if let data { shiftOut(data, 16) }
    card[E1000Register.eecd] = 0
  }

  func read(_ address: UInt32) -> UInt32 {
    select()
    shiftOut(1 << 8 | 0b10 << 6 | address, 9)
    var value: UInt32 = 0
    for _ in 0..<16 {
      clock(0)
      value = value << 1 | card[E1000Register.eecd] >> 3 & 1
    }
    card[E1000Register.eecd] = 0
    return value
  }

  private func select() {
    card[E1000Register.eecd] = E1000EEPROMControl.request
    card[E1000Register.eecd] = E1000EEPROMControl.request | E1000EEPROMControl.select
  }

  private func shiftOut(_ value: UInt32, _ bits: Int) {
    for bit in stride(from: bits - 1, through: 0, by: -1) { clock(value >> UInt32(bit) & 1) }
  }

  private func clock(_ bit: UInt32) {
    let pins = E1000EEPROMControl.request | E1000EEPROMControl.select | bit << 2
    card[E1000Register.eecd] = pins
    card[E1000Register.eecd] = pins | E1000EEPROMControl.clock
  }
}
