import Backends
import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

/// SplitMix64: the same sequence for the same seed.
private struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}

@Suite struct IDEHostilityTests {
  /// Codes that lead somewhere.
  private static let codes: [UInt8] = [
    0x08, 0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x40, 0x42, 0x90, 0x91, 0xA0, 0xA0, 0xA0, 0xA1, 0xC4, 0xC5,
    0xC6, 0xC8, 0xCA, 0xE5, 0xE7, 0xEC, 0xEF, 0xF8,
  ]

  @Test(arguments: 0..<12)
  func randomAccessesNeverTrapAndAResetAlwaysHelps(_ seed: UInt64) throws {
    var random = SeededGenerator(state: seed)
    let disk = MemoryBlockBackend(sectors: 600)
    let disc = MemoryBlockBackend(sectors: 160)
    let bench = try IDEBench(["disk0": disk, "cdrom0": disc])
    try bench.addDisk("disk0")
    try bench.addCD("cdrom0", bus: "ide.0", unit: 1)
    bench.start()
    let fake = bench.fake
    for address in stride(from: UInt64(0), to: 0x8000, by: 8) {
      try fake.board.memory.store(random.next() & 0x80FF_FFFF_003F_FFFF, at: address)
    }
    disk.fail(sectors: 100..<101, with: .host(errno: 5))
    disc.fail(sectors: 50..<51, with: .noSpace)
    for _ in 0..<6_000 {
      let value = random.next()
      switch random.next() % 16 {
      case 0...4: bench.write(1 + value >> 8 % 6, UInt8(truncatingIfNeeded: value))
      case 5: bench.write(7, Self.codes[Int(value % UInt64(Self.codes.count))])
      case 6: bench.write(7, UInt8(truncatingIfNeeded: value))
      case 7: fake.outb(bench.control, UInt8(truncatingIfNeeded: value) & (value & 0x300 == 0 ? 0xFF : 0x02))
      case 8: fake.outb(bench.bm + value >> 8 % 8, UInt8(truncatingIfNeeded: value))
      case 9:
        fake.outl(bench.bm + 4, UInt32(truncatingIfNeeded: value) & 0x7FFC)
        fake.outb(bench.bm, 0x09)
      case 10: _ = bench.readData(Int(value % 3000))
      case 11: bench.writeData([UInt8](repeating: UInt8(truncatingIfNeeded: value >> 16), count: Int(value % 3000)))
      case 12:
        let width: AccessWidth = [.byte, .word, .dword][Int(value % 3)]
        fake.board.ports.write(bench.base + value >> 8 % 8, width, value >> 16 & width.mask)
        _ = fake.board.ports.read(bench.base + value >> 16 % 8, width)
        _ = fake.board.ports.read(bench.bm + value >> 16 % 8, width)
      case 13:
        disk.isManual = value & 1 != 0
        disc.isManual = value & 2 != 0
      case 14:
        disk.completeNext()
        disc.completeNext()
      default: fake.board.pci.write(slot: 1, function: 1, register: Int(value % 0x60), .dword, UInt32(value >> 32))
      }
      if value >> 56 < 8 { bench.configure() }
    }
    bench.configure()
    disk.isManual = false
    disc.isManual = false
    disk.drain()
    disc.drain()
    disk.clearFaults()
    fake.outb(bench.control, 0x04)
    fake.outb(bench.control, 0x00)
    bench.command(0x30, lba: 7)
    bench.writeData(sector(0x77))
    #expect(bench.status == 0x50)
    #expect(disk.sector(7) == sector(0x77))
    bench.start()
    bench.command(0x20, lba: 7)
    #expect(bench.readData(512) == sector(0x77))
  }

  @Test func aTakenUnitNamesTheFreeOne() throws {
    let bench = try IDEBench(["a": MemoryBlockBackend(sectors: 8), "b": MemoryBlockBackend(sectors: 8)])
    try bench.addDisk("a")
    #expect(
      throws: DeviceError("hd: unit 0 of ide.0 is taken; use unit=1 or bus=ide.1")
    ) { try bench.addDisk("b") }
  }

  @Test func drivesNeedTheirBusAndDisk() throws {
    let fake = FakeBoard()
    let properties = Properties(["drive": .string("disk0")])
    #expect(throws: DeviceError.self) { try IDEDriveDevice.disk.make("hd", properties, fake.board) }
    let bench = try IDEBench()
    #expect(throws: DeviceError.self) { try bench.addDisk("missing") }
    #expect(throws: DeviceError.self) { try bench.addCD("missing") }
    #expect(throws: DeviceError.self) { try PIIX3IDE.model.make("second", Properties([:]), bench.fake.board) }
  }

  @Test func theFunctionLooksLikeAPIIX3() throws {
    let bench = try IDEBench()
    let pci = bench.fake.board.pci
    #expect(pci.read(slot: 1, function: 1, register: 0x00, .dword) == 0x7010_8086)
    #expect(pci.read(slot: 1, function: 1, register: 0x08, .dword) >> 8 == 0x01_0180)
    pci.write(slot: 1, function: 1, register: 0x20, .dword, 0xFFFF_FFFF)
    #expect(pci.read(slot: 1, function: 1, register: 0x20, .dword) == 0xFFFF_FFF1)
    pci.write(slot: 1, function: 1, register: 0x40, .dword, 0x8000_A307)
    #expect(pci.read(slot: 1, function: 1, register: 0x40, .dword) == 0x8000_A307)
  }
}
