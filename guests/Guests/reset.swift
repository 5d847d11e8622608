import CPU

/// Resets the machine in three ways, one after the other; CMOS RAM keeps which. Each time the devices must be as new.
@main enum Reset: Guest {
  static let name: StaticString = "reset"

  static func run() {
    if CMOS.read(0x71) != 0xC3 {
      CMOS.write(0x71, 0xC3)
      CMOS.write(0x70, 0)
    }
    let round = CMOS.read(0x70)
    say("round \(round)")
    if round > 0 {
      check(ATADrive.controller.read32(0x20) & ~1 == 0, "the reset cleared the IDE's BAR 4")
      check(ATADrive.controller.read16(4) & 7 == 0, "and its command register")
      check(load32(0xFED0_0010) & 1 == 0, "and the HPET's enable bit")
    }
    CMOS.write(0x70, round + 1)
    ATADrive.startController()
    store32(0xFED0_0010, 1)

    switch round {
    case 0:
      say("reset by 0xCF9")
      outb(0xCF9, 0x02)
      outb(0xCF9, 0x06)
    case 1:
      say("reset by the keyboard controller")
      outb(0x64, 0xFE)
    case 2:
      say("reset by port 0x92")
      outb(0x92, inb(0x92) & 0xFE)
      outb(0x92, inb(0x92) | 1)
    default:
      CMOS.write(0x71, 0)
      return
    }
    sleep(milliseconds: patience)
    CMOS.write(0x71, 0)
    check(false, "the reset happens")
  }
}
