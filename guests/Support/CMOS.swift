import CPU

/// The MC146818 and its RAM.
enum CMOS {
  static func read(_ register: UInt8) -> UInt8 {
    outb(0x70, register)
    return inb(0x71)
  }

  static func write(_ register: UInt8, _ value: UInt8) {
    outb(0x70, register)
    outb(0x71, value)
  }

  /// A time register, whether the clock keeps BCD or binary.
  static func time(_ register: UInt8) -> UInt8 {
    let value = read(register)
    return read(0x0B) & 4 != 0 ? value : (value >> 4) * 10 + value & 0x0F
  }
}
