import Buses
import DeviceKit
import TestKit
import Testing

/// MSI-X of a function with three vectors in BAR 1, at 0xFEB00000.
@Suite struct MSIXTests {
  private final class Card: PCIDevice, @unchecked Sendable {}

  private static let base: UInt64 = 0xFEB0_0000
  private static let pending: UInt64 = base + 0x800
  let fake = FakeBoard()
  private let card: Card
  private let msix: MSIX
  private let capability: Int

  init() throws {
    msix = try MSIX(vectors: 3, board: fake.board)
    var space = PCIConfiguration(PCIIdentity(vendor: 1, device: 2, classCode: 0))
    space.setInterruptPin(1)
    space.addMSIX(msix.table, bar: 1)
    capability = Int(space.get8(PCIRegister.capabilities))
    card = Card(id: "card", configuration: space)
    try card.map(msix, bar: 1, in: fake.board.mmio)
    card.connectInterrupt(fake.board.interrupts.level(20))
    card.writeConfiguration(0x14, .dword, UInt32(truncatingIfNeeded: Self.base))
    card.writeConfiguration(PCIRegister.command, .word, 6)
  }

  private func control(_ value: UInt32) { card.writeConfiguration(capability + 2, .word, value) }
  private func set(_ vector: UInt64, _ address: UInt64, _ data: UInt32, masked: Bool = false) {
    fake.board.mmio.write(Self.base + vector * 16, .qword, address)
    fake.board.mmio.write(Self.base + vector * 16 + 8, .dword, UInt64(data))
    mask(vector, masked)
  }
  private func mask(_ vector: UInt64, _ masked: Bool) {
    fake.board.mmio.write(Self.base + vector * 16 + 12, .dword, masked ? 1 : 0)
  }
  private func sent() -> [MSIMessage?] { fake.interrupts.takeMessages() }

  @Test func theCapabilitySaysWhereTheTableIs() {
    let space = card.configuration { $0 }
    #expect(space.get16(PCIRegister.status) & 0x10 != 0)
    #expect(space.get8(capability) == 0x11 && space.get8(capability + 1) == 0)
    #expect(space.get16(capability + 2) == 2)
    #expect(space.get32(capability + 4) == 1 && space.get32(capability + 8) == 0x801)
    control(0xFFFF)
    #expect(card.readConfiguration(capability + 2, .word) == 0xC002)
  }

  @Test func anOpenVectorSendsItsMessageAndAMaskedOneWaits() {
    control(0x8000)
    set(1, 0xFEE0_1000, 0x42)
    msix.signal(1)
    msix.signal(0)
    msix.signal(7)
    #expect(sent() == [MSIMessage(address: 0xFEE0_1000, data: 0x42)])
    #expect(fake.board.mmio.read(Self.pending, .dword) == 1, "vector 0 is masked from power-on")
    mask(1, true)
    msix.signal(1)
    msix.signal(1)
    #expect(fake.board.mmio.read(Self.pending, .qword) == 3)
    // Linux moves an interrupt so: masked, written, unmasked.
    set(1, 0xFEE0_2000, 0x43)
    #expect(sent() == [MSIMessage(address: 0xFEE0_2000, data: 0x43)])
    #expect(fake.board.mmio.read(Self.pending, .dword) == 1)
  }

  @Test func theFunctionMaskHoldsAllVectors() {
    set(0, 0xFEE0_0000, 1)
    set(2, 0xFEE0_0000, 3)
    control(0xC000)
    msix.signal(0)
    msix.signal(2)
    #expect(sent().isEmpty && fake.board.mmio.read(Self.pending, .dword) == 5)
    control(0x8000)
    #expect(sent().map { $0?.data } == [1, 3])
  }

  @Test func withoutMSIXAVectorSendsNothingAndThePinWorks() {
    set(0, 0xFEE0_0000, 1)
    msix.signal(0)
    card.setInterrupt(true)
    #expect(sent().isEmpty && fake.board.mmio.read(Self.pending, .dword) == 0)
    #expect(fake.interrupts.level(20))
    control(0x8000)
    #expect(!fake.interrupts.level(20), "the pin is silent while MSI-X is on")
    control(0)
    #expect(fake.interrupts.level(20))
  }

  @Test func aFunctionThatMayNotWriteMemorySendsNoMessage() {
    control(0x8000)
    set(0, 0xFEE0_0000, 1)
    card.writeConfiguration(PCIRegister.command, .word, 2)
    msix.signal(0)
    #expect(sent().isEmpty)
    card.writeConfiguration(PCIRegister.command, .word, 6)
    #expect(sent().count == 1)
  }

  @Test func resetMasksAndForgets() {
    control(0x8000)
    set(0, 0xFEE0_0000, 1)
    msix.signal(1)
    card.reset()
    msix.signal(0)
    #expect(sent().isEmpty && !msix.isEnabled)
    #expect(msix.table.read(0, .dword) == 0 && msix.table.read(12, .dword) == 1 && !msix.table.isPending(1))
  }

  @Test func oddAccessesOfTheTableChangeNothing() {
    var table = MSIXTable(vectors: 2048)
    #expect(table.pendingOffset == 0x8000 && table.size == 0x1_0000)
    for offset: UInt64 in [1, 2, 6, table.size, table.pendingOffset, .max, .max - 7] {
      #expect(table.write(offset, .dword, .max) == nil)
      _ = table.read(offset, .qword)
      _ = table.read(offset, .dword)
    }
    #expect(table.write(0, .byte, .max) == nil && table.read(0, .dword) == 0)
    #expect(table.write(0, .dword, .max) == 0 && table.read(0, .dword) == 0xFFFF_FFFC)
    #expect(table.write(12, .dword, .max) == 0 && table.read(12, .dword) == 1)
  }

  @Test func aDoorbellFollowsItsBAR() throws {
    var space = PCIConfiguration(PCIIdentity(vendor: 1, device: 2, classCode: 0))
    space.addBAR(0, .io, size: 0x20)
    space.addBAR(4, .memory64, size: 0x4000)
    let card = Card(id: "bells", configuration: space)
    let worker = fake.workers.worker("bells") { _ in .idle }
    try card.map(bar: 0, in: fake.board.ports, doorbells: [.init(worker.doorbell(), at: 0x10)])
    try card.map(bar: 4, in: fake.board.mmio, doorbells: [.init(worker.doorbell(), at: 0x3000)])
    card.writeConfiguration(0x10, .dword, 0xC000)
    card.writeConfiguration(0x20, .dword, 0xC000_0000)
    card.writeConfiguration(0x24, .dword, 1)
    #expect(fake.workers.doorbells.isEmpty)
    card.writeConfiguration(PCIRegister.command, .word, 3)
    #expect(fake.workers.doorbells == [.port(0xC010), .memory(0x1_C000_3000)])
    card.writeConfiguration(0x10, .dword, 0xD000)
    #expect(fake.workers.doorbells == [.port(0xD010), .memory(0x1_C000_3000)])
    card.reset()
    #expect(fake.workers.doorbells.isEmpty)
  }
}
