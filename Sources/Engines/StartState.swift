/// How the bootstrap processor begins, at power-on and after each reset of the machine. Interrupts are off, and registers
/// that are not named are 0.
public enum StartState: Sendable, Equatable {
  /// Real mode at 0xFFFFFFF0, as RESET leaves it.
  case resetVector
  /// Protected mode without paging. CS and the data segments are 4 GiB from address 0.
  case protected(eip: UInt32, eax: UInt32 = 0, ebx: UInt32 = 0, esi: UInt32 = 0, gdt: UInt64)
  /// 64-bit mode with the page tables at `pageTables`.
  case long(rip: UInt64, rsi: UInt64, pageTables: UInt64, gdt: UInt64)

  /// Selectors of the segments, which stand in the table at `gdt` (Linux x86 boot protocol §1.13: __BOOT_CS, __BOOT_DS).
  public static let codeSelector: UInt16 = 0x10
  public static let dataSelector: UInt16 = 0x18
  public static let taskSelector: UInt16 = 0x20

  /// The global descriptor table that a start has at `gdt`, `is64Bit` for the code segment.
  public static func descriptorTable(is64Bit: Bool) -> [UInt64] {
    [0, 0, is64Bit ? 0x00AF_9B00_0000_FFFF : 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067, 0]
  }
}

extension ProcessorState {
  private enum Bits {
    static let protection: UInt64 = 1 << 0
    static let extensionType: UInt64 = 1 << 4
    static let paging: UInt64 = 1 << 31
    static let physicalAddressExtension: UInt64 = 1 << 5
    static let longMode: UInt64 = 1 << 8 | 1 << 10
  }

  /// Makes a processor that RESET has put into its power-on state begin elsewhere.
  public mutating func begin(at start: StartState) {
    if start != .resetVector { general = InlineArray(repeating: 0) }
    switch start {
    case .resetVector: return
    case .protected(let eip, let eax, let ebx, let esi, let gdt):
      flatten(gdt, is64Bit: false)
      (cr0, cr3, cr4, efer) = (Bits.protection | Bits.extensionType, 0, 0, 0)
      rip = UInt64(eip)
      (general[0], general[3], general[6]) = (UInt64(eax), UInt64(ebx), UInt64(esi))
    case .long(let rip, let rsi, let pageTables, let gdt):
      flatten(gdt, is64Bit: true)
      cr0 = Bits.protection | Bits.extensionType | Bits.paging
      (cr3, cr4, efer) = (pageTables, Bits.physicalAddressExtension, Bits.longMode)
      self.rip = rip
      general[6] = rsi
    }
  }

  private mutating func flatten(_ gdt: UInt64, is64Bit: Bool) {
    let data = Segment(selector: StartState.dataSelector, base: 0, limit: .max, attributes: 0xC093)
    segments = InlineArray(repeating: data)
    // Execute, read, accessed; in 64-bit mode L and not D.
    segments[1] = Segment(
      selector: StartState.codeSelector, base: 0, limit: .max, attributes: is64Bit ? 0xA09B : 0xC09B)
    segments[6] = Segment(selector: 0, base: 0, limit: 0xFFFF, attributes: 0x82)
    segments[7] = Segment(selector: StartState.taskSelector, base: 0, limit: 0x67, attributes: 0x8B)
    gdtr = Table(base: gdt, limit: 6 * 8 - 1)
    idtr = Table(base: 0, limit: 0)
    rflags = 2
    cpl = 0
  }
}
