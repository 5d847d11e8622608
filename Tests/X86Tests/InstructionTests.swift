import Testing
import X86

@testable import X86

@Suite struct InstructionTests {
  private func instruction(_ text: String, _ mode: DecodeMode = .bits64) throws -> Instruction {
    guard case .instruction(let instruction) = decode(code(text), mode) else {
      throw NotDecoded(text: text)
    }
    return instruction
  }

  private struct NotDecoded: Error { let text: String }

  @Test func addressHasItsParts() throws {
    let mov = try instruction("65 4a 8b 84 fd f0 ff ff ff")
    #expect(mov.operation == .mov)
    #expect(mov.base == 5)
    #expect(mov.index == 15)
    #expect(mov.scale == 8)
    #expect(mov.displacement == -16)
    #expect(mov.segment == 5)
    #expect(mov.prefixes == [.segment, .rex])
    #expect(mov.operandSize == 8)
    #expect(mov.addressSize == 8)
    #expect(mov.operands[0].kind == .register)
    #expect(mov.operands[0].registerClass == .general)
    #expect(mov.operands[0].size == 8)
    #expect(mov.operands[1].kind == .memory)
    #expect(mov.operands[2].kind == .none)
    #expect(mov.length == 9)
  }

  @Test(
    arguments: [
      ("8b 45 00", DecodeMode.bits64, 2), ("8b 04 24", .bits64, 2), ("41 8b 45 00", .bits64, 3),
      ("41 8b 04 24", .bits64, 3), ("8b 04 2b", .bits64, 3), ("8b 04 2c", .bits64, 2),
      ("8b 05 00 00 00 00", .bits64, 3),
      ("8b 46 00", .bits16, 2), ("8b 06 00 00", .bits16, 3), ("8b 02", .bits16, 2), ("8b 07", .bits16, 3),
      ("36 8b 07", .bits16, 2), ("3e 8b 46 00", .bits16, 3), ("3e 8b 45 00", .bits64, 2), ("a4", .bits64, 3),
      ("2e a4", .bits32, 1), ("26 d7", .bits32, 0),
    ] as [(String, DecodeMode, UInt8)])
  func segmentIsTheDefaultOrTheOverride(text: String, mode: DecodeMode, segment: UInt8) throws {
    #expect(try instruction(text, mode).segment == segment)
  }

  @Test func highByteRegistersHaveTheirOwnClass() throws {
    let mov = try instruction("88 e3")
    #expect(mov.operands[0].registerClass == .general)
    #expect(mov.operands[0].number == 3)
    #expect(mov.operands[1].registerClass == .highByte)
    #expect(mov.operands[1].number == 0)
    let withREX = try instruction("40 88 e3")
    #expect(withREX.operands[1].registerClass == .general)
    #expect(withREX.operands[1].number == 4)
  }

  @Test func enterAndFarPointersHaveTwoImmediates() throws {
    let enter = try instruction("c8 34 12 05")
    #expect(enter.immediate == 0x1234)
    #expect(enter.secondImmediate == 5)
    let jump = try instruction("ea 00 00 00 80 08 00", .bits32)
    #expect(jump.immediate == 0x8000_0000)
    #expect(jump.secondImmediate == 8)
  }

  @Test func attributesComeFromTheTables() throws {
    #expect(try instruction("f4").attributes == .cpl0)
    #expect(try instruction("e4 80").attributes == .io)
    #expect(try instruction("0f 32").attributes == [.cpl0, .msr])
    #expect(try instruction("0f b1 18").attributes == .lockable)
    #expect(try instruction("66 0f 38 dc c1").attributes == .aes)
  }

  @Test func conditionIsInTheOpcode() throws {
    #expect(try instruction("0f 4f c1").condition == 15)
    #expect(try instruction("74 00").condition == 4)
    #expect(try instruction("0f 92 c0").condition == 2)
  }

  @Test func instructionsWithoutTheirFeatureAreUndefined() {
    let old = Decoder(features: [.fpu, .cmov, .mmx, .sse, .sse2])
    #expect(outcome(code("66 0f 38 dc c1"), .bits64, with: old) == "#UD")
    #expect(outcome(code("f3 0f b8 c1"), .bits64, with: old) == "#UD")
    #expect(outcome(code("c4 e2 70 f2 c2"), .bits64, with: old) == "#UD")
    #expect(outcome(code("66 0f 58 c1"), .bits64, with: old) == "addpd xmm0,xmm1")
    #expect(outcome(code("f3 0f ae c0"), .bits64, with: old) == "#UD")
  }

  @Test func olderCPUsTakeTZCNTAndLZCNTForBSFAndBSR() {
    let old = Decoder(features: .fpu)
    #expect(outcome(code("f3 0f bc c1"), .bits64) == "tzcnt eax,ecx")
    #expect(outcome(code("f3 66 0f bd c1"), .bits64) == "lzcnt ax,cx")
    #expect(outcome(code("f3 0f bc c1"), .bits64, with: old) == "repz bsf eax,ecx")
    #expect(outcome(code("f3 66 0f bd c1"), .bits64, with: old) == "repz bsr ax,cx")
  }

  @Test func isPlainDataOfOneCacheLine() {
    #expect(MemoryLayout<Instruction>.size <= 64)
    #expect(_isPOD(Instruction.self))
    #expect(_isPOD(Decoder.self))
    #expect(_isPOD(DecodeResult.self))
  }

  @Test func rowsAreReadAndNoneClaimsAnothersEncoding() {
    #expect(OpcodeMap.allCases.flatMap { Compilation($0).mistakes } == [])
  }

  @Test func everyOperationHasARow() {
    let used = Set(OpcodeMap.allCases.flatMap { $0.rows.joined() }.map(\.operation))
    #expect(Operation.allCases.filter { !used.contains($0) } == [.invalid])
  }
}
