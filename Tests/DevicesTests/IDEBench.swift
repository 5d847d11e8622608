import Backends
import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

/// A board with a PIIX3 IDE function, its bus master ports at 0xC000, and what a driver does with it.
final class IDEBench {
  static let busMaster: UInt64 = 0xC000
  let fake: FakeBoard
  let controller: Device
  private var drives: [Device] = []
  /// 0x1F0 or 0x170.
  var base: UInt64 = 0x1F0
  var control: UInt64 { base + 0x206 }
  var irq: Int { base == 0x1F0 ? 14 : 15 }
  var bm: UInt64 { Self.busMaster + (base == 0x1F0 ? 0 : 8) }

  init(_ blocks: [String: any BlockBackend] = [:], ramSize: Int = 4 << 20) throws {
    fake = FakeBoard(ramSize: ramSize, resources: FakeResources(blocks: blocks))
    controller = try PIIX3IDE.model.make("ide", Properties([:]), fake.board)
    configure()
  }

  /// A disk as primary master.
  convenience init(disk: any BlockBackend) throws {
    try self.init(["disk0": disk])
    try addDisk("disk0")
    start()
  }

  /// A disc in a drive that is secondary master.
  convenience init(disc: (any BlockBackend)?) throws {
    try self.init(disc.map { ["cdrom0": $0] } ?? [:])
    try addCD(disc == nil ? nil : "cdrom0")
    base = 0x170
    start()
  }

  func addDisk(_ drive: String, bus: String = "ide.0", unit: UInt64 = 0) throws {
    let properties = Properties([
      "drive": .string(drive), "bus": .string(bus), "unit": .integer(unit), "serial": .string("SERIAL-1"),
    ])
    drives.append(try IDEDriveDevice.disk.make("hd", properties, fake.board))
  }

  func addCD(_ drive: String?, bus: String = "ide.1", unit: UInt64 = 0) throws {
    var values: [String: PropertyValue] = ["bus": .string(bus), "unit": .integer(unit)]
    if let drive { values["drive"] = .string(drive) }
    drives.append(try IDEDriveDevice.cdrom.make("cd", Properties(values), fake.board))
  }

  /// Power-on.
  func start() {
    controller.reset()
    for drive in drives { drive.reset() }
    configure()
    _ = fake.interrupts.takePulses(irq)
  }

  /// What firmware sets: BAR 4, I/O and bus mastering.
  func configure() {
    fake.board.pci.write(slot: 1, function: 1, register: 0x20, .dword, UInt32(Self.busMaster))
    setCommand(0x05)
  }
  func setCommand(_ value: UInt32) { fake.board.pci.write(slot: 1, function: 1, register: 0x04, .word, value) }

  func read(_ register: UInt64) -> UInt8 { fake.inb(base + register) }
  func write(_ register: UInt64, _ value: UInt8) { fake.outb(base + register, value) }
  /// Status, which ends the interrupt.
  var status: UInt8 { read(7) }
  var alternateStatus: UInt8 { fake.inb(control) }
  var error: UInt8 { read(1) }
  func pulses() -> Int { fake.interrupts.takePulses(irq) }

  func command(_ code: UInt8, lba: UInt32 = 0, count: UInt8 = 1, device: UInt8 = 0xE0, features: UInt8 = 0) {
    write(6, device | UInt8(truncatingIfNeeded: lba >> 24 & 0x0F))
    write(1, features)
    write(2, count)
    write(3, UInt8(truncatingIfNeeded: lba))
    write(4, UInt8(truncatingIfNeeded: lba >> 8))
    write(5, UInt8(truncatingIfNeeded: lba >> 16))
    write(7, code)
  }

  func commandExt(_ code: UInt8, lba: UInt64, count: UInt16 = 1) {
    write(6, 0xE0)
    for shift: UInt64 in [24, 0] {
      write(2, UInt8(truncatingIfNeeded: count >> (shift == 0 ? 0 : 8)))
      for register: UInt64 in 0..<3 { write(3 + register, UInt8(truncatingIfNeeded: lba >> (shift + register * 8))) }
    }
    write(7, code)
  }

  /// The address registers as LBA28.
  var lba28: UInt32 {
    UInt32(read(3)) | UInt32(read(4)) << 8 | UInt32(read(5)) << 16 | UInt32(read(6) & 0x0F) << 24
  }

  func readData(_ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xCC, count: count)
    bytes.withUnsafeMutableBytes { fake.board.ports.readString(base, .word, into: $0) }
    return bytes
  }
  func writeData(_ bytes: [UInt8]) { bytes.withUnsafeBytes { fake.board.ports.writeString(base, .word, from: $0) } }

  // MARK: DMA

  /// A descriptor: address, count field, EOT.
  struct PRD {
    var address: UInt32
    var count: UInt16
    var last = false
  }

  /// Writes the table to `address` and points the bus master to it.
  func setTable(_ entries: [PRD], at address: UInt32 = 0x1000) throws {
    for (index, entry) in entries.enumerated() {
      let value = UInt64(entry.address) | UInt64(entry.count) << 32 | (entry.last ? 1 << 63 : 0)
      try fake.board.memory.store(value, at: UInt64(address) + UInt64(index * 8))
    }
    fake.outl(bm + 4, address)
  }
  func startDMA(toMemory: Bool) { fake.outb(bm, toMemory ? 0x09 : 0x01) }
  func stopDMA() { fake.outb(bm, 0) }
  var busMasterStatus: UInt8 { fake.inb(bm + 2) }
  func memory(_ address: UInt64, _ count: Int) throws -> [UInt8] { try fake.board.memory.bytes(address, count) }

  // MARK: Packets

  /// Sends a command packet; data, if any, waits afterwards.
  func packet(_ bytes: [UInt8], limit: UInt16 = 0xFFFE, dma: Bool = false) {
    write(6, 0xA0)
    write(1, dma ? 1 : 0)
    write(4, UInt8(truncatingIfNeeded: limit))
    write(5, UInt8(truncatingIfNeeded: limit >> 8))
    write(7, 0xA0)
    writeData(bytes + [UInt8](repeating: 0, count: 12 - bytes.count))
  }

  /// Takes the blocks of data that a packet command offers.
  func packetData() -> [UInt8] {
    var result: [UInt8] = []
    while alternateStatus & 0x08 != 0, result.count < 1 << 20 {
      let count = Int(read(4)) | Int(read(5)) << 8
      result += readData((count + 1) & ~1).prefix(count)
    }
    return result
  }

  /// Key, code and qualifier from REQUEST SENSE.
  func sense() -> [UInt8] {
    packet([0x03, 0, 0, 0, 18])
    let bytes = packetData()
    return bytes.count == 18 ? [bytes[2], bytes[12], bytes[13]] : []
  }
}

/// What sector `number` of a `MemoryBlockBackend(sectors:)` holds.
func sector(_ number: Int) -> [UInt8] { [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 512) }
