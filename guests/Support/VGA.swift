import CPU

/// The standard VGA.
enum VGA {
  static let function = PCIFunction(device: 2)
  static let text: UInt64 = 0xB8000

  /// The registers of mode 3, 80 by 25 characters (IBM VGA technical reference, 2).
  static func setTextMode() {
    let sequencer: InlineArray<5, UInt8> = [0x03, 0x00, 0x03, 0x00, 0x02]
    let crtc: InlineArray<25, UInt8> = [
      0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0x00,
      0x00, 0x00, 0x00, 0x9C, 0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
    ]
    let graphics: InlineArray<9, UInt8> = [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0E, 0x0F, 0xFF]
    let attributes: InlineArray<21, UInt8> = [
      0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F,
      0x0C, 0x00, 0x0F, 0x08, 0x00,
    ]
    function.enable(3)
    outb(0x3C2, 0x67)
    for index in sequencer.indices { write(0x3C4, UInt8(index), sequencer[index]) }
    write(0x3D4, 0x11, 0)
    for index in crtc.indices { write(0x3D4, UInt8(index), crtc[index]) }
    for index in graphics.indices { write(0x3CE, UInt8(index), graphics[index]) }
    _ = inb(0x3DA)
    for index in attributes.indices {
      outb(0x3C0, UInt8(index))
      outb(0x3C0, attributes[index])
    }
    outb(0x3C0, 0x20)
  }

  static func write(_ port: UInt16, _ index: UInt8, _ value: UInt8) {
    outb(port, index)
    outb(port + 1, value)
  }

  static func read(_ port: UInt16, _ index: UInt8) -> UInt8 {
    outb(port, index)
    return inb(port + 1)
  }

  static func put(_ text: StaticString, row: UInt64, column: UInt64, attribute: UInt8 = 0x07) {
    for index in 0..<text.utf8CodeUnitCount {
      let cell = UInt16(attribute) << 8 | UInt16(text.utf8Start[index])
      store16(self.text + 2 * (80 * row + column + UInt64(index)), cell)
    }
  }

  /// A Bochs VBE register.
  static subscript(vbe index: UInt16) -> UInt16 {
    get {
      outw(0x1CE, index)
      return inw(0x1CF)
    }
    set {
      outw(0x1CE, index)
      outw(0x1CF, newValue)
    }
  }
}
