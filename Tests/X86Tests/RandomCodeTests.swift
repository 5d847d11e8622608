import Testing
import X86

@Suite struct RandomCodeTests {
  private static let seed: UInt64 = 0x5EED_0F86
  private static let count = isLongRun ? 5_000_000 : 100_000

  /// Bytes that reach deep into the tables more often than chance does.
  private static func fill(_ bytes: inout [UInt8], _ random: inout SeededGenerator) {
    let frequent: [UInt8] = [0x0F, 0x66, 0xF2, 0xF3, 0xF0, 0x67, 0x48, 0xC4, 0xC5, 0x38, 0x3A, 0x2E, 0x64, 0x41]
    for index in bytes.indices {
      let number = random.next()
      bytes[index] =
        number >> 60 < 4
        ? frequent[Int(truncatingIfNeeded: number >> 8 & 0xFF) % frequent.count] : UInt8(truncatingIfNeeded: number)
    }
  }

  @Test(arguments: DecodeMode.allCases)
  func randomBytesNeverTrapAndStayInBounds(mode: DecodeMode) {
    var random = SeededGenerator(seed: Self.seed)
    var bytes = [UInt8](repeating: 0, count: 16)
    var longest = 0
    for _ in 0..<Self.count {
      Self.fill(&bytes, &random)
      switch decode(bytes, mode) {
      case .instruction(let instruction): longest = max(longest, Int(instruction.length))
      case .undefined(let length): longest = max(longest, length)
      case .needsMoreBytes: Issue.record("16 bytes were not enough, seed \(Self.seed): \(bytes)")
      case .tooLong: break
      }
    }
    #expect(longest <= 15)
    #expect(longest >= 10)
  }

  @Test(arguments: DecodeMode.allCases)
  func everyPartOfARandomInstructionNeedsMoreBytes(mode: DecodeMode) {
    var random = SeededGenerator(seed: Self.seed &+ 1)
    var bytes = [UInt8](repeating: 0, count: 16)
    for _ in 0..<Self.count / 20 {
      Self.fill(&bytes, &random)
      guard case .instruction(let instruction) = decode(bytes, mode) else { continue }
      let length = Int(instruction.length)
      for part in 0..<length {
        guard case .needsMoreBytes = decode(Array(bytes[0..<part]), mode) else {
          Issue.record("\(bytes[0..<length]) has an outcome after \(part) bytes, seed \(Self.seed)")
          break
        }
      }
      guard case .instruction = decode(Array(bytes[0..<length]), mode) else {
        Issue.record("\(bytes[0..<length]) is no instruction without what follows, seed \(Self.seed)")
        continue
      }
    }
  }

  @Test(arguments: DecodeMode.allCases)
  func everyRandomInstructionHasText(mode: DecodeMode) {
    var random = SeededGenerator(seed: Self.seed &+ 2)
    var bytes = [UInt8](repeating: 0, count: 16)
    for _ in 0..<Self.count / 20 {
      Self.fill(&bytes, &random)
      guard case .instruction(let instruction) = decode(bytes, mode) else { continue }
      let text = Disassembler.text(instruction, at: random.next())
      #expect(!text.contains("?") && !text.isEmpty, "\(bytes), seed \(Self.seed)")
    }
  }

  @Test func emptyCodeNeedsMoreBytes() {
    guard case .needsMoreBytes = decoder.decode(UnsafeRawBufferPointer(start: nil, count: 0), mode: .bits64) else {
      Issue.record("no bytes, but an outcome")
      return
    }
  }
}
