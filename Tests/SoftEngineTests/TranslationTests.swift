import CSoftCPU
import Engines
import TestKit
import Testing
import X86

@testable import SoftEngine

/// The same code by handlers and translated.
@Suite struct TranslationTests {
  private static let data: UInt64 = 0x6000_0000
  private static let dataSize = 0x1_0000
  private static let code: UInt64 = 0x7000_0000
  private static let codeSize = 0x1_0000

  /// Where kernels are, as the same memory as `code`.
  private static let kernel: UInt64 = 0xFFFF_FFFF_8000_0000

  /// A processor with memory of its own.
  private final class Processor {
    let cpu: SoftVCPU
    let data = UnsafeMutableRawPointer.allocate(byteCount: TranslationTests.dataSize, alignment: 4096)
    let code = UnsafeMutableRawPointer.allocate(byteCount: TranslationTests.codeSize, alignment: 4096)

    init(translateAfter hot: UInt8?) {
      cpu = SoftVCPU(index: 0, controllers: nil, translateAfter: hot)
      code.initializeMemory(as: UInt8.self, repeating: 0xF4, count: TranslationTests.codeSize)
      forgetCode()
    }

    deinit {
      data.deallocate()
      code.deallocate()
    }

    /// Shows the memory anew, as if it were other memory: no block stays.
    func forgetCode() {
      let mappings = [
        (TranslationTests.data, TranslationTests.dataSize, data),
        (TranslationTests.code, TranslationTests.codeSize, code),
        (TranslationTests.kernel, TranslationTests.codeSize, code),
      ].map { HostMapping(guestAddress: $0.0, size: UInt64($0.1), host: $0.2, readOnly: false) }
      cpu.show(mappings.compactMap(MappedMemory.init))
    }

    /// Executes what stands at `place`, and says how it ended.
    func run(
      at place: Int, of code: UInt64 = TranslationTests.code, registers: [UInt64], flags: UInt64
    ) throws -> String {
      let state = cpu.state
      state.enter64BitMode()
      state.pointee.rip = code + UInt64(place)
      for index in 0..<16 {
        register(state, Slot.general(UInt8(index)), as: UInt64.self).pointee = registers[index]
      }
      state.arithmeticFlags = flags
      switch cpu.run(.run) {
      case .halt: return "halt"
      case .mmioRead(let address, let width, _): return try end("read of \(width) at \(address)")
      case .mmioWrite(let address, let width, let data):
        return try end("write of \(data.loadUnaligned(as: UInt64.self)), \(width) at \(address)")
      case let exit: return try end("\(exit)")
      }
    }

    /// RIP where it stopped is part of how it ended.
    private func end(_ what: String) throws -> String {
      let rip = cpu.state.pointee.rip
      let registers = self.registers
      let flags = self.flags
      try cpu.reset()
      cpu.state.arithmeticFlags = flags
      for index in 0..<16 {
        register(cpu.state, Slot.general(UInt8(index)), as: UInt64.self).pointee = registers[index]
      }
      return "\(what), RIP \(rip)"
    }

    var registers: [UInt64] {
      (0..<16).map { register(cpu.state, Slot.general(UInt8($0)), as: UInt64.self).pointee }
    }
    var flags: UInt64 { cpu.state.arithmeticFlags }
    /// The XMM registers and MXCSR.
    var vectors: [UInt64] {
      withUnsafeBytes(of: cpu.state.pointee.xmm) { Array($0.bindMemory(to: UInt64.self).prefix(32)) }
        + [UInt64(cpu.state.pointee.mxcsr)]
    }
  }

  @Test func translatedBlocksDoWhatHandlersDo() throws {
    let count = isLongRun ? 300_000 : 6_000
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix(state: seed)
    let (plain, translated) = (Processor(translateAfter: nil), Processor(translateAfter: 1))
    for index in stride(from: 0, to: Self.dataSize, by: 8) {
      let value = random.next()
      for processor in [plain, translated] {
        processor.data.storeBytes(of: value, toByteOffset: index, as: UInt64.self)
      }
    }
    let vectorRows = RandomVectorInstruction.rows(features: [.sse, .sse2, .sse3, .ssse3, .sse41])
    var place = Self.codeSize
    var halts = 0
    for number in 0..<count {
      if place + 512 > Self.codeSize {
        for processor in [plain, translated] { processor.forgetCode() }
        place = 0
      }
      let first = RandomInstruction(memory: Self.data, &random)
      var bytes = first.bytes
      for _ in 0..<random.next() % 12 {
        bytes += RandomInstruction(memory: Self.data, &random).bytes
        if random.next() % 4 == 0 {
          let row = vectorRows[Int(random.next() % UInt64(vectorRows.count))]
          bytes += RandomVectorInstruction(row: row, memory: Self.data, &random).bytes
        }
        // Over the next byte, or not: blocks that branch within themselves.
        if random.next() % 4 == 0 { bytes += [0x70 | UInt8(random.next() & 15), 1, 0x90] }
      }
      for processor in [plain, translated] {
        processor.code.advanced(by: place).copyMemory(from: bytes + [0xF4, 0xF4], byteCount: bytes.count + 2)
      }
      let flags = random.next() & RFLAGS.arithmetic
      // The second time through what was translated and linked the first time.
      for round in 0..<2 {
        let ends = try [plain, translated].map { try $0.run(at: place, registers: first.registers, flags: flags) }
        if ends[0] == "halt" { halts += 1 }
        let isEqual =
          ends[0] == ends[1] && plain.registers == translated.registers && plain.flags == translated.flags
          && plain.vectors == translated.vectors && soft_equal(plain.data, translated.data, Self.dataSize) != 0
        #expect(
          isEqual,
          "seed \(seed), code \(number), round \(round): \(bytes.map { String($0, radix: 16) }) \(ends) \(flags)")
        guard isEqual else { return }
      }
      place += (bytes.count + 32) & ~15
    }
    print("seed \(seed): \(count) pieces of code, \(halts) runs to the end")
    #expect(halts > count / 4)
  }

  /// Calculations whose flags the last instruction replaces, with accesses outside memory in between, which show them.
  @Test func anAccessShowsTheFlagsOfTheCalculationBefore() throws {
    let (plain, translated) = (Processor(translateAfter: nil), Processor(translateAfter: 1))
    // ADD, OR, AND, SUB, XOR and CMP of RAX and RCX, of RAX and RAX, and with an immediate; TEST of RAX and RCX; SHR
    let registers: [[UInt8]] = [0x01, 0x09, 0x21, 0x29, 0x31, 0x39, 0x85].flatMap { [[$0, 0xC8], [$0, 0xC0]] }
    let immediates: [[UInt8]] = [0xC0, 0xC8, 0xE0, 0xE8, 0xF0, 0xF8].map { [0x83, $0, 0x85] }
    let calculations = registers + immediates + [[0xC1, 0xE8, 3]]
    let sized = calculations.flatMap {
      [[0x48] + $0, $0, [0x66] + $0, [$0[0] == 0x83 ? 0x80 : $0[0] & 0xFE] + $0.dropFirst()]
    }
    // Nothing; MOV ECX, EDX; SETC DL; CMOVC RDX, RCX; MOV RBX, [RSI]; 16 times MOV EBX, EBX; and two together
    let between: [[UInt8]] = [
      [], [0x89, 0xD1], [0x0F, 0x92, 0xC2], [0x48, 0x0F, 0x42, 0xD1], [0x48, 0x8B, 0x1E],
      (0..<16).flatMap { _ in [0x89, 0xDB] }, [0x48, 0x8B, 0x1E, 0x0F, 0x92, 0xC2],
    ]
    // MOV RBX, [RDI]; MOV [RDI], RBX; ADD EBX, [RDI]; then CMP EBX, EDX; HLT
    let accesses: [[UInt8]] = [[0x48, 0x8B, 0x1F], [0x48, 0x89, 0x1F], [0x03, 0x1F]]
    let values: [UInt64] = [0, 1, 0x7FFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_8000_0085, 0x8000_0000_7F7B_807B]
    for processor in [plain, translated] {
      processor.data.initializeMemory(as: UInt8.self, repeating: 0x5A, count: Self.dataSize)
    }
    var shown: Set<UInt64> = []
    for calculation in sized {
      for (middle, access) in between.flatMap({ middle in accesses.map { (middle, $0) } }) {
        let bytes = calculation + middle + access + [0x39, 0xD3, 0xF4]
        for processor in [plain, translated] {
          processor.code.copyMemory(from: bytes, byteCount: bytes.count)
          processor.forgetCode()
        }
        for (a, b) in values.flatMap({ a in values.map { (a, $0) } }) {
          var registers = [UInt64](repeating: 0x1234, count: 16)
          (registers[Int(General.rax)], registers[Int(General.rcx)]) = (a, b)
          (registers[Int(General.rsi)], registers[Int(General.rdi)]) = (Self.data, 0x1000)
          let ends = try [plain, translated].map { try $0.run(at: 0, registers: registers, flags: RFLAGS.arithmetic) }
          let isEqual = ends[0] == ends[1] && plain.registers == translated.registers && plain.flags == translated.flags
          #expect(isEqual, "\(bytes.map { String($0, radix: 16) }) of \(a), \(b): \(ends)")
          guard isEqual else { return }
          shown.insert(translated.flags)
        }
      }
    }
    #expect(shown.count > 10)
  }

  @Test func whenThereIsNoMoreRoomAllIsTranslatedAnew() throws {
    let processor = Processor(translateAfter: 1)
    let native = try #require(processor.cpu.state.context.pointee.native)
    // INC RAX; HLT
    processor.code.copyMemory(from: [0x48, 0xFF, 0xC0, 0xF4] as [UInt8], byteCount: 4)
    let registers = [UInt64](repeating: 0, count: 16)
    #expect(try processor.run(at: 0, registers: registers, flags: 0) == "halt")
    let used = native.cursor
    while native.append([UInt8](repeating: 0xCC, count: 1 << 20)) {}
    processor.code.copyMemory(from: [0x48, 0xFF, 0xC0, 0x48, 0xFF, 0xC0, 0xF4] as [UInt8], byteCount: 7)
    processor.forgetCode()
    #expect(try processor.run(at: 0, registers: registers, flags: 0) == "halt")
    #expect(processor.registers[0] == 2)
    #expect(!native.isFull)
    #expect(native.cursor < used + 4096)
  }

  /// Setting one empties the jump caches, and known blocks are found again without the outer loop.
  @Test(arguments: [nil, 1] as [UInt8?]) func aBreakpointIsMetInABlockThatIsKnown(translatedAfter hot: UInt8?) throws {
    let processor = Processor(translateAfter: hot)
    // MOV DR0, RBX; MOV DR7, RCX; JMP to the next page
    let first: [UInt8] = [0x0F, 0x23, 0xC3, 0x0F, 0x23, 0xF9, 0xE9, 0xF5, 0x0F, 0, 0]
    // INC RAX; DEC EDI; JNZ to the JMP; MOV RDX, [RSI]; INC RAX; HLT
    let second: [UInt8] = [
      0x48, 0xFF, 0xC0, 0xFF, 0xCF, 0x0F, 0x85, 0xFB, 0xEF, 0xFF, 0xFF, 0x48, 0x8B, 0x16, 0x48, 0xFF, 0xC0, 0xF4,
    ]
    processor.code.copyMemory(from: first, byteCount: first.count)
    (processor.code + 0x1000).copyMemory(from: second, byteCount: second.count)
    // DR0 and DR7, and how often RAX was incremented where the debug exception, for which there is no handler, came:
    // none is enabled, at INC, at MOV after three rounds, of 8 bytes read or written.
    let cases: [(UInt64, UInt64, UInt64)] = [
      (0, 0x400, 4), (Self.code + 0x1000, 0x402, 0), (0, 0x400, 4), (Self.code + 0x100B, 0x402, 3), (0, 0x400, 4),
      (Self.data, 0xB_0402, 3), (0, 0x400, 4),
    ]
    for (address, control, count) in cases {
      var registers = [UInt64](repeating: 0, count: 16)
      registers[Int(General.rbx)] = address
      registers[Int(General.rcx)] = control
      registers[Int(General.rsi)] = Self.data
      registers[Int(General.rdi)] = 3
      let end = try processor.run(at: 0, registers: registers, flags: 0)
      #expect((end == "halt") == (count == 4), "\(address) \(control): \(end)")
      #expect(processor.registers[0] == count, "\(address) \(control): \(end)")
    }
  }

  /// PUSH RAX to PUSH RDI but RSP, then POP R8 to R14, with the stack about a page boundary, the end of memory and its
  /// beginning.
  @Test func pushesAndPopsInARowDoWhatEachDoes() throws {
    let (plain, translated) = (Processor(translateAfter: nil), Processor(translateAfter: 1))
    let numbers: [UInt8] = [0, 1, 2, 3, 5, 6, 7]
    let bytes =
      numbers.map { 0x50 | $0 } + (0..<7 as Range<UInt8>).flatMap { [0x41, 0x58 | $0] } + [
        0x41, 0x57, 0x41, 0x56, 0xF4,
      ]
    for processor in [plain, translated] {
      processor.data.initializeMemory(as: UInt8.self, repeating: 0, count: Self.dataSize)
      processor.code.copyMemory(from: bytes, byteCount: bytes.count)
    }
    for place in [0x2000, 0x1000, 0x40, Self.dataSize, 0x18] {
      for offset in stride(from: -24, through: 72, by: 3) {
        var registers = (0..<16).map { UInt64($0) &* 0x1111_1111_1111 }
        registers[Int(General.rsp)] = Self.data &+ UInt64(bitPattern: Int64(place + offset))
        for _ in 0..<2 {
          let ends = try [plain, translated].map { try $0.run(at: 0, registers: registers, flags: 0) }
          #expect(ends[0] == ends[1], "\(place) \(offset)")
          #expect(plain.registers == translated.registers, "\(place) \(offset)")
          #expect(soft_equal(plain.data, translated.data, Self.dataSize) != 0, "\(place) \(offset)")
        }
      }
    }
  }

  @Test func pushesAcrossAPageAreToldFromInstructionsAtTheEndOfTheirBlock() throws {
    let (plain, translated) = (Processor(translateAfter: nil), Processor(translateAfter: 1))
    // Four NOPs; PUSH RAX; PUSH RAX; SAR AH, CL; SAR AH, CL, which has no translation; HLT
    let bytes: [UInt8] = [0x90, 0x90, 0x90, 0x90, 0x50, 0x50, 0xD2, 0xFC, 0xD2, 0xFC, 0xF4]
    for processor in [plain, translated] {
      processor.data.initializeMemory(as: UInt8.self, repeating: 0, count: Self.dataSize)
      processor.code.copyMemory(from: bytes, byteCount: bytes.count)
    }
    var registers = [UInt64](repeating: 0x1234_5678, count: 16)
    registers[Int(General.rsp)] = Self.data + 0x200C
    for _ in 0..<2 {
      let ends = try [plain, translated].map { try $0.run(at: 0, registers: registers, flags: 0) }
      #expect(ends == ["halt", "halt"])
      #expect(plain.registers == translated.registers)
      #expect(soft_equal(plain.data, translated.data, Self.dataSize) != 0)
    }
  }

  /// A function that calls itself deeper than returns are remembered, and one that returns behind where it was called.
  @Test func returnsGoWhereTheStackSays() throws {
    let (plain, translated) = (Processor(translateAfter: nil), Processor(translateAfter: 1))
    // MOV ECX, 40; CALL deeper; CALL skip; INC EBX; INC EDX; DEC ESI; JNZ back; HLT
    let main: [UInt8] = [
      0xB9, 40, 0, 0, 0, 0xE8, 14, 0, 0, 0, 0xE8, 24, 0, 0, 0, 0xFF, 0xC3, 0xFF, 0xC2, 0xFF, 0xCE, 0x75, 0xE9, 0xF4,
    ]
    // deeper: INC EAX; DEC ECX; JZ out; CALL deeper; ADD EAX, 3; out: RET
    let deeper: [UInt8] = [0xFF, 0xC0, 0xFF, 0xC9, 0x74, 8, 0xE8, 0xF5, 0xFF, 0xFF, 0xFF, 0x83, 0xC0, 3, 0xC3]
    // skip: ADD QWORD [RSP], 2; RET
    let skip: [UInt8] = [0x48, 0x83, 0x04, 0x24, 2, 0xC3]
    let bytes = main + deeper + skip
    var registers = [UInt64](repeating: 0, count: 16)
    registers[Int(General.rsi)] = 5
    registers[Int(General.rsp)] = Self.data + 0x1000
    for processor in [plain, translated] {
      processor.code.copyMemory(from: bytes, byteCount: bytes.count)
      #expect(try processor.run(at: 0, registers: registers, flags: 0) == "halt")
      #expect(processor.registers[Int(General.rax)] == 5 * (40 + 39 * 3))
      #expect(processor.registers[Int(General.rbx)] == 0)
      #expect(processor.registers[Int(General.rdx)] == 5)
    }
  }

  @Test func userModeDoesNotSeeWhereTheSupervisorReturnsTo() throws {
    let processor = Processor(translateAfter: 1)
    // CALL the next instruction; HLT
    processor.code.copyMemory(from: [0xE8, 0, 0, 0, 0, 0xF4] as [UInt8], byteCount: 6)
    var registers = [UInt64](repeating: 0, count: 16)
    registers[Int(General.rsp)] = Self.data + 0x1000
    #expect(try processor.run(at: 0, registers: registers, flags: 0) == "halt")
    let state = processor.cpu.state
    let supervisor = state.pointee.returns
    #expect(supervisor.pointee.last != 0)
    state.pointee.cpl = 3
    TLB.select(state)
    #expect(state.pointee.returns != supervisor)
    #expect(state.pointee.returns.pointee.last == 0)
  }

  /// A function in another page is called, changed by the guest, and called again.
  @Test(arguments: [code, kernel]) func branchesIntoOtherPagesFindCodeThatHasChanged(_ place: UInt64) throws {
    let processor = Processor(translateAfter: 1)
    // CALL the function; DEC ECX; JNZ back; MOV DWORD [the function's immediate], 100; MOV ECX, 10; DEC EBX; JNZ back; HLT
    let calls: [UInt8] = [0xE8, 0xFB, 0x0F, 0, 0, 0xFF, 0xC9, 0x75, 0xF7]
    let change: [UInt8] = [0xC7, 0x05, 0xEF, 0x0F, 0, 0, 100, 0, 0, 0, 0xB9, 10, 0, 0, 0, 0xFF, 0xCB, 0x75, 0xE4, 0xF4]
    // ADD RAX, 1; RET
    let function: [UInt8] = [0x48, 0x05, 1, 0, 0, 0, 0xC3]
    processor.code.copyMemory(from: calls + change, byteCount: calls.count + change.count)
    (processor.code + 4096).copyMemory(from: function, byteCount: function.count)
    var registers = [UInt64](repeating: 0, count: 16)
    registers[Int(General.rcx)] = 10
    registers[Int(General.rbx)] = 2
    registers[Int(General.rsp)] = Self.data + 0x1000
    for sum in [10 + 10 * 100, 20 * 100] as [UInt64] {
      #expect(try processor.run(at: 0, of: place, registers: registers, flags: 0) == "halt")
      #expect(processor.registers[0] == sum)
    }
  }

  @Test func branchesIntoOtherPagesOfKernelsGoToTranslatedCode() throws {
    let processor = Processor(translateAfter: 1)
    // CALL of the next page; DEC ECX; JNZ back; HLT
    let calls: [UInt8] = [0xE8, 0xFB, 0x0F, 0, 0, 0xFF, 0xC9, 0x75, 0xF7, 0xF4]
    processor.code.copyMemory(from: calls, byteCount: calls.count)
    (processor.code + 4096).copyMemory(from: [0xC3] as [UInt8], byteCount: 1)
    var registers = [UInt64](repeating: 0, count: 16)
    registers[Int(General.rcx)] = 10
    registers[Int(General.rsp)] = Self.data + 0x1000
    for (code, isConnected) in [(Self.code, false), (Self.kernel, true)] {
      #expect(try processor.run(at: 0, of: code, registers: registers, flags: 0) == "halt")
      let state = processor.cpu.state
      let called = try #require(state.context.pointee.blocks.find(physical: code + 4096, mode: state.pointee.mode))
      #expect(called.pointee.isEnteredFromOtherPages == isConnected)
    }
  }

  @Test(arguments: [nil, 1] as [UInt8?])
  func aStringInstructionMayChangeTheNextOne(translatedAfter hot: UInt8?) throws {
    let processor = Processor(translateAfter: hot)
    // MOVSB; MOV AL, 1; HLT
    processor.code.copyMemory(from: [0xA4, 0xB0, 1, 0xF4] as [UInt8], byteCount: 4)
    var registers = [UInt64](repeating: 0, count: 16)
    registers[Int(General.rsi)] = Self.data + 0x100
    registers[Int(General.rdi)] = Self.code + 2
    for value in [7, 9, 200] as [UInt8] {
      processor.data.storeBytes(of: value, toByteOffset: 0x100, as: UInt8.self)
      #expect(try processor.run(at: 0, registers: registers, flags: 0) == "halt")
      #expect(processor.registers[Int(General.rax)] == UInt64(value))
      #expect(processor.registers[Int(General.rsi)] == registers[Int(General.rsi)] + 1)
      #expect(processor.registers[Int(General.rdi)] == registers[Int(General.rdi)] + 1)
    }
  }
}
