import Synchronization
import Testing

@testable import Buses

private final class Function: PCIFunction {
  let space: Mutex<PCIConfiguration>
  init(_ device: UInt16) {
    space = Mutex(PCIConfiguration(PCIIdentity(vendor: 0x1234, device: device, classCode: 0)))
  }
  func readConfiguration(_ register: Int, _ width: AccessWidth) -> UInt32 {
    space.withLock { $0.read(register, width) }
  }
  func writeConfiguration(_ register: Int, _ width: AccessWidth, _ value: UInt32) {
    space.withLock { $0.write(register, width, value) }
  }
}

private final class ResetPort: BusTarget, @unchecked Sendable {
  let value = Mutex<UInt64>(0)
  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 { value.withLock { $0 } }
  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    self.value.withLock { $0 = value | UInt64(region) << 8 | offset << 16 }
  }
}

@Suite struct PCIBusTests {
  let bus = PCIBus()
  let ports = AddressSpace.ports()
  let mechanism: PCIConfigurationPorts

  init() throws {
    mechanism = PCIConfigurationPorts(bus: bus)
    try ports.claim(PCIConfigurationPorts.base, PCIConfigurationPorts.count, for: mechanism)
  }

  func select(_ slot: UInt64, _ function: UInt64, _ register: UInt64) {
    ports.write(0xCF8, .dword, 0x8000_0000 | slot << 11 | function << 8 | register)
  }

  @Test func theLatchTakesDwordsOnly() {
    ports.write(0xCF8, .dword, 0x8000_0000)
    #expect(ports.read(0xCF8, .dword) == 0x8000_0000)
    ports.write(0xCFB, .byte, 0x01)
    ports.write(0xCF8, .word, 0xFFFF)
    #expect(ports.read(0xCF8, .dword) == 0x8000_0000)
    #expect(ports.read(0xCF8, .byte) == 0xFF)
    ports.write(0xCF8, .dword, 0xFFFF_FFFF)
    #expect(ports.read(0xCF8, .dword) == 0x80FF_FFFC)
    mechanism.reset()
    #expect(ports.read(0xCF8, .dword) == 0)
  }

  @Test func configurationCyclesReachTheSelectedFunction() throws {
    try bus.attach(Function(0xAAAA), slot: 3, function: 0)
    select(3, 0, 0)
    #expect(ports.read(0xCFC, .dword) == 0xAAAA_1234)
    #expect(ports.read(0xCFE, .word) == 0xAAAA)
    select(3, 0, 0x3C)
    ports.write(0xCFC, .byte, 0x0B)
    #expect(ports.read(0xCFC, .dword) == 0x0B)
  }

  @Test func emptySlotsOtherBusesAndAClosedLatchReadOnes() throws {
    try bus.attach(Function(0xAAAA), slot: 3, function: 0)
    select(4, 0, 0)
    #expect(ports.read(0xCFC, .dword) == 0xFFFF_FFFF)
    ports.write(0xCF8, .dword, 0x8001_0000 | 3 << 11)
    #expect(ports.read(0xCFC, .word) == 0xFFFF)
    ports.write(0xCF8, .dword, 3 << 11)
    #expect(ports.read(0xCFC, .dword) == 0xFFFF_FFFF)
  }

  @Test func unalignedAccessesKeepToTheDataWindow() throws {
    try bus.attach(Function(0xAAAA), slot: 3, function: 0)
    select(3, 0, 0xFC)
    #expect(ports.read(0xCFF, .dword) == 0xFFFF_FF00)
    select(3, 0, 0)
    #expect(ports.read(0xCFD, .dword) == 0xFFFF_AA12)
    #expect(ports.read(0xCFF, .word) == 0xFFAA)
  }

  @Test func port0xCF9BelongsToTheOverlay() {
    let port = ResetPort()
    #expect(ports.read(0xCF9, .byte) == 0xFF)
    mechanism.overlay(port, region: 4)
    ports.write(0xCF9, .byte, 0x06)
    #expect(port.value.withLock { $0 } == 0x406)
    #expect(ports.read(0xCF9, .byte) == 0x06)
    ports.write(0xCF9, .word, 0x0E0E)
    #expect(port.value.withLock { $0 } == 0x406)
  }

  @Test func severalFunctionsMakeTheSlotMultifunction() throws {
    try bus.attach(Function(1), slot: 5, function: 0)
    #expect(bus.read(slot: 5, function: 0, register: 0x0E, .byte) == 0x00)
    try bus.attach(Function(2), slot: 5, function: 3)
    #expect(bus.read(slot: 5, function: 0, register: 0x0E, .byte) == 0x80)
    #expect(bus.read(slot: 5, function: 0, register: 0x0C, .dword) == 0x0080_0000)
    #expect(bus.read(slot: 5, function: 0, register: 0x0F, .byte) == 0x00)
    #expect(bus.read(slot: 5, function: 3, register: 0x0E, .byte) == 0x00)
  }

  @Test func takenAndImpossibleSlotsAreRefused() throws {
    try bus.attach(Function(1), slot: 3, function: 0)
    #expect(throws: PCISlotError(slot: 3, function: 0)) { try bus.attach(Function(2), slot: 3, function: 0) }
    #expect(throws: PCISlotError(slot: 32, function: 0)) { try bus.attach(Function(2), slot: 32, function: 0) }
    #expect(bus.freeSlot() == 4)
  }
}
