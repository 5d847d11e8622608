import CPU

/// A function on bus 0, by configuration mechanism 1.
struct PCIFunction {
  var device: UInt8
  var function: UInt8 = 0

  private func select(_ offset: UInt8) {
    outl(0xCF8, 0x8000_0000 | UInt32(device) << 11 | UInt32(function) << 8 | UInt32(offset & 0xFC))
  }

  func read32(_ offset: UInt8) -> UInt32 {
    select(offset)
    return inl(0xCFC)
  }

  func read16(_ offset: UInt8) -> UInt16 {
    select(offset)
    return inw(0xCFC + UInt16(offset & 2))
  }

  func read8(_ offset: UInt8) -> UInt8 {
    select(offset)
    return inb(0xCFC + UInt16(offset & 3))
  }

  func write32(_ offset: UInt8, _ value: UInt32) {
    select(offset)
    outl(0xCFC, value)
  }

  func write16(_ offset: UInt8, _ value: UInt16) {
    select(offset)
    outw(0xCFC + UInt16(offset & 2), value)
  }

  func write8(_ offset: UInt8, _ value: UInt8) {
    select(offset)
    outb(0xCFC + UInt16(offset & 3), value)
  }

  /// Device ID in the upper half, vendor ID in the lower; all ones where there is none.
  var id: UInt32 { read32(0) }

  /// The command register: bit 0 I/O, 1 memory, 2 bus master.
  func enable(_ bits: UInt16) { write16(4, read16(4) | bits) }

  /// The size that the BAR decodes, 0 when there is none; what it held is put back.
  func barSize(_ index: UInt8) -> UInt32 {
    let offset = 0x10 + 4 * index
    let old = read32(offset)
    write32(offset, 0xFFFF_FFFF)
    let mask = read32(offset)
    write32(offset, old)
    if mask == 0 { return 0 }
    return mask & 1 != 0 ? ~(mask & 0xFFFF_FFFC | 0xFFFF_0000) &+ 1 : ~(mask & 0xFFFF_FFF0) &+ 1
  }
}
