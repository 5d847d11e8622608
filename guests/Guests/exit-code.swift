@main enum ExitCode: Guest {
  static let name: StaticString = "exit-code"

  static func run() {
    say("exit with 42")
    exit(42)
  }
}
