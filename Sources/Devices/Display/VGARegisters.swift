/// Bits and indices of the VGA's registers (IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem").
enum VGARegister {
  enum Sequencer {
    static let clockingMode = 1
    static let mapMask = 2
    static let characterMapSelect = 3
    static let memoryMode = 4
    /// Bits that exist, by index 0–7.
    static let masks: [UInt8] = [0x03, 0x3D, 0x0F, 0x3F, 0x0E, 0x00, 0x00, 0x00]
  }

  enum CRTC {
    static let horizontalTotal = 0x00
    static let horizontalDisplayEnd = 0x01
    static let verticalTotal = 0x06
    static let overflow = 0x07
    static let presetRowScan = 0x08
    static let maximumScanLine = 0x09
    static let cursorStart = 0x0A
    static let cursorEnd = 0x0B
    static let startAddressHigh = 0x0C
    static let startAddressLow = 0x0D
    static let cursorLocationHigh = 0x0E
    static let cursorLocationLow = 0x0F
    static let verticalRetraceStart = 0x10
    static let verticalRetraceEnd = 0x11
    static let verticalDisplayEnd = 0x12
    static let offset = 0x13
    static let underlineLocation = 0x14
    static let modeControl = 0x17
    static let lineCompare = 0x18
    static let count = 0x19
  }

  enum Graphics {
    static let setReset = 0
    static let enableSetReset = 1
    static let colorCompare = 2
    static let dataRotate = 3
    static let readMapSelect = 4
    static let mode = 5
    static let miscellaneous = 6
    static let colorDontCare = 7
    static let bitMask = 8
    /// Bits that exist, by index 0–8.
    static let masks: [UInt8] = [0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF]
  }

  enum Attribute {
    static let modeControl = 0x10
    static let overscan = 0x11
    static let colorPlaneEnable = 0x12
    static let horizontalPanning = 0x13
    static let colorSelect = 0x14
    /// Bits that exist, by index 0–20.
    static let masks: [UInt8] =
      [UInt8](repeating: 0x3F, count: 16) + [0xEF, 0xFF, 0x3F, 0x0F, 0x0F]
  }
}

/// The registers of a VGA as a chip: no memory, no lock, no clock of its own.
struct VGARegisters: Sendable {
  var miscellaneousOutput: UInt8 = 0
  var featureControl: UInt8 = 0
  /// 0x3C3; kept for readers, the subsystem always answers.
  var subsystemEnable: UInt8 = 1
  var sequencer = [UInt8](repeating: 0, count: VGARegister.Sequencer.masks.count)
  var sequencerIndex: UInt8 = 0
  var crtc = [UInt8](repeating: 0, count: VGARegister.CRTC.count)
  var crtcIndex: UInt8 = 0
  var graphics = [UInt8](repeating: 0, count: VGARegister.Graphics.masks.count)
  var graphicsIndex: UInt8 = 0
  var attribute = [UInt8](repeating: 0, count: VGARegister.Attribute.masks.count)
  /// Index in bits 4–0; bit 5 (palette address source) connects the screen.
  var attributeIndex: UInt8 = 0
  /// The next write of 0x3C0 is data.
  private var isAttributeData = false

  /// 256 colours of red, green and blue, each 6 bits, or 8 where DISPI widened the DAC.
  var palette = [UInt8](repeating: 0, count: 768)
  var isWideDAC = false
  var pelMask: UInt8 = 0xFF
  private var paletteReadIndex: UInt8 = 0
  private var paletteWriteIndex: UInt8 = 0
  private var paletteComponent = 0
  private var isPaletteReading = false

  /// Bytes of the last dword read from the frame buffer, one per plane.
  var latches: UInt32 = 0

  init() {}

  /// Misc output bit 0: CRTC and status answer at 0x3Dx, else at 0x3Bx.
  var isColor: Bool { miscellaneousOutput & 0x01 != 0 }
  var isMemoryEnabled: Bool { miscellaneousOutput & 0x02 != 0 }
  /// The palette address source bit: the screen shows something.
  var isScreenConnected: Bool { attributeIndex & 0x20 != 0 }
  var isGraphics: Bool { graphics[VGARegister.Graphics.miscellaneous] & 0x01 != 0 }

  /// Reads a port of 0x3B0–0x3DF; `now` is the guest's time in nanoseconds. Ports that nothing answers read ones.
  mutating func read(port: UInt16, now: UInt64) -> UInt8 {
    guard answers(port) else { return 0xFF }
    switch port {
    case 0x3C0: return attributeIndex
    case 0x3C1:
      let index = Int(attributeIndex & 0x1F)
      return index < attribute.count ? attribute[index] : 0
    // Input status 0: the monitor sense line of the DAC comparators.
    case 0x3C2: return 0x10
    case 0x3C3: return subsystemEnable
    case 0x3C4: return sequencerIndex
    case 0x3C5: return sequencer[Int(sequencerIndex & 7)]
    case 0x3C6: return pelMask
    case 0x3C7: return isPaletteReading ? 3 : 0
    case 0x3C8: return paletteWriteIndex
    case 0x3C9: return readPalette()
    case 0x3CA: return featureControl
    case 0x3CC: return miscellaneousOutput
    case 0x3CE: return graphicsIndex
    case 0x3CF:
      let index = Int(graphicsIndex & 0xF)
      return index < graphics.count ? graphics[index] : 0
    case 0x3B4, 0x3D4: return crtcIndex
    case 0x3B5, 0x3D5: return Int(crtcIndex) < crtc.count ? crtc[Int(crtcIndex)] : 0
    case 0x3BA, 0x3DA:
      isAttributeData = false
      return VGATiming(self).inputStatus1(at: now)
    default: return 0xFF
    }
  }

  mutating func write(port: UInt16, _ value: UInt8) {
    guard answers(port) else { return }
    switch port {
    case 0x3C0: writeAttribute(value)
    case 0x3C2: miscellaneousOutput = value & ~0x10
    case 0x3C3: subsystemEnable = value & 1
    case 0x3C4: sequencerIndex = value & 7
    case 0x3C5:
      let index = Int(sequencerIndex)
      sequencer[index] = value & VGARegister.Sequencer.masks[index]
    case 0x3C6: pelMask = value
    case 0x3C7:
      paletteReadIndex = value
      paletteComponent = 0
      isPaletteReading = true
    case 0x3C8:
      paletteWriteIndex = value
      paletteComponent = 0
      isPaletteReading = false
    case 0x3C9: writePalette(value)
    case 0x3CE: graphicsIndex = value & 0xF
    case 0x3CF:
      let index = Int(graphicsIndex)
      if index < graphics.count { graphics[index] = value & VGARegister.Graphics.masks[index] }
    case 0x3B4, 0x3D4: crtcIndex = value
    case 0x3B5, 0x3D5: writeCRTC(value)
    case 0x3BA, 0x3DA: featureControl = value & 0x0B
    default: break
    }
  }

  /// Of the two copies of CRTC and status ports only the one that misc output selects answers.
  private func answers(_ port: UInt16) -> Bool {
    switch port {
    case 0x3B0...0x3BF: !isColor
    case 0x3D0...0x3DF: isColor
    default: true
    }
  }

  private mutating func writeAttribute(_ value: UInt8) {
    defer { isAttributeData.toggle() }
    guard isAttributeData else {
      attributeIndex = value & 0x3F
      return
    }
    let index = Int(attributeIndex & 0x1F)
    if index < attribute.count { attribute[index] = value & VGARegister.Attribute.masks[index] }
  }

  /// CR11 bit 7 protects registers 0–7, but for the line compare bit in the overflow register.
  private mutating func writeCRTC(_ value: UInt8) {
    let index = Int(crtcIndex)
    guard index < crtc.count else { return }
    if index <= VGARegister.CRTC.overflow, crtc[VGARegister.CRTC.verticalRetraceEnd] & 0x80 != 0 {
      if index == VGARegister.CRTC.overflow { crtc[index] = crtc[index] & ~0x10 | value & 0x10 }
      return
    }
    crtc[index] = value
  }

  private mutating func readPalette() -> UInt8 {
    let value = palette[Int(paletteReadIndex) * 3 + paletteComponent]
    paletteComponent += 1
    if paletteComponent == 3 {
      paletteComponent = 0
      paletteReadIndex &+= 1
    }
    return value
  }

  private mutating func writePalette(_ value: UInt8) {
    palette[Int(paletteWriteIndex) * 3 + paletteComponent] = isWideDAC ? value : value & 0x3F
    paletteComponent += 1
    if paletteComponent == 3 {
      paletteComponent = 0
      paletteWriteIndex &+= 1
    }
  }
}

/// The CRTC's fields, put together from the bits that are spread over its registers.
extension VGARegisters {
  /// A 10-bit vertical value: its register and the bits of CR07 that extend it.
  private func vertical(_ register: Int, bit8: UInt8, bit9: UInt8) -> Int {
    let overflow = crtc[VGARegister.CRTC.overflow]
    return Int(crtc[register]) | (overflow & bit8 != 0 ? 0x100 : 0) | (overflow & bit9 != 0 ? 0x200 : 0)
  }

  /// Scan lines that are shown, 1–1024.
  var displayedLines: Int { vertical(VGARegister.CRTC.verticalDisplayEnd, bit8: 0x02, bit9: 0x40) + 1 }
  /// Scan lines of a frame.
  var totalLines: Int { vertical(VGARegister.CRTC.verticalTotal, bit8: 0x01, bit9: 0x20) + 2 }
  var retraceStart: Int { vertical(VGARegister.CRTC.verticalRetraceStart, bit8: 0x04, bit9: 0x80) }
  /// The scan line after which the display goes on at address 0.
  var lineCompare: Int {
    let line = vertical(VGARegister.CRTC.lineCompare, bit8: 0x10, bit9: 0)
    return line | (crtc[VGARegister.CRTC.maximumScanLine] & 0x40 != 0 ? 0x200 : 0)
  }
  /// Character clocks that are shown, 1–256.
  var displayedCharacters: Int { Int(crtc[VGARegister.CRTC.horizontalDisplayEnd]) + 1 }
  var dotsPerCharacter: Int { sequencer[VGARegister.Sequencer.clockingMode] & 0x01 != 0 ? 8 : 9 }
  /// Each dot lasts two dot clocks (40-column modes).
  var hasHalfDotClock: Bool { sequencer[VGARegister.Sequencer.clockingMode] & 0x08 != 0 }
  /// Scan lines of a character row (or repetitions of a graphics row), 1–32.
  var linesPerRow: Int { Int(crtc[VGARegister.CRTC.maximumScanLine] & 0x1F) + 1 }
  /// Each scan line is shown twice (200-line modes).
  var isDoubleScanned: Bool { crtc[VGARegister.CRTC.maximumScanLine] & 0x80 != 0 }
  /// The planar address of the first character or byte.
  var startAddress: Int {
    Int(crtc[VGARegister.CRTC.startAddressHigh]) << 8 | Int(crtc[VGARegister.CRTC.startAddressLow])
  }
  var cursorAddress: Int {
    Int(crtc[VGARegister.CRTC.cursorLocationHigh]) << 8 | Int(crtc[VGARegister.CRTC.cursorLocationLow])
  }
  /// Planar addresses from one row to the next.
  var rowPitch: Int { Int(crtc[VGARegister.CRTC.offset]) * 2 }
}

/// Where the beam is at a point of time, from the CRTC's totals and the dot clock.
struct VGATiming: Sendable {
  private let lineNanoseconds: UInt64
  private let totalLines: UInt64
  private let displayedLines: UInt64
  private let retrace: Range<UInt64>
  private let displayedPart: (numerator: UInt64, denominator: UInt64)

  /// Programming that no monitor would follow gets the timing of 640×480 at 60 Hz, so whoever waits for a
  /// retrace sees one.
  init(_ registers: VGARegisters) {
    let clock: UInt64 = registers.miscellaneousOutput & 0x0C == 0x04 ? 28_322_000 : 25_175_000
    let characters = UInt64(registers.crtc[VGARegister.CRTC.horizontalTotal]) + 5
    let dots = characters * UInt64(registers.dotsPerCharacter) * (registers.hasHalfDotClock ? 2 : 1)
    let lines = UInt64(registers.totalLines)
    let start = UInt64(registers.retraceStart)
    let end = registers.crtc[VGARegister.CRTC.verticalRetraceEnd]
    let length = UInt64((end &- UInt8(truncatingIfNeeded: start)) & 0x0F)
    guard characters >= 20, lines >= 100, start > 0, length > 0, start + length <= lines else {
      lineNanoseconds = 31_778
      totalLines = 525
      displayedLines = 480
      retrace = 490..<492
      displayedPart = (80, 100)
      return
    }
    lineNanoseconds = dots * 1_000_000_000 / clock
    totalLines = lines
    displayedLines = min(UInt64(registers.displayedLines), start)
    retrace = start..<start + length
    displayedPart = (min(UInt64(registers.displayedCharacters), characters - 1), characters)
  }

  /// Input status 1: bit 3 during vertical retrace, bit 0 whenever nothing is displayed.
  func inputStatus1(at now: UInt64) -> UInt8 {
    let line = now / lineNanoseconds % totalLines
    let dot = now % lineNanoseconds
    let isBlank =
      line >= displayedLines || dot >= lineNanoseconds * displayedPart.numerator / displayedPart.denominator
    return (isBlank ? 0x01 : 0) | (retrace.contains(line) ? 0x08 : 0)
  }
}
