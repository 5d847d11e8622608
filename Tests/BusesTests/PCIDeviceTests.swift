import Buses
import DeviceKit
import TestKit
import Testing

private final class Card: PCIDevice, @unchecked Sendable {
  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 { UInt64(region) << 16 | offset }
}

@Suite struct PCIDeviceTests {
  let fake = FakeBoard()

  private func card(_ body: (inout PCIConfiguration) -> Void) -> Card {
    var space = PCIConfiguration(PCIIdentity(vendor: 1, device: 2, classCode: 0))
    body(&space)
    return Card(id: "card", configuration: space)
  }

  @Test func barsFollowTheConfigurationSpace() throws {
    let card = card { space in
      space.addBAR(0, .memory32, size: 0x1000)
      space.addBAR(1, .io, size: 0x20)
    }
    try card.map(bar: 0, in: fake.board.mmio)
    try card.map(bar: 1, in: fake.board.ports)
    card.writeConfiguration(0x10, .dword, 0xFEB0_0000)
    card.writeConfiguration(0x14, .dword, 0xC000)
    #expect(!fake.board.mmio.answers(0xFEB0_0000))
    card.writeConfiguration(PCIRegister.command, .word, 3)
    #expect(fake.board.mmio.read(0xFEB0_0004, .dword) == 4)
    #expect(fake.board.ports.read(0xC01F, .dword) == 0x1_001F)
    card.reset()
    #expect(!fake.board.mmio.answers(0xFEB0_0000) && !fake.board.ports.answers(0xC000))
  }

  @Test func aWindowMovesWithItsBAR() throws {
    let window = try fake.board.window(size: 0x1_0000, readOnly: false)
    let card = card { $0.addBAR(0, .prefetchable64, size: 0x1_0000) }
    try card.map(bar: 0, in: fake.board.mmio, window: window)
    card.writeConfiguration(PCIRegister.command, .word, 2)
    card.writeConfiguration(0x14, .dword, 1)
    #expect(fake.mapper.mappings.map(\.guestAddress) == [0x1_0000_0000])
    card.writeConfiguration(0x10, .dword, 0xFFFF_FFFF)
    card.writeConfiguration(0x14, .dword, 0xFFFF_FFFF)
    #expect(fake.mapper.mappings.isEmpty)
    card.writeConfiguration(0x14, .dword, 0x8000_0000)
    #expect(fake.mapper.mappings.isEmpty)
    card.writeConfiguration(0x10, .dword, 0xE000_0000)
    card.writeConfiguration(0x14, .dword, 0)
    #expect(fake.mapper.mappings.map(\.guestAddress) == [0xE000_0000])
    card.writeConfiguration(PCIRegister.command, .word, 0)
    #expect(fake.mapper.mappings.isEmpty)
  }

  @Test func theInterruptPinHonoursItsDisableBit() {
    let card = card { $0.setInterruptPin(1) }
    fake.board.interrupts.route(pirq: 2, to: 11)
    card.connectInterrupt(fake.board.interrupts.intx(slot: 3, pin: 1))
    card.setInterrupt(true)
    #expect(fake.interrupts.level(11))
    #expect(card.readConfiguration(PCIRegister.status, .word) & 0x08 != 0)
    card.writeConfiguration(PCIRegister.command, .word, 0x0400)
    #expect(!fake.interrupts.level(11))
    #expect(card.readConfiguration(PCIRegister.status, .word) & 0x08 != 0)
    card.writeConfiguration(PCIRegister.command, .word, 0)
    #expect(fake.interrupts.level(11))
    card.reset()
    #expect(!fake.interrupts.level(11))
    #expect(card.readConfiguration(PCIRegister.status, .word) & 0x08 == 0)
  }
}
