import CPU

/// Tells the host that the guest has panicked.
@main enum PVPanic: Guest {
  static let name: StaticString = "pvpanic"

  static func run() {
    let events = inb(0x505)
    guard check(events != 0xFF && events & 1 != 0, "pvpanic takes bit 0: \(hex: events)") else { return }
    say("panic")
    outb(0x505, 1)
    // A host may go on after it; then nothing must be left to report.
    sleep(milliseconds: patience)
    check(false, "the machine stops")
  }
}
