import Backends
import Buses
import DeviceKit
import GuestMemory
import MachineModel
import TestKit
import Testing

@testable import Devices

/// A virtio-blk-pci at slot 3 of a fake board with 64 sectors, driven through its PCI registers.
private struct Disk {
  static let header: UInt64 = 0x10_0000
  static let data: UInt64 = 0x10_1000
  static let status: UInt64 = 0x10_0800
  static let version1: UInt64 = 1 << 32
  static let blockFeatures: UInt64 = 1 << 9 | 1 << 11 | 1 << 13 | 1 << 14

  let fake: FakeBoard
  let backend: MemoryBlockBackend
  let pci: VirtioPCIDriver
  let function: VirtioPCIDevice
  var ring: VirtqueueDriver
  var device: VirtioDevice { function.device }

  init(
    _ properties: [String: PropertyValue] = [:], isReadOnly: Bool = false, isPacked: Bool = false, sectors: Int = 64
  ) throws {
    backend = MemoryBlockBackend(sectors: sectors, isReadOnly: isReadOnly)
    fake = FakeBoard(deviceMemorySize: 4096, resources: FakeResources(blocks: ["disk0": backend]))
    let defaults = VirtioBlock.model.pci.options.compactMap { option in option.defaultValue.map { (option.name, $0) } }
    let values = properties.merging(["drive": .string("disk0"), "serial": .string("S3R1AL")]) { given, _ in given }
      .merging(defaults) { given, _ in given }
    let made = try VirtioBlock.model.pci.make("disk", Properties(values), fake.board)
    function = try #require(made as? VirtioPCIDevice)
    function.reset()
    pci = VirtioPCIDriver(fake)
    ring = VirtqueueDriver(fake.board.memory, at: 0x1_0000, size: 16, isPacked: isPacked)
  }

  /// Negotiates, sets queue 0 up and starts.
  func start(_ features: UInt64 = Disk.blockFeatures, vector: UInt16 = 0xFFFF) {
    let packed: UInt64 = ring.isPacked ? 1 << 34 : 0
    #expect(pci.negotiate(features | Self.version1 | packed | 1 << 28))
    pci.enable(0, ring, vector: vector)
    pci.start()
  }

  func putHeader(_ type: UInt32, _ sector: UInt64) throws {
    try fake.board.memory.store(type, at: Self.header)
    try fake.board.memory.store(UInt32(0), at: Self.header + 4)
    try fake.board.memory.store(sector, at: Self.header + 8)
    try fake.board.memory.store(UInt8(0xEE), at: Self.status)
  }

  /// One request with its data where the device reads or writes it; returns the status byte.
  @discardableResult
  func request(_ type: UInt32, sector: UInt64 = 0, out: [UInt8] = [], incoming: Int = 0) throws -> UInt8 {
    try putHeader(type, sector)
    try fake.board.memory.write(Self.data, out)
    var chain: [TestDescriptor] = [.readable(Self.header, 16)]
    if !out.isEmpty { chain.append(.readable(Self.data, out.count)) }
    if incoming > 0 { chain.append(.writable(Self.data, incoming)) }
    chain.append(.writable(Self.status, 1))
    ring.add(chain)
    pci.notify(0)
    return try fake.board.memory.load(Self.status, as: UInt8.self)
  }

  func bytes(_ count: Int) throws -> [UInt8] { try fake.board.memory.bytes(Self.data, count) }

  static func range(_ sector: UInt64, _ count: UInt32, flags: UInt32 = 0) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: sector >> ($0 * 8)) }
      + (0..<4).map { UInt8(truncatingIfNeeded: count >> ($0 * 8)) }
      + (0..<4).map { UInt8(truncatingIfNeeded: flags >> ($0 * 8)) }
  }
}

@Suite struct VirtioBlockTests {
  @Test(arguments: [false, true]) func readsWritesAndFlushes(isPacked: Bool) throws {
    let disk = try Disk(isPacked: isPacked)
    disk.start()
    for round in 0..<40 {
      let sector = UInt64(round % 60)
      #expect(try disk.request(1, sector: sector, out: [UInt8](repeating: UInt8(round), count: 1024)) == 0)
      #expect(try disk.request(0, sector: sector + 1, incoming: 512) == 0)
      #expect(try disk.bytes(512) == [UInt8](repeating: UInt8(round), count: 512))
    }
    #expect(disk.ring.takeUsed().count <= 17 && disk.device.lastFault == nil)
    #expect(try disk.request(4) == 0)
    #expect(disk.backend.flushes == 1)
  }

  @Test func theUsedLengthCountsWhatWasWritten() throws {
    let disk = try Disk()
    disk.start()
    try disk.request(0, sector: 3, incoming: 1024)
    try disk.request(1, sector: 3, out: [UInt8](repeating: 1, count: 512))
    disk.backend.fail(sectors: 5..<6, with: .host(errno: 5))
    #expect(try disk.request(0, sector: 4, incoming: 1024) == 1)
    #expect(disk.ring.takeUsed().map(\.length) == [1025, 1, 0])
  }

  @Test func aRequestMayBeScatteredInAnyWay() throws {
    let disk = try Disk()
    disk.start()
    try disk.putHeader(1, 7)
    try disk.fake.board.memory.write(Disk.data, [UInt8](repeating: 0xAB, count: 512))
    disk.ring.add([
      .readable(Disk.header, 5), .readable(Disk.header + 5, 1), .readable(Disk.header + 6, 10),
      .readable(Disk.data, 511), .readable(Disk.data + 511, 1), .writable(Disk.status, 1),
    ])
    disk.pci.notify(0)
    #expect(disk.backend.sector(7) == [UInt8](repeating: 0xAB, count: 512))
    try disk.putHeader(0, 7)
    // The status is the last byte of the one buffer that is written.
    disk.ring.add([.readable(Disk.header, 16), .writable(Disk.data, 513)])
    disk.pci.notify(0)
    #expect(try disk.bytes(513) == [UInt8](repeating: 0xAB, count: 512) + [0])
  }

  @Test func serialNumberAndConfiguration() throws {
    let disk = try Disk(["queues": .integer(4)])
    disk.start()
    #expect(try disk.request(8, incoming: 20) == 0)
    #expect(try disk.bytes(20) == Array("S3R1AL".utf8) + [UInt8](repeating: 0, count: 14))
    #expect(disk.pci.configuration(0, .qword) == 64)
    #expect(disk.pci.configuration(12, .dword) == 254)
    #expect(disk.pci.configuration(20, .dword) == 512)
    #expect(disk.pci.configuration(32, .byte) == 1)
    #expect(disk.pci.configuration(34, .word) == 4 && disk.pci.common(18, .word) == 4)
    #expect(
      disk.pci.offeredFeatures & (1 << 34 | 1 << 40 | 1 << 29 | 1 << 28 | 1 << 12) == 1 << 34 | 1 << 40 | 3 << 28 | 1
        << 12)
  }

  @Test func badRequestsHaveTheirStatus() throws {
    let disk = try Disk()
    disk.start()
    #expect(try disk.request(0, sector: 64, incoming: 512) == 1, "beyond the end")
    #expect(try disk.request(0, sector: .max, incoming: 512) == 1)
    #expect(try disk.request(0, sector: 1 << 54, incoming: 512) == 1)
    #expect(try disk.request(0, sector: 0, incoming: 511) == 1, "no whole sector")
    #expect(try disk.request(1, sector: 63, out: [UInt8](repeating: 1, count: 1024)) == 1)
    #expect(try disk.request(2) == 2, "SCSI commands")
    #expect(try disk.request(99) == 2)
    #expect(disk.pci.status == 15)
  }

  @Test func discardAndZeroes() throws {
    let disk = try Disk()
    disk.start()
    #expect(try disk.request(13, out: Disk.range(2, 1) + Disk.range(4, 2, flags: 1)) == 0)
    #expect(disk.backend.sector(2).allSatisfy { $0 == 0 } && disk.backend.sector(5).allSatisfy { $0 == 0 })
    #expect(disk.backend.sector(3).allSatisfy { $0 == 3 })
    #expect(try disk.request(11, out: Disk.range(8, 8)) == 0)
    #expect(try disk.request(11, out: Disk.range(8, 8, flags: 1)) == 2, "unmap is not for discards")
    #expect(try disk.request(13, out: Disk.range(8, 8, flags: 2)) == 2)
    #expect(try disk.request(11, out: Disk.range(60, 5)) == 1)
    #expect(try disk.request(11, out: Disk.range(.max, 1)) == 1)
    #expect(try disk.request(11, out: [1, 2, 3]) == 1)
    #expect(try disk.request(13, out: (0..<65).flatMap { _ in Disk.range(0, 1) }) == 1)
  }

  @Test func aReadOnlyDiskSaysSoAndStaysAsItIs() throws {
    let disk = try Disk(isReadOnly: true)
    disk.start(1 << 5)
    #expect(disk.pci.offeredFeatures & (1 << 5 | 1 << 13 | 1 << 14) == 1 << 5)
    #expect(try disk.request(1, out: [UInt8](repeating: 1, count: 512)) == 1)
    #expect(try disk.request(13, out: Disk.range(0, 1)) == 2, "not negotiated")
  }

  @Test func withoutFlushEachWriteIsDurable() throws {
    let disk = try Disk()
    disk.start(0)
    #expect(try disk.request(1, out: [UInt8](repeating: 1, count: 512)) == 0)
    #expect(disk.backend.records.map(\.operation) == [.write, .flush])
    disk.backend.failFlush(with: .noSpace)
    #expect(try disk.request(1, out: [UInt8](repeating: 1, count: 512)) == 1)
    disk.backend.failFlush(with: nil)
    // The cache turned off by the driver.
    disk.start()
    #expect(try disk.request(1, out: [UInt8](repeating: 1, count: 512)) == 0)
    #expect(disk.backend.flushes == 2)
    disk.pci.setCommon(0x2020, .byte, 0)
    #expect(try disk.request(1, out: [UInt8](repeating: 1, count: 512)) == 0)
    #expect(disk.backend.flushes == 3)
  }

  @Test func requestsComeBackInAnyOrderAndResetWaitsForThem() throws {
    var disk = try Disk()
    disk.start()
    disk.backend.isManual = true
    for _ in 0..<3 { try disk.request(0, incoming: 512) }
    #expect(disk.ring.takeUsed().isEmpty && disk.backend.heldCount == 3)
    disk.backend.completeNext()
    #expect(disk.ring.takeUsed().count == 1)
    disk.pci.setStatus(0)
    #expect(disk.backend.heldCount == 0 && disk.pci.status == 0)
    #expect(disk.ring.takeUsed().isEmpty, "a reset device touches no ring")
    disk.backend.isManual = false
    disk.ring = VirtqueueDriver(disk.fake.board.memory, at: 0x1_0000, size: 16)
    disk.start()
    #expect(try disk.request(0, sector: 9, incoming: 512) == 0)
    #expect(disk.ring.takeUsed().count == 1)
  }

  @Test func aQueueIsResetAlone() throws {
    var disk = try Disk()
    disk.start(Disk.blockFeatures | 1 << 40)
    try disk.request(0, incoming: 512)
    disk.pci.setCommon(22, .word, 0)
    disk.pci.setCommon(58, .word, 1)
    #expect(disk.pci.common(58, .word) == 0 && disk.pci.common(28, .word) == 0)
    disk.ring = VirtqueueDriver(disk.fake.board.memory, at: 0x2_0000, size: 8)
    disk.pci.enable(0, disk.ring)
    #expect(try disk.request(0, sector: 5, incoming: 512) == 0)
    #expect(try disk.bytes(1) == [5] && disk.pci.status == 15)
  }

  @Test func aNewSizeIsAnnounced() throws {
    let disk = try Disk()
    disk.start()
    let generation = disk.pci.common(21, .byte)
    _ = disk.pci.isr()
    disk.backend.resize(to: 128 * 512)
    #expect(disk.pci.configuration(0, .qword) == 128 && disk.pci.common(21, .byte) != generation)
    #expect(disk.pci.isr() == 2)
    #expect(try disk.request(0, sector: 127, incoming: 512) == 0)
  }

  static let malformed: [[TestDescriptor]] = [
    [.readable(Disk.header, 15), .writable(Disk.status, 1)], [.readable(Disk.header, 16)],
    [.writable(Disk.status, 1)], [.readable(.max, 16), .writable(Disk.status, 1)],
    [.writable(Disk.status, 1), .readable(Disk.header, 16)],
  ]

  @Test(arguments: malformed.indices, [false, true])
  func aMalformedChainStopsTheDeviceUntilReset(index: Int, isPacked: Bool) throws {
    var disk = try Disk(isPacked: isPacked)
    disk.start()
    _ = disk.pci.isr()
    try disk.putHeader(0, 0)
    disk.ring.add(Self.malformed[index])
    disk.pci.notify(0)
    #expect(disk.pci.status == 15 | 64 && disk.device.lastFault != nil)
    #expect(disk.pci.isr() == 2, "the driver is told")
    disk.ring.add([.readable(Disk.header, 16), .writable(Disk.data, 512), .writable(Disk.status, 1)])
    disk.pci.notify(0)
    #expect(try disk.fake.board.memory.load(Disk.status, as: UInt8.self) == 0xEE)
    disk.ring = VirtqueueDriver(disk.fake.board.memory, at: 0x1_0000, size: 16, isPacked: isPacked)
    disk.start()
    #expect(try disk.request(0, sector: 1, incoming: 512) == 0)
  }
}

@Suite struct VirtioPCITests {
  @Test func interruptsTakeThePinOrTheirVectors() throws {
    let disk = try Disk()
    disk.fake.board.interrupts.route(pirq: 2, to: 11)
    disk.start(vector: 1)
    try disk.request(0, incoming: 512)
    #expect(disk.fake.interrupts.level(11) && disk.fake.interrupts.takeMessages().isEmpty)
    #expect(disk.pci.isr() == 1 && !disk.fake.interrupts.level(11) && disk.pci.isr() == 0)
    disk.pci.enableVectors(2)
    disk.pci.setCommon(16, .word, 0)
    #expect(disk.pci.common(16, .word) == 0)
    try disk.request(0, incoming: 512)
    #expect(disk.fake.interrupts.takeMessages().map { $0?.data } == [1] && !disk.fake.interrupts.level(11))
    disk.backend.resize(to: 65 * 512)
    #expect(disk.fake.interrupts.takeMessages().map { $0?.data } == [0])
    disk.pci.setCommon(26, .word, 9)
    #expect(disk.pci.common(26, .word) == 0xFFFF, "a vector that there is not")
  }

  @Test func featuresThatWereNotOfferedAreRefused() throws {
    let disk = try Disk()
    #expect(!disk.pci.negotiate(Disk.version1 | 1 << 50))
    #expect(!disk.pci.negotiate(0), "a modern driver accepts VERSION_1")
    #expect(disk.pci.negotiate(Disk.version1))
    #expect(disk.pci.status == 11)
  }

  @Test func identityAndCapabilities() throws {
    let transitional = try Disk()
    #expect(transitional.pci.read(0, .dword) == 0x1001_1AF4)
    #expect(transitional.pci.read(0x2E, .word) == 2 && transitional.pci.read(8, .byte) == 0)
    let modern = try Disk(["legacy": .boolean(false)])
    #expect(modern.pci.read(0, .dword) == 0x1042_1AF4 && modern.pci.read(8, .byte) == 1)
    #expect(modern.pci.read(0x10, .dword) == 0, "no legacy registers")
    let kinds = modern.pci.capabilities(0x09).map { modern.pci.read($0 + 3, .byte) }
    #expect(kinds == [1, 3, 4, 2, 5])
  }

  @Test func configurationSpaceIsAWindowIntoTheBARs() throws {
    let disk = try Disk()
    disk.start()
    let window = try #require(disk.pci.capabilities(0x09).last)
    func select(_ bar: UInt32, _ offset: UInt32, _ length: UInt32) {
      disk.pci.write(window + 4, .byte, bar)
      disk.pci.write(window + 8, .dword, offset)
      disk.pci.write(window + 12, .dword, length)
    }
    select(4, 20, 1)
    #expect(disk.pci.read(window + 16, .byte) == 15)
    select(4, 0x2000, 4)
    #expect(disk.pci.read(window + 16, .dword) == 64)
    select(4, 22, 2)
    disk.pci.write(window + 16, .word, 7)
    #expect(disk.pci.common(22, .word) == 7)
    for (bar, offset, length): (UInt32, UInt32, UInt32) in [
      (0xFF, 0, 4), (4, .max, 4), (4, 0, 3), (2, 0, 4), (4, 0, .max),
    ] {
      select(bar, offset, length)
      _ = disk.pci.read(window + 16, .dword)
      disk.pci.write(window + 16, .dword, .max)
    }
    #expect(disk.pci.status == 15)
  }

  @Test func aLegacyDriverWorksThroughBAR0() throws {
    var disk = try Disk()
    let base = VirtioPCIDriver.legacyBAR
    let fake = disk.fake
    fake.outb(base + 18, 0)
    fake.outb(base + 18, 3)
    #expect(fake.inl(base) & (1 << 9 | 1 << 28 | 1 << 29) == 1 << 9 | 3 << 28)
    fake.outl(base + 4, 1 << 9)
    fake.outw(base + 14, 0)
    #expect(fake.inw(base + 12) == 256)
    disk.ring = VirtqueueDriver(fake.board.memory, at: 0x4_0000, size: 256)
    fake.outl(base + 8, 0x40)
    #expect(fake.inl(base + 8) == 0x40)
    fake.outb(base + 18, 7)
    #expect(fake.inl(base + 20) == 64, "the device's own registers start without MSI-X")
    try disk.putHeader(0, 3)
    disk.ring.add([.readable(Disk.header, 16), .writable(Disk.data, 512), .writable(Disk.status, 1)])
    #expect(fake.workers.ring(.port(UInt16(base + 16))))
    #expect(disk.ring.takeUsed().count == 1)
    #expect(try disk.bytes(2) == [3, 3])
    #expect(fake.inb(base + 19) == 1)
    disk.pci.enableVectors(2)
    #expect(fake.inl(base + 24) == 64 && fake.inw(base + 20) == 0xFFFF)
  }

  @Test(arguments: 0..<4) func noAccessTraps(seed: UInt64) throws {
    var random = SystemRandomNumberGenerator()
    let disk = try Disk(["queues": .integer(3)])
    let widths: [AccessWidth] = [.byte, .word, .dword, .qword]
    for _ in 0..<20_000 {
      let width = widths[Int.random(in: 0..<4, using: &random)]
      let value = Bool.random() ? UInt64.random(in: 0..<64) : UInt64.random(in: 0...UInt64.max, using: &random)
      switch Int.random(in: 0..<6, using: &random) {
      case 0: disk.fake.board.ports.write(VirtioPCIDriver.legacyBAR + .random(in: 0..<96), width, value)
      case 1: _ = disk.fake.board.ports.read(VirtioPCIDriver.legacyBAR + .random(in: 0..<96), width)
      case 2: disk.pci.setCommon(.random(in: 0..<64), width, value)
      case 3: _ = disk.pci.common(.random(in: 0..<0x4000), width)
      case 4: disk.pci.setCommon(.random(in: 0..<0x4000), width, value)
      default:
        guard width != .qword else { continue }
        let register = Int.random(in: 0x40..<0x100, using: &random)
        disk.pci.write(register, width, UInt32(truncatingIfNeeded: value))
        _ = disk.pci.read(register, width)
      }
    }
    disk.function.drain()
  }
}

@Suite struct VirtioEntropyTests {
  @Test func buffersAreFilledWithDifferentBytes() throws {
    let fake = FakeBoard(deviceMemorySize: 4096)
    let made = try VirtioEntropy.model.pci.make("rng", Properties(["legacy": .boolean(true)]), fake.board)
    made.reset()
    let pci = VirtioPCIDriver(fake)
    #expect(pci.read(0, .dword) == 0x1005_1AF4)
    #expect(pci.negotiate(1 << 32))
    let ring = VirtqueueDriver(fake.board.memory, at: 0x1_0000, size: 8)
    pci.enable(0, ring)
    pci.start()
    ring.add([.writable(0x10_0000, 13), .writable(0x10_0100, 50)])
    ring.add([.readable(0x10_0000, 13)])
    pci.notify(0)
    #expect(ring.takeUsed().map(\.length) == [63, 0])
    let bytes = try fake.board.memory.bytes(0x10_0100, 50)
    #expect(Set(bytes).count > 20)
    #expect(try fake.board.memory.load(0x10_000D, as: UInt8.self) == 0, "not a byte more")
  }
}
