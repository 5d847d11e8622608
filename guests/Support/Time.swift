import CPU

/// The ACPI power-management timer: 3.579545 MHz, and the only clock that needs no calibration.
enum PMTimer {
  static let frequency: UInt64 = 3_579_545

  /// The PIIX4's PMBASE.
  nonisolated(unsafe) private(set) static var base: UInt16 = 0x600

  static let function = PCIFunction(device: 1, function: 3)

  /// Takes the base that firmware has set, or sets one.
  static func start() {
    if function.read8(0x80) & 1 == 0 {
      function.write32(0x40, UInt32(base) | 1)
      function.write8(0x80, 1)
    } else {
      base = function.read16(0x40) & 0xFFC0
    }
  }

  static var count: UInt32 { inl(base + 8) & 0xFF_FFFF }
}

/// Measures time in ticks of the PM timer. It must be read every 4.6 seconds, when the counter wraps.
struct Stopwatch {
  private var last = PMTimer.count
  private var ticks: UInt64 = 0

  mutating func elapsedTicks() -> UInt64 {
    let now = PMTimer.count
    ticks += UInt64((now &- last) & 0xFF_FFFF)
    last = now
    return ticks
  }

  mutating func microseconds() -> UInt64 { elapsedTicks() * 1_000_000 / PMTimer.frequency }
}

/// Milliseconds to wait for what has to happen: a processor of a loaded host may stand still for seconds.
let patience: UInt64 = 20_000

/// Whether the condition comes true within the time.
func eventually(_ milliseconds: UInt64 = patience, _ condition: () -> Bool) -> Bool {
  if condition() { return true }
  var watch = Stopwatch()
  // A timer that stands still must not hang the test: no TSC runs faster than 10 GHz.
  let latest = rdtsc() + milliseconds * 10_000_000
  while watch.microseconds() < milliseconds * 1000, rdtsc() < latest {
    if condition() { return true }
    pause()
  }
  return condition()
}

func sleep(milliseconds: UInt64) { _ = eventually(milliseconds) { false } }

/// TSC ticks per second, measured over the time given.
func tscFrequency(overMilliseconds: UInt64 = 50) -> UInt64 {
  var watch = Stopwatch()
  let start = rdtsc()
  sleep(milliseconds: overMilliseconds)
  let elapsed = rdtsc() - start
  return elapsed * PMTimer.frequency / max(watch.elapsedTicks(), 1)
}
