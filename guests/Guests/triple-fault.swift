import CPU

@main enum TripleFault: Guest {
  static let name: StaticString = "triple-fault"

  static func run() {
    say("a page fault without an IDT")
    triple_fault()
    check(false, "the machine stops")
  }
}
