/// The Bochs VBE display interface: modes beyond the VGA's, with a linear frame buffer (Bochs VBE DISPI
/// specification, versions 0xB0C0–0xB0C5).
struct BochsDISPI: Sendable {
  enum Index {
    static let id = 0x0
    static let width = 0x1
    static let height = 0x2
    static let bitsPerPixel = 0x3
    static let enable = 0x4
    static let bank = 0x5
    static let virtualWidth = 0x6
    static let virtualHeight = 0x7
    static let xOffset = 0x8
    static let yOffset = 0x9
    static let videoMemory = 0xA
    static let count = 0xB
  }

  struct Enable: OptionSet, Sendable {
    let rawValue: UInt16
    static let enabled = Enable(rawValue: 0x01)
    /// Width, height and depth read as their maxima.
    static let getCapabilities = Enable(rawValue: 0x02)
    static let wideDAC = Enable(rawValue: 0x20)
    static let linearFrameBuffer = Enable(rawValue: 0x40)
    static let keepMemory = Enable(rawValue: 0x80)
  }

  static let maximumWidth = 16000
  static let maximumHeight = 12000
  static let depths: Set<UInt16> = [4, 8, 15, 16, 24, 32]

  private(set) var registers = [UInt16](repeating: 0, count: Index.count)
  private let memorySize: Int

  /// `memorySize` is the frame buffer's size in bytes.
  init(memorySize: Int) {
    self.memorySize = memorySize
    registers[Index.id] = 0xB0C5
  }

  var enable: Enable { Enable(rawValue: registers[Index.enable]) }
  var isEnabled: Bool { enable.contains(.enabled) }
  var width: Int { Int(registers[Index.width]) }
  var height: Int { Int(registers[Index.height]) }
  var depth: Int { Int(registers[Index.bitsPerPixel]) }
  var virtualWidth: Int { Int(registers[Index.virtualWidth]) }
  var xOffset: Int { Int(registers[Index.xOffset]) }
  var yOffset: Int { Int(registers[Index.yOffset]) }
  /// The 64 KiB bank that the window 0xA0000–0xAFFFF shows.
  var bank: Int { Int(registers[Index.bank]) }

  /// Bits of frame buffer that one pixel takes.
  private var storedBits: Int { depth == 15 ? 16 : depth }
  /// Bytes from one line to the next.
  var pitch: Int { virtualWidth * storedBits / 8 }

  func read(_ index: Int) -> UInt16 {
    guard index >= 0, index < registers.count else { return 0 }
    if enable.contains(.getCapabilities) {
      switch index {
      case Index.width: return UInt16(Self.maximumWidth)
      case Index.height: return UInt16(Self.maximumHeight)
      case Index.bitsPerPixel: return 32
      default: break
      }
    }
    if index == Index.videoMemory { return UInt16(truncatingIfNeeded: memorySize >> 16) }
    return registers[index]
  }

  /// Writes a register. Returns how many bytes of the frame buffer the write clears.
  mutating func write(_ index: Int, _ value: UInt16) -> Int {
    switch index {
    case Index.id:
      if 0xB0C0...0xB0C5 ~= value { registers[index] = value }
    case Index.width, Index.height, Index.bitsPerPixel, Index.virtualWidth, Index.xOffset, Index.yOffset:
      registers[index] = value
      if isEnabled { settle() }
    case Index.bank:
      let banks = max(1, depth == 4 ? memorySize >> 18 : memorySize >> 16)
      registers[index] = value & UInt16(truncatingIfNeeded: banks - 1)
    case Index.enable:
      return writeEnable(Enable(rawValue: value))
    default:
      break
    }
    return 0
  }

  private mutating func writeEnable(_ value: Enable) -> Int {
    let wasEnabled = isEnabled
    registers[Index.enable] = value.rawValue
    guard value.contains(.enabled), !wasEnabled else { return 0 }
    registers[Index.virtualWidth] = 0
    registers[Index.xOffset] = 0
    registers[Index.yOffset] = 0
    registers[Index.bank] = 0
    settle()
    return value.contains(.keepMemory) ? 0 : pitch * height
  }

  /// Brings the registers to a mode that the frame buffer can hold: known depth, a virtual width that covers the
  /// width, and a visible part that lies in the memory.
  private mutating func settle() {
    if !Self.depths.contains(registers[Index.bitsPerPixel]) { registers[Index.bitsPerPixel] = 8 }
    let bits = storedBits
    // The widest line that the memory holds, in whole groups of 8 pixels.
    let widest = min(Self.maximumWidth, memorySize * 8 / bits) & ~7
    let width = min(max(self.width & ~7, 8), widest)
    let virtual = min(max(virtualWidth & ~7, width), widest)
    let lines = max(1, memorySize / (virtual * bits / 8))
    let height = min(max(self.height, 1), Self.maximumHeight, lines)
    registers[Index.width] = UInt16(truncatingIfNeeded: width)
    registers[Index.virtualWidth] = UInt16(truncatingIfNeeded: virtual)
    registers[Index.height] = UInt16(truncatingIfNeeded: height)
    registers[Index.virtualHeight] = UInt16(truncatingIfNeeded: min(lines, 0xFFFF))
    var x = min(xOffset, Self.maximumWidth)
    var y = min(yOffset, Self.maximumHeight)
    // The visible part may wrap from line to line, but it ends where the memory does.
    let room = memorySize - height * pitch
    if x * bits / 8 + y * pitch > room { y = 0 }
    if x * bits / 8 + y * pitch > room { x = 0 }
    registers[Index.xOffset] = UInt16(truncatingIfNeeded: x)
    registers[Index.yOffset] = UInt16(truncatingIfNeeded: y)
  }
}
