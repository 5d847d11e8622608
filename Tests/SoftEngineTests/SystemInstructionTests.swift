import CSoftCPU
import Engines
import Testing

@testable import SoftEngine

/// SYSCALL, SYSENTER and the ways back, INIT, and random numbers where the host has none.
struct SystemInstructionTests {
  private static let entry: UInt64 = 0x3800
  private static let kernelCode: UInt64 = 8
  private static let userBase: UInt64 = 0x20
  private static let flags = RFLAGS.cf | RFLAGS.zf | RFLAGS.if | RFLAGS.df | RFLAGS.ac

  private static let syscall: [UInt8] = [0x0F, 0x05]
  private static let sysret: [UInt8] = [0x0F, 0x07]
  private static let sysretq: [UInt8] = [0x48, 0x0F, 0x07]
  private static let sysenter: [UInt8] = [0x0F, 0x34]
  private static let sysexit: [UInt8] = [0x0F, 0x35]
  private static let sysexitq: [UInt8] = [0x48, 0x0F, 0x35]

  private func makeBench() -> ExceptionBench {
    let bench = ExceptionBench()
    let state = bench.cpu.state
    state.pointee.efer |= EFER.sce
    state.pointee.star = Self.userBase << 48 | Self.kernelCode << 32
    state.pointee.lstar = Self.entry
    state.pointee.sfmask = RFLAGS.if | RFLAGS.df
    state.pointee.sysenter_cs = Self.kernelCode
    state.pointee.sysenter_esp = 0x7000
    state.pointee.sysenter_eip = Self.entry
    state.arithmeticFlags = Self.flags
    state.pointee.system_flags = Self.flags & ~RFLAGS.arithmetic
    return bench
  }

  private func set(_ state: State, _ number: UInt8, _ value: UInt64) {
    register(state, Slot.general(number), as: UInt64.self).pointee = value
  }

  private func get(_ state: State, _ number: UInt8) -> UInt64 {
    register(state, Slot.general(number), as: UInt64.self).pointee
  }

  private func selectors(_ state: State) -> [UInt16] {
    [SegmentRegister.cs, SegmentRegister.ss].map { state.segment($0).pointee.selector }
  }

  @Test func syscallSavesRIPAndFlagsAndLoadsFlatSegments() {
    let bench = makeBench()
    let state = bench.cpu.state
    state.pointee.cpl = 3
    #expect(bench.step(Self.syscall) == nil)
    #expect(state.pointee.rip == Self.entry)
    #expect(get(state, General.rcx) == bench.next)
    #expect(get(state, 11) == Self.flags | RFLAGS.fixed)
    #expect(state.rflags == (Self.flags | RFLAGS.fixed) & ~(RFLAGS.if | RFLAGS.df))
    #expect(selectors(state) == [8, 0x10])
    #expect(state.pointee.cpl == 0 && state.pointee.is64BitCode)
  }

  @Test func sysretGoesTo64BitCodeOfLevel3() {
    let bench = makeBench()
    let state = bench.cpu.state
    set(state, General.rcx, 0x7FFF_FFFF_F000)
    set(state, 11, Self.flags | RFLAGS.rf | RFLAGS.vm)
    #expect(bench.step(Self.sysretq) == nil)
    #expect(state.pointee.rip == 0x7FFF_FFFF_F000)
    #expect(state.rflags == Self.flags | RFLAGS.fixed)
    #expect(selectors(state) == [0x33, 0x2B])
    #expect(state.pointee.cpl == 3 && state.pointee.is64BitCode)
  }

  @Test func sysretWithoutREXGoesToCompatibilityMode() {
    let bench = makeBench()
    let state = bench.cpu.state
    set(state, General.rcx, 0xFFFF_0000_1234_5678)
    #expect(bench.step(Self.sysret) == nil)
    #expect(state.pointee.rip == 0x1234_5678)
    #expect(selectors(state) == [0x23, 0x2B])
    #expect(state.pointee.cpl == 3 && !state.pointee.is64BitCode)
  }

  @Test func globalTranslationsOutliveTheirAddressSpace() {
    let bench = makeBench()
    defer { withExtendedLifetime(bench) {} }
    let state = bench.cpu.state
    state.pointee.cr4 |= CR4.pge
    TLB.select(state)
    let context = state.context
    let pages: [UInt64] = [0x4000_0000, 0x4000_1000, 0x4000_2000]
    func fill(_ page: UInt64, isGlobal: Bool) {
      let entry = TLB.entry(state, page)
      entry.pointee.read_tag = page | state.pointee.tlb_generation
      entry.pointee.write_tag = 0
      entry.pointee.physical = page | (isGlobal ? TLB.global : 0)
      if isGlobal { TLB.noteGlobal(state, entry) }
    }
    func isKnown(_ page: UInt64) -> Bool {
      TLB.entry(state, page).pointee.read_tag == TLB.tag(state, page, width: 1)
    }
    fill(pages[0], isGlobal: true)
    fill(pages[1], isGlobal: false)
    fill(pages[2], isGlobal: true)
    fill(pages[2], isGlobal: false)
    for pcid in [1, 2] as [UInt64] {
      TLB.enter(state, pcid: pcid, keepsTranslations: false)
      #expect(pages.map(isKnown) == [true, false, false], "in address space \(pcid)")
    }
    // A global one that was forgotten does not come back.
    TLB.flush(state)
    TLB.enter(state, pcid: 3, keepsTranslations: false)
    #expect(!isKnown(pages[0]))
    #expect((0..<TLB.words).allSatisfy { context.pointee.globals[$0] == 0 }, "nothing is looked at in vain again")
  }

  @Test func sysretToANonCanonicalAddressFaultsAtLevel0() {
    let bench = makeBench()
    let state = bench.cpu.state
    set(state, General.rcx, 1 << 47)
    #expect(bench.step(Self.sysretq) == Vector.generalProtection)
    #expect(state.pointee.cpl == 0)
  }

  @Test func sysenterAndSysexitCross64BitMode() {
    let bench = makeBench()
    let state = bench.cpu.state
    state.pointee.cpl = 3
    #expect(bench.step(Self.sysenter) == nil)
    #expect(state.pointee.rip == Self.entry)
    #expect(get(state, General.rsp) == 0x7000)
    #expect(state.rflags & RFLAGS.if == 0)
    #expect(selectors(state) == [8, 0x10])
    #expect(state.pointee.cpl == 0 && state.pointee.is64BitCode)
    set(state, General.rdx, 0x7FFF_0000_1000)
    set(state, General.rcx, 0x7FFF_0000_2000)
    #expect(bench.step(Self.sysexitq) == nil)
    #expect(state.pointee.rip == 0x7FFF_0000_1000)
    #expect(get(state, General.rsp) == 0x7FFF_0000_2000)
    #expect(selectors(state) == [0x2B, 0x33])
    #expect(state.pointee.cpl == 3 && state.pointee.is64BitCode)
  }

  @Test func sysexitWithoutREXGoesToCompatibilityMode() {
    let bench = makeBench()
    let state = bench.cpu.state
    set(state, General.rdx, 0xFFFF_0000_0000_1000)
    set(state, General.rcx, 0xFFFF_0000_0000_2000)
    #expect(bench.step(Self.sysexit) == nil)
    #expect(state.pointee.rip == 0x1000)
    #expect(get(state, General.rsp) == 0x2000)
    #expect(selectors(state) == [0x1B, 0x23])
    #expect(!state.pointee.is64BitCode)
  }

  @Test(arguments: [General.rdx, General.rcx])
  func sysexitToANonCanonicalAddressFaults(_ number: UInt8) {
    let bench = makeBench()
    set(bench.cpu.state, General.rdx, 0)
    set(bench.cpu.state, General.rcx, 0)
    set(bench.cpu.state, number, 1 << 63)
    #expect(bench.step(Self.sysexitq) == Vector.generalProtection)
  }

  @Test func syscallIsUndefinedWhereItIsOffAndInCompatibilityMode() {
    let bench = makeBench()
    let state = bench.cpu.state
    state.pointee.efer &= ~EFER.sce
    #expect(bench.step(Self.syscall) == Vector.invalidOpcode)
    state.pointee.efer |= EFER.sce
    bench.enterCompatibilityMode()
    #expect(bench.step(Self.syscall) == Vector.invalidOpcode)
    bench.enterCompatibilityMode()
    #expect(bench.step(Self.sysret) == Vector.invalidOpcode)
  }

  @Test func sysenterFromCompatibilityModeEnters64BitMode() {
    let bench = makeBench()
    let state = bench.cpu.state
    bench.enterCompatibilityMode()
    state.pointee.sysenter_eip = 0x7FFF_0000_0000
    #expect(bench.step(Self.sysenter) == nil)
    #expect(state.pointee.rip == 0x7FFF_0000_0000)
    #expect(state.pointee.is64BitCode)
  }

  @Test func fastEntriesNeedASegment() {
    let bench = makeBench()
    bench.cpu.state.pointee.sysenter_cs = 3
    #expect(bench.step(Self.sysenter) == Vector.generalProtection)
    #expect(bench.step(Self.sysexit) == Vector.generalProtection)
  }

  // MARK: Random numbers

  /// RDRAND and RDSEED of RAX, EAX and AX.
  @Test(arguments: [[0x48, 0x0F, 0xC7, 0xF0], [0x0F, 0xC7, 0xF8], [0x66, 0x0F, 0xC7, 0xF0]] as [[UInt8]])
  func randomNumbersComeFromTheHostsKernelWhereItsProcessorHasNone(_ instruction: [UInt8]) {
    let bench = ExceptionBench()
    let state = bench.cpu.state
    state.context.pointee.hostRandom = 0
    var seen: Set<UInt64> = []
    for _ in 0..<16 {
      set(state, General.rax, .max)
      state.arithmeticFlags = RFLAGS.of | RFLAGS.sf | RFLAGS.zf | RFLAGS.af | RFLAGS.pf
      #expect(bench.step(instruction) == nil)
      // Other flags are cleared.
      #expect(state.arithmeticFlags == RFLAGS.cf)
      seen.insert(get(state, General.rax))
    }
    #expect(seen.count > 12)
    switch instruction[0] {
    case 0x66: #expect(seen.allSatisfy { $0 >> 16 == .max >> 16 })
    case 0x0F: #expect(seen.allSatisfy { $0 >> 32 == 0 })
    default: #expect(seen.contains { $0 >> 32 != 0 })
    }
  }

  // MARK: INIT

  /// SDM vol. 3, table 10-1.
  @Test(arguments: [true, false]) func initLeavesWhatResetChanges(_ isBootstrap: Bool) {
    let bench = makeBench()
    let state = bench.cpu.state
    state.pointee.cr0 = CR0.pe | CR0.ne | CR0.ts | CR0.cd
    (state.pointee.cr2, state.pointee.cr3, state.pointee.cr4) = (1, 0x1000, CR4.pae)
    state.pointee.x87.control = 0x27F
    state.pointee.mxcsr = 0x1FA0
    state.pointee.xcr0 = 3
    state.pointee.pat = 0x0606_0606_0606_0606
    state.pointee.xmm.0 = 42
    state.pointee.dr.7 = 0x401
    state.pointee.halted = 1
    set(state, 15, 99)
    state.initialize(isBootstrap: isBootstrap)
    // Only what starts the machine runs; the others wait for the start-up IPI.
    #expect(state.pointee.waiting_for_sipi == (isBootstrap ? 0 : 1))
    #expect(state.pointee.cr0 == CR0.cd | CR0.et)
    #expect(state.pointee.cr2 == 0 && state.pointee.cr3 == 0 && state.pointee.cr4 == 0 && state.pointee.efer == 0)
    #expect(state.pointee.rip == 0xFFF0 && state.segment(SegmentRegister.cs).pointee.base == 0xFFFF_0000)
    #expect(state.rflags == 2 && get(state, 15) == 0 && state.pointee.halted == 0)
    #expect(state.pointee.dr.7 == 0x400 && state.pointee.cpl == 0)
    #expect(state.pointee.x87.control == 0x27F && state.pointee.mxcsr == 0x1FA0 && state.pointee.xcr0 == 3)
    #expect(state.pointee.pat == 0x0606_0606_0606_0606 && state.pointee.xmm.0 == 42)
    #expect(state.pointee.lstar == Self.entry && state.pointee.sysenter_esp == 0x7000)
    state.powerOn(isBootstrap: isBootstrap)
    #expect(state.pointee.x87.control == 0x40 && state.pointee.mxcsr == 0x1F80 && state.pointee.xcr0 == 1)
    #expect(state.pointee.cr0 == CR0.cd | CR0.nw | CR0.et)
  }
}

/// The x87 environment in memory (SDM vol. 1, figures 8-9 to 8-12).
struct X87ImageTests {
  private static let instruction: UInt64 = 0x000B_CDE0
  private static let data: UInt64 = 0x0009_8760
  private static let opcode: UInt64 = 0x5A3
  private static let control: UInt64 = 0x37F
  private static let status: UInt64 = 3 << 11 | 0x4100
  /// Register 3, the top, holds a number, and 4 zero.
  private static let tag: UInt64 = 0xFC3F | 0 << 6 | 1 << 8

  private func make(isReal: Bool) -> ExceptionBench {
    let bench = ExceptionBench()
    let state = bench.cpu.state
    if isReal { bench.enterRealMode() } else { bench.enterCompatibilityMode() }
    state.pointee.x87.control = UInt16(Self.control)
    state.pointee.x87.status = UInt16(Self.status)
    state.pointee.x87.tag = UInt16(Self.tag)
    withUnsafeMutableBytes(of: &state.pointee.x87.registers) {
      for (index, byte) in [0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F].enumerated() { $0[index] = UInt8(byte) }
    }
    state.pointee.x87_instruction = Self.instruction
    state.pointee.x87_data = Self.data
    state.pointee.x87_opcode = UInt16(Self.opcode)
    state.updateMode()
    return bench
  }

  /// Words of 2 or 4 bytes.
  private static func expected(isReal: Bool, is16: Bool) -> [UInt64] {
    if is16 {
      return isReal
        ? [
          control, status, tag, instruction & 0xFFFF, (instruction >> 16) << 12 | opcode, data & 0xFFFF,
          (data >> 16) << 12,
        ]
        : [control, status, tag, instruction & 0xFFFF, 0, data & 0xFFFF, 0]
    }
    let high: UInt64 = 0xFFFF_0000
    return [control | high, status | high, tag | high]
      + (isReal
        ? [
          instruction & 0xFFFF | high, (instruction >> 16) << 12 | opcode, data & 0xFFFF | high, (data >> 16) << 12,
        ]
        : [instruction, opcode << 16, data, high])
  }

  @Test(arguments: [true, false], [true, false])
  func environmentsAndStatesHaveTheFourLayouts(_ isReal: Bool, _ is16: Bool) {
    // Operands of 32 bits need a prefix in 16-bit code, and the other way round.
    let prefix: [UInt8] = isReal != is16 ? [0x66] : []
    let place: UInt8 = 0x80
    // [BX] in 16-bit code, [EBX] in 32-bit code.
    let address: UInt8 = isReal ? 0x07 : 0x03
    for (opcode, reg): (UInt8, UInt8) in [(0xD9, 6), (0xDD, 6)] {
      let bench = make(isReal: isReal)
      let state = bench.cpu.state
      register(state, Slot.general(General.rbx), as: UInt64.self).pointee = ExceptionBench.data + UInt64(place)
      #expect(bench.step(prefix + [opcode, address | reg << 3]) == nil)
      let step = is16 ? 2 : 4
      let words = (0..<7).map { bench.read(ExceptionBench.data + UInt64(place) + UInt64($0 * step), step) }
      #expect(words == Self.expected(isReal: isReal, is16: is16), "\(words.map { String($0, radix: 16) })")
      let size = 7 * step
      if opcode == 0xDD {
        #expect(bench.read(ExceptionBench.data + UInt64(place) + UInt64(size) + 7, 3) == 0x3FFF80)
        // FNSAVE initialises; FRSTOR brings all of it back.
        #expect(state.pointee.x87.tag == 0xFFFF && state.pointee.x87.status == 0)
        #expect(bench.step(prefix + [0xDD, address | 4 << 3]) == nil)
      } else {
        state.pointee.x87_instruction = 0
        #expect(bench.step(prefix + [0xD9, address | 4 << 3]) == nil)
      }
      #expect(UInt64(state.pointee.x87.tag) == Self.tag && UInt64(state.pointee.x87.status) == Self.status)
      let isWhole = isReal || !is16
      #expect(state.pointee.x87_instruction == (isWhole ? Self.instruction : Self.instruction & 0xFFFF))
      #expect(state.pointee.x87_data == (isWhole ? Self.data : Self.data & 0xFFFF))
    }
  }
}
