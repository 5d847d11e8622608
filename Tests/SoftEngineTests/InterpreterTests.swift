import Engines
import Synchronization
import Testing

@testable import SoftEngine

/// Instructions that concern what another engine has of its processor.
struct InterpreterTests {
  private final class Processor: InterpretedProcessor {
    let registers = Mutex<[UInt32: UInt64]>([0x10: 0x1_2345_6789, 0x1B: 0xFEE0_0900])

    func cpuid(leaf: UInt32, subleaf: UInt32) -> CPUIDRegisters {
      CPUIDRegisters(eax: leaf, ebx: subleaf, ecx: 1 << 27, edx: 4)
    }

    func readMSR(_ number: UInt32) -> UInt64? { registers.withLock { $0[number] } }

    func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool {
      registers.withLock { registers in
        guard registers[number] != nil else { return false }
        registers[number] = value
        return true
      }
    }
  }

  private let processor = Processor()

  /// Executes an instruction in real-address mode, at 1000h.
  private func execute(_ instruction: [UInt8], _ change: (inout ProcessorState) -> Void = { _ in }) throws
    -> ProcessorState
  {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 0x2000, alignment: 4096)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: 0x2000)
    for (index, byte) in instruction.enumerated() {
      memory.storeBytes(of: byte, toByteOffset: 0x1000 + index, as: UInt8.self)
    }
    // The vector of #GP.
    memory.storeBytes(of: 0x0500, toByteOffset: 13 * 4, as: UInt32.self)
    var state = ProcessorState()
    for index in 0..<6 { state.segments[index] = .init(limit: 0xFFFF, attributes: 0x93) }
    state.idtr = .init(base: 0, limit: 0x3FF)
    state.rip = 0x1000
    state.general[4] = 0x800
    change(&state)
    let interpreter = SoftInterpreter()
    let map = HostMapping(guestAddress: 0, size: 0x2000, host: memory, readOnly: false)
    #expect(interpreter.begin(state, memory: [map], of: processor))
    guard case .done(let new) = interpreter.advance() else {
      Issue.record("a device was asked")
      return state
    }
    return new
  }

  @Test func cpuidIsTheProcessorsButForWhatFollowsCR4() throws {
    let state = try execute([0x0F, 0xA2]) {
      $0.general[0] = 1
      $0.general[1] = 7
    }
    #expect(state.rip == 0x1002)
    #expect([0, 3, 1, 2].map { state.general[$0] } == [1, 7, 0, 4])
    let enabled = try execute([0x0F, 0xA2]) {
      $0.general[0] = 1
      $0.cr4 = 1 << 18
    }
    #expect(enabled.general[1] == 1 << 27)
  }

  /// RDTSC and RDTSCP.
  @Test(arguments: [[0x0F, 0x31], [0x0F, 0x01, 0xF9]] as [[UInt8]])
  func timeStampCounterIsTheProcessors(_ instruction: [UInt8]) throws {
    let state = try execute(instruction) { $0.msrs.tscAux = 3 }
    #expect(state.general[0] == 0x2345_6789 && state.general[2] == 1)
    if instruction.count == 3 { #expect(state.general[1] == 3) }
  }

  @Test func registersAreReadAndWritten() throws {
    let read = try execute([0x0F, 0x32]) { $0.general[1] = 0x1B }
    #expect(read.general[0] == 0xFEE0_0900 && read.general[2] == 0)
    _ = try execute([0x0F, 0x30]) {
      $0.general[1] = 0x1B
      $0.general[0] = 0xFEE0_0D00
    }
    #expect(processor.readMSR(0x1B) == 0xFEE0_0D00)
  }

  @Test func registersOfTheStateAreChangedThere() throws {
    let state = try execute([0x0F, 0x30]) {
      $0.general[1] = 0xC000_0082
      $0.general[0] = 0x1234
    }
    #expect(state.msrs.lstar == 0x1234)
    #expect(processor.readMSR(0xC000_0082) == nil)
  }

  @Test(arguments: [[0x0F, 0x32], [0x0F, 0x30]] as [[UInt8]])
  func aRegisterThatIsNotThereIsAGeneralProtectionException(_ instruction: [UInt8]) throws {
    let state = try execute(instruction) { $0.general[1] = 0x1234_5678 }
    #expect(state.rip == 0x500 && state.general[4] == 0x800 - 6)
  }
}
