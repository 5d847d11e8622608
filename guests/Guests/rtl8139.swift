import CPU

/// The RTL8139 (RTL8139C(L) datasheet, 5 and 6): asks the router of a user network for its address by ARP (RFC 826), and
/// receives the answer.
@main enum RTL8139: Guest {
  static let name: StaticString = "rtl8139"
  static let card = PCIFunction(device: 3)
  static let ports: UInt16 = 0xC000
  static let frame = Memory.a
  /// 8 KiB, and room for what is written past its end.
  static let ring = Memory.b

  static func run() {
    check(card.id == 0x8139_10EC, "00:03.0 is an RTL8139")
    card.write32(0x10, UInt32(ports))
    card.enable(5)
    outb(ports + 0x37, 0x10)
    check(eventually { inb(ports + 0x37) & 0x10 == 0 }, "the reset ends")

    Memory.clear(ring, bytes: 8192 + 16)
    outl(ports + 0x30, UInt32(ring))
    // Frames for this card and for all.
    outb(ports + 0x37, 0x0C)
    outl(ports + 0x44, 0xA)
    writeRequest()
    outl(ports + 0x20, UInt32(frame))
    outl(ports + 0x10, 60)
    check(eventually { inl(ports + 0x10) & 0x8000 != 0 }, "the frame has been sent")

    // Behind the status and the length comes the frame; others may come before the answer.
    check(eventually { inb(ports + 0x37) & 1 == 0 }, "a frame comes")
    check(load32(ring) & 1 != 0, "it is whole")
    let type = load16BigEndian(ring + 4 + 12)
    check(type == 0x0806, "it is ARP")
    check(load16BigEndian(ring + 4 + 20) == 2, "an answer")
    check(load32(ring + 4 + 28) == 0x0202_000A, "from 10.0.2.2")
  }

  /// Who has 10.0.2.2? Tell 10.0.2.15.
  static func writeRequest() {
    Memory.clear(frame, bytes: 60)
    for index in 0..<6 as Range<UInt64> {
      let byte = inb(ports + UInt16(index))
      store8(frame + index, 0xFF)
      store8(frame + 6 + index, byte)
      store8(frame + 22 + index, byte)
    }
    store32(frame + 12, 0x0100_0608)
    store32(frame + 16, 0x0406_0008)
    store16(frame + 20, 0x0100)
    store32(frame + 28, 0x0F02_000A)
    store32(frame + 38, 0x0202_000A)
  }

  static func load16BigEndian(_ address: UInt64) -> UInt16 { load16(address).byteSwapped }
}
