import CPU

/// The 8042 and what is behind it (IBM PS/2 technical reference).
@main enum Keyboard: Guest {
  static let name: StaticString = "keyboard"

  static func run() {
    while inb(0x64) & 1 != 0 { _ = inb(0x60) }
    command(0xAD)
    command(0xA7)
    command(0xAA)
    check(read() == 0x55, "the controller's self test")
    check(inb(0x64) & 0x04 != 0, "sets the system flag")
    command(0xAB)
    check(read() == 0x00, "the keyboard interface test")
    command(0xA9)
    check(read() == 0x00, "the auxiliary interface test")

    // Both ports on, no interrupts, no translation.
    command(0x60)
    write(0x00)
    command(0x20)
    check(read() == 0x00, "the command byte is kept")
    command(0xAE)
    keyboard()
    mouse()
    interrupts()
  }

  static func keyboard() {
    write(0xEE)
    check(read() == 0xEE, "echo")
    write(0xED)
    check(read() == 0xFA, "LEDs: acknowledged")
    write(0x02)
    check(read() == 0xFA, "LEDs: set")
    write(0xF2)
    check(read() == 0xFA && read() == 0xAB && read() == 0x83, "identify: AB 83")
    write(0xF0)
    _ = read()
    write(0x00)
    check(read() == 0xFA && read() == 0x02, "scan code set 2")
    write(0xFF)
    check(read() == 0xFA && read() == 0xAA, "reset: FA AA")
    write(0xF4)
    check(read() == 0xFA, "enable scanning")
    check(inb(0x64) & 0x01 == 0, "and nothing more to read")
  }

  static func mouse() {
    command(0xA8)
    mouseWrite(0xFF)
    check(eventually { inb(0x64) & 0x21 == 0x21 }, "the mouse answers as auxiliary device")
    check(read() == 0xFA && read() == 0xAA && read() == 0x00, "reset: FA AA 00")
    mouseWrite(0xE9)
    _ = read()
    _ = read()
    check(read() == 2 && read() == 100, "status: resolution 2, rate 100")
    wheel(200)
    wheel(100)
    wheel(80)
    mouseWrite(0xF2)
    check(read() == 0xFA && read() == 0x03, "200, 100, 80 makes it a wheel mouse")
  }

  static func wheel(_ rate: UInt8) {
    mouseWrite(0xF3)
    _ = read()
    mouseWrite(rate)
    _ = read()
  }

  static func interrupts() {
    PIC.unmask(irq: 1)
    PIC.unmask(irq: 12)
    command(0x60)
    write(0x03)
    check(Interrupts.wait(for: PIC.vector(irq: 1), after: { write(0xEE) }), "IRQ 1")
    check(read() == 0xEE, "and the echo")
    check(Interrupts.wait(for: PIC.vector(irq: 12), after: { mouseWrite(0xE6) }), "IRQ 12")
    check(read() == 0xFA, "and the mouse's acknowledgement")
    // D2 puts a byte into the output buffer as if the keyboard had sent it.
    check(
      Interrupts.wait(
        for: PIC.vector(irq: 1),
        after: {
          command(0xD2)
          write(0x1C)
        }), "IRQ 1 for command D2")
    check(read() == 0x1C, "and its byte")
  }

  static func ready() { _ = eventually { inb(0x64) & 2 == 0 } }

  static func command(_ byte: UInt8) {
    ready()
    outb(0x64, byte)
  }

  static func write(_ byte: UInt8) {
    ready()
    outb(0x60, byte)
  }

  static func mouseWrite(_ byte: UInt8) {
    command(0xD4)
    write(byte)
  }

  static func read() -> UInt8? { eventually { inb(0x64) & 1 != 0 } ? inb(0x60) : nil }
}
