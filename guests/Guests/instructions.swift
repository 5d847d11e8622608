import CPU

/// Instructions that a KVM without VT-x and AMD-V cannot emulate in ring 0, where they are executed one by one in
/// software.
@main enum InstructionsGuest: Guest {
  static let name: StaticString = "instructions"

  /// 16 bytes of RAM that nothing else uses.
  private static let scratch: UInt64 = 0x30_0000

  static func run() {
    compareExchange()
    check(popcnt(0xF0F0_0000_0000_0001) == 9, "POPCNT counts 64 bits")
    check(x87_scaled_pi() == 3_141_593, "the x87 FPU computes 10^6 pi")
    check(sse2_product(3, 14) == 42, "SSE2 multiplies")
    check(x87_scaled_pi() == 3_141_593, "and the x87 FPU goes on")
  }

  private static func compareExchange() {
    store64(scratch, 0x1111)
    store64(scratch + 8, 0x2222)
    check(compare_exchange_16(scratch, 0x1111, 0x2222, 0x3333, 0x4444) == 1, "CMPXCHG16B replaces what is equal")
    check(load64(scratch) == 0x3333 && load64(scratch + 8) == 0x4444, "all 16 bytes of it")
    check(compare_exchange_16(scratch, 0x1111, 0x2222, 5, 6) == 0, "and leaves what is not")
    check(load64(scratch) == 0x3333 && load64(scratch + 8) == 0x4444, "as it is")
  }
}
