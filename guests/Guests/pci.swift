import CPU

@main enum PCI: Guest {
  static let name: StaticString = "pci"
  static let host = PCIFunction(device: 0)
  static let bridge = PCIFunction(device: 1)
  static let ide = PCIFunction(device: 1, function: 1)
  static let power = PCIFunction(device: 1, function: 3)
  static let vga = PCIFunction(device: 2)

  static func run() {
    outl(0xCF8, 0x8000_0000)
    check(inl(0xCF8) == 0x8000_0000, "0xCF8 can be read")
    for device in 0..<32 as Range<UInt8> {
      let multifunction = PCIFunction(device: device).read8(0x0E) & 0x80 != 0
      for function in 0..<(multifunction ? 8 : 1) as Range<UInt8> {
        let pci = PCIFunction(device: device, function: function)
        if pci.id != 0xFFFF_FFFF {
          say(
            "00:\(hex: device, digits: 2).\(function) \(hex: pci.id, digits: 8) class \(hex: pci.read32(8) >> 8, digits: 6)"
          )
        }
      }
    }
    check(host.id == 0x1237_8086 && host.read16(0x0A) == 0x0600, "00.0 is the 82441FX")
    check(bridge.id == 0x7000_8086 && bridge.read16(0x0A) == 0x0601, "01.0 is the 82371SB's ISA bridge")
    check(bridge.read8(0x0E) & 0x80 != 0, "with more functions")
    check(ide.id == 0x7010_8086 && ide.read16(0x0A) == 0x0101, "01.1 is its IDE")
    check(power.id == 0x7113_8086, "01.3 is the 82371AB's power management")
    check(vga.id == 0x1111_1234 && vga.read16(0x0A) == 0x0300, "02.0 is the VGA")
    check(PCIFunction(device: 31).id == 0xFFFF_FFFF, "an absent device reads all ones")
    check(PCIFunction(device: 1, function: 7).id == 0xFFFF_FFFF, "so does an absent function")

    check(ide.read16(0) == 0x8086 && ide.read16(2) == 0x7010 && ide.read8(3) == 0x70, "16- and 8-bit reads agree")
    ide.write32(0, 0)
    check(ide.id == 0x7010_8086, "the ID is read-only")
    ide.write8(0x3C, 0x5A)
    check(ide.read8(0x3C) == 0x5A, "the interrupt line keeps what is written")

    check(ide.barSize(4) == 16, "the IDE's BAR 4 is 16 ports")
    check(ide.barSize(0) == 0, "and BAR 0 is none: it is at the legacy ports")
    let size = vga.barSize(0)
    check(size >= 1 << 20 && size & (size - 1) == 0, "the VGA's BAR 0 is a power of two: \(size >> 10) KiB")

    move(size: size)
    ports()
  }

  /// The frame buffer is wherever its BAR says, and only there.
  static func move(size: UInt32) {
    let (first, second): (UInt32, UInt32) = (0xE000_0000, 0xE800_0000)
    vga.write32(0x10, first)
    vga.enable(2)
    check(vga.read32(0x10) & 0xFFFF_FFF0 == first, "BAR 0 is at e0000000")
    store32(UInt64(first) + 0x1000, 0x1234_5678)
    check(load32(UInt64(first) + 0x1000) == 0x1234_5678, "memory is there")
    vga.write32(0x10, second)
    check(load32(UInt64(second) + 0x1000) == 0x1234_5678, "it moves to e8000000")
    check(load32(UInt64(first) + 0x1000) != 0x1234_5678, "and has left e0000000")
    vga.write16(4, vga.read16(4) & ~2)
    check(load32(UInt64(second) + 0x1000) != 0x1234_5678, "memory decoding off hides it")
    vga.enable(2)
    check(load32(UInt64(second) + 0x1000) == 0x1234_5678, "and on shows it")
  }

  static func ports() {
    ide.write32(0x20, 0xC000)
    ide.enable(1)
    outb(0xC002, 0x60)
    check(inb(0xC002) & 0x60 == 0x60, "the bus master's status is at c002")
    ide.write32(0x20, 0xD000)
    check(inb(0xD002) & 0x60 == 0x60, "it moves to d002")
    check(inb(0xC002) == 0xFF, "and has left c002")
    outb(0xD002, 0)
  }
}
