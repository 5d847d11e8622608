import CPU

/// How long a port read takes. The port is CMOS 0x71, or what the fw_cfg file opt/vmrun/port says in hexadecimal.
/// The same ROM runs under QEMU (`-bios`) and vmrun (`--firmware`), so that the numbers compare.
@main enum PortBench: Guest {
  static let name: StaticString = "portbench"
  static let samples: UInt64 = 2000

  static func run() {
    let port = choosePort()
    CMOS.write(0x70, 0)
    outb(0x70, 0x0D)
    for _ in 0..<100 { _ = inb(port) }

    // What a sample costs without the read.
    for index in 0..<samples {
      let start = rdtsc()
      store64(Memory.a + 8 * index, rdtsc() - start)
    }
    sort()
    let overhead = load64(Memory.a + 8 * (samples / 2))

    let begin = rdtsc()
    for index in 0..<samples {
      let start = rdtsc()
      _ = inb(port)
      store64(Memory.a + 8 * index, rdtsc() - start)
    }
    let total = rdtsc() - begin
    sort()
    let median = load64(Memory.a + 8 * (samples / 2))
    let percentile = load64(Memory.a + 8 * (samples * 99 / 100))
    let frequency = tscFrequency(overMilliseconds: 100)
    say("port \(hex: port)")
    say("samples \(samples)")
    say("overhead \(overhead)")
    say("median \(median)")
    say("p99 \(percentile)")
    say("total \(total)")
    say("tsc-hz \(frequency)")
    say("median-ns \(median * 1_000_000 / max(frequency / 1000, 1))")
    say("p99-ns \(percentile * 1_000_000 / max(frequency / 1000, 1))")
    check(median > 0 && percentile >= median, "measured")
  }

  static func choosePort() -> UInt16 {
    guard let file = FirmwareConfig.file("opt/vmrun/port") else { return 0x71 }
    FirmwareConfig.select(file.key)
    var port: UInt16 = 0
    for _ in 0..<min(file.size, 4) {
      let byte = FirmwareConfig.readByte() | 0x20
      if byte >= 0x30, byte <= 0x39 { port = port << 4 | UInt16(byte - 0x30) }
      if byte >= 0x61, byte <= 0x66 { port = port << 4 | UInt16(byte - 0x57) }
    }
    return port
  }

  /// Shell's sort of the samples.
  static func sort() {
    let gaps: InlineArray<8, UInt64> = [701, 301, 132, 57, 23, 10, 4, 1]
    for step in gaps.indices {
      let gap = gaps[step]
      for index in gap..<samples {
        let value = load64(Memory.a + 8 * index)
        var hole = index
        while hole >= gap, case let other = load64(Memory.a + 8 * (hole - gap)), other > value {
          store64(Memory.a + 8 * hole, other)
          hole -= gap
        }
        store64(Memory.a + 8 * hole, value)
      }
    }
  }
}
