import CNativeRun
import CSoftCPU
import Engines
import Testing

@testable import SoftEngine
@testable import X86

/// Random x87, MMX, SSE and BMI instructions on the host CPU and in the interpreter. In the same suite as the integer
/// instructions, because only one thread at a time may run instructions natively.
extension NativeComparisonTests {
  @Test(arguments: [false, true]) func vectorInstructionsDoWhatTheHostDoes(translated: Bool) throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    let bench = try VectorBench(translates: translated)
    var random = SplitMix(state: seed)
    let rows = RandomVectorInstruction.rows(features: CPUModel.max.instructions)
    #expect(rows.count > 500)
    let count = isLongRun ? 1_500_000 : 15_000
    for number in 0..<count {
      bench.compare(rows[number % rows.count], &random)
      if bench.failures.count > 20 { break }
    }
    print("seed \(seed): \(bench.compared) vector instructions compared, \(bench.failures.count) differ")
    for failure in bench.failures { Issue.record("seed \(seed): \(failure)") }
    #expect(bench.compared > count * 9 / 10)
  }

  @Test func unmaskedFloatingPointExceptionsDoWhatTheHostDoes() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    let bench = try VectorBench(translates: false)
    bench.unmasks = true
    var random = SplitMix(state: seed)
    let rows = RandomVectorInstruction.rows(features: CPUModel.max.instructions).filter {
      !$0.attributes.isDisjoint(with: [.fpu, .mmx, .sse, .sse2, .sse3, .ssse3, .sse41])
    }
    let count = isLongRun ? 1_000_000 : 10_000
    for number in 0..<count {
      bench.compare(rows[number % rows.count], &random)
      if bench.failures.count > 20 { break }
    }
    print("seed \(seed): \(bench.compared) compared, \(bench.trapped) trapped, \(bench.failures.count) differ")
    for failure in bench.failures { Issue.record("seed \(seed): \(failure)") }
    #expect(bench.trapped > count / 50)
  }
}

/// A guest and a host memory at the same address, and what runs an instruction on both.
final class VectorBench {
  static let memory: UInt64 = 0x6100_0000
  static let memorySize: UInt64 = 0x1_0000
  static let code: UInt64 = 0x7100_0000
  static let codeSize: UInt64 = 0x10_0000

  private let native: UnsafeMutableRawPointer
  private let executable: UnsafeMutableRawPointer
  private let guest: UnsafeMutableRawPointer
  private let guestCode: UnsafeMutableRawPointer
  private let cpu: SoftVCPU
  private let decoder = Decoder()
  private var place: Int
  /// Unmask exceptions at random.
  var unmasks = false
  private(set) var compared = 0
  private(set) var trapped = 0
  private(set) var failures: [String] = []

  init(translates: Bool) throws {
    native = try #require(native_memory(Self.memory, Self.memorySize))
    executable = try #require(native_executable(4096))
    guest = .allocate(byteCount: Int(Self.memorySize), alignment: 4096)
    guestCode = .allocate(byteCount: Int(Self.codeSize), alignment: 4096)
    guest.initializeMemory(as: UInt8.self, repeating: 0, count: Int(Self.memorySize))
    cpu = SoftVCPU(index: 0, controllers: nil, translateAfter: translates ? 1 : nil)
    place = Int(Self.codeSize)
  }

  deinit {
    guest.deallocate()
    guestCode.deallocate()
    native_free(native, Self.memorySize)
  }

  private func nextPlace() -> Int {
    if place + 32 > Int(Self.codeSize) {
      let mappings = [
        HostMapping(guestAddress: Self.memory, size: Self.memorySize, host: guest, readOnly: false),
        HostMapping(guestAddress: Self.code, size: Self.codeSize, host: guestCode, readOnly: false),
      ]
      cpu.show(mappings.compactMap(MappedMemory.init))
      place = 0
    }
    defer { place += 32 }
    return place
  }

  /// Executes one random instruction of the row.
  func compare(_ row: OpcodeRow, _ random: inout SplitMix) {
    let test = RandomVectorInstruction(row: row, memory: Self.memory, &random)
    guard case .instruction(let instruction) = test.bytes.withUnsafeBytes({ decoder.decode($0, mode: .bits64) }),
      Int(instruction.length) == test.bytes.count
    else {
      failures.append("\(row.encoding): does not decode: \(hex(test.bytes))")
      return
    }
    var host = native_state()
    host.has_fx = 1
    fillState(&host, &random)
    for area in [0x8000..<0x8600, 0x8E80..<0x9400] {
      for index in stride(from: area.lowerBound, to: area.upperBound, by: 8) {
        native.storeBytes(of: random.lanes(), toByteOffset: index, as: UInt64.self)
      }
    }
    prepareMemory(instruction, test)
    (guest + 0x7000).copyMemory(from: native + 0x7000, byteCount: 0x3000)

    let state = cpu.state
    state.enter64BitMode()
    load(state, host, test)
    let place = nextPlace()
    (guestCode + place).copyMemory(from: test.bytes, byteCount: test.bytes.count)
    (guestCode + place).storeBytes(of: 0xF4, toByteOffset: test.bytes.count, as: UInt8.self)
    state.pointee.rip = Self.code + UInt64(place)
    let flags = random.next() & RFLAGS.arithmetic
    state.arithmeticFlags = flags
    let exit = cpu.run(.run)
    // Without an interrupt descriptor table an exception shuts the processor down.
    var faults = true
    if case .halt = exit { faults = false }

    executable.storeBytes(of: 0, toByteOffset: 64, as: UInt64.self)
    (executable + 64).copyMemory(from: test.bytes, byteCount: test.bytes.count)
    let end = 64 + test.bytes.count
    executable.storeBytes(of: 0x25FF, toByteOffset: end, as: UInt16.self)
    executable.storeBytes(of: Int32(-(end + 6)), toByteOffset: end + 2, as: Int32.self)
    host.flags = flags | 0x202
    withUnsafeMutableBytes(of: &host.gpr) { $0.copyBytes(from: test.registers.withUnsafeBytes { Array($0) }) }
    native_run(&host, executable + 64)
    compared += 1
    if host.trapped != 0 { trapped += 1 }
    if faults != (host.trapped != 0) {
      let name = "\(instruction.operation) [\(hex(test.bytes))]"
      failures.append("\(name): \(faults ? "faults" : "no fault") \(describe(host))")
    } else {
      check(instruction, test, state, host, flags)
    }
    if faults { try? cpu.reset() }
  }

  /// The x87 state with all exceptions masked, XMM registers and MXCSR.
  private func fillState(_ host: inout native_state, _ random: inout SplitMix) {
    withUnsafeMutableBytes(of: &host.fx) { fx in
      let isMMXLike = random.next() % 4 == 0
      // Precision control 01 is reserved.
      let precision: UInt16 = [0, 2, 3, 3][Int(random.next() % 4)]
      let x87Masks: UInt16 = unmasks && random.next() % 2 == 0 ? UInt16(random.next() & 0x3F) : 0x3F
      let control = 0x40 | x87Masks | precision << 8 | UInt16(random.next() & 3) << 10
      fx.storeBytes(of: control, toByteOffset: 0, as: UInt16.self)
      var status = UInt16(truncatingIfNeeded: random.next()) & 0x7F7F
      // An exception that is pending is raised at once: rarely.
      if status & ~x87Masks & 0x3F != 0 {
        if random.next() % 8 != 0 { status &= ~0x3F } else { status |= 0x8080 }
      }
      fx.storeBytes(of: status, toByteOffset: 2, as: UInt16.self)
      let tag: UInt8 = random.next() % 4 != 0 ? 0xFF : UInt8(truncatingIfNeeded: random.next())
      fx.storeBytes(of: tag, toByteOffset: 4, as: UInt8.self)
      let masks = unmasks && random.next() % 2 == 0 ? UInt32(random.next() & 0x3F) << 7 : 0x1F80
      let mxcsr = masks | UInt32(random.next() & 0x3F) | (random.next() % 2 == 0 ? UInt32(random.next() & 0xE040) : 0)
      fx.storeBytes(of: mxcsr, toByteOffset: 24, as: UInt32.self)
      for index in 0..<8 {
        let (significand, exponent) = isMMXLike ? (random.lanes(), 0xFFFF) : random.extended()
        fx.storeBytes(of: significand, toByteOffset: 32 + 16 * index, as: UInt64.self)
        fx.storeBytes(of: exponent, toByteOffset: 40 + 16 * index, as: UInt16.self)
      }
      for index in 0..<32 { fx.storeBytes(of: random.lanes(), toByteOffset: 160 + 8 * index, as: UInt64.self) }
    }
  }

  /// What is loaded as a control word must mask exceptions.
  private func prepareMemory(_ instruction: Instruction, _ test: RandomVectorInstruction) {
    guard let address = test.address else { return }
    let operand = native + Int(address - Self.memory)
    switch instruction.operation {
    case .fldcw, .fldenv, .frstor:
      operand.storeBytes(of: operand.loadUnaligned(as: UInt16.self) | 0x3F, as: UInt16.self)
    case .fxrstor, .xrstor, .xsave, .xsaveopt, .xsavec:
      operand.storeBytes(of: operand.loadUnaligned(as: UInt16.self) | 0x3F, as: UInt16.self)
      let mxcsr = (operand + 24).loadUnaligned(as: UInt32.self) & 0xFFFF | 0x1F80
      (operand + 24).storeBytes(of: mxcsr, as: UInt32.self)
      if instruction.operation != .fxrstor {
        let present = (operand + 512).loadUnaligned(as: UInt64.self) & 3
        (operand + 512).initializeMemory(as: UInt8.self, repeating: 0, count: 64)
        (operand + 512).storeBytes(of: present, as: UInt64.self)
      }
    case .ldmxcsr:
      operand.storeBytes(of: operand.loadUnaligned(as: UInt32.self) & 0xFFFF | 0x1F80, as: UInt32.self)
    default: break
    }
  }

  private func load(_ state: State, _ host: native_state, _ test: RandomVectorInstruction) {
    for index in 0..<16 {
      register(state, Slot.general(UInt8(index)), as: UInt64.self).pointee = test.registers[index]
    }
    state.pointee.cr0 |= CR0.ne
    state.pointee.cr4 |= CR4.osfxsr | CR4.osxmmexcpt | CR4.osxsave
    state.pointee.xcr0 = XCR0.implemented
    withUnsafeBytes(of: host.fx) { fx in
      state.pointee.mxcsr = fx.loadUnaligned(fromByteOffset: 24, as: UInt32.self)
      state.pointee.x87.control = fx.loadUnaligned(fromByteOffset: 0, as: UInt16.self)
      state.pointee.x87.status = fx.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
      var tag: UInt16 = 0
      for index in 0..<8 where fx[4] >> UInt8(index) & 1 == 0 { tag |= 3 << UInt16(2 * index) }
      state.pointee.x87.tag = tag
      withUnsafeMutableBytes(of: &state.pointee.x87.registers) { registers in
        for index in 0..<80 { registers[index] = fx[32 + index / 10 * 16 + index % 10] }
      }
      vectorRegister(state, Slot.xmm(0)).copyMemory(from: fx.baseAddress! + 160, byteCount: 256)
    }
    state.updateMode()
  }

  private func check(
    _ instruction: Instruction, _ test: RandomVectorInstruction, _ state: State, _ host: native_state, _ before: UInt64
  ) {
    var problems: [String] = []
    let mask = RFLAGS.arithmetic & ~UndefinedFlags.mask(instruction.operation)
    if (state.arithmeticFlags ^ host.flags) & mask != 0 {
      problems.append("flags \(hex(state.arithmeticFlags)) must be \(hex(host.flags & RFLAGS.arithmetic))")
    }
    withUnsafeBytes(of: host.gpr) { gpr in
      for index in 0..<16 {
        let found = register(state, Slot.general(UInt8(index)), as: UInt64.self).pointee
        let must = gpr.load(fromByteOffset: 8 * index, as: UInt64.self)
        if found != must { problems.append("r\(index) is \(hex(found)) must be \(hex(must))") }
      }
    }
    withUnsafeBytes(of: host.fx) { fx in
      func word(_ name: String, _ value: UInt16, _ offset: Int) {
        let must = fx.loadUnaligned(fromByteOffset: offset, as: UInt16.self)
        if value != must { problems.append("\(name) is \(hex(UInt64(value))) must be \(hex(UInt64(must)))") }
      }
      word("FCW", state.pointee.x87.control, 0)
      word("FSW", state.pointee.x87.status, 2)
      var abridged: UInt16 = 0
      for index in 0..<8 where state.pointee.x87.tag >> UInt16(2 * index) & 3 != 3 { abridged |= 1 << UInt16(index) }
      word("FTW", abridged, 4)
      // Whether the result of an unmasked overflow or underflow was inexact is not known without its wider exponent;
      // DPPS and DPPD raise it in the middle.
      var mxcsr = UInt16(truncatingIfNeeded: state.pointee.mxcsr)
      if host.trapped != 0 {
        let flags = fx.loadUnaligned(fromByteOffset: 24, as: UInt16.self)
        let unknown: UInt16 = instruction.operation == .dpps || instruction.operation == .dppd ? 0x3F : 0x20
        if flags & 0x18 != 0 || unknown == 0x3F { mxcsr = mxcsr & ~unknown | flags & unknown }
      }
      word("MXCSR", mxcsr, 24)
      withUnsafeBytes(of: &state.pointee.x87.registers) { registers in
        for index in 0..<8 {
          let found = Array(registers[10 * index..<10 * index + 10])
          let must = Array(fx[32 + 16 * index..<42 + 16 * index])
          if found != must { problems.append("ST\(index) is \(hex(found.reversed())) must be \(hex(must.reversed()))") }
        }
      }
      for index in 0..<16 {
        let found = Array(UnsafeRawBufferPointer(start: vectorRegister(state, Slot.xmm(UInt8(index))), count: 16))
        let must = Array(fx[160 + 16 * index..<176 + 16 * index])
        if found != must { problems.append("XMM\(index) is \(hex(found.reversed())) must be \(hex(must.reversed()))") }
      }
    }
    hidePointers(instruction, test)
    if native_equal(native + 0x7000, guest + 0x7000, 0x3000) == 0 {
      let differing = (0x7000..<0xA000).filter {
        native.load(fromByteOffset: $0, as: UInt8.self) != guest.load(fromByteOffset: $0, as: UInt8.self)
      }
      let start = Int((test.address ?? Self.memory) - Self.memory)
      problems.append("memory differs at \(differing.map { $0 - start })")
    }
    guard !problems.isEmpty else { return }
    withUnsafeBytes(of: host.fx) { _ in
      failures.append("\(instruction.operation) [\(hex(test.bytes))] \(problems.joined(separator: "; "))")
    }
  }

  private func describe(_ host: native_state) -> String {
    withUnsafeBytes(of: host.fx) {
      let (control, status) = ($0.load(as: UInt16.self), $0.load(fromByteOffset: 2, as: UInt16.self))
      let mxcsr = $0.load(fromByteOffset: 24, as: UInt32.self)
      return "FCW \(hex(UInt64(control))) FSW \(hex(UInt64(status))) MXCSR \(hex(UInt64(mxcsr)))"
    }
  }

  /// The host's instruction pointers are its own.
  private func hidePointers(_ instruction: Instruction, _ test: RandomVectorInstruction) {
    guard let address = test.address else { return }
    let start = Int(address - Self.memory)
    let hidden: [Range<Int>] =
      switch instruction.operation {
      case .fnstenv, .fnsave: instruction.operandSize == 2 ? [6..<14] : [12..<28]
      // The host has a bit more in MXCSR.
      case .fxsave, .xsave, .xsaveopt, .xsavec: [6..<24, 28..<32]
      default: []
      }
    for range in hidden {
      for offset in range {
        native.storeBytes(of: 0, toByteOffset: start + offset, as: UInt8.self)
        guest.storeBytes(of: 0, toByteOffset: start + offset, as: UInt8.self)
      }
    }
  }
}

func hex(_ value: UInt64) -> String { String(value, radix: 16) }

func hex(_ bytes: some Sequence<UInt8>) -> String {
  bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
