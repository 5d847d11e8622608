import CPU

/// Never ends and never lets an interrupt in.
@main enum Spin: Guest {
  static let name: StaticString = "spin"

  static func run() {
    say("spinning")
    cli()
    while true { pause() }
  }
}
