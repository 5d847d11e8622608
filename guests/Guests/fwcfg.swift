import CPU

@main enum FWCfg: Guest {
  static let name: StaticString = "fwcfg"
  static let access = Memory.a

  static func run() {
    FirmwareConfig.select(0)
    check(FirmwareConfig.readBigEndian(bytes: 4) == 0x5145_4D55, "the signature is QEMU")
    check(FirmwareConfig.readByte() == 0, "behind its end are zeroes")
    FirmwareConfig.select(1)
    let id = FirmwareConfig.readByte()
    check(id & 3 == 3, "the interface has ports and DMA: \(id)")
    check(FirmwareConfig.processors >= 1, "\(FirmwareConfig.processors) processors")
    list()
    check(FirmwareConfig.file("etc/acpi/tables") != nil, "etc/acpi/tables is there")
    check(FirmwareConfig.file("etc/acpi/rsdp") != nil, "etc/acpi/rsdp is there")
    check(FirmwareConfig.file("etc/smbios/smbios-tables") != nil, "etc/smbios/smbios-tables is there")
    check(FirmwareConfig.file("etc/no such file") == nil, "what is not there is not found")
    FirmwareConfig.select(0x7FFF)
    check(FirmwareConfig.readByte() == 0, "an unknown key reads as zero")
    dma()
  }

  static func list() {
    FirmwareConfig.select(0x19)
    for _ in 0..<min(FirmwareConfig.readBigEndian(bytes: 4), 64) {
      let size = FirmwareConfig.readBigEndian(bytes: 4)
      let key = FirmwareConfig.readBigEndian(bytes: 2)
      _ = FirmwareConfig.readBigEndian(bytes: 2)
      Console.write("file ")
      for _ in 0..<56 {
        let byte = FirmwareConfig.readByte()
        if byte != 0 { Console.write(byte) }
      }
      say(" key \(hex: key) size \(size)")
    }
  }

  static func dma() {
    check(inl(0x514) == 0x554D_4551 && inl(0x518) == 0x4746_4320, "the DMA register reads QEMU CFG")
    // Select (bit 3) key 0 and read (bit 1) 4 bytes.
    check(transfer(0x0000_000A, length: 4, to: Memory.b) == 0, "DMA is done at once")
    check(load32(Memory.b) == 0x554D_4551, "it reads the signature")
    guard let tables = FirmwareConfig.file("etc/acpi/tables") else { return }
    check(
      transfer(UInt32(tables.key) << 16 | 0x0A, length: min(tables.size, 65536), to: Memory.b) == 0, "it reads a file")
    var same = true
    FirmwareConfig.select(tables.key)
    for offset in 0..<UInt64(64) { same = same && FirmwareConfig.readByte() == load8(Memory.b + offset) }
    check(same, "as the ports do")
    // Skip (bit 2) 8, then read 4.
    _ = transfer(UInt32(tables.key) << 16 | 0x0C, length: 8, to: 0)
    _ = transfer(0x02, length: 4, to: Memory.c)
    check(load32(Memory.c) == load32(Memory.b + 8), "it skips")
    check(transfer(0x02, length: 4, to: 0xFFFF_FFFF_FFFF_F000) & 1 != 0, "an address without memory is an error")
  }

  /// The control word that the device leaves: 0 when done, bit 0 on error.
  static func transfer(_ control: UInt32, length: UInt32, to address: UInt64) -> UInt32 {
    store32(access, control.byteSwapped)
    store32(access + 4, length.byteSwapped)
    store64(access + 8, address.byteSwapped)
    outl(0x514, 0)
    outl(0x518, UInt32(access).byteSwapped)
    _ = eventually { load32(access).byteSwapped & ~1 == 0 }
    return load32(access).byteSwapped
  }
}
