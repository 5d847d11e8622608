import Buses
import DeviceKit
import TestKit
import Testing

@testable import Devices

@Suite struct ChipsetPIIX3Tests {
  let chipset: ChipsetBoard
  var fake: FakeBoard { chipset.fake }
  init() throws { chipset = try ChipsetBoard() }

  @Test func identityIsThe82371SB() {
    #expect(chipset.readWide(1, 0x00) == 0x7000_8086)
    #expect(chipset.readWide(1, 0x04) == 0x0200_0007)
    #expect(chipset.readWide(1, 0x08) == 0x0601_0000)
    #expect(chipset.read(1, 0x0E) == 0x80)
    #expect(chipset.readWide(1, 0x2C) == 0x1100_1AF4)
    #expect(chipset.readWide(1, 0x60) == 0x8080_8080)
    #expect(chipset.readWide(1, 0x4C) == 0x0003_004D)
  }

  @Test(arguments: 0..<16) func onlyLegalIRQsAreRouted(irq: Int) {
    let line = fake.board.interrupts.intx(slot: 1, pin: 1)
    line.set(true)
    chipset.write(1, 0x60, UInt8(irq))
    let legal = [3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15].contains(irq)
    #expect((0..<24).filter { fake.interrupts.level($0) } == (legal ? [irq] : []))
    chipset.write(1, 0x60, UInt8(irq) | 0x80)
    #expect(!(0..<24).contains { fake.interrupts.level($0) })
  }

  @Test func theFourRoutesAreIndependentAndMayShareAnIRQ() {
    chipset.configurationAddress(1, 0x60)
    fake.outl(0xCFC, 0x0B0A_0B0A)
    let lines = (1...4).map { fake.board.interrupts.intx(slot: 1, pin: $0) }
    lines[0].set(true)
    #expect(fake.interrupts.level(10) && !fake.interrupts.level(11))
    lines[2].set(true)
    lines[0].set(false)
    #expect(fake.interrupts.level(10))
    lines[2].set(false)
    lines[3].set(true)
    #expect(!fake.interrupts.level(10) && fake.interrupts.level(11))
    #expect(chipset.readWide(1, 0x60) == 0x0B0A_0B0A)
  }

  @Test func resetDisablesRouting() {
    chipset.write(1, 0x60, 0x0B)
    let line = fake.board.interrupts.intx(slot: 1, pin: 1)
    line.set(true)
    chipset.isa.reset()
    #expect(!fake.interrupts.level(11))
    #expect(chipset.read(1, 0x60) == 0x80)
  }

  @Test func theResetRegisterResetsOnItsCPUBit() {
    fake.outb(0xCF9, 0x02)
    #expect(fake.inb(0xCF9) == 0x02)
    #expect(fake.events.take().isEmpty)
    fake.outb(0xCF9, 0x06)
    #expect(fake.events.take() == [.reset])
    #expect(fake.inb(0xCF9) == 0x02)
    fake.outb(0xCF9, 0x0E)
    #expect(fake.events.take() == [.reset])
    chipset.isa.reset()
    #expect(fake.inb(0xCF9) == 0)
  }

  @Test func theResetRegisterLeavesTheConfigurationLatchAlone() {
    fake.outl(0xCF8, 0x8000_0800)
    fake.outb(0xCF9, 0x02)
    #expect(fake.inl(0xCF8) == 0x8000_0800)
    fake.outl(0xCF8, 0x8000_0E00)
    #expect(fake.events.take().isEmpty)
  }

  @Test func theResetRegisterWorksWithoutAHostBridge() throws {
    let fake = FakeBoard(deviceMemorySize: 4096)
    _ = try PIIX3.model.make("isa", Properties([:]), fake.board)
    fake.outb(0xCF9, 0x06)
    #expect(fake.events.take() == [.reset])
  }

  @Test func pageRegistersAndThePOSTPortKeepWhatIsWritten() throws {
    for port in UInt64(0x80)...0x8F { fake.outb(port, UInt8(port) ^ 0x5A) }
    for port in UInt64(0x80)...0x8F { #expect(fake.inb(port) == UInt8(port) ^ 0x5A) }
    fake.outw(0x80, 0x1234)
    #expect(fake.inb(0x80) == 0x34 && fake.inb(0x81) == 0x12)
    #expect((chipset.isa as? PIIX3)?.postCode == 0x34)
  }

  @Test func dmaControllersAnswerAtTheirOwnSpacing() {
    fake.outb(0x0C, 0)
    fake.outb(0x04, 0x34)
    fake.outb(0x04, 0x12)
    fake.outb(0xD8, 0)
    fake.outb(0xC8, 0x78)
    fake.outb(0xC8, 0x56)
    #expect(fake.inb(0x04) == 0x34 && fake.inb(0x04) == 0x12)
    #expect(fake.inb(0xC8) == 0x78 && fake.inb(0xC9) == 0x56)
    fake.outb(0xD4, 0x01)
    #expect(fake.inb(0xDE) == 0xFD)
    fake.outb(0xDA, 0)
    #expect(fake.inb(0xDE) & 0x0F == 0x0F)
  }
}

@Suite struct ChipsetDMA8237Tests {
  @Test func theFlipFlopPicksLowThenHigh() {
    var dma = DMA8237()
    dma.write(0, 0x34)
    dma.write(0, 0x12)
    #expect(dma.channels[0].currentAddress == 0x1234)
    #expect(dma.read(0) == 0x34)
    dma.write(DMA8237.Register.clearFlipFlop, 0)
    #expect(dma.read(0) == 0x34 && dma.read(0) == 0x12)
    dma.write(7, 0xFF)
    dma.write(7, 0x01)
    #expect(dma.channels[3].baseCount == 0x01FF)
  }

  @Test func masksAndRequestsAreBitsOfTheirChannel() {
    var dma = DMA8237()
    #expect(dma.mask == 0x0F)
    dma.write(DMA8237.Register.singleMask, 0x02)
    #expect(dma.mask == 0x0B)
    dma.write(DMA8237.Register.allMask, 0xF5)
    #expect(dma.mask == 0x05 && dma.read(DMA8237.Register.allMask) == 0xF5)
    dma.write(DMA8237.Register.clearMask, 0)
    #expect(dma.mask == 0)
    dma.write(DMA8237.Register.request, 0x05)
    #expect(dma.read(DMA8237.Register.statusOrCommand) == 0x20)
    dma.write(DMA8237.Register.mode, 0x5A)
    #expect(dma.channels[2].mode == 0x58)
    dma.write(DMA8237.Register.statusOrCommand, 0x04)
    dma.write(DMA8237.Register.temporaryOrMasterClear, 0)
    #expect(dma.command == 0 && dma.mask == 0x0F && dma.requests == 0)
  }
}
