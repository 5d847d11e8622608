/// What a program sees of a display: ports and the window below 1 MiB.
protocol DisplayMachine {
  func outb(_ port: UInt64, _ value: UInt8)
  func outw(_ port: UInt64, _ value: UInt16)
  func inb(_ port: UInt64) -> UInt8
  func inw(_ port: UInt64) -> UInt16
  func poke(_ address: UInt64, _ value: UInt8)
  func peek(_ address: UInt64) -> UInt8
}

/// Register values of the standard BIOS modes.
struct ModeTable: Sendable, CustomStringConvertible {
  let description: String
  let miscellaneous: UInt8
  let sequencer: [UInt8]
  let crtc: [UInt8]
  let graphics: [UInt8]
  let attribute: [UInt8]

  private static let egaPalette: [UInt8] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F,
  ]

  /// 80×25 text, 9×16 characters. The cursor is off.
  static let text = ModeTable(
    description: "mode 3", miscellaneous: 0x67, sequencer: [0x03, 0x00, 0x03, 0x00, 0x02],
    crtc: [
      0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x2D, 0x0E, 0x00, 0x00, 0x00, 0x00, 0x9C, 0x8E, 0x8F,
      0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0E, 0x00, 0xFF],
    attribute: egaPalette + [0x04, 0x00, 0x0F, 0x08, 0x00])

  /// 640×480 in 16 colours.
  static let planar = ModeTable(
    description: "mode 12h", miscellaneous: 0xE3, sequencer: [0x03, 0x01, 0x0F, 0x00, 0x06],
    crtc: [
      0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0x0B, 0x3E, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xEA, 0x8C, 0xDF,
      0x28, 0x00, 0xE7, 0x04, 0xE3, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x0F, 0xFF],
    attribute: egaPalette + [0x01, 0x00, 0x0F, 0x00, 0x00])

  /// 320×200 in 256 colours.
  static let chained = ModeTable(
    description: "mode 13h", miscellaneous: 0x63, sequencer: [0x03, 0x01, 0x0F, 0x00, 0x0E],
    crtc: [
      0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0xBF, 0x1F, 0x00, 0x41, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9C, 0x8E, 0x8F,
      0x28, 0x40, 0x96, 0xB9, 0xA3, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x05, 0x0F, 0xFF],
    attribute: (0..<16).map { UInt8($0) } + [0x41, 0x00, 0x0F, 0x00, 0x00])

  /// Mode 13h with unchained planes.
  static let modeX = ModeTable(
    description: "mode X", miscellaneous: 0x63, sequencer: [0x03, 0x01, 0x0F, 0x00, 0x06],
    crtc: chained.crtc[..<0x14] + [0x00, 0x96, 0xB9, 0xE3, 0xFF], graphics: chained.graphics,
    attribute: chained.attribute)

  /// 320×200 in four colours, odd lines 8 KiB after the even ones.
  static let cga = ModeTable(
    description: "mode 4", miscellaneous: 0x63, sequencer: [0x03, 0x09, 0x03, 0x00, 0x02],
    crtc: [
      0x2D, 0x27, 0x28, 0x90, 0x2B, 0x80, 0xBF, 0x1F, 0x00, 0xC1, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9C, 0x8E, 0x8F,
      0x14, 0x00, 0x96, 0xB9, 0xA2, 0xFF,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x30, 0x0F, 0x00, 0xFF],
    attribute: egaPalette + [0x01, 0x00, 0x03, 0x00, 0x00])
}

extension DisplayMachine {
  func indexed(_ port: UInt64, _ index: UInt8, _ value: UInt8) { outw(port, UInt16(value) << 8 | UInt16(index)) }
  func sequencer(_ index: UInt8, _ value: UInt8) { indexed(0x3C4, index, value) }
  func graphics(_ index: UInt8, _ value: UInt8) { indexed(0x3CE, index, value) }
  func crtc(_ index: UInt8, _ value: UInt8) { indexed(0x3D4, index, value) }
  func attribute(_ index: UInt8, _ value: UInt8) {
    _ = inb(0x3DA)
    outb(0x3C0, index)
    outb(0x3C0, value)
    outb(0x3C0, 0x20)
  }
  func dispi(_ index: UInt16, _ value: UInt16) {
    outw(0x1CE, index)
    outw(0x1CF, value)
  }
  func dispi(_ index: UInt16) -> UInt16 {
    outw(0x1CE, index)
    return inw(0x1CF)
  }

  func set(_ mode: ModeTable) {
    dispi(4, 0)
    outb(0x3C2, mode.miscellaneous)
    for (index, value) in mode.sequencer.enumerated() { sequencer(UInt8(index), value) }
    crtc(0x11, 0x0E)
    for (index, value) in mode.crtc.enumerated() { crtc(UInt8(index), value) }
    for (index, value) in mode.graphics.enumerated() { graphics(UInt8(index), value) }
    for (index, value) in mode.attribute.enumerated() { attribute(UInt8(index), value) }
    outb(0x3C6, 0xFF)
  }

  /// 256 colours whose 6-bit components mean the same 8 bits however they are widened.
  func setPalette() {
    outb(0x3C8, 0)
    for index in 0..<256 {
      for shift in [0, 2, 4] {
        let level = UInt8(index >> shift & 3 ^ index >> 6)
        outb(0x3C9, [0x00, 0x0E, 0x31, 0x3F][Int(level)])
      }
    }
  }

  /// Puts a font of made-up glyphs where text modes look for it. Leaves the text mode's registers behind.
  func loadFont(table: UInt64 = 0) {
    sequencer(2, 0x04)
    sequencer(4, 0x07)
    graphics(4, 0x02)
    graphics(5, 0x00)
    graphics(6, 0x04)
    for code in UInt64(0)..<256 {
      for row in UInt64(0)..<16 {
        // QEMU repeats the eighth dot of 0xB0–0xBF too, the VGA does not: keep it clear there.
        let mask: UInt8 = 0xB0...0xBF ~= code ? 0xFE : 0xFF
        let dots = UInt8(truncatingIfNeeded: code &* 37 &+ row &* 11 &+ table >> 8)
        poke(0xA0000 + table + code * 32 + row, dots & mask)
      }
    }
    sequencer(2, 0x03)
    sequencer(4, 0x02)
    graphics(4, 0x00)
    graphics(5, 0x10)
    graphics(6, 0x0E)
  }
}
