import Buses
import DeviceKit
import MachineModel
import TestKit

@testable import Devices

/// A standard VGA of 1 MiB on a board of its own.
struct DisplayBoard: DisplayMachine {
  let fake: FakeBoard
  let device: Device
  let screen: any Screen
  static let rom: [UInt8] = (0..<39936).map { UInt8(truncatingIfNeeded: $0 ^ $0 >> 8) }
  static let vgamem: UInt64 = 1 << 20

  init(vgamem: UInt64 = DisplayBoard.vgamem, rom: [UInt8]? = DisplayBoard.rom) throws {
    fake = FakeBoard(
      ramSize: 4096, deviceMemorySize: Int(vgamem) + StandardVGA.maximumROMSize,
      resources: FakeResources(files: rom.map { ["vgabios": $0] } ?? [:]))
    device = try StandardVGA.model.make(
      "vga", Properties(["addr": .string("02.0"), "vgamem": .integer(vgamem)]), fake.board)
    device.reset()
    guard let screen = fake.board.sockets.find(screenSocket, as: (any Screen).self) else {
      throw DeviceError("the display did not offer itself")
    }
    self.screen = screen
  }

  func outb(_ port: UInt64, _ value: UInt8) { fake.outb(port, value) }
  func outw(_ port: UInt64, _ value: UInt16) { fake.outw(port, value) }
  func inb(_ port: UInt64) -> UInt8 { fake.inb(port) }
  func inw(_ port: UInt64) -> UInt16 { fake.inw(port) }
  func poke(_ address: UInt64, _ value: UInt8) { fake.board.mmio.write(address, .byte, UInt64(value)) }
  func peek(_ address: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: fake.board.mmio.read(address, .byte)) }

  func configure(_ register: Int, _ value: UInt32) {
    fake.board.pci.write(slot: 2, function: 0, register: register, .dword, value)
  }
  func configuration(_ register: Int) -> UInt32 {
    fake.board.pci.read(slot: 2, function: 0, register: register, .dword)
  }

  /// The picture's size and pixels as 0xRRGGBB.
  var picture: (width: Int, height: Int, pixels: [UInt32]) { parsePPM(screen.screenshotPPM()) }
}

/// Takes a P6 file with 8-bit components apart; empty where it is none.
func parsePPM(_ bytes: [UInt8]) -> (width: Int, height: Int, pixels: [UInt32]) {
  let fields = bytes.prefix(64).split(maxSplits: 4) { $0 == 0x0A || $0 == 0x20 }
  guard fields.count == 5, String(decoding: fields[0], as: UTF8.self) == "P6",
    let width = Int(String(decoding: fields[1], as: UTF8.self)),
    let height = Int(String(decoding: fields[2], as: UTF8.self)), fields[3].elementsEqual("255".utf8)
  else { return (0, 0, []) }
  let start = fields[4].startIndex
  guard bytes.count - start == width * height * 3 else { return (0, 0, []) }
  let pixels = stride(from: start, to: bytes.count, by: 3).map { index -> UInt32 in
    let (red, green, blue) = (UInt32(bytes[index]), UInt32(bytes[index + 1]), UInt32(bytes[index + 2]))
    return red << 16 | green << 8 | blue
  }
  return (width, height, pixels)
}
