import Buses
import DeviceKit
import TestKit
import Testing

@testable import Devices

/// The two bridges on a board with a 256 KiB firmware image whose bytes tell their page.
struct ChipsetBoard {
  let fake: FakeBoard
  let bridge: Device
  let isa: Device

  init(firmware: [UInt8]? = ChipsetBoard.firmware) throws {
    fake = FakeBoard(
      deviceMemorySize: 4096, resources: FakeResources(files: firmware.map { ["firmware": $0] } ?? [:]))
    bridge = try I440FX.model.make("host", Properties([:]), fake.board)
    isa = try PIIX3.model.make("isa", Properties([:]), fake.board)
    bridge.reset()
    isa.reset()
  }

  /// Byte n is the number of its 4 KiB page, 0–63.
  static let firmware = (0..<256 << 10).map { UInt8($0 >> 12) }

  func configurationAddress(_ slot: UInt32, _ register: UInt32) {
    fake.outl(0xCF8, 0x8000_0000 | slot << 11 | register & 0xFC)
  }
  func write(_ slot: UInt32, _ register: UInt32, _ value: UInt8) {
    configurationAddress(slot, register)
    fake.outb(0xCFC + UInt64(register & 3), value)
  }
  func read(_ slot: UInt32, _ register: UInt32) -> UInt8 {
    configurationAddress(slot, register)
    return fake.inb(0xCFC + UInt64(register & 3))
  }
  func readWide(_ slot: UInt32, _ register: UInt32) -> UInt32 {
    configurationAddress(slot, register)
    return fake.inl(0xCFC)
  }
  var map: [MemoryMapping] { fake.mapper.mappings.sorted { $0.guestAddress < $1.guestAddress } }
}

extension MemoryMapping {
  static func ram(_ address: UInt64, _ end: UInt64, readOnly: Bool = false) -> MemoryMapping {
    MemoryMapping(guestAddress: address, size: end - address, source: .ram(address), readOnly: readOnly)
  }
  static func firmware(_ address: UInt64, _ end: UInt64, offset: UInt64) -> MemoryMapping {
    MemoryMapping(guestAddress: address, size: end - address, source: .firmware(offset), readOnly: true)
  }
}
