import CPU

/// A page table for one page directory's entry, at 3 GiB, where otherwise a large page is.
enum Window {
  static let base: UInt64 = 0xC000_0000
  static let present: UInt64 = 1
  static let writable: UInt64 = 2
  static let user: UInt64 = 4

  /// Puts an empty page table there, which is at `table`.
  static func open(_ table: UInt64) {
    Memory.clear(table, bytes: 4096)
    let directory = load64(load64(read_cr3() & ~0xFFF) & ~0xFFF + 8 * (base >> 30)) & ~0xFFF
    // What the large page shows is in the TLB.
    _ = load8(0xFEE0_0020)
    store64(directory, table | present | writable | user)
    write_cr3(read_cr3())
  }
}
