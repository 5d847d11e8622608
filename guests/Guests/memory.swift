import CPU

/// RAM as the address map of fw_cfg (etc/e820) says it, above 4 GiB too: each range keeps a pattern at both its ends,
/// and no two addresses are the same byte.
@main enum MemoryMapGuest: Guest {
  static let name: StaticString = "memory"

  /// A 2 MiB page of virtual addresses, moved over physical memory.
  private static let window: UInt64 = 0xC000_0000
  private static let pageSize: UInt64 = 2 << 20
  private static let present: UInt64 = 0x83

  private struct Range {
    var base: UInt64
    var size: UInt64
  }

  static func run() {
    guard let file = FirmwareConfig.file("etc/e820") else {
      check(false, "etc/e820 is there")
      return
    }
    FirmwareConfig.select(file.key)
    var total: UInt64 = 0
    // The marks of all ranges are written before any is read back, so that aliases show.
    for _ in 0..<min(file.size / 20, 16) {
      guard let range = nextRange() else { continue }
      say("RAM \(hex: range.base) size \(hex: range.size)")
      total += range.size
      mark(range)
    }
    FirmwareConfig.select(file.key)
    for _ in 0..<min(file.size / 20, 16) {
      guard let range = nextRange() else { continue }
      check(isMarked(range), "the range at \(hex: range.base) keeps what was written at both ends")
    }
    say("total \(total >> 20) MiB")
  }

  /// The next entry of the file, when it is RAM (type 1).
  private static func nextRange() -> Range? {
    let base = little(8)
    let size = little(8)
    return little(4) == 1 && size >= 2 * pageSize ? Range(base: base, size: size) : nil
  }

  private static func little(_ bytes: UInt64) -> UInt64 {
    var value: UInt64 = 0
    for index in 0..<bytes { value |= UInt64(FirmwareConfig.readByte()) << (8 * index) }
    return value
  }

  /// The first page of the first range holds this guest, so its mark stands in the second.
  private static func ends(_ range: Range) -> (UInt64, UInt64) {
    (range.base == 0 ? 2 * pageSize : range.base, range.base + range.size - 8)
  }

  private static func mark(_ range: Range) {
    let (first, last) = ends(range)
    store64(map(first), ~first)
    store64(map(last), ~last)
  }

  private static func isMarked(_ range: Range) -> Bool {
    let (first, last) = ends(range)
    return load64(map(first)) == ~first && load64(map(last)) == ~last
  }

  /// Points the window at the 2 MiB around a physical address and returns where it stands there.
  private static func map(_ address: UInt64) -> UInt64 {
    let pml4 = read_cr3() & ~0xFFF
    let pdpt = load64(pml4) & ~0xFFF
    let directory = load64(pdpt + 8 * (window >> 30)) & ~0xFFF
    store64(directory, address & ~(pageSize - 1) | present)
    invlpg(window)
    return window + (address & (pageSize - 1))
  }
}
