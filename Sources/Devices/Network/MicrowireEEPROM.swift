/// A 93C46 serial EEPROM of 64 words of 16 bits, as network cards have it for their address (Microchip 93C46B, ORG = 1).
///
/// A command is a start bit, two bits of opcode and six of address, most significant first, each taken at a rising
/// clock while the chip is selected; data follows in the same order.
struct MicrowireEEPROM: Sendable {
  static let wordCount = 64

  private enum Phase: Sendable {
    case waitingForStart
    case command(bits: Int, value: UInt16)
    /// The word being shifted out, and how many of its bits are left.
    case reading(address: Int, bits: Int)
    /// A word being shifted in; it goes to one address, or to all.
    case writing(address: Int?, bits: Int, value: UInt16)
    /// The command is done; further bits mean nothing.
    case idle
  }

  private(set) var words: [UInt16]
  private var phase = Phase.waitingForStart
  private var isSelected = false
  private var clock = false
  private var writesEnabled = false
  /// Data out; high while the chip is ready or not driving, as the pull-up of the card makes it.
  private(set) var output = true

  /// Missing words are erased (all ones).
  init(_ words: [UInt16]) {
    self.words = Array(words.prefix(Self.wordCount))
    while self.words.count < Self.wordCount { self.words.append(0xFFFF) }
  }

  /// The word at `address`, which wraps at 64.
  func word(_ address: Int) -> UInt16 { words[address & (Self.wordCount - 1)] }

  /// Drives chip select, clock and data in.
  mutating func drive(select: Bool, clock newClock: Bool, input: Bool) {
    if select != isSelected {
      isSelected = select
      phase = .waitingForStart
      output = true
    }
    let rises = newClock && !clock
    clock = newClock
    if rises && isSelected { shift(input) }
  }

  private mutating func shift(_ input: Bool) {
    switch phase {
    case .waitingForStart:
      if input { phase = .command(bits: 0, value: 0) }
    case .command(let bits, let value):
      let next = value << 1 | (input ? 1 : 0)
      if bits == 7 { begin(next) } else { phase = .command(bits: bits + 1, value: next) }
    case .reading(let address, let bits):
      // Reading on goes to the next word (sequential read).
      let (at, left) = bits == 0 ? ((address + 1) & (Self.wordCount - 1), 16) : (address, bits)
      output = words[at] >> UInt16(left - 1) & 1 != 0
      phase = .reading(address: at, bits: left - 1)
    case .writing(let address, let bits, let value):
      let next = value << 1 | (input ? 1 : 0)
      guard bits == 15 else {
        phase = .writing(address: address, bits: bits + 1, value: next)
        return
      }
      store(next, at: address)
    case .idle: break
    }
  }

  private mutating func begin(_ command: UInt16) {
    let address = Int(command & 0x3F)
    switch command >> 6 {
    case 0b10:
      // A zero bit comes before the data.
      output = false
      phase = .reading(address: address, bits: 16)
    case 0b01: phase = .writing(address: address, bits: 0, value: 0)
    case 0b11: store(0xFFFF, at: address)
    default:
      phase = .idle
      switch address >> 4 {
      case 0b00: writesEnabled = false
      case 0b01: phase = .writing(address: nil, bits: 0, value: 0)
      case 0b10: store(0xFFFF, at: nil)
      default: writesEnabled = true
      }
    }
  }

  private mutating func store(_ value: UInt16, at address: Int?) {
    phase = .idle
    output = true
    guard writesEnabled else { return }
    if let address { words[address] = value } else { words = [UInt16](repeating: value, count: Self.wordCount) }
  }
}
