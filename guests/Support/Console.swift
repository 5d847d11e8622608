import CPU

/// COM1, written by polling. What is formatted goes out as it is formed; nothing is allocated.
enum Console {
  private static let port: UInt16 = 0x3F8

  /// 115200 baud, 8N1, FIFOs on (PC16550D, 8.0).
  static func start() {
    outb(port + 1, 0)
    outb(port + 3, 0x80)
    outb(port, 1)
    outb(port + 1, 0)
    outb(port + 3, 0x03)
    outb(port + 2, 0x07)
    outb(port + 4, 0x03)
  }

  static func write(_ byte: UInt8) {
    // Bounded, so that a machine without COM1 still reaches the exit device.
    for _ in 0..<100_000 where inb(port + 5) & 0x20 != 0 { break }
    outb(port, byte)
  }

  static func write(_ text: StaticString) {
    for index in 0..<text.utf8CodeUnitCount { write(text.utf8Start[index]) }
  }

  static func write(_ value: UInt64, radix: UInt64, digits: Int = 1) {
    var power: UInt64 = 1
    var count = 1
    while count < digits || value / power >= radix {
      power *= radix
      count += 1
    }
    while power > 0 {
      let digit = UInt8(truncatingIfNeeded: value / power % radix)
      write(digit < 10 ? 0x30 + digit : 0x57 + digit)
      power /= radix
    }
  }
}

/// A string literal that is on the console once it has been evaluated: `"at \(hex: address): \(count)"`.
struct Text: ExpressibleByStringInterpolation {
  init(stringLiteral value: StaticString) { Console.write(value) }
  init(stringInterpolation: Interpolation) {}

  struct Interpolation: StringInterpolationProtocol {
    init(literalCapacity: Int, interpolationCount: Int) {}
    func appendLiteral(_ literal: StaticString) { Console.write(literal) }
    func appendInterpolation(_ value: StaticString) { Console.write(value) }
    func appendInterpolation(_ value: some UnsignedInteger) {
      Console.write(UInt64(truncatingIfNeeded: value), radix: 10)
    }
    func appendInterpolation(_ value: Int) {
      if value < 0 { Console.write(0x2D) }
      Console.write(UInt64(value.magnitude), radix: 10)
    }
    func appendInterpolation(hex value: some FixedWidthInteger, digits: Int = 1) {
      Console.write(UInt64(truncatingIfNeeded: value), radix: 16, digits: digits)
    }
    /// The bytes of the register from its low end, as CPUID gives text.
    func appendInterpolation(ascii register: UInt32) {
      for shift in 0..<4 {
        let byte = UInt8(truncatingIfNeeded: register >> UInt32(8 * shift))
        if byte >= 0x20, byte < 0x7F { Console.write(byte) }
      }
    }
  }
}

/// Prints a line.
func say(_ text: @autoclosure () -> Text) {
  _ = text()
  Console.write("\r\n")
}
