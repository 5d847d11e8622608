import CNativeRun
import CSoftCPU
import Engines
import Testing
import X86

@testable import SoftEngine

/// Random instructions on the host CPU and in the interpreter.
@Suite(.serialized) struct NativeComparisonTests {
  private static let memory: UInt64 = 0x6000_0000
  private static let memorySize: UInt64 = 0x1_0000
  private static let code: UInt64 = 0x7000_0000
  private static let codeSize: UInt64 = 0x10_0000
  // Safety: the suite's tests run one after the other.
  nonisolated(unsafe) private static let nativeMemory = native_memory(memory, memorySize)
  nonisolated(unsafe) private static let nativeCode = native_executable(4096)

  /// By handlers, and translated when they are first executed.
  @Test(arguments: [false, true]) func integerInstructionsDoWhatTheHostDoes(translates: Bool) throws {
    let count = isLongRun ? 2_000_000 : 12_000
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix(state: seed)
    let native = try #require(Self.nativeMemory)
    let executable = try #require(Self.nativeCode)
    let size = Int(Self.memorySize)
    let guest = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 4096)
    let code = UnsafeMutableRawPointer.allocate(byteCount: Int(Self.codeSize), alignment: 4096)
    defer {
      guest.deallocate()
      code.deallocate()
    }
    let cpu = SoftVCPU(index: 0, controllers: nil, translateAfter: translates ? 1 : nil)
    let mappings = [
      HostMapping(guestAddress: Self.memory, size: Self.memorySize, host: guest, readOnly: false),
      HostMapping(guestAddress: Self.code, size: Self.codeSize, host: code, readOnly: false),
    ]
    let state = cpu.state
    let decoder = Decoder()
    var place = 0
    var compared = 0
    var failures = 0
    for number in 0..<count {
      if number % (Int(Self.codeSize) / 32) == 0 {
        cpu.show(mappings.compactMap(MappedMemory.init))
        place = 0
      }
      let test = RandomInstruction(memory: Self.memory, &random)
      guard
        case .instruction(let instruction) = test.bytes.withUnsafeBytes({ decoder.decode($0, mode: .bits64) }),
        Int(instruction.length) == test.bytes.count
      else { continue }
      // Both memories stay equal from one instruction to the next.
      if number % 16 == 0 {
        for index in stride(from: 0x5000, to: 0xB000, by: 8) {
          native.storeBytes(of: random.next(), toByteOffset: index, as: UInt64.self)
        }
        guest.copyMemory(from: native, byteCount: size)
      }

      state.enter64BitMode()
      let address = code + place
      address.copyMemory(from: test.bytes, byteCount: test.bytes.count)
      address.storeBytes(of: 0xF4, toByteOffset: test.bytes.count, as: UInt8.self)
      state.pointee.rip = Self.code + UInt64(place)
      place += 32
      var flags = random.next() & (RFLAGS.arithmetic)
      for index in 0..<16 {
        register(state, Slot.general(UInt8(index)), as: UInt64.self).pointee = test.registers[index]
      }
      state.arithmeticFlags = flags
      guard case .halt = cpu.run(.run) else {
        // A divide error, or an address outside the memory.
        try cpu.reset()
        guest.copyMemory(from: native, byteCount: size)
        continue
      }

      executable.storeBytes(of: 0, toByteOffset: 64, as: UInt64.self)
      (executable + 64).copyMemory(from: test.bytes, byteCount: test.bytes.count)
      let end = 64 + test.bytes.count
      executable.storeBytes(of: 0x25FF, toByteOffset: end, as: UInt16.self)
      executable.storeBytes(of: Int32(-(end + 6)), toByteOffset: end + 2, as: Int32.self)
      var host = native_state()
      flags |= 0x202
      host.flags = flags
      withUnsafeMutableBytes(of: &host.gpr) { $0.copyBytes(from: test.registers.withUnsafeBytes { Array($0) }) }
      native_run(&host, executable + 64)

      compared += 1
      var mask = RFLAGS.arithmetic & ~UndefinedFlags.mask(instruction.operation)
      if [.bsf, .bsr].contains(instruction.operation), host.flags & RFLAGS.zf != 0 { mask = RFLAGS.zf }
      let registers = (0..<16).map { register(state, Slot.general(UInt8($0)), as: UInt64.self).pointee }
      let expected = withUnsafeBytes(of: &host.gpr) { Array($0.bindMemory(to: UInt64.self)) }
      let hasUndefinedResult = Self.resultIsUndefined(instruction, test)
      let sameMemory = soft_equal(native, guest, size) != 0
      let isEqual =
        hasUndefinedResult
        || registers == expected && (state.arithmeticFlags ^ host.flags) & mask == 0 && sameMemory
      if !isEqual || !sameMemory { guest.copyMemory(from: native, byteCount: size) }
      if !isEqual {
        failures += 1
        if failures <= 10 {
          let text = test.bytes.map { String($0, radix: 16) }.joined(separator: " ")
          let wrong = (0..<16).filter { registers[$0] != expected[$0] }.map {
            "r\($0) was \(String(test.registers[$0], radix: 16)) is \(String(registers[$0], radix: 16)) must be \(String(expected[$0], radix: 16))"
          }
          let flagText =
            "flags before \(String(flags, radix: 16)) are \(String(state.arithmeticFlags, radix: 16)) must be "
            + String(host.flags & RFLAGS.arithmetic, radix: 16)
          Issue.record("\(instruction.operation) [\(text)]: \(wrong) \(flagText) memory equal \(sameMemory)")
        }
      }
    }
    print("seed \(seed): \(compared) instructions compared, \(failures) differ")
    #expect(failures == 0, "seed \(seed)")
    #expect(compared > 10_000)
  }

  /// "If the count is greater than the operand size, the result is undefined" (SDM vol. 2, SHLD, SHRD); BSF and BSR of 0.
  private static func resultIsUndefined(_ i: Instruction, _ test: RandomInstruction) -> Bool {
    switch i.operation {
    case .shld, .shrd:
      let count = i.operands[2].kind == .immediate ? UInt64(bitPattern: i.immediate) : test.registers[1]
      return i.operandSize == 2 && count & 31 > 16
    default: return false
    }
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// 64-bit code with physical addresses, which no processor has: the same addresses as the host's.
  func enter64BitMode() {
    pointee.halted = 0
    pointee.cr0 |= CR0.pe
    pointee.efer = EFER.lma | EFER.lme
    setSegment(SegmentRegister.cs, selector: 8, base: 0, limit: .max, attributes: 0xA09B)
  }
}
