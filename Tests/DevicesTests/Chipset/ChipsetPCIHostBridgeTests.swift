import Buses
import DeviceKit
import TestKit
import Testing

@testable import Devices

@Suite struct ChipsetPCIHostBridgeTests {
  private let fake = FakeBoard()
  private let bridge: Device

  init() throws { bridge = try PCIHostBridge.model.make("pci-host", Properties([:]), fake.board) }

  @Test func configurationMechanism1ReachesTheBusUntilAReset() {
    fake.outl(0xCF8, 0x8000_0000)
    #expect(fake.inl(0xCFC) == 0x0008_1B36)
    fake.outl(0xCF8, 0x8000_0008)
    #expect(fake.inl(0xCFC) == 0x0600_0000)
    fake.outl(0xCF8, 0x8000_0800)
    #expect(fake.inl(0xCFC) == 0xFFFF_FFFF)
    bridge.reset()
    #expect(fake.inl(0xCF8) == 0)
  }

  @Test func pinsOfAllSlotsReachFourInputs() {
    for (slot, pin, input) in [(1, 1, 20), (1, 4, 23), (2, 1, 21), (4, 1, 23), (5, 1, 20), (31, 2, 23)] {
      let line = fake.board.interrupts.intx(slot: slot, pin: pin)
      line.set(true)
      #expect(fake.interrupts.level(input), "slot \(slot) pin \(pin)")
      line.set(false)
      #expect(!fake.interrupts.level(input))
    }
  }

  @Test func thereIsOneOnABoard() {
    #expect(throws: DeviceError.self) { try PCIHostBridge.model.make("another", Properties([:]), fake.board) }
  }
}
