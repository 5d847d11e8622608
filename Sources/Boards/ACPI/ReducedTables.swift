import Devices

/// What the tables of a machine without chipset say of it.
struct ReducedMachine: Sendable, Equatable {
  /// A virtio-mmio device.
  struct Slot: Sendable, Equatable {
    var number: Int
    var address: UInt32
    var size: UInt32
    /// Input of the I/O APIC, edge-triggered.
    var interrupt: Int
  }

  var cpus: Int
  /// Processors that are listed as not there.
  var absentCPUs = 0
  var slots: [Slot] = []
  var serialPorts: [ACPIMachine.SerialPort] = []
  /// The port of the pvpanic device, where there is one.
  var pvpanicPort: UInt16?
  /// 32-bit addresses for PCI devices, where there is a PCI bus.
  var pciHole: Range<UInt32>?

  /// The inputs that devices use, ascending.
  var interrupts: [Int] { Set(slots.map(\.interrupt) + serialPorts.map(\.irq)).sorted() }
}

/// The ACPI tables of a machine without ACPI hardware (ACPI 6.4 §5.2, §4.1 hardware-reduced ACPI), as they stand in
/// memory: no firmware places them.
struct ReducedACPITables: Sendable {
  /// Where the RSDP is; the other tables follow. Kernels that are not told find it in the range of a PC's BIOS
  /// (§5.2.5.1).
  static let address: UInt64 = 0xE_0000

  private static let oemID = "VMRUN "
  private static let oemTableID = "VMRUNPV "
  private static let creatorID = "VMRN"
  private static let rsdpSize = 36
  private static let headerSize = 36

  private(set) var bytes = [UInt8](repeating: 0, count: rsdpSize)

  init(_ machine: ReducedMachine) {
    let dsdt = append("DSDT", revision: 2, Self.definition(machine).bytes)
    let fadt = append("FACP", revision: 6, Self.fadt(dsdt: dsdt))
    let madt = append("APIC", revision: 5, Self.madt(machine))
    let xsdt = append("XSDT", revision: 1, fadt.littleEndianBytes + madt.littleEndianBytes)
    var rsdp = [UInt8]("RSD PTR ".utf8) + [0] + Self.oemID.utf8 + [2] + UInt32(0).littleEndianBytes
    rsdp += UInt32(Self.rsdpSize).littleEndianBytes + xsdt.littleEndianBytes + [0, 0, 0, 0]
    // The first checksum covers what revision 0 had (§5.2.5.3).
    rsdp[8] = 0 &- rsdp[..<20].reduce(0, &+)
    rsdp[32] = 0 &- rsdp.reduce(0, &+)
    bytes.replaceSubrange(0..<Self.rsdpSize, with: rsdp)
  }

  /// Adds a table and returns its address.
  private mutating func append(_ signature: String, revision: UInt8, _ body: [UInt8]) -> UInt64 {
    bytes += [UInt8](repeating: 0, count: -bytes.count & 15)
    let address = Self.address + UInt64(bytes.count)
    var table = Array(signature.utf8) + UInt32(Self.headerSize + body.count).littleEndianBytes + [revision, 0]
    table += (Self.oemID + Self.oemTableID).utf8
    table += UInt32(1).littleEndianBytes + Self.creatorID.utf8 + UInt32(1).littleEndianBytes + body
    table[9] = 0 &- table.reduce(0, &+)
    bytes += table
    return address
  }

  // MARK: Table bodies

  /// Offsets in the FADT of revision 6 (§5.2.9).
  private enum FADT {
    static let dsdt = 40
    static let c2Latency = 96
    static let c3Latency = 98
    static let bootArchitecture = 109
    static let flags = 112
    static let resetRegister = 116
    static let resetValue = 128
    static let extendedDSDT = 140
    static let sleepControl = 244
    static let sleepStatus = 256
    static let end = 276
  }

  /// Flags of the FADT (table 5.10) that hold here.
  private struct Features: OptionSet {
    let rawValue: UInt32
    static let wbinvd = Features(rawValue: 1 << 0)
    static let c1OnAllProcessors = Features(rawValue: 1 << 2)
    /// There are no fixed-hardware power and sleep buttons, and no RTC that wakes.
    static let noPowerButton = Features(rawValue: 1 << 4)
    static let noSleepButton = Features(rawValue: 1 << 5)
    static let noFixedRTC = Features(rawValue: 1 << 6)
    static let resetRegister = Features(rawValue: 1 << 10)
    static let headless = Features(rawValue: 1 << 12)
    static let hardwareReduced = Features(rawValue: 1 << 20)
  }

  private static func fadt(dsdt: UInt64) -> [UInt8] {
    var table = [UInt8](repeating: 0, count: FADT.end)
    func put(_ bytes: [UInt8], at offset: Int) { table.replaceSubrange(offset..<offset + bytes.count, with: bytes) }
    put(UInt32(truncatingIfNeeded: dsdt).littleEndianBytes, at: FADT.dsdt)
    put(dsdt.littleEndianBytes, at: FADT.extendedDSDT)
    // More than 100 and 1000 µs: neither state exists.
    put(UInt16(0x0FFF).littleEndianBytes, at: FADT.c2Latency)
    put(UInt16(0x0FFF).littleEndianBytes, at: FADT.c3Latency)
    let (noVGA, noRTC): (UInt16, UInt16) = (1 << 2, 1 << 5)
    put((noVGA | noRTC).littleEndianBytes, at: FADT.bootArchitecture)
    let features: Features = [
      .wbinvd, .c1OnAllProcessors, .noPowerButton, .noSleepButton, .noFixedRTC, .resetRegister, .headless,
      .hardwareReduced,
    ]
    put(features.rawValue.littleEndianBytes, at: FADT.flags)
    put(port(ReducedPowerDevice.resetPort), at: FADT.resetRegister)
    put([ReducedPowerDevice.resetValue], at: FADT.resetValue)
    put(port(ReducedPowerDevice.sleepControl), at: FADT.sleepControl)
    put(port(ReducedPowerDevice.sleepStatus), at: FADT.sleepStatus)
    return Array(table.dropFirst(headerSize))
  }

  /// A generic address structure (§5.2.3.2) of a register of 8 bits.
  private static func port(_ address: UInt16) -> [UInt8] {
    let (systemIO, byteAccess): (UInt8, UInt8) = (1, 1)
    return [systemIO, 8, 0, byteAccess] + UInt64(address).littleEndianBytes
  }

  /// MADT after its header (§5.2.12): no 8259 pair. APIC IDs below 255 are in structures of local APICs, also where
  /// those are x2APICs (§5.2.12.12).
  private static func madt(_ machine: ReducedMachine) -> [UInt8] {
    var body = UInt32(truncatingIfNeeded: PCMemoryLayout.localAPIC).littleEndianBytes + UInt32(0).littleEndianBytes
    let onlineCapable: UInt32 = 2
    body += ACPITables.localAPICs(cpus: machine.cpus, absent: machine.absentCPUs, absentFlags: onlineCapable)
    body +=
      [1, 12, 0, 0] + UInt32(truncatingIfNeeded: PCMemoryLayout.ioAPIC).littleEndianBytes + UInt32(0).littleEndianBytes
    // NMI is LINT1 on every processor.
    return body + [4, 6, 0xFF, 0, 0, 1]
  }

  // MARK: Definition block

  static func definition(_ machine: ReducedMachine) -> AML {
    var devices = (0..<max(machine.cpus, 0)).map(processor)
    devices += machine.serialPorts.enumerated().map { index, port in serial(index, port) }
    devices += machine.slots.map(virtio)
    if let port = machine.pvpanicPort { devices.append(DSDT.pvpanic(port)) }
    if let hole = machine.pciHole { devices.append(rootBridge(hole)) }
    let softOff = UInt64(ReducedPowerDevice.softOff)
    return AML([
      .scope("\\_SB", devices),
      .name("\\_S5", .package([.integer(softOff), .integer(softOff), .integer(0), .integer(0)])),
    ])
  }

  /// A processor device (§8.4), which the MADT's processor UID refers to.
  private static func processor(_ index: Int) -> AML {
    .device(.init("CP", index), [.name("_HID", .string("ACPI0007")), .name("_UID", .integer(UInt64(index)))])
  }

  private static func serial(_ index: Int, _ port: ACPIMachine.SerialPort) -> AML {
    DSDT.device(
      .init("C", index), .eisaID("PNP0501"), uid: UInt64(index + 1),
      [.io(port.base, count: 8), .edgeInterrupt(UInt32(truncatingIfNeeded: port.irq))])
  }

  /// The PCI bus, which configuration mechanism 1 reaches. Its ports leave out those of ISA devices.
  private static func rootBridge(_ hole: Range<UInt32>) -> AML {
    .device(
      "PCI0",
      [
        .name("_HID", .eisaID("PNP0A03")),
        .name("_UID", .integer(0)),
        .name("_BBN", .integer(0)),
        .name("_CCA", .integer(1)),
        .name(
          "_CRS",
          .resourceTemplate([
            .busNumbers(0...0), .io(0x0CF8, count: 8), .ioWindow(0x1000...0xFFFF), .memoryWindow(hole),
          ])),
        .name("_PRT", DSDT.routingTable { pirq in (.integer(0), UInt64(PCIHostBridge.inputs[pirq])) }),
      ])
  }

  /// The ID that systems know a virtio-mmio device by.
  private static func virtio(_ slot: ReducedMachine.Slot) -> AML {
    DSDT.device(
      .init("VR", slot.number), .string("LNRO0005"), uid: UInt64(slot.number),
      [
        .memory32Fixed(slot.address, size: slot.size),
        .edgeInterrupt(UInt32(truncatingIfNeeded: slot.interrupt)),
      ],
      [.name("_CCA", .integer(1))])
  }
}
