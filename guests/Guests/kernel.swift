import CPU

/// What Start/kernel.s kept of the state in which a loader started it.
private enum State {
  static let base: UInt64 = 0x32_0000

  static var `protocol`: UInt32 { load32(base) }
  static var eax: UInt32 { load32(base + 4) }
  static var ebx: UInt32 { load32(base + 8) }
  static var esi: UInt32 { load32(base + 20) }
  static var edi: UInt32 { load32(base + 24) }
  static var ebp: UInt32 { load32(base + 28) }
  static var eflags: UInt32 { load32(base + 32) }
  static var cr0: UInt32 { load32(base + 36) }
  static var cr4: UInt32 { load32(base + 44) }
  static var efer: UInt32 { load32(base + 48) }
  static var cs: UInt16 { load16(base + 52) }
  static var ds: UInt16 { load16(base + 54) }
  static var es: UInt16 { load16(base + 56) }
  static var ss: UInt16 { load16(base + 58) }
  static var rsi: UInt64 { load64(base + 64) }
}

/// Started by `--kernel` with `--append "one two=three"`, and with the test disk and the test CD as ramdisks.
@main enum Kernel: Guest {
  static let name: StaticString = "kernel"

  private static let commandLine: StaticString = "one two=three"
  /// Of build/test-disk.img and build/test-cd.img, multiples of four.
  private static let ramdisks: (UInt64, UInt64) = (4 << 20, 17 * 2048)

  static func run() {
    check(State.cr0 & 1 != 0, "protected mode")
    check(State.eflags & 0x2_0300 == 0, "EFLAGS \(hex: State.eflags): no interrupts, traps or virtual-8086 mode")
    check(load32(State.base + 0x400) == 0, "memory behind the file's part of a segment is zero")
    let is64Bit = State.protocol == 4
    check((State.cr0 >> 31 != 0) == is64Bit, "CR0 \(hex: State.cr0)")
    check((State.efer & 0x400 != 0) == is64Bit, "EFER \(hex: State.efer)")
    switch State.protocol {
    case 1: startInformation(UInt64(State.ebx))
    case 2: multiboot(UInt64(State.ebx))
    case 3: multiboot2(UInt64(State.ebx))
    case 4: zeroPage(State.rsi)
    case 5:
      check(State.ebx == 0 && State.edi == 0 && State.ebp == 0, "EBX, EDI and EBP are 0")
      zeroPage(UInt64(State.esi))
    default: check(false, "protocol \(State.protocol)")
    }
  }

  /// PVH (xen/include/public/arch-x86/hvm/start_info.h).
  private static func startInformation(_ info: UInt64) {
    check(State.cr4 == 0, "CR4 \(hex: State.cr4)")
    check(load32(info) == 0x336E_C578, "start information at \(hex: info)")
    check(load32(info + 4) == 1, "version \(load32(info + 4))")
    checkCommandLine(load64(info + 24))
    check(load32(info + 12) == 1, "\(load32(info + 12)) module")
    let module = load64(info + 16)
    checkJoined(load64(module), size: load64(module + 8))
    checkRootPointer(load64(info + 32))
    var map = MapCheck()
    for index in 0..<UInt64(load32(info + 48)) {
      let entry = load64(info + 40) + index * 24
      map.add(load64(entry), load64(entry + 8), load32(entry + 16))
    }
    map.finish()
  }

  /// Multiboot 0.6.96, 3.3.
  private static func multiboot(_ info: UInt64) {
    check(State.eax == 0x2BAD_B002, "EAX \(hex: State.eax)")
    check(load32(info) & 0x4D == 0x4D, "flags \(hex: load32(info))")
    checkCommandLine(UInt64(load32(info + 16)))
    check(load32(info + 20) == 2, "\(load32(info + 20)) modules")
    let modules = UInt64(load32(info + 24))
    checkModules(
      (UInt64(load32(modules)), UInt64(load32(modules + 4))),
      (UInt64(load32(modules + 16)), UInt64(load32(modules + 20))))
    var map = MapCheck()
    var entry = UInt64(load32(info + 48))
    let end = entry + UInt64(load32(info + 44))
    while entry < end {
      map.add(load64(entry + 4), load64(entry + 12), load32(entry + 20))
      entry += UInt64(load32(entry)) + 4
    }
    map.finish()
    check(UInt64(load32(info + 8)) << 10 == map.extended, "upper memory \(load32(info + 8)) KiB")
  }

  /// Multiboot2 2.0, 3.6.
  private static func multiboot2(_ info: UInt64) {
    check(State.eax == 0x36D7_6289, "EAX \(hex: State.eax)")
    check(info & 7 == 0, "information at \(hex: info)")
    var tag = info + 8
    let end = info + UInt64(load32(info))
    var map = MapCheck()
    var first: (UInt64, UInt64) = (0, 0)
    var modules = 0
    var hasCommandLine = false
    while tag < end, load32(tag) != 0 {
      let size = UInt64(load32(tag + 4))
      switch load32(tag) {
      case 1:
        hasCommandLine = true
        checkCommandLine(tag + 8)
      case 3:
        modules += 1
        let module = (UInt64(load32(tag + 8)), UInt64(load32(tag + 12)))
        if modules == 1 { first = module }
        if modules == 2 { checkModules(first, module) }
      case 6:
        for offset in stride(from: UInt64(16), to: size, by: Int(load32(tag + 8))) {
          map.add(load64(tag + offset), load64(tag + offset + 8), load32(tag + offset + 16))
        }
      case 14, 15: checkRootPointer(tag + 8)
      default: break
      }
      tag += (size + 7) & ~7
    }
    check(hasCommandLine, "a command line")
    check(modules == 2, "\(modules) modules")
    map.finish()
  }

  /// Linux, Documentation/arch/x86/zero-page.rst.
  private static func zeroPage(_ page: UInt64) {
    check(State.cs == 0x10, "CS \(hex: State.cs)")
    check(State.ds == 0x18 && State.es == 0x18 && State.ss == 0x18, "DS \(hex: State.ds)")
    check(load32(page + 0x202) == 0x5372_6448, "setup header in the zero page at \(hex: page)")
    check(load8(page + 0x210) == 0xFF, "loader \(hex: load8(page + 0x210))")
    checkCommandLine(UInt64(load32(page + 0x228)) | UInt64(load32(page + 0xC8)) << 32)
    checkJoined(
      UInt64(load32(page + 0x218)) | UInt64(load32(page + 0xC0)) << 32,
      size: UInt64(load32(page + 0x21C)) | UInt64(load32(page + 0xC4)) << 32)
    checkRootPointer(load64(page + 0x70))
    var map = MapCheck()
    for index in 0..<UInt64(load8(page + 0x1E8)) {
      let entry = page + 0x2D0 + index * 20
      map.add(load64(entry), load64(entry + 8), load32(entry + 16))
    }
    map.finish()
  }

  private static func checkCommandLine(_ address: UInt64) {
    var isEqual = load8(address + UInt64(commandLine.utf8CodeUnitCount)) == 0
    for index in 0..<commandLine.utf8CodeUnitCount {
      isEqual = isEqual && load8(address + UInt64(index)) == commandLine.utf8Start[index]
    }
    check(isEqual, "command line at \(hex: address)")
  }

  /// Both ramdisks, one behind the other.
  private static func checkJoined(_ address: UInt64, size: UInt64) {
    check(size == ramdisks.0 + ramdisks.1, "ramdisk of \(size) bytes at \(hex: address)")
    checkContents(address, address + ramdisks.0)
  }

  private static func checkModules(_ first: (UInt64, UInt64), _ second: (UInt64, UInt64)) {
    check(
      first.1 - first.0 == ramdisks.0 && second.1 - second.0 == ramdisks.1,
      "modules at \(hex: first.0) and \(hex: second.0)")
    check((first.0 | second.0) & 0xFFF == 0 && second.0 >= first.1, "modules on pages")
    checkContents(first.0, second.0)
  }

  /// The disk's sectors start with their numbers, and the CD's.
  private static func checkContents(_ disk: UInt64, _ disc: UInt64) {
    // "8191", "0 " and "15".
    check(load8(disk) == 0x30 && load32(disk + 8191 * 512) == 0x3139_3138, "the disk's first and last sector")
    check(load16(disc) == 0x2030 && load16(disc + 15 * 2048) == 0x3531, "the disc's first sectors")
  }

  private static func checkRootPointer(_ address: UInt64) {
    guard address != 0 else { return }
    check(load64(address) == 0x2052_5450_2044_5352, "ACPI root pointer at \(hex: address)")
  }
}

/// A memory map, entry by entry.
private struct MapCheck {
  private var end: UInt64 = 0
  private var isSorted = true
  private var count = 0
  private var hasBase = false
  /// Bytes of RAM from 1 MiB on.
  private(set) var extended: UInt64 = 0

  mutating func add(_ base: UInt64, _ size: UInt64, _ type: UInt32) {
    isSorted = isSorted && base >= end && size > 0
    end = base + size
    count += 1
    if type == 1, base == 0 { hasBase = true }
    if type == 1, base == 1 << 20 { extended = size }
  }

  func finish() {
    check(count >= 3 && isSorted, "\(count) entries in order")
    check(hasBase && extended >= 1 << 20, "RAM from 0, and \(extended >> 20) MiB from 1 MiB on")
  }
}
