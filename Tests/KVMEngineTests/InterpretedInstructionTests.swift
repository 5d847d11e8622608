import Engines
import KVMEngine
import LinuxSystem
import SoftEngine
import Testing

/// Instructions that KVM's emulator does not know, in real-address mode: where KVM runs kernel code in hardware they are
/// executed there, and the results are the same.
@Suite(.enabled("/dev/kvm is missing or cannot be used here") { kvmIsUsable })
struct InterpretedInstructionTests {
  private static let spin: [UInt8] = [0xEB, 0xFE]

  private func interpreting(_ program: [UInt8]) throws -> TinyMachine {
    try TinyMachine(program + Self.spin) { SoftInterpreter() }
  }

  @Test func x87InstructionsWorkOnKVMsState() throws {
    let tiny = try interpreting([
      0x9B, 0xDB, 0xE3,  // fwait; fninit
      0xD9, 0xEB, 0xD9, 0xE8, 0xDE, 0xC1,  // fldpi; fld1; faddp
      0xDB, 0x3E, 0x00, 0x06,  // fstp tbyte [600h]
      0xD9, 0x3E, 0x10, 0x06,  // fnstcw [610h]
      0xE6, 0xE0,
    ])
    let seen = try onVCPUThread(tiny) { $0.run() }
    #expect(seen == .output(port: 0xE0, width: 1, [0]))
    // π + 1 in 80 bits.
    #expect((0x600..<0x60A).map { tiny[$0] } == [0x1A, 0x61, 0xB4, 0x10, 0x51, 0xED, 0x87, 0x84, 0x01, 0x40])
    #expect([tiny[0x610], tiny[0x611]] == [0x7F, 0x03])
  }

  @Test func registersAndFlagsComeBack() throws {
    let tiny = try interpreting([
      0xBB, 0xF1, 0x80, 0xF9,  // mov bx, 80F1h; stc
      0xF3, 0x0F, 0xB8, 0xC3,  // popcnt ax, bx
      0x0F, 0x92, 0xC4, 0xE7, 0xE0,  // setc ah; out E0h, ax
    ])
    let seen = try onVCPUThread(tiny) { $0.run() }
    #expect(seen == .output(port: 0xE0, width: 2, [6, 0]))
  }

  @Test func accessOfADeviceIsAnsweredInTheMiddleOfTheInstruction() throws {
    let tiny = try interpreting([
      0xB8, 0x00, 0xB8, 0x8E, 0xC0,  // mov ax, B800h; mov es, ax
      0xDB, 0xE3,  // fninit
      0x26, 0xD9, 0x2E, 0x10, 0x00,  // fldcw es:[10h]
      0x26, 0xD9, 0x3E, 0x20, 0x00,  // fnstcw es:[20h]
      0xE6, 0xE0,
    ])
    let seen = try onVCPUThread(tiny) { tiny in
      [tiny.run(), tiny.run(.finish, answer: []), tiny.run(), tiny.run()]
    }
    #expect(seen[0] == .load(0xB_8010, width: 2))
    #expect(seen[1] == .interrupted)
    #expect(seen[3] == .output(port: 0xE0, width: 1, [0]))
  }

  @Test func faultOfAnInterpretedInstructionReachesItsHandler() throws {
    let tiny = try interpreting([
      0x0F, 0x20, 0xC0, 0x0C, 0x08, 0x0F, 0x22, 0xC0,  // CR0.TS = 1
      0xDB, 0xE3,  // fninit: #NM
    ])
    tiny.vector(7, 0x1100)
    tiny.put(0x1100, [0xB0, 0x07, 0xE6, 0xE0] + Self.spin)
    let seen = try onVCPUThread(tiny) { $0.run() }
    #expect(seen == .output(port: 0xE0, width: 1, [7]))
  }

  @Test func rdtscpReadsKVMsTimeStampCounter() throws {
    let tiny = try interpreting([
      0x0F, 0x31, 0x66, 0x89, 0xC3,  // rdtsc; mov ebx, eax
      0x0F, 0x01, 0xF9,  // rdtscp
      0x66, 0x29, 0xD8, 0x66, 0xE7, 0xE0,  // sub eax, ebx; out E0h, eax
    ])
    let seen = try onVCPUThread(tiny) { $0.run() }
    guard case .output(port: 0xE0, width: 4, let bytes) = seen else {
      Issue.record("\(seen)")
      return
    }
    let ticks = bytes.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    // Less than a second by any processor's counter, and not backwards.
    #expect(ticks > 0 && ticks < 1 << 31)
  }

  @Test func countIsInTheSummary() throws {
    let tiny = try interpreting([0xF3, 0x0F, 0xB8, 0xC3, 0xE6, 0xE0])  // popcnt ax, bx; out E0h, al
    #expect(tiny.machine.summary == nil)
    _ = try onVCPUThread(tiny) { $0.run() }
    // With VT-x or AMD-V there is nothing to interpret.
    if !Processor.hasHardwareVirtualisation { #expect(tiny.machine.summary?.contains(" 1 instructions") == true) }
  }
}
