import CPU

/// ACPI S5: SLP_TYP 0 and SLP_EN in PM1_CNT. Its last line comes before; a machine that goes on ends with status 1.
@main enum PowerOff: Guest {
  static let name: StaticString = "power-off"

  static func run() {
    outw(PMTimer.base + 2, 0)
    check(inw(PMTimer.base + 4) & 0x2000 == 0, "SLP_EN reads as 0")
    say("PASS power-off")
    outw(PMTimer.base + 4, 0x2000)
    sleep(milliseconds: patience)
    check(false, "S5 ends the run")
  }
}
