import CPU

/// Sends back what comes in at COM1, in upper case, until there is a q. Input arrives by IRQ 4.
@main enum SerialEcho: Guest {
  static let name: StaticString = "serial-echo"
  static let port: UInt16 = 0x3F8

  static func run() {
    PIC.unmask(irq: 4)
    outb(port + 4, 0x0B)
    outb(port + 1, 0x01)
    say("ready")
    while true {
      cli()
      while inb(port + 5) & 1 != 0 {
        let byte = inb(port)
        Console.write(byte >= 0x61 && byte <= 0x7A ? byte - 0x20 : byte)
        if byte == 0x71 {
          Console.write("\r\n")
          check(Interrupts.count(PIC.vector(irq: 4)) > 0, "IRQ 4 said so")
          return
        }
      }
      sti_hlt()
    }
  }
}
