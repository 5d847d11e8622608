/// A picture: rows from the top, pixels from the left as 0x00RRGGBB.
struct Picture: Equatable, Sendable {
  let width: Int
  let height: Int
  var pixels: [UInt32]

  init(width: Int, height: Int) {
    self.width = width
    self.height = height
    pixels = [UInt32](repeating: 0, count: width * height)
  }

  /// A binary PPM file.
  var ppm: [UInt8] {
    var bytes = Array("P6\n\(width) \(height)\n255\n".utf8)
    bytes.reserveCapacity(bytes.count + pixels.count * 3)
    for pixel in pixels {
      bytes.append(UInt8(truncatingIfNeeded: pixel >> 16))
      bytes.append(UInt8(truncatingIfNeeded: pixel >> 8))
      bytes.append(UInt8(truncatingIfNeeded: pixel))
    }
    return bytes
  }
}

extension VGA {
  /// No picture has more pixels; lines below are cut off.
  static let maximumPixels = 16 << 20

  /// How many of a picture's lines are drawn.
  static func drawnLines(width: Int, height: Int) -> Int { min(height, maximumPixels / max(1, width)) }

  /// What the monitor shows: each dot and scan line, doubled ones twice. `isBlinkOn` is the phase in which
  /// blinking characters and the cursor are seen.
  func render(isBlinkOn: Bool = true) -> Picture {
    if dispi.isEnabled { return renderDISPI() }
    return VGARenderer(registers, memory, isBlinkOn: isBlinkOn).render()
  }

  private func renderDISPI() -> Picture {
    let width = dispi.width
    var picture = Picture(width: width, height: Self.drawnLines(width: width, height: dispi.height))
    let colors = registers.colors
    for y in 0..<picture.height {
      let line = (dispi.yOffset + y) * dispi.pitch
      for x in 0..<width {
        picture.pixels[y * width + x] = pixel(line: line, x: dispi.xOffset + x, colors)
      }
    }
    return picture
  }

  private func pixel(line: Int, x: Int, _ colors: [UInt32]) -> UInt32 {
    switch dispi.depth {
    case 4:
      let planes = memory[planar: line / 4 + x / 8]
      return registers.attributeColor(VGARenderer.planarIndex(planes, bit: UInt32(7 - x % 8)), colors)
    case 8:
      return colors[Int(memory[line + x])]
    case 15:
      let value = word(line + x * 2)
      return Self.widen(value >> 10, 5) << 16 | Self.widen(value >> 5, 5) << 8 | Self.widen(value, 5)
    case 16:
      let value = word(line + x * 2)
      return Self.widen(value >> 11, 5) << 16 | Self.widen(value >> 5, 6) << 8 | Self.widen(value, 5)
    case 24:
      let at = line + x * 3
      let (first, second, third) = (UInt32(memory[at]), UInt32(memory[at + 1]), UInt32(memory[at + 2]))
      return isBigEndian ? first << 16 | second << 8 | third : third << 16 | second << 8 | first
    default:
      let value = memory[planar: line / 4 + x]
      return (isBigEndian ? value.byteSwapped : value) & 0xFF_FFFF
    }
  }

  private func word(_ at: Int) -> UInt32 {
    let (first, second) = (UInt32(memory[at]), UInt32(memory[at + 1]))
    return isBigEndian ? first << 8 | second : second << 8 | first
  }

  /// The low `bits` (5 or 6) of a value as 8 bits of the same brightness.
  private static func widen(_ value: UInt32, _ bits: UInt32) -> UInt32 {
    let value = value & (1 << bits - 1)
    return value << (8 - bits) | value >> (2 * bits - 8)
  }
}

extension VGARegisters {
  /// The DAC's 256 colours behind the PEL mask.
  var colors: [UInt32] {
    (0..<256).map { index in
      let entry = (index & Int(pelMask)) * 3
      var color: UInt32 = 0
      for component in palette[entry..<entry + 3] {
        color = color << 8 | UInt32(isWideDAC ? component : (component & 0x3F) << 2 | (component & 0x3F) >> 4)
      }
      return color
    }
  }

  /// The colour of a 4-bit pixel: plane enable, palette registers and colour select in front of the DAC.
  func attributeColor(_ index: Int, _ colors: [UInt32]) -> UInt32 {
    var color = attribute[index & Int(attribute[VGARegister.Attribute.colorPlaneEnable] & 0x0F)]
    let select = attribute[VGARegister.Attribute.colorSelect]
    if attribute[VGARegister.Attribute.modeControl] & 0x80 != 0 { color = color & 0x0F | select << 4 & 0x30 }
    return colors[Int(color & 0x3F | select << 4 & 0xC0)]
  }
}

/// Draws the VGA's own modes scan line by scan line, as CRTC, shift registers and attribute controller do.
struct VGARenderer {
  private let registers: VGARegisters
  private let memory: VideoMemory
  private let isBlinkOn: Bool
  private let colors: [UInt32]
  private let attributeColors: [UInt32]
  private let dotsPerCharacter: Int

  init(_ registers: VGARegisters, _ memory: VideoMemory, isBlinkOn: Bool) {
    self.registers = registers
    self.memory = memory
    self.isBlinkOn = isBlinkOn
    let colors = registers.colors
    self.colors = colors
    attributeColors = (0..<16).map { registers.attributeColor($0, colors) }
    dotsPerCharacter = registers.isGraphics ? 8 : registers.dotsPerCharacter
  }

  func render() -> Picture {
    let scale = registers.hasHalfDotClock ? 2 : 1
    let dots = registers.displayedCharacters * dotsPerCharacter
    var picture = Picture(width: dots * scale, height: registers.displayedLines)
    let isScreenOff = registers.sequencer[VGARegister.Sequencer.clockingMode] & 0x20 != 0
    guard registers.isScreenConnected, !isScreenOff else { return picture }

    let presetRowScan = registers.crtc[VGARegister.CRTC.presetRowScan]
    var row = Int(presetRowScan & 0x1F)
    var address = registers.startAddress + Int(presetRowScan >> 5 & 3)
    var panning = self.panning
    var isSecondScan = false
    // One character more than is seen, for panning.
    var line = [UInt32](repeating: 0, count: dots + dotsPerCharacter)
    for y in 0..<picture.height {
      for column in 0...registers.displayedCharacters {
        draw(
          planarAddress(address + column, row: row), counter: address + column, row, &line, column * dotsPerCharacter)
      }
      for x in 0..<picture.width { picture.pixels[y * picture.width + x] = line[x / scale + panning] }

      if y == registers.lineCompare {
        (address, row, isSecondScan) = (0, 0, false)
        if registers.attribute[VGARegister.Attribute.modeControl] & 0x20 != 0 { panning = 0 }
      } else if registers.isDoubleScanned, !isSecondScan {
        isSecondScan = true
      } else {
        isSecondScan = false
        if row == registers.linesPerRow - 1 {
          row = 0
          address += registers.rowPitch
        } else {
          row = (row + 1) & 0x1F
        }
      }
    }
    return picture
  }

  private var is256Color: Bool { registers.graphics[VGARegister.Graphics.mode] & 0x40 != 0 }

  /// Dots that the picture moves left (attribute register 0x13): with 9-dot characters 8 means none.
  private var panning: Int {
    let value = Int(registers.attribute[VGARegister.Attribute.horizontalPanning])
    if dotsPerCharacter == 9 { return value >= 8 ? 0 : value + 1 }
    return min(value, 7)
  }

  /// Where the CRTC's counter points in the frame buffer. Clear bits 0 and 1 of the mode control put row scan bits
  /// on address lines 13 and 14, as the CGA and Hercules lay out their lines.
  private func planarAddress(_ counter: Int, row: Int) -> Int {
    let mode = registers.crtc[VGARegister.CRTC.modeControl]
    var address = counter & 0xFFFF
    // Word and dword addressing shift the counter, and so do odd/even and chained memory what the processor wrote.
    let shift = registers.crtc[VGARegister.CRTC.underlineLocation] & 0x40 != 0 ? 2 : mode & 0x40 != 0 ? 0 : 1
    if mode & 1 == 0 { address = address & ~(0x2000 >> shift) | (row & 1) << (13 - shift) }
    if mode & 2 == 0 { address = address & ~(0x4000 >> shift) | (row >> 1 & 1) << (14 - shift) }
    return address
  }

  private func draw(_ address: Int, counter: Int, _ row: Int, _ line: inout [UInt32], _ start: Int) {
    let planes = memory[planar: address]
    if !registers.isGraphics {
      drawCharacter(planes, counter, row, &line, start)
    } else if is256Color {
      for dot in 0..<8 { line[start + dot] = colors[Int(planes >> UInt32(dot / 2 * 8) & 0xFF)] }
    } else if registers.graphics[VGARegister.Graphics.mode] & 0x20 != 0 {
      for dot in 0..<8 {
        // Planes 0 and 2 hold the first four pixels' bits, 1 and 3 the others'.
        let pair = planes >> (dot < 4 ? 0 : 8)
        let bits = UInt32(6 - dot % 4 * 2)
        line[start + dot] = attributeColors[Int(pair >> bits & 3 | (pair >> (16 + bits) & 3) << 2)]
      }
    } else {
      for dot in 0..<8 { line[start + dot] = attributeColors[Self.planarIndex(planes, bit: UInt32(7 - dot))] }
    }
  }

  /// One scan line of a character cell: code in plane 0, attribute in plane 1, font in plane 2.
  private func drawCharacter(_ cell: UInt32, _ counter: Int, _ row: Int, _ line: inout [UInt32], _ start: Int) {
    let code = Int(cell & 0xFF)
    let attribute = UInt8(truncatingIfNeeded: cell >> 8)
    let mode = registers.attribute[VGARegister.Attribute.modeControl]
    var glyph = font(attribute & 0x08 != 0, code, row)
    if mode & 0x08 != 0, attribute & 0x80 != 0, !isBlinkOn { glyph = 0 }
    if row == Int(registers.crtc[VGARegister.CRTC.underlineLocation] & 0x1F), attribute & 0x77 == 0x01 { glyph = 0x1FF }
    if isCursor(counter, row) { glyph = 0x1FF }
    // The ninth dot is background but for the line drawing characters, which repeat the eighth.
    if mode & 0x04 != 0, 0xC0...0xDF ~= code { glyph |= glyph >> 1 & 1 }
    let foreground = attributeColors[Int(attribute & 0x0F)]
    let background = attributeColors[Int(mode & 0x08 != 0 ? attribute >> 4 & 0x07 : attribute >> 4)]
    for dot in 0..<dotsPerCharacter {
      line[start + dot] = glyph >> (8 - dot) & 1 != 0 ? foreground : background
    }
  }

  /// Nine dots of a character, the ninth clear. Sequencer register 3 places the two fonts in plane 2.
  private func font(_ isSecond: Bool, _ code: Int, _ row: Int) -> Int {
    let select = Int(registers.sequencer[VGARegister.Sequencer.characterMapSelect])
    let map = isSecond ? select >> 2 & 3 | select >> 3 & 4 : select & 3 | select >> 2 & 4
    let table = (map & 3) * 0x4000 + (map & 4) * 0x800
    return Int(memory[(table + code * 32 + row) * 4 + 2]) << 1
  }

  private func isCursor(_ counter: Int, _ row: Int) -> Bool {
    let start = registers.crtc[VGARegister.CRTC.cursorStart]
    let end = registers.crtc[VGARegister.CRTC.cursorEnd]
    guard isBlinkOn, start & 0x20 == 0, row >= Int(start & 0x1F), row <= Int(end & 0x1F) else { return false }
    return counter & 0xFFFF == (registers.cursorAddress + Int(end >> 5 & 3)) & 0xFFFF
  }

  /// The 4-bit pixel at a bit of four planes.
  static func planarIndex(_ planes: UInt32, bit: UInt32) -> Int {
    let bits = planes >> bit
    return Int(bits & 1 | bits >> 7 & 2 | bits >> 14 & 4 | bits >> 21 & 8)
  }
}
