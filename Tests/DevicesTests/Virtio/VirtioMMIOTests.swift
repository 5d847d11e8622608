import Backends
import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

/// A virtio-blk-device and a virtio-net-device on a fake board, driven through their registers.
private struct Slots {
  static let base: UInt64 = 0xFEB0_0000
  static let data: UInt64 = 0x10_0000

  let fake: FakeBoard
  let backend = MemoryBlockBackend(sectors: 64)
  let disk: VirtioMMIODevice
  let driver: VirtioMMIODriver
  let ring: VirtqueueDriver

  init(mmio: AddressSpace = .mmio()) throws {
    let network = RecordingNetwork(offloads: [], queuePairs: 1)
    fake = FakeBoard(
      deviceMemorySize: 4096, resources: FakeResources(blocks: ["disk0": backend], networks: ["net0": network]),
      mmio: mmio)
    let made = try VirtioBlock.model.mmio.make(
      "disk", Properties(["drive": .string("disk0"), "slot": .integer(2)]), fake.board)
    disk = try #require(made as? VirtioMMIODevice)
    disk.reset()
    driver = VirtioMMIODriver(fake, at: Self.base + 0x2000, interrupt: 7)
    ring = VirtqueueDriver(fake.board.memory, at: 0x1_0000, size: 16)
  }

  func start() {
    #expect(driver.negotiate(1 << 32))
    driver.enable(0, ring)
    driver.start()
  }

  /// Reads sector 1 into `data`; returns the status byte.
  @discardableResult
  func readSector() throws -> UInt8 {
    let memory = fake.board.memory
    try memory.store(UInt64(0), at: Self.data - 32)
    try memory.store(UInt64(1), at: Self.data - 24)
    try memory.store(UInt8(0xEE), at: Self.data - 1)
    ring.add([.readable(Self.data - 32, 16), .writable(Self.data, 512), .writable(Self.data - 1, 1)])
    driver.notify(0)
    return try memory.load(Self.data - 1, as: UInt8.self)
  }
}

@Suite struct VirtioMMIOTests {
  @Test func identityIsThatOfAVersion2Device() throws {
    let slots = try Slots()
    #expect([0, 4, 8].map { slots.driver.read($0) } == [0x7472_6976, 2, 2])
    #expect(slots.driver.offeredFeatures & (1 << 32 | 1 << 40) == 1 << 32 | 1 << 40)
    #expect(slots.driver.read(0x34) == 256)
    // Capacity in sectors.
    #expect(slots.driver.read(0x100) == 64)
    #expect(slots.driver.read(0x100, .qword) == 64)
    #expect(slots.driver.read(0xB0) == 0xFFFF_FFFF && slots.driver.read(0xBC) == 0xFFFF_FFFF, "no shared memory")
  }

  @Test func registersAreReadAndWrittenWholeOnly() throws {
    let slots = try Slots()
    #expect(slots.driver.read(0, .byte) == 0)
    #expect(slots.driver.read(2, .dword) == 0)
    slots.driver.write(0x70, 3, .byte)
    #expect(slots.driver.status == 0)
  }

  @Test func requestsPassByTheDoorbellAndEndWithAnInterrupt() throws {
    let slots = try Slots()
    slots.start()
    #expect(slots.fake.workers.doorbells.contains(.memory(Slots.base + 0x2050)))
    #expect(try slots.readSector() == 0)
    #expect(try slots.fake.board.memory.load(Slots.data, as: UInt8.self) == 1)
    #expect(slots.driver.takeInterrupts() == 1)
    #expect(slots.driver.read(0x60) == 1)
    // The bit is set already.
    try slots.readSector()
    #expect(slots.driver.takeInterrupts() == 0)
    slots.driver.write(0x64, 1)
    #expect(slots.driver.read(0x60) == 0)
    try slots.readSector()
    #expect(slots.driver.takeInterrupts() == 1)
  }

  @Test func anEventThatWasNotAcknowledgedInterruptsAgain() throws {
    let slots = try Slots()
    slots.start()
    try slots.readSector()
    slots.disk.device.changeConfiguration { _ in }
    #expect(slots.driver.takeInterrupts() == 2)
    #expect(slots.driver.read(0x60) == 3)
    slots.driver.write(0x64, 1)
    #expect(slots.driver.takeInterrupts() == 1)
    slots.driver.write(0x64, 2)
    #expect(slots.driver.takeInterrupts() == 0)
  }

  @Test func processorsReadAndAcknowledgeAnInterruptWithoutTheDevice() throws {
    let reach = ReachedRegisters()
    let slots = try Slots(mmio: .mmio(postedRanges: reach))
    let status = try #require(reach.registers.find(0x60, width: 4))
    let acknowledge = try #require(reach.registers.find(0x64, width: 4))
    slots.start()
    for _ in 0..<3 {
      try slots.readSector()
      #expect(slots.driver.takeInterrupts() == 1)
      #expect(reach.registers.read(status) == 1 && slots.driver.read(0x60) == 1)
      #expect(reach.registers.write(acknowledge, 1) == false)
      #expect(reach.registers.read(status) == 0 && slots.driver.read(0x60) == 0)
    }
    try slots.readSector()
    slots.disk.device.changeConfiguration { _ in }
    #expect(slots.driver.takeInterrupts() == 2)
    #expect(reach.registers.write(acknowledge, 1) == nil, "the device interrupts again for what is left")
    slots.driver.write(0x64, 1)
    #expect(slots.driver.takeInterrupts() == 1)
    #expect(reach.registers.read(status) == 2)
    slots.driver.write(0x70, 0)
    #expect(reach.registers.read(status) == 0)
  }

  @Test func generationCountsChangesOfTheConfiguration() throws {
    let slots = try Slots()
    let before = slots.driver.read(0xFC)
    slots.disk.device.changeConfiguration { $0[0] = 65 }
    #expect(slots.driver.read(0xFC) != before)
    #expect(slots.driver.read(0x100) == 65)
  }

  @Test func driversWithoutVersion1AreRefused() throws {
    let slots = try Slots()
    #expect(!slots.driver.negotiate(0))
  }

  @Test func readyQueuesKeepTheirAddressesAndAreGivenBackByZero() throws {
    let slots = try Slots()
    slots.start()
    slots.driver.write(0x80, 0xFFFF_F000)
    #expect(try slots.readSector() == 0)
    #expect(slots.driver.read(0x44) == 1)
    slots.driver.write(0x44, 0)
    #expect(slots.driver.read(0x44) == 0)
    #expect(try slots.readSector() == 0xEE, "nobody takes it")
  }

  @Test func resetForgetsEverything() throws {
    let slots = try Slots()
    slots.start()
    try slots.readSector()
    slots.driver.write(0x70, 0)
    #expect([0x44, 0x60, 0x70].map { slots.driver.read($0) } == [0, 0, 0])
  }

  @Test func queuesThatThereAreNotHaveNoSize() throws {
    let slots = try Slots()
    for queue: UInt64 in [1, 0xFFFF, 0xFFFF_FFFF] {
      slots.driver.write(0x30, queue)
      #expect(slots.driver.read(0x34) == 0 && slots.driver.read(0x44) == 0)
      for register: UInt64 in [0x38, 0x44, 0x80, 0x94, 0xC0] { slots.driver.write(register, 0xFFFF_FFFF) }
      slots.driver.write(0x50, queue)
    }
  }

  @Test func eachQueueOfSeveralWorkersHasADoorbellOfItsOwn() throws {
    let slots = try Slots()
    _ = try VirtioNetwork.model.mmio.make(
      "nic", Properties(["netdev": .string("net0"), "mac": .string("52:54:00:12:34:56")]), slots.fake.board)
    for queue: UInt32 in 0..<3 {
      #expect(slots.fake.workers.doorbells.contains(.register(Slots.base + 0x50, value: queue)))
    }
  }

  @Test func slotsAreTakenOnceAndOnlyWhereThereAreAny() throws {
    let slots = try Slots()
    func make(_ slot: UInt64?) throws {
      let properties = slot.map { ["slot": PropertyValue.integer($0)] } ?? [:]
      _ = try VirtioEntropy.model.mmio.make("rng", Properties(properties), slots.fake.board)
    }
    #expect(throws: DeviceError.self) { try make(2) }
    #expect(throws: DeviceError.self) { try make(99) }
    for _ in 1..<VirtioMMIO.slotCount { try make(nil) }
    #expect(throws: DeviceError.self) { try make(nil) }
  }

  @Test func everyVirtioModelHasBothTransports() {
    for name in ["blk", "net", "rng", "balloon", "serial", "vsock", "scsi"] {
      #expect(catalog.model(named: "virtio-\(name)-pci")?.bus == .pci)
      #expect(catalog.model(named: "virtio-\(name)-device")?.bus == .virtioMMIO)
    }
  }
}

@Suite struct ReducedPowerTests {
  private func board() throws -> FakeBoard {
    let fake = FakeBoard(deviceMemorySize: 4096)
    _ = try ReducedPowerDevice.model.make("power", Properties([:]), fake.board)
    return fake
  }

  @Test func onlySleepTypeFiveWithEnablePowersOff() throws {
    let fake = try board()
    for value: UInt8 in [5 << 2, 1 << 5, 4 << 2 | 1 << 5] { fake.outb(0x600, value) }
    fake.outb(0x601, 5 << 2 | 1 << 5)
    #expect(fake.events.take().isEmpty)
    fake.outb(0x600, 5 << 2 | 1 << 5)
    #expect(fake.events.take() == [.powerOff])
  }

  @Test func resetCommandResetsAndNoKeyboardControllerIsSeen() throws {
    let fake = try board()
    fake.outb(0x64, 0xD1)
    #expect(fake.events.take().isEmpty)
    fake.outb(0x64, 0xFE)
    #expect(fake.events.take() == [.reset])
    #expect(fake.inb(0x64) & 3 == 1)
    #expect(fake.inb(0x601) == 0)
  }
}
