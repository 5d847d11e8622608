import CPU

/// A program that is the whole machine: `@main enum CMOS: Guest { … }`.
protocol Guest {
  /// What it is called in the last line, `PASS name` or `FAIL name`.
  static var name: StaticString { get }
  static func run()
}

nonisolated(unsafe) private var failures = 0

/// Set by `Guest.main`, so that a fault can be reported under it.
nonisolated(unsafe) private var guestName: StaticString = "guest"

extension Guest {
  static func main() {
    guestName = name
    Console.start()
    PIC.start()
    LocalAPIC.start()
    PMTimer.start()
    run()
    finish()
  }
}

/// Prints `ok what` or `FAIL what`, and counts the failures.
@discardableResult
func check(_ condition: Bool, _ what: @autoclosure () -> Text) -> Bool {
  Console.write(condition ? "ok " : "FAIL ")
  _ = what()
  Console.write("\r\n")
  if !condition { failures += 1 }
  return condition
}

/// Prints the last line and leaves with status 0, or 1 when a check has failed.
func finish() -> Never {
  Console.write(failures == 0 ? "PASS " : "FAIL ")
  Console.write(guestName)
  Console.write("\r\n")
  exit(failures == 0 ? 0 : 1)
}

/// Ends the run with this status.
func exit(_ status: UInt8) -> Never {
  outb(0xF4, status)
  stop()
}

func stop() -> Never {
  while true {
    cli()
    hlt()
  }
}
