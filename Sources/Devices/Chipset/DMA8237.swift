/// One 8237A DMA controller's programming model (Intel 8237A data sheet, "Register Description"). No device of the
/// board asks for a transfer, so nothing is ever moved: counts stand still and no channel reaches terminal count.
struct DMA8237: Sendable {
  struct Channel: Sendable, Equatable {
    var baseAddress: UInt16 = 0
    var baseCount: UInt16 = 0
    var currentAddress: UInt16 = 0
    var currentCount: UInt16 = 0
    /// Transfer type, autoinitialisation, direction and mode: bits 7–2 of the mode register.
    var mode: UInt8 = 0
  }

  /// Registers by A3–A0; 0x0–0x7 are address and count of channels 0–3.
  enum Register {
    static let statusOrCommand: UInt8 = 0x8
    static let request: UInt8 = 0x9
    static let singleMask: UInt8 = 0xA
    static let mode: UInt8 = 0xB
    static let clearFlipFlop: UInt8 = 0xC
    static let temporaryOrMasterClear: UInt8 = 0xD
    static let clearMask: UInt8 = 0xE
    static let allMask: UInt8 = 0xF
  }

  private(set) var channels = [Channel](repeating: Channel(), count: 4)
  private(set) var command: UInt8 = 0
  /// Software requests, one bit per channel.
  private(set) var requests: UInt8 = 0
  private(set) var mask: UInt8 = 0x0F
  /// The next access of a 16-bit register is to its high byte.
  private var isHighByte = false

  init() {}

  mutating func read(_ register: UInt8) -> UInt8 {
    switch register & 0xF {
    case let register where register < 8:
      let channel = channels[Int(register >> 1)]
      return nextByte(of: register & 1 == 0 ? channel.currentAddress : channel.currentCount)
    case Register.statusOrCommand:
      // Requests in the high nibble; terminal counts, none, in the low one.
      return requests << 4
    case Register.temporaryOrMasterClear:
      return 0
    case Register.allMask:
      // The 8237 leaves it floating; the 82371SB shows the mask.
      return 0xF0 | mask
    default:
      return 0xFF
    }
  }

  mutating func write(_ register: UInt8, _ value: UInt8) {
    let selected = Int(value & 3)
    switch register & 0xF {
    case let register where register < 8:
      let index = Int(register >> 1)
      if register & 1 == 0 {
        replaceByte(of: &channels[index].baseAddress, value)
        channels[index].currentAddress = channels[index].baseAddress
      } else {
        replaceByte(of: &channels[index].baseCount, value)
        channels[index].currentCount = channels[index].baseCount
      }
      isHighByte.toggle()
    case Register.statusOrCommand:
      command = value
    case Register.request:
      requests = value & 4 != 0 ? requests | 1 << selected : requests & ~(1 << selected)
    case Register.singleMask:
      mask = value & 4 != 0 ? mask | 1 << selected : mask & ~(1 << selected)
    case Register.mode:
      channels[selected].mode = value & 0xFC
    case Register.clearFlipFlop:
      isHighByte = false
    case Register.temporaryOrMasterClear:
      command = 0
      requests = 0
      mask = 0x0F
      isHighByte = false
    case Register.clearMask:
      mask = 0
    default:
      mask = value & 0x0F
    }
  }

  private mutating func nextByte(of value: UInt16) -> UInt8 {
    defer { isHighByte.toggle() }
    return UInt8(truncatingIfNeeded: isHighByte ? value >> 8 : value)
  }

  private func replaceByte(of value: inout UInt16, _ byte: UInt8) {
    value = isHighByte ? value & 0x00FF | UInt16(byte) << 8 : value & 0xFF00 | UInt16(byte)
  }
}
