import Testing

@testable import Devices

/// The same program on QEMU's VGA and on ours: same bytes read, same picture shown.
@Suite(.enabled(if: QEMUDisplay.isInstalled, "qemu-system-x86_64 is not installed"), .serialized)
struct DisplayAgainstQEMUTests {
  let ours: DisplayBoard
  let theirs: QEMUDisplay
  var both: [any DisplayMachine] { [ours, theirs] }

  init() throws {
    ours = try DisplayBoard(vgamem: 16 << 20)
    theirs = try QEMUDisplay()
  }

  /// The largest difference of a component.
  func distance(_ first: UInt32, _ second: UInt32) -> Int {
    [0, 8, 16].map { abs(Int(first >> $0 & 0xFF) - Int(second >> $0 & 0xFF)) }.max() ?? 0
  }

  func expectSamePicture(_ what: String, tolerance: Int = 0) {
    let (mine, other) = (ours.picture, theirs.picture)
    #expect(mine.width == other.width && mine.height == other.height, "\(what)")
    guard mine.pixels.count == other.pixels.count else { return }
    guard
      let first = mine.pixels.indices.first(where: {
        distance(mine.pixels[$0], other.pixels[$0]) > tolerance
      })
    else {
      let isOneColor = mine.pixels.allSatisfy { $0 == mine.pixels.first }
      #expect(!isOneColor, "\(what): nothing to compare")
      return
    }
    let (ourPixel, theirPixel) = (String(mine.pixels[first], radix: 16), String(other.pixels[first], radix: 16))
    Issue.record("\(what): at \(first % mine.width),\(first / mine.width) we show \(ourPixel), QEMU \(theirPixel)")
  }

  @Test func textModeShowsTheSamePicture() {
    for machine in both {
      machine.set(.text)
      machine.setPalette()
      machine.loadFont()
      for cell in UInt64(0)..<2000 {
        machine.poke(0xB8000 + cell * 2, UInt8(truncatingIfNeeded: cell))
        machine.poke(0xB8001 + cell * 2, UInt8(truncatingIfNeeded: cell / 7))
      }
    }
    expectSamePicture("mode 3")
    for machine in both { machine.crtc(0x0D, 40) }
    expectSamePicture("mode 3 scrolled")
    for machine in both {
      machine.loadFont(table: 0x4000)
      machine.sequencer(3, 0x04)
    }
    expectSamePicture("mode 3 with two fonts")
  }

  @Test(arguments: [ModeTable.planar, .chained, .modeX, .cga])
  func graphicsModesShowTheSamePicture(mode: ModeTable) {
    for machine in both {
      machine.set(mode)
      machine.setPalette()
      let window: UInt64 = mode.graphics[6] == 0x0F ? 0xB8000 : 0xA0000
      for plane in 0..<4 {
        machine.sequencer(2, mode.graphics[6] == 0x0F ? 0x03 : 0x11 << UInt8(plane) & 0x0F)
        var random = SplitMix(seed: UInt64(plane))
        for offset in stride(from: UInt64(0), to: 0x4000, by: 3) {
          machine.poke(window + offset, UInt8(truncatingIfNeeded: random.next()))
        }
      }
    }
    expectSamePicture(mode.description)
  }

  @Test(arguments: [8, 15, 16, 24, 32] as [UInt16])
  func dispiModesShowTheSamePicture(depth: UInt16) {
    for machine in both {
      machine.set(.chained)
      machine.setPalette()
      machine.dispi(1, 320)
      machine.dispi(2, 200)
      machine.dispi(3, depth)
      machine.dispi(4, 0x41)
      machine.dispi(6, 400)
      machine.dispi(8, 16)
      machine.dispi(9, 3)
      for bank in UInt16(0)..<2 {
        machine.dispi(5, bank)
        var random = SplitMix(seed: UInt64(bank))
        for offset in stride(from: UInt64(0), to: 0x10000, by: 5) {
          machine.poke(0xA0000 + offset, UInt8(truncatingIfNeeded: random.next()))
        }
      }
    }
    // QEMU leaves the low bits of a 5-bit component zero at 15 bits per pixel.
    expectSamePicture("\(depth) bits per pixel", tolerance: depth == 15 ? 7 : 0)
  }

  @Test func dispiRegistersReadTheSame() {
    var random = SplitMix(seed: 0xB0C5)
    let sizes: [UInt16] = [0, 1, 7, 8, 9, 320, 641, 800, 1024, 4097, 15999, 16000, 16001, 0x8000, 0xFFFF]
    let depths: [UInt16] = [4, 8, 15, 16, 24, 32]
    for round in 0..<150 {
      let width = sizes[Int(random.next() % 15)]
      let height = sizes[Int(random.next() % 15)]
      let depth = depths[Int(random.next() % 6)]
      let rest = (0..<3).map { _ in sizes[Int(random.next() % 15)] }
      var read: [[UInt16]] = []
      for machine in both {
        machine.dispi(4, 0)
        machine.dispi(1, width)
        machine.dispi(2, height)
        machine.dispi(3, depth)
        machine.dispi(4, 0xC1)
        machine.dispi(6, rest[0])
        machine.dispi(8, rest[1])
        machine.dispi(9, rest[2])
        read.append((UInt16(0)..<11).map { machine.dispi($0) })
      }
      // QEMU's virtual height loses the bits that do not fit; ours stays at the largest that does.
      if read[0][7] == 0xFFFF { read[1][7] = 0xFFFF }
      #expect(read[0] == read[1], "round \(round): \(width)×\(height)×\(depth), \(rest)")
    }
  }

  @Test(arguments: [ModeTable.planar, .modeX, .text, .chained])
  func theWindowReadsTheSameAfterRandomWrites(mode: ModeTable) {
    for machine in both { machine.set(mode) }
    var random = SplitMix(seed: 0xA0000)
    let window: UInt64 = mode.graphics[6] == 0x0E ? 0xB8000 : 0xA0000
    let isPlanar = mode.sequencer[4] == 0x06
    for step in 0..<2500 {
      let choice = random.next()
      let value = UInt8(truncatingIfNeeded: random.next())
      let address = window + (choice >> 8) % 64
      var read: [UInt8] = []
      for machine in both {
        switch choice % 8 {
        case 0 where isPlanar: machine.graphics(UInt8((choice >> 16) % 5), value)
        case 1 where isPlanar: machine.graphics(8, value)
        case 2 where isPlanar: machine.graphics(5, value & 0x0B | mode.graphics[5])
        case 3 where isPlanar: machine.graphics(7, value)
        case 4 where isPlanar: machine.sequencer(2, value)
        case 5, 6, 7: machine.poke(address, value)
        default: break
        }
        read.append(machine.peek(window + UInt64(value & 63)))
      }
      #expect(read[0] == read[1], "step \(step)")
      if read[0] != read[1] { break }
    }
  }

  @Test func registersReadBackTheSame() {
    for machine in both { machine.set(.planar) }
    var random = SplitMix(seed: 0x3C0)
    for _ in 0..<600 {
      let (index, value) = (UInt8(truncatingIfNeeded: random.next()), UInt8(truncatingIfNeeded: random.next()))
      let group = random.next() % 4
      var read: [UInt8] = []
      for machine in both {
        switch group {
        case 0:
          machine.sequencer(index % 5, value)
          read.append(machine.inb(0x3C5))
        case 1:
          machine.graphics(index % 9, value)
          read.append(machine.inb(0x3CF))
        case 2:
          machine.crtc(index % 25, value)
          read.append(machine.inb(0x3D5))
        default:
          machine.attribute(index % 21, value)
          _ = machine.inb(0x3DA)
          machine.outb(0x3C0, index % 21)
          read.append(machine.inb(0x3C1))
          _ = machine.inb(0x3DA)
          machine.outb(0x3C0, 0x20)
        }
      }
      #expect(read[0] == read[1], "group \(group), index \(index), value \(value)")
    }
  }
}
