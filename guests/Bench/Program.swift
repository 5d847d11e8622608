import CPU

/// A program that is measured from outside: `begin name`, then `end name result`, both on COM1.
struct Program {
  let name: StaticString
  /// Returns what tells a right run from a wrong one.
  let body: () -> UInt64

  func run() {
    say("begin \(name)")
    let result = body()
    say("end \(name) \(hex: result, digits: 16)")
  }
}

/// Memory that no two users of one program share: `Area(index)` starts 16 MiB after the one before.
struct Area {
  private let base: UInt

  init(_ index: UInt) { base = 0x100_0000 &* (index &+ 1) }

  func of<Element>(_ type: Element.Type) -> UnsafeMutablePointer<Element> {
    // The address is never 0.
    UnsafeMutablePointer(bitPattern: base).unsafelyUnwrapped
  }
}

/// Marsaglia's xorshift64.
struct Random {
  private var state: UInt64 = 0x9E37_79B9_7F4A_7C15

  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }
}
