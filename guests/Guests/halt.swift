/// Stops for ever: HLT with interrupts off.
@main enum Halt: Guest {
  static let name: StaticString = "halt"

  static func run() {
    say("halted")
    stop()
  }
}
