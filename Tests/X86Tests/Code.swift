import X86

/// Machine code written in hexadecimal.
func code(_ text: String) -> [UInt8] { text.split(separator: " ").compactMap { UInt8($0, radix: 16) } }

let decoder = Decoder()

func decode(_ bytes: [UInt8], _ mode: DecodeMode, with decoder: Decoder = decoder) -> DecodeResult {
  bytes.withUnsafeBytes { decoder.decode($0, mode: mode) }
}

/// The outcome as text: the instruction and its length, or what else came.
func outcome(_ bytes: [UInt8], _ mode: DecodeMode, with decoder: Decoder = decoder) -> String {
  switch decode(bytes, mode, with: decoder) {
  case .instruction(let instruction):
    let text = Disassembler.text(instruction, at: 0x1000)
    return Int(instruction.length) == bytes.count ? text : "\(text) (length \(instruction.length))"
  case .needsMoreBytes: return "more"
  case .undefined: return "#UD"
  case .tooLong: return "too long"
  }
}

/// xorshift64*: the same numbers on every run.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed | 1 }
  mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_F491_4F6C_DD1D
  }
}
