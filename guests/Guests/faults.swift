import CPU

/// Exceptions and their error codes, paging bits, debug registers and code that changes, in 64-bit mode.
@main enum Faults: Guest {
  static let name: StaticString = "faults"
  static let window = Window.base
  static let table = Memory.a
  /// What the window's first pages show.
  static let page = Memory.b

  static let present = Window.present
  static let writable = Window.writable
  static let user = Window.user
  static let accessed: UInt64 = 0x20
  static let dirty: UInt64 = 0x40
  static let noExecute: UInt64 = 1 << 63

  static func run() {
    exceptions()
    Window.open(table)
    pageFaults()
    accessedAndDirty()
    supervisorModeProtection()
    processContexts()
    modelSpecificRegisters()
    controlRegisters()
    breakpoints()
    changingCode()
  }

  /// QEMU's TCG does not check MSRs and leaves bits out of some error codes.
  static var isTCG: Bool { cpuid(0x4000_0000, 0).ebx == 0x5447_4354 }

  static func expect(_ vector: UInt64, _ error: UInt64, _ what: @autoclosure () -> Text) {
    let (vectorSeen, errorSeen) = (caught().pointee.vector, caught().pointee.error)
    let isRight = vectorSeen == vector && (vector == 0xFF || errorSeen == error)
    check(isRight, what())
    if !isRight { say("  vector \(vectorSeen) error \(hex: errorSeen) at \(hex: caught().pointee.rip)") }
  }

  static func exceptions() {
    attempt_divide(0)
    expect(0, 0, "a division by zero is #DE")
    attempt_undefined()
    expect(6, 0, "UD2 is #UD")
    attempt_breakpoint()
    expect(3, 0, "INT3 is #BP")
    attempt_gate_beyond_the_table()
    expect(13, isTCG ? 0x80 << 4 | 2 : 0x80 << 3 | 2, "INT beyond the IDT is #GP with the gate's number")
    attempt_load(0x8000_0000_0000_0000)
    expect(13, 0, "a non-canonical address is #GP(0)")
    attempt_segment(0x40)
    expect(13, 0x40, "a selector beyond the GDT is #GP with the selector")
    attempt_segment(0x43)
    expect(13, 0x40, "without its privilege level")
  }

  static func map(_ index: UInt64, _ entry: UInt64) {
    store64(table + 8 * index, entry)
    invlpg(window + index << 12)
  }

  static func pageFaults() {
    map(0, 0)
    attempt_load(window + 0x123)
    expect(14, 0, "a read of a page that is not present is #PF(0)")
    check(read_cr2() == window + 0x123, "CR2 is the address: \(hex: read_cr2())")
    attempt_store(window)
    expect(14, 2, "a write is #PF(2)")
    attempt_call(window)
    expect(14, 0, "a fetch without NX is #PF(0)")
    map(0, page | present)
    attempt_load(window)
    expect(0xFF, 0, "a read-only page can be read")
    attempt_store(window)
    expect(14, 3, "a write to it is #PF(3) with CR0.WP")
    write_cr0(read_cr0() & ~0x1_0000)
    attempt_store(window)
    expect(0xFF, 0, "and permitted without")
    write_cr0(read_cr0() | 0x1_0000)
    attempt_store(window)
    expect(14, 3, "and not when WP is back")
    map(0, page | present | writable | noExecute)
    attempt_load(window)
    expect(14, isTCG ? 8 : 9, "XD without EFER.NXE is reserved: #PF(9)")
    wrmsr(0xC000_0080, rdmsr(0xC000_0080) | 0x800)
    attempt_load(window)
    expect(0xFF, 0, "and not with it")
    attempt_call(window)
    expect(14, 0x11, "a fetch from such a page is #PF(17)")
    map(0, page | present | writable | 1 << 51)
    attempt_load(window)
    expect(14, isTCG ? 8 : 9, "an address beyond the physical width is reserved")
    map(0, page | present | writable)
    map(1, 0)
    attempt_load(window + 0xFFF)
    expect(0xFF, 0, "the last byte of a page is its own")
  }

  static func accessedAndDirty() {
    map(2, page | present | writable)
    _ = load8(window + 0x2000)
    check(load64(table + 16) & (accessed | dirty) == accessed, "a read sets A alone")
    store8(window + 0x2000, 1)
    check(load64(table + 16) & (accessed | dirty) == accessed | dirty, "a write sets D")
    map(2, page | present | writable | accessed)
    _ = load8(window + 0x2000)
    store8(window + 0x2000, 1)
    check(load64(table + 16) & dirty != 0, "a write after a read sets D, too")
  }

  static func supervisorModeProtection() {
    let features = cpuid(7, 0).ebx
    let pml4 = read_cr3() & ~0xFFF
    let pdpt = load64(pml4) & ~0xFFF
    store64(pml4, load64(pml4) | user)
    store64(pdpt + 8 * (window >> 30), load64(pdpt + 8 * (window >> 30)) | user)
    map(3, page | present | writable | user)
    // A routine that returns at once.
    store8(page, 0xC3)
    if features & 1 << 20 != 0 {
      write_cr4(read_cr4() | 1 << 21)
      attempt_load(window + 0x3000)
      expect(14, 1, "SMAP: a read of a user page is #PF(1)")
      attempt_load_with_ac(window + 0x3000)
      expect(0xFF, 0, "but not with RFLAGS.AC")
      attempt_load(window + 0x3000)
      expect(14, 1, "which ends with the flag")
      write_cr4(read_cr4() & ~(1 << 21))
      attempt_load(window + 0x3000)
      expect(0xFF, 0, "and without SMAP it is permitted")
    }
    if features & 1 << 7 != 0 {
      attempt_call(window + 0x3000)
      expect(0xFF, 0, "code of a user page can be called")
      write_cr4(read_cr4() | 1 << 20)
      attempt_call(window + 0x3000)
      expect(14, 0x11, "SMEP: it is #PF(17)")
      write_cr4(read_cr4() & ~(1 << 20))
    }
  }

  /// PCID: translations stay while CR3 changes with bit 63 set, those of other processes do not show.
  static func processContexts() {
    guard cpuid(1, 0).ecx & 1 << 17 != 0 else { return say("no PCID") }
    let pml4 = read_cr3() & ~0xFFF
    write_cr4(read_cr4() | 1 << 17)
    check(read_cr4() & 1 << 17 != 0, "CR4.PCIDE is set")
    map(4, page | present | writable)
    store64(page, 0x11)
    store64(page + 4096, 0x22)
    check(load64(window + 0x4000) == 0x11, "PCID 0 sees its page")
    write_cr3(pml4 | 5)
    store64(table + 32, (page + 4096) | present | writable)
    invlpg(window + 0x4000)
    check(load64(window + 0x4000) == 0x22, "PCID 5 sees the new one")
    write_cr3(pml4)
    check(load64(window + 0x4000) == 0x22, "and so does PCID 0 after a flush")
    invalidations(pml4)
    attempt_cr4(read_cr4() & ~0x20)
    expect(13, 0, "PAE cannot be cleared in long mode")
    write_cr4(read_cr4() & ~(1 << 17))
  }

  /// INVPCID (SDM vol. 2): after each of its types a changed entry counts in the address spaces that it says.
  static func invalidations(_ pml4: UInt64) {
    guard cpuid(7, 0).ebx & 1 << 10 != 0 else { return say("no INVPCID") }
    let linear = window + 0x4000
    let keep: UInt64 = 1 << 63
    for type in UInt64(0)..<4 {
      var isRight = true
      for round in UInt64(0)..<4 {
        // PCID 5 remembers a translation; this one changes it, and PCID 5 does not come back by a flush.
        write_cr3(pml4 | 5 | keep)
        let before = load8(linear)
        write_cr3(pml4 | keep)
        store64(table + 32, page + (round & 1) << 12 | present | writable)
        attempt_invpcid(type, type < 2 ? 5 : 0, linear)
        isRight = isRight && caught().pointee.vector == 0xFF
        write_cr3(pml4 | 5 | keep)
        isRight = isRight && load8(linear) == (round & 1 == 0 ? 0x11 : 0x22) && before != 0
      }
      check(isRight, "INVPCID type \(type) drops what PCID 5 remembers")
    }
    write_cr3(pml4)
    attempt_invpcid(4, 0, 0)
    expect(13, 0, "INVPCID type 4 is #GP(0)")
    attempt_invpcid(0, 0, 0x8000_0000_0000_0000)
    expect(13, 0, "so is a non-canonical address")
    attempt_invpcid(1, 0x1000, 0)
    expect(13, 0, "and a reserved bit of the descriptor")
  }

  static func modelSpecificRegisters() {
    guard !isTCG else { return say("TCG does not check MSRs") }
    attempt_rdmsr(0x1234_5678)
    expect(13, 0, "an MSR that does not exist is #GP(0)")
    attempt_wrmsr(0xC000_0080, 1 << 40)
    expect(13, 0, "a reserved bit of EFER is #GP(0)")
    attempt_wrmsr(0xC000_0082, 0x8000_0000_0000_0000)
    expect(13, 0, "a non-canonical LSTAR is #GP(0)")
    attempt_wrmsr(0x277, 0x0007_0406_0007_0402)
    expect(13, 0, "a reserved memory type in the PAT is #GP(0)")
    let before = rdmsr(0x10)
    wrmsr(0x10, before + 1_000_000_000_000)
    check(rdtsc() > before + 1_000_000_000_000, "the TSC can be set")
  }

  static func controlRegisters() {
    guard !isTCG else { return say("TCG does not check control registers") }
    attempt_cr0(read_cr0() & ~1)
    expect(13, 0, "paging without protection is #GP(0)")
    attempt_cr0(read_cr0() | 1 << 32)
    expect(13, 0, "CR0's upper half is reserved")
    attempt_cr4(read_cr4() | 1 << 31)
    expect(13, 0, "a reserved bit of CR4 is #GP(0)")
  }

  static func breakpoints() {
    if !isTCG {
      attempt_debug_trap()
      expect(1, 0, "INT1 is #DB")
    }
    write_dr6(0)
    attempt_single_step()
    expect(1, 0, "RFLAGS.TF is #DB after the next instruction")
    check(read_dr6() & 0xE00F == 0x4000, "DR6.BS says so: \(hex: read_dr6())")

    write_dr6(0)
    write_dr0(Memory.c + 4)
    // Writes of 4 bytes.
    write_dr7(0x000D_0401)
    attempt_store(Memory.c)
    expect(0xFF, 0, "a write beside a breakpoint is none")
    attempt_load(Memory.c + 5)
    expect(0xFF, 0, "nor is a read")
    attempt_store(Memory.c + 5)
    expect(1, 0, "a write within is #DB")
    check(read_dr6() & 0xF == 1, "DR6.B0 says which: \(hex: read_dr6())")
    check(load8(Memory.c + 5) == 0x5A, "after the write is done")

    store8(page, 0xC3)
    write_dr6(0)
    write_dr0(page)
    write_dr7(0x0000_0401)
    attempt_call(page)
    expect(1, 0, "an instruction breakpoint is #DB")
    check(
      caught().pointee.rip == page && read_dr6() & 0x400F == 1, "before the instruction: \(hex: caught().pointee.rip)")
    write_dr7(0x400)
    portBreakpoints()
    guard !isTCG else { return say("TCG does not guard debug registers") }
    write_dr6(0)
    write_dr7(0x2400)
    attempt_read_dr0()
    expect(1, 0, "DR7.GD: an access of a debug register is #DB")
    check(read_dr6() & 0x2000 != 0 && read_dr7() & 0x2000 == 0, "DR6.BD says so, and GD is clear in the handler")
    attempt_read_dr0()
    expect(0xFF, 0, "which may access them")
  }

  /// Port 80h, one byte.
  static func portBreakpoints() {
    write_dr6(0)
    write_dr0(0x80)
    write_cr4(read_cr4() & ~8)
    write_dr7(0x0002_0401)
    if !isTCG {
      attempt_out(0x80)
      expect(0xFF, 0, "an I/O breakpoint without CR4.DE is none")
    }
    write_cr4(read_cr4() | 8)
    write_dr7(0x0002_0401)
    attempt_out(0x81)
    expect(0xFF, 0, "another port meets none")
    attempt_out(0x80)
    expect(1, 0, "an access of its port is #DB")
    check(read_dr6() & 0xF == 1, "DR6.B0 says which: \(hex: read_dr6())")
    check(load8(caught().pointee.rip - 1) == 0xEE, "after the instruction")
    write_dr7(0x400)
    write_cr4(read_cr4() & ~8)
  }

  /// `mov eax, imm32; ret`, changed between calls and by itself.
  static func changingCode() {
    let code = Memory.c + 0x1000
    var isRight = true
    for value in 0..<UInt32(50) {
      store8(code, 0xB8)
      store32(code + 1, value)
      store8(code + 5, 0xC3)
      isRight = isRight && call_code(code) == UInt64(value)
    }
    check(isRight, "code that was changed is executed as it is")
    // mov byte [rip+6], 0x77; nop…; mov eax, 0x11: the store changes the MOV's operand, a few bytes ahead.
    let bytes: [7 of UInt8] = [0xC6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x77]
    for index in 0..<7 { store8(code + 64 + UInt64(index), bytes[index]) }
    store8(code + 71, 0xB8)
    store32(code + 72, 0x11)
    store8(code + 76, 0xC3)
    check(call_code(code + 64) == 0x77, "and so is the instruction behind the store that changes it")
    // Across a page: the second half of the instruction is in the next page.
    let edge = Memory.c + 0x2FFE
    for value in 0..<UInt32(3) {
      store8(edge, 0xB8)
      store32(edge + 1, value + 7)
      store8(edge + 5, 0xC3)
      isRight = isRight && call_code(edge) == UInt64(value + 7)
    }
    check(isRight, "and one that lies on two pages")
  }
}
