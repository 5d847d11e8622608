import CPU

/// Writes sector after sector of the primary disk for ever. `flushed N G` says: sector N holds, in all of its 64
/// double words of 8 bytes, generation G in the upper half and N in the lower, and a FLUSH CACHE after it has ended.
@main enum DiskWriter: Guest {
  static let name: StaticString = "diskwriter"
  static let disk = ATADrive(channel: 0, unit: 0)

  static func run() {
    ATADrive.startController()
    disk.softwareReset()
    guard check(disk.identify(to: Memory.a), "IDENTIFY DEVICE") else { return }
    let sectors = load32(Memory.a + 2 * 60)
    guard check(sectors > 0, "\(sectors) sectors") else { return }
    var generation: UInt64 = 1
    while true {
      for lba in 0..<sectors {
        for word in 0..<UInt64(64) { store64(Memory.a + 8 * word, generation << 32 | UInt64(lba)) }
        guard disk.write(lba: lba, from: Memory.a), disk.flush() else {
          check(false, "write and flush of sector \(lba)")
          return
        }
        say("flushed \(lba) \(generation)")
      }
      generation += 1
    }
  }
}
