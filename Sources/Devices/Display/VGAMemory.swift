/// The VGA's path between the processor's window 0xA0000–0xBFFFF and the planes (IBM PS/2 Hardware Interface
/// Technical Reference, "Video Subsystem": write modes 0–3, read modes 0 and 1).
extension VGARegisters {
  /// Offset in the window 0xA0000–0xBFFFF to offset in the range that the memory map select decodes, or nil.
  func decode(_ offset: Int) -> Int? {
    guard isMemoryEnabled else { return nil }
    let (base, size) =
      switch graphics[VGARegister.Graphics.miscellaneous] >> 2 & 3 {
      case 0: (0, 0x2_0000)
      case 1: (0, 0x1_0000)
      case 2: (0x1_0000, 0x8000)
      default: (0x1_8000, 0x8000)
      }
    return offset >= base && offset - base < size ? offset - base : nil
  }

  private var isChained: Bool { sequencer[VGARegister.Sequencer.memoryMode] & 0x08 != 0 }
  private var isOddEven: Bool { graphics[VGARegister.Graphics.mode] & 0x10 != 0 }

  /// The planar address of a decoded offset, and the plane that its low bits select where the mode lets them.
  private func locate(_ offset: Int) -> (address: Int, plane: Int?) {
    if isChained { return (offset >> 2, offset & 3) }
    if isOddEven {
      return (offset >> 1, Int(graphics[VGARegister.Graphics.readMapSelect] & 2) | offset & 1)
    }
    return (offset, nil)
  }

  /// Reads a decoded offset; the latches take all planes. `bank` counts planar addresses.
  mutating func readMemory(_ offset: Int, bank: Int = 0, _ memory: VideoMemory) -> UInt8 {
    let (address, plane) = locate(offset)
    latches = memory[planar: address &+ bank]
    if graphics[VGARegister.Graphics.mode] & 0x08 != 0, plane == nil {
      let care = Self.planeMask(graphics[VGARegister.Graphics.colorDontCare])
      let different = (latches ^ Self.planeMask(graphics[VGARegister.Graphics.colorCompare])) & care
      let folded = different | different >> 16
      return ~UInt8(truncatingIfNeeded: folded | folded >> 8)
    }
    let selected = plane ?? Int(graphics[VGARegister.Graphics.readMapSelect] & 3)
    return UInt8(truncatingIfNeeded: latches >> UInt32(selected * 8))
  }

  /// Writes a decoded offset through the write mode, bit mask and map mask.
  func writeMemory(_ offset: Int, bank: Int = 0, _ value: UInt8, _ memory: VideoMemory) {
    let (address, plane) = locate(offset)
    var planes = sequencer[VGARegister.Sequencer.mapMask]
    if let plane { planes &= 1 << UInt8(plane) }
    let written = Self.planeMask(planes)
    guard written != 0 else { return }
    let target = address &+ bank
    memory[planar: target] = memory[planar: target] & ~written | produce(value) & written
  }

  /// The four planes' bytes that a processor write makes out of its byte and the latches.
  private func produce(_ value: UInt8) -> UInt32 {
    let rotation = graphics[VGARegister.Graphics.dataRotate] & 7
    let rotated = value >> rotation | value << (8 - rotation)
    let setReset = Self.planeMask(graphics[VGARegister.Graphics.setReset])
    var bits = Self.everyPlane(graphics[VGARegister.Graphics.bitMask])
    let data: UInt32
    switch graphics[VGARegister.Graphics.mode] & 3 {
    case 0:
      let enabled = Self.planeMask(graphics[VGARegister.Graphics.enableSetReset])
      data = Self.everyPlane(rotated) & ~enabled | setReset & enabled
    case 1:
      return latches
    case 2:
      data = Self.planeMask(value & 0x0F)
    default:
      data = setReset
      bits &= Self.everyPlane(rotated)
    }
    let combined: UInt32 =
      switch graphics[VGARegister.Graphics.dataRotate] >> 3 & 3 {
      case 0: data
      case 1: data & latches
      case 2: data | latches
      default: data ^ latches
      }
    return combined & bits | latches & ~bits
  }

  /// All bits of the planes whose bits are set.
  static func planeMask(_ planes: UInt8) -> UInt32 {
    var mask: UInt32 = 0
    for plane in 0..<UInt32(4) where planes >> UInt8(plane) & 1 != 0 { mask |= 0xFF << (plane * 8) }
    return mask
  }

  private static func everyPlane(_ byte: UInt8) -> UInt32 { UInt32(byte) &* 0x0101_0101 }
}
