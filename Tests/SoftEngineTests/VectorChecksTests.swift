import CSoftCPU
import Engines
import Testing

@testable import SoftEngine

/// Which exceptions x87, MMX and SSE instructions raise before they do anything.
struct VectorChecksTests {
  /// How the processor stands when an instruction is executed.
  struct Case: Sendable, CustomTestStringConvertible {
    let instruction: [UInt8]
    var cr0: UInt64 = CR0.ne
    var cr4: UInt64 = CR4.osfxsr | CR4.osxmmexcpt | CR4.osxsave
    var mxcsr = MXCSR.initial
    /// The x87 status word has an invalid operation that the control word does not mask.
    var hasPendingException = false
    /// Of the memory operand, [RBX].
    var misalignment: UInt64 = 0
    var rcx: UInt64 = 0
    /// The exception's vector, or nil.
    let expected: UInt8?

    var testDescription: String {
      let bytes = hex(instruction)
      return "\(bytes) CR0 \(hex(cr0)) CR4 \(hex(cr4)) pending \(hasPendingException)"
    }
  }

  private static let addps: [UInt8] = [0x0F, 0x58, 0xC1]
  private static let paddb: [UInt8] = [0x0F, 0xFC, 0xC1]
  private static let fadd: [UInt8] = [0xD8, 0xC1]
  private static let fwait: [UInt8] = [0x9B]
  private static let fnstsw: [UInt8] = [0xDF, 0xE0]
  private static let fxsave: [UInt8] = [0x0F, 0xAE, 0x03]
  private static let xsave: [UInt8] = [0x0F, 0xAE, 0x23]
  private static let ldmxcsr: [UInt8] = [0x0F, 0xAE, 0x13]
  private static let xgetbv: [UInt8] = [0x0F, 0x01, 0xD0]
  private static let xsetbv: [UInt8] = [0x0F, 0x01, 0xD1]
  /// XMM1 is zero.
  private static let divps: [UInt8] = [0x0F, 0x5E, 0xC1]
  private static let ne = CR0.ne
  private static let noFXSR = CR4.osxmmexcpt | CR4.osxsave

  static let cases: [Case] = [
    // SDM vol. 3, tables 2-2 and 2-3, and 14.1.
    Case(instruction: addps, expected: nil),
    Case(instruction: addps, cr0: ne | CR0.em, expected: Vector.invalidOpcode),
    Case(instruction: addps, cr0: ne | CR0.ts, expected: Vector.deviceNotAvailable),
    Case(instruction: addps, cr0: ne | CR0.em | CR0.ts, expected: Vector.invalidOpcode),
    Case(instruction: addps, cr4: noFXSR, expected: Vector.invalidOpcode),
    Case(instruction: addps, hasPendingException: true, expected: nil),
    Case(instruction: paddb, expected: nil),
    Case(instruction: paddb, cr0: ne | CR0.em, expected: Vector.invalidOpcode),
    Case(instruction: paddb, cr0: ne | CR0.ts, expected: Vector.deviceNotAvailable),
    Case(instruction: paddb, cr4: noFXSR, expected: nil),
    Case(instruction: paddb, hasPendingException: true, expected: Vector.floatingPoint),
    Case(instruction: fadd, cr4: 0, expected: nil),
    Case(instruction: fadd, cr0: ne | CR0.em, expected: Vector.deviceNotAvailable),
    Case(instruction: fadd, cr0: ne | CR0.ts, expected: Vector.deviceNotAvailable),
    Case(instruction: fadd, hasPendingException: true, expected: Vector.floatingPoint),
    Case(instruction: fwait, cr0: ne | CR0.ts, expected: nil),
    Case(instruction: fwait, cr0: ne | CR0.em, expected: nil),
    Case(instruction: fwait, cr0: ne | CR0.ts | CR0.mp, expected: Vector.deviceNotAvailable),
    Case(instruction: fwait, hasPendingException: true, expected: Vector.floatingPoint),
    Case(instruction: fnstsw, cr0: ne | CR0.ts, expected: Vector.deviceNotAvailable),
    Case(instruction: fnstsw, hasPendingException: true, expected: nil),
    Case(instruction: ldmxcsr, cr4: noFXSR, expected: Vector.invalidOpcode),
    Case(instruction: ldmxcsr, cr0: ne | CR0.ts, expected: Vector.deviceNotAvailable),
    Case(instruction: ldmxcsr, misalignment: 4, expected: Vector.generalProtection),
    // Images.
    Case(instruction: fxsave, cr4: 0, hasPendingException: true, expected: nil),
    Case(instruction: fxsave, cr0: ne | CR0.em, expected: Vector.deviceNotAvailable),
    Case(instruction: fxsave, cr0: ne | CR0.ts, expected: Vector.deviceNotAvailable),
    Case(instruction: fxsave, misalignment: 8, expected: Vector.generalProtection),
    Case(instruction: xsave, cr0: ne | CR0.em, expected: nil),
    Case(instruction: xsave, cr0: ne | CR0.ts, expected: Vector.deviceNotAvailable),
    Case(instruction: xsave, cr4: CR4.osfxsr, expected: Vector.invalidOpcode),
    Case(instruction: xsave, misalignment: 32, expected: Vector.generalProtection),
    Case(instruction: xgetbv, expected: nil),
    Case(instruction: xgetbv, rcx: 5, expected: Vector.generalProtection),
    Case(instruction: xgetbv, cr4: CR4.osfxsr, expected: Vector.invalidOpcode),
    // EAX is 0: the x87 state cannot be left out.
    Case(instruction: xsetbv, expected: Vector.generalProtection),
    // MOVAPS and MOVUPS, loads and stores, ADDPS from memory.
    Case(instruction: [0x0F, 0x28, 0x03], misalignment: 8, expected: Vector.generalProtection),
    Case(instruction: [0x0F, 0x29, 0x03], misalignment: 8, expected: Vector.generalProtection),
    Case(instruction: [0x0F, 0x10, 0x03], misalignment: 8, expected: nil),
    Case(instruction: [0x0F, 0x11, 0x03], misalignment: 8, expected: nil),
    Case(instruction: [0x0F, 0x58, 0x03], misalignment: 8, expected: Vector.generalProtection),
    // No vector register, no check: LFENCE, MOVNTI, CRC32, POPCNT.
    Case(instruction: [0x0F, 0xAE, 0xE8], cr0: ne | CR0.em | CR0.ts, expected: nil),
    Case(instruction: [0x0F, 0xC3, 0x03], cr0: ne | CR0.em | CR0.ts, expected: nil),
    Case(instruction: [0xF2, 0x0F, 0x38, 0xF1, 0xC1], cr0: ne | CR0.em | CR0.ts, expected: nil),
    Case(instruction: [0xF3, 0x0F, 0xB8, 0xC1], cr0: ne | CR0.em | CR0.ts, expected: nil),
    // SIMD floating-point exceptions.
    Case(instruction: divps, expected: nil),
    Case(instruction: divps, mxcsr: 0x1D80, expected: Vector.simdFloatingPoint),
    Case(instruction: divps, cr4: CR4.osfxsr, mxcsr: 0x1D80, expected: Vector.invalidOpcode),
  ]

  @Test(arguments: cases) func instructionsRaise(_ test: Case) throws {
    let machine = ExceptionBench()
    let state = machine.cpu.state
    state.pointee.cr0 = CR0.pe | test.cr0
    state.pointee.cr4 = test.cr4
    state.pointee.mxcsr = test.mxcsr
    state.pointee.x87.control = test.hasPendingException ? 0x37E : 0x37F
    state.pointee.x87.status = test.hasPendingException ? 0x8081 : 0
    for number in 0..<2 {
      let one: UInt64 = number == 0 ? 0x3F80_0000_3F80_0000 : 0
      vectorRegister(state, Slot.xmm(UInt8(number))).storeBytes(of: one, as: UInt64.self)
      vectorRegister(state, Slot.xmm(UInt8(number))).storeBytes(of: one, toByteOffset: 8, as: UInt64.self)
    }
    register(state, Slot.general(General.rbx), as: UInt64.self).pointee = ExceptionBench.data + test.misalignment
    register(state, Slot.general(General.rcx), as: UInt64.self).pointee = test.rcx
    // A reserved bit of MXCSR.
    machine.write(ExceptionBench.data + 4, [0, 0, 1, 0])
    machine.write(ExceptionBench.data, [0x80, 0x1F, 0, 0])
    state.updateMode()
    #expect(machine.run(test.instruction) == test.expected)
  }
}

extension VectorChecksTests {
  /// MOVUPS writes HLT over the UD2 behind it.
  @Test func vectorStoresIntoCodeCount() {
    let machine = ExceptionBench()
    let state = machine.cpu.state
    state.pointee.cr4 |= CR4.osfxsr
    state.updateMode()
    let register = vectorRegister(state, Slot.xmm(0))
    register.initializeMemory(as: UInt8.self, repeating: 0xF4, count: 16)
    #expect(machine.run([0x0F, 0x11, 0x05, 0, 0, 0, 0, 0x0F, 0x0B]) == nil)
  }

  /// FXSAVE writes HLT, which is in XMM0, over a UD2 that has been executed.
  @Test func savedImagesInCodeCount() {
    let machine = ExceptionBench()
    let state = machine.cpu.state
    state.pointee.cr4 |= CR4.osfxsr
    state.updateMode()
    // At 1040H, 1080H, 10C0H and 1100H; then up to 1240H.
    for _ in 0..<4 { #expect(machine.run([0x0F, 0x0B]) == Vector.invalidOpcode) }
    for _ in 0..<5 { #expect(machine.run([0x90]) == nil) }
    vectorRegister(state, Slot.xmm(0)).initializeMemory(as: UInt8.self, repeating: 0xF4, count: 16)
    // FXSAVE [1060H]; JMP 1100H
    #expect(machine.run([0x0F, 0xAE, 0x05, 0xD9, 0xFD, 0xFF, 0xFF, 0xE9, 0x74, 0xFE, 0xFF, 0xFF]) == nil)
    #expect(machine.read(0x1100, 8) == 0xF4F4_F4F4_F4F4_F4F4)
  }

  /// The last byte of a store is in a page without memory: nothing is written and no register changes.
  @Test func storesAcrossPagesAreAllOrNothing() {
    let machine = ExceptionBench()
    let state = machine.cpu.state
    state.pointee.cr4 |= CR4.osfxsr
    state.pointee.x87.control = 0x37F
    state.updateMode()
    vectorRegister(state, Slot.xmm(0)).initializeMemory(as: UInt8.self, repeating: 0xAA, count: 16)
    register(state, Slot.general(General.rbx), as: UInt64.self).pointee = 0x0000_7FFF_FFFF_FFF8
    // MOVUPS and FSTP to a non-canonical end.
    #expect(machine.run([0x0F, 0x11, 0x03]) == Vector.generalProtection)
    state.pointee.x87.tag = 0x3FFF
    state.pointee.x87.status = 7 << 11
    #expect(machine.run([0xDB, 0x3B]) == Vector.generalProtection)
    #expect(state.pointee.x87.status >> 11 & 7 == 7)
  }
}

/// A processor in 64-bit mode with an interrupt descriptor table, whose gates lead to HLT.
final class ExceptionBench {
  static let gates: UInt64 = 0x2000
  static let descriptors: UInt64 = 0x3000
  static let handlers: UInt64 = 0x4000
  static let data: UInt64 = 0x5000
  static let stack: UInt64 = 0x8000

  let cpu = SoftVCPU(index: 0, controllers: nil)
  private var code: UInt64 = 0x1000
  private let memory = UnsafeMutableRawPointer.allocate(byteCount: 0x8000, alignment: 4096)

  init() {
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: 0x8000)
    cpu.show([HostMapping(guestAddress: 0, size: 0x8000, host: memory, readOnly: false)].compactMap(MappedMemory.init))
    let state = cpu.state
    state.enter64BitMode()
    memory.storeBytes(of: 0x00AF_9B00_0000_FFFF, toByteOffset: Int(Self.descriptors) + 8, as: UInt64.self)
    for vector in 0..<32 {
      let handler = Self.handlers + UInt64(vector) * 16
      memory.storeBytes(of: 0xF4, toByteOffset: Int(handler), as: UInt8.self)
      memory.storeBytes(
        of: handler & 0xFFFF | 8 << 16 | 0x8E00 << 32, toByteOffset: Int(Self.gates) + vector * 16, as: UInt64.self)
    }
    state.pointee.gdtr = soft_table(base: Self.descriptors, limit: 15)
    state.pointee.idtr = soft_table(base: Self.gates, limit: 511)
    register(state, Slot.general(General.rsp), as: UInt64.self).pointee = Self.stack
  }

  deinit { memory.deallocate() }

  func write(_ address: UInt64, _ bytes: [UInt8]) {
    for (index, byte) in bytes.enumerated() {
      memory.storeBytes(of: byte, toByteOffset: Int(address) + index, as: UInt8.self)
    }
  }

  func read(_ address: UInt64, _ width: Int) -> UInt64 {
    (0..<width).reduce(0) { $0 | UInt64(memory.load(fromByteOffset: Int(address) + $1, as: UInt8.self)) << (8 * $1) }
  }

  /// Where the instruction that `step` executed last ends.
  private(set) var next: UInt64 = 0

  /// Executes this instruction alone; the vector of the exception it raised.
  func step(_ instruction: [UInt8]) -> UInt8? {
    code += 64
    write(code, instruction)
    next = code + UInt64(instruction.count)
    cpu.state.pointee.rip = code
    guard cpu.step() == nil else { return 255 }
    let rip = cpu.state.pointee.rip
    guard rip >= Self.handlers, rip < Self.data, rip % 16 == 0 else { return nil }
    return UInt8(truncatingIfNeeded: (rip - Self.handlers) / 16)
  }

  func enterCompatibilityMode() {
    cpu.state.setSegment(SegmentRegister.cs, selector: 16, base: 0, limit: .max, attributes: 0xC09B)
    for index in [SegmentRegister.ds, SegmentRegister.ss] {
      cpu.state.setSegment(index, selector: 24, base: 0, limit: .max, attributes: 0xC093)
    }
    cpu.state.updateMode()
    cpu.state.updateSegments()
  }

  func enterRealMode() {
    cpu.state.pointee.efer = 0
    cpu.state.pointee.cr0 &= ~CR0.pe
    for index in 0..<6 { cpu.state.setSegment(index, selector: 0, base: 0, limit: 0xFFFF, attributes: 0x93) }
    cpu.state.updateMode()
    cpu.state.updateSegments()
  }

  /// Executes an instruction; the vector of the exception it raised, 255 if the processor did not stop there.
  func run(_ instruction: [UInt8]) -> UInt8? {
    // Elsewhere each time: what the test writes does not count as the processor's writes.
    code += 64
    write(code, instruction + [0xF4])
    cpu.state.pointee.rip = code
    cpu.state.pointee.halted = 0
    guard case .halt = cpu.run(.run) else { return 255 }
    let rip = cpu.state.pointee.rip &- 1
    guard rip >= Self.handlers else { return nil }
    return UInt8(truncatingIfNeeded: (rip - Self.handlers) / 16)
  }
}
