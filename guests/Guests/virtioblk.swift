import CPU

/// How long a 4 KiB read of a virtio disk takes, one at a time and with 32 under way; the first disk on PCI, by polling,
/// in a split ring without features (virtio 1.2 §2.7, §4.1, §5.2). The same ROM runs under QEMU (`-bios`) and vmrun
/// (`--firmware`), so that the numbers compare. Few instructions a request: some hosts interpret this code.
@main enum VirtioBlk: Guest {
  static let name: StaticString = "virtioblk"

  private static let bar: UInt64 = 0xE000_0000
  private static let size: UInt64 = 128
  private static let table: UInt64 = 0x100_0000
  private static let available: UInt64 = table + 0x1000
  private static let used: UInt64 = table + 0x2000
  /// A header and a status byte for each request under way, 32 bytes apart; 4 KiB of data each.
  private static let headers: UInt64 = table + 0x3000
  private static let data: UInt64 = table + 0x10_0000
  private static let depth: UInt64 = 32

  nonisolated(unsafe) private static var common: UInt64 = 0
  nonisolated(unsafe) private static var notify: UInt64 = 0
  nonisolated(unsafe) private static var sectors: UInt64 = 0
  nonisolated(unsafe) private static var random: UInt64 = 0x9E37_79B9_7F4A_7C15

  static func run() {
    guard check(start(), "a virtio disk") else { return }
    let frequency = tscFrequency(overMilliseconds: 100)
    _ = measure(depth: 1, count: 64)
    let one = measure(depth: 1, count: 2000)
    let many = measure(depth: depth, count: 16_000)
    say("round-trip-ns \(nanoseconds(one, frequency) / 2000)")
    say("requests-per-second-1 \(2000 * 1_000_000_000 / max(nanoseconds(one, frequency), 1))")
    say("requests-per-second-32 \(16_000 * 1_000_000_000 / max(nanoseconds(many, frequency), 1))")
    var failed: UInt64 = 0
    for slot in 0..<depth where load8(headers + slot * 32 + 16) != 0 { failed += 1 }
    check(failed == 0, "no request failed")
  }

  private static func nanoseconds(_ ticks: UInt64, _ frequency: UInt64) -> UInt64 {
    ticks * 1000 / max(frequency / 1_000_000, 1)
  }

  private static func start() -> Bool {
    var found: PCIFunction?
    for device: UInt8 in 0..<32 {
      let function = PCIFunction(device: device)
      if function.id == 0x1001_1AF4 || function.id == 0x1042_1AF4 { found = function }
    }
    guard let function = found else { return false }
    var capability = function.read8(0x34)
    var device: UInt64 = 0
    while capability != 0 {
      if function.read8(capability) == 9 {
        let kind = function.read8(capability + 3)
        let index = function.read8(capability + 4)
        let address = bar + UInt64(function.read32(capability + 8))
        if kind == 1 || kind == 2 || kind == 4 {
          function.write32(0x10 + 4 * index, UInt32(truncatingIfNeeded: bar))
          function.write32(0x14 + 4 * index, 0)
        }
        if kind == 1 { common = address }
        if kind == 2 { notify = address }
        if kind == 4 { device = address }
      }
      capability = function.read8(capability + 1)
    }
    guard common != 0, notify != 0, device != 0 else { return false }
    function.enable(6)
    store8(common + 20, 0)
    while load8(common + 20) != 0 { pause() }
    store8(common + 20, 3)
    // VERSION_1 alone.
    store32(common + 8, 0)
    store32(common + 12, 0)
    store32(common + 8, 1)
    store32(common + 12, 1)
    store8(common + 20, 11)
    guard load8(common + 20) == 11 else { return false }
    store16(common + 22, 0)
    store16(common + 24, UInt16(size))
    set(common + 32, table)
    set(common + 40, available)
    set(common + 48, used)
    store16(common + 28, 1)
    store8(common + 20, 15)
    sectors = UInt64(load32(device)) | UInt64(load32(device + 4)) << 32
    // No interrupts: the guest polls.
    store16(available, 1)
    for slot in 0..<depth {
      let header = headers + slot * 32
      store64(header, 0)
      descriptor(slot * 3, header, 16, flags: 1)
      descriptor(slot * 3 + 1, data + slot * 4096, 4096, flags: 3)
      descriptor(slot * 3 + 2, header + 16, 1, flags: 2)
      store8(header + 16, 0)
    }
    return sectors >= 64
  }

  private static func set(_ register: UInt64, _ value: UInt64) {
    store32(register, UInt32(truncatingIfNeeded: value))
    store32(register + 4, UInt32(truncatingIfNeeded: value >> 32))
  }

  private static func descriptor(_ index: UInt64, _ address: UInt64, _ length: UInt32, flags: UInt16) {
    let entry = table + index * 16
    store64(entry, address)
    store32(entry + 8, length)
    store16(entry + 12, flags)
    store16(entry + 14, UInt16(truncatingIfNeeded: index + 1))
  }

  /// TSC ticks for `count` reads with `depth` under way, at random places.
  private static func measure(depth: UInt64, count: UInt64) -> UInt64 {
    var index = load16(available + 2)
    var seen = load16(used + 2)
    var left = count
    let blocks = min(sectors, 0x1_0000) / 8
    let begin = rdtsc()
    var underWay: UInt64 = 0
    while underWay < depth {
      submit(underWay, blocks, &index)
      underWay += 1
      left -= 1
    }
    kick(index)
    while underWay > 0 {
      let now = load16(used + 2)
      guard now != seen else { continue }
      while seen != now {
        let head = UInt64(load32(used + 4 + UInt64(seen & 127) * 8))
        seen &+= 1
        if left > 0 {
          submit(head / 3, blocks, &index)
          left -= 1
        } else {
          underWay -= 1
        }
      }
      kick(index)
    }
    return rdtsc() - begin
  }

  private static func submit(_ slot: UInt64, _ blocks: UInt64, _ index: inout UInt16) {
    random ^= random << 13
    random ^= random >> 7
    random ^= random << 17
    store64(headers + slot * 32 + 8, random % blocks * 8)
    store16(available + 4 + UInt64(index & 127) * 2, UInt16(truncatingIfNeeded: slot * 3))
    index &+= 1
  }

  private static func kick(_ index: UInt16) {
    guard load16(available + 2) != index else { return }
    store16(available + 2, index)
    mfence()
    if load16(used) & 1 == 0 { store16(notify, 0) }
  }
}
