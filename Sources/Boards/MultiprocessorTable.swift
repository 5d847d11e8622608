import Devices

/// The MP configuration table (Intel MultiProcessor Specification 1.4) of a machine without chipset, for kernels that do
/// not use ACPI.
struct MultiprocessorTable: Sendable {
  /// Where the floating pointer structure is, in the range of a PC's BIOS (§4); the table follows.
  static let address: UInt64 = 0xF_0000
  private static let pointerSize = 16
  private static let headerSize = 44
  private static let revision: UInt8 = 4

  private(set) var bytes: [UInt8] = []

  init(_ machine: ReducedMachine) {
    // PCI buses have the numbers that they are configured with.
    let pciBus: UInt8 = 0
    let isaBus: UInt8 = machine.pciHole == nil ? 0 : 1
    let ioAPIC: UInt8 = 0
    var entries: [[UInt8]] = []
    for cpu in 0..<max(machine.cpus, 0) {
      let (enabled, bootstrap): (UInt8, UInt8) = (1, cpu == 0 ? 2 : 0)
      entries.append([0, UInt8(truncatingIfNeeded: cpu), 0x14, enabled | bootstrap] + [UInt8](repeating: 0, count: 16))
    }
    if machine.pciHole != nil { entries.append([1, pciBus] + "PCI   ".utf8) }
    entries.append([1, isaBus] + "ISA   ".utf8)
    entries.append([2, ioAPIC, 0x11, 1] + UInt32(truncatingIfNeeded: PCMemoryLayout.ioAPIC).littleEndianBytes)
    let activeHighEdge: UInt16 = 0x5
    for interrupt in machine.interrupts {
      let pin = UInt8(truncatingIfNeeded: interrupt)
      entries.append([3, 0] + activeHighEdge.littleEndianBytes + [isaBus, pin, ioAPIC, pin])
    }
    let activeLowLevel: UInt16 = 0xF
    for source in 0..<32 * 4 where machine.pciHole != nil {
      let input = PCIHostBridge.inputs[DSDT.link(slot: source / 4, pin: source % 4)]
      entries.append(
        [3, 0] + activeLowLevel.littleEndianBytes + [pciBus, UInt8(source), ioAPIC, UInt8(truncatingIfNeeded: input)])
    }
    // NMI is LINT1 on every processor.
    entries.append([4, 1, 0, 0, isaBus, 0, 0xFF, 1])

    let body = entries.flatMap { $0 }
    var table = [UInt8]("PCMP".utf8) + UInt16(truncatingIfNeeded: Self.headerSize + body.count).littleEndianBytes
    table += [Self.revision, 0] + "VMRUN   ".utf8 + "PV          ".utf8
    table += UInt32(0).littleEndianBytes + UInt16(0).littleEndianBytes
    table += UInt16(truncatingIfNeeded: entries.count).littleEndianBytes
    table += UInt32(truncatingIfNeeded: PCMemoryLayout.localAPIC).littleEndianBytes + UInt32(0).littleEndianBytes
    table += body
    table[7] = 0 &- table.reduce(0, &+)

    var pointer = [UInt8]("_MP_".utf8)
    pointer += UInt32(truncatingIfNeeded: Self.address + UInt64(Self.pointerSize)).littleEndianBytes
    pointer += [1, Self.revision, 0, 0, 0, 0, 0, 0]
    pointer[10] = 0 &- pointer.reduce(0, &+)
    bytes = pointer + table
  }
}
