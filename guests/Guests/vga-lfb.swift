import CPU

/// 640 by 480 by 32 through the Bochs VBE registers, and its frame buffer at BAR 0.
@main enum VGALinear: Guest {
  static let name: StaticString = "vga-lfb"
  static let base: UInt64 = 0xE000_0000

  static func run() {
    let id = VGA[vbe: 0]
    guard check(id >= 0xB0C0 && id <= 0xB0C5, "the VBE registers are there: \(hex: id)") else { return }
    VGA.function.write32(0x10, UInt32(base))
    VGA.function.enable(3)

    // GETCAPS: the registers give the largest mode.
    VGA[vbe: 4] = 2
    let (width, height, depth) = (VGA[vbe: 1], VGA[vbe: 2], VGA[vbe: 3])
    check(width >= 1024 && height >= 768 && depth == 32, "up to \(width) by \(height) by \(depth)")
    VGA[vbe: 4] = 0
    let memory = UInt32(VGA[vbe: 0xA]) << 16
    check(memory == VGA.function.barSize(0), "video memory is as large as BAR 0: \(memory >> 20) MiB")

    VGA[vbe: 1] = 640
    VGA[vbe: 2] = 480
    VGA[vbe: 3] = 32
    store32(base, 0xFFFF_FFFF)
    VGA[vbe: 4] = 0x41
    check(VGA[vbe: 1] == 640 && VGA[vbe: 2] == 480 && VGA[vbe: 3] == 32, "640 by 480 by 32 is set")
    check(VGA[vbe: 6] == 640, "the virtual width follows")
    check(VGA[vbe: 4] & 0x41 == 0x41, "and is enabled, linear")
    check(load32(base) == 0, "enabling clears the memory")

    // A diagonal; the corners in white.
    for y in 0..<UInt64(480) { store32(base + 4 * (640 * y + y), UInt32(y) << 16 | 0xFF) }
    store32(base, 0xFF_FFFF)
    store32(base + 4 * 639, 0xFF_FFFF)
    store32(base + 4 * (640 * 479), 0xFF_FFFF)
    store32(base + 4 * (640 * 480 - 1), 0xFF_FFFF)
    var drawn = true
    for y in 1..<UInt64(479) { drawn = drawn && load32(base + 4 * (640 * y + y)) == UInt32(y) << 16 | 0xFF }
    check(drawn, "the frame buffer keeps a diagonal")
    check(load8(base + 4 * 641 + 2) == 1 && load16(base + 4 * 641) == 0x00FF, "bytes and words of it too")

    let end = UInt64(memory) - 4
    store32(base + end, 0x5AA5_1234)
    check(load32(base + end) == 0x5AA5_1234, "so does its last word")
    VGA[vbe: 4] = 0xC1
    check(load32(base + 4 * 641) == 0x0001_00FF, "NOCLEARMEM keeps the picture")
  }
}
