/// The ACPI tables of a machine as firmware gets them: three fw_cfg files (ACPI 6.4 §5.2).
///
/// ACPI 1.0 addresses throughout (RSDP revision 0 and an RSDT), as QEMU's `pc` has: every operating system that runs
/// on an i440FX finds them, and every table lies below 4 GiB.
struct ACPITables: Sendable {
  enum File {
    static let tables = "etc/acpi/tables"
    static let rsdp = "etc/acpi/rsdp"
    static let loader = "etc/table-loader"
  }

  /// Offsets within tables that the loader fills in.
  private enum Offset {
    /// Of the header that all tables but the FACS share (§5.2.6).
    static let length = 4
    static let checksum = 9
    static let headerEnd = 36
    /// FADT (§5.2.9).
    static let firmwareControl = 36
    static let dsdt = 40
    static let xDSDT = 140
    /// RSDP (§5.2.5.3).
    static let rsdpChecksum = 8
    static let rsdtAddress = 16
  }

  private static let oemID = "VMRUN "
  private static let oemTableID = "VMRUNPC "
  private static let creatorID = "VMRN"
  private static let rsdpSize = 20

  private(set) var tables: [UInt8] = []
  private(set) var rsdp: [UInt8] = []
  private(set) var loader = TableLoader()

  init(_ machine: ACPIMachine) {
    loader.allocate(File.rsdp, alignment: 16, zone: .fSegment)
    loader.allocate(File.tables, alignment: 64, zone: .high)

    // First, because it must be aligned to 64 bytes; it has no header and no checksum.
    let facs = tables.count
    tables += Self.facs()
    let dsdt = append("DSDT", revision: 1, DSDT.definition(machine).bytes)
    let fadt = append("FACP", revision: 3, Self.fadt(machine))
    point(at: fadt + Offset.firmwareControl, size: 4, to: facs)
    point(at: fadt + Offset.dsdt, size: 4, to: dsdt)
    point(at: fadt + Offset.xDSDT, size: 8, to: dsdt)
    var listed = [fadt, append("APIC", revision: 1, Self.madt(machine))]
    if machine.hasHPET { listed.append(append("HPET", revision: 1, Self.hpet())) }
    listed.append(append("WAET", revision: 1, Self.waet()))
    let rsdt = append("RSDT", revision: 1, [UInt8](repeating: 0, count: listed.count * 4))
    for (index, table) in listed.enumerated() { point(at: rsdt + Offset.headerEnd + index * 4, size: 4, to: table) }
    // Sums come last: a pointer changes them.
    for table in [dsdt, rsdt] + listed {
      loader.addChecksum(in: File.tables, at: table + Offset.checksum, over: table..<table + length(of: table))
    }

    rsdp = [UInt8]("RSD PTR ".utf8) + [0] + Self.oemID.utf8 + [0] + UInt32(rsdt).littleEndianBytes
    loader.addPointer(in: File.rsdp, at: Offset.rsdtAddress, size: 4, to: File.tables)
    loader.addChecksum(in: File.rsdp, at: Offset.rsdpChecksum, over: 0..<Self.rsdpSize)
  }

  /// The files by their fw_cfg names.
  var files: [String: [UInt8]] { [File.tables: tables, File.rsdp: rsdp, File.loader: loader.bytes] }

  // MARK: Assembly

  /// Adds a table and returns its offset.
  private mutating func append(_ signature: String, revision: UInt8, _ body: [UInt8]) -> Int {
    tables += [UInt8](repeating: 0, count: -tables.count & 15)
    let start = tables.count
    tables += signature.utf8
    tables += UInt32(Offset.headerEnd + body.count).littleEndianBytes
    tables += [revision, 0]
    tables += (Self.oemID + Self.oemTableID).utf8
    tables += UInt32(1).littleEndianBytes + Self.creatorID.utf8 + UInt32(1).littleEndianBytes
    tables += body
    return start
  }

  private func length(of table: Int) -> Int {
    (0..<4).reduce(0) { $0 | Int(tables[table + Offset.length + $1]) << ($1 * 8) }
  }

  /// Puts a table's offset into a pointer, which the loader turns into an address.
  private mutating func point(at position: Int, size: UInt8, to table: Int) {
    for index in 0..<Int(size) { tables[position + index] = UInt8(truncatingIfNeeded: table >> (index * 8)) }
    loader.addPointer(in: File.tables, at: position, size: size, to: File.tables)
  }

  // MARK: Table bodies

  /// §5.2.10.
  private static func facs() -> [UInt8] {
    let size: UInt32 = 64
    let head = "FACS".utf8 + size.littleEndianBytes
    return head + [UInt8](repeating: 0, count: Int(size) - head.count)
  }

  /// A generic address structure (§5.2.3.2) of an I/O register block.
  private static func port(_ address: UInt16, bits: UInt8) -> [UInt8] {
    let systemIO: UInt8 = 1
    return [systemIO, bits, 0, 0] + UInt64(address).littleEndianBytes
  }

  /// The flags of the FADT (§5.2.9, table 5.10) that hold here.
  private struct FixedFeatures: OptionSet {
    let rawValue: UInt32
    static let wbinvd = FixedFeatures(rawValue: 1 << 0)
    static let c1OnAllProcessors = FixedFeatures(rawValue: 1 << 2)
    /// There is no fixed-hardware sleep button.
    static let noSleepButton = FixedFeatures(rawValue: 1 << 5)
    static let resetRegister = FixedFeatures(rawValue: 1 << 10)
    /// The PM timer or HPET keeps better time than a processor's counter.
    static let usePlatformClock = FixedFeatures(rawValue: 1 << 15)
  }

  /// FADT of revision 3 after its header (§5.2.9).
  private static func fadt(_ machine: ACPIMachine) -> [UInt8] {
    let desktop: UInt8 = 1
    let noC2: UInt16 = 0x0FFF
    let noC3: UInt16 = 0x0FFF
    let century: UInt8 = machine.hasRTC ? 0x32 : 0
    let legacyDevices: UInt16 = 1 << 0
    let keyboardController: UInt16 = machine.hasKeyboardController ? 1 << 1 : 0
    let flags: FixedFeatures = [.wbinvd, .c1OnAllProcessors, .noSleepButton, .resetRegister, .usePlatformClock]
    let zero32 = [UInt8](repeating: 0, count: 4)
    let noBlock = [UInt8](repeating: 0, count: 12)

    var body = zero32 + zero32  // FIRMWARE_CTRL and DSDT
    body += [0, desktop]
    body += PIIX4.sci.littleEndianBytes + UInt32(PIIX4.smiCommand).littleEndianBytes
    body += [PIIX4.acpiEnable, PIIX4.acpiDisable, 0, 0]  // neither S4BIOS_REQ nor PSTATE_CNT
    body += UInt32(PIIX4.pm1EventBlock).littleEndianBytes + zero32
    body += UInt32(PIIX4.pm1ControlBlock).littleEndianBytes + zero32
    body += zero32 + UInt32(PIIX4.pmTimerBlock).littleEndianBytes
    body += UInt32(PIIX4.gpe0Block).littleEndianBytes + zero32
    // PM1_EVT_LEN, PM1_CNT_LEN, PM2_CNT_LEN, PM_TMR_LEN, GPE0_BLK_LEN, GPE1_BLK_LEN, GPE1_BASE, CST_CNT
    body += [4, 2, 0, 4, PIIX4.gpe0Length, 0, 0, 0]
    body += noC2.littleEndianBytes + noC3.littleEndianBytes
    body += zero32 + [0, 0]  // FLUSH_SIZE, FLUSH_STRIDE, DUTY_OFFSET, DUTY_WIDTH
    body += [0, 0, century]  // no day nor month alarm
    body += (legacyDevices | keyboardController).littleEndianBytes + [0]
    body += flags.rawValue.littleEndianBytes
    body += port(PIIX4.resetControl, bits: 8) + [PIIX4.hardReset, 0, 0, 0]
    body += UInt64(0).littleEndianBytes + UInt64(0).littleEndianBytes  // X_FIRMWARE_CTRL unused, X_DSDT
    body += port(PIIX4.pm1EventBlock, bits: 32) + noBlock
    body += port(PIIX4.pm1ControlBlock, bits: 16) + noBlock
    body += noBlock + port(PIIX4.pmTimerBlock, bits: 32)
    body += port(PIIX4.gpe0Block, bits: PIIX4.gpe0Length * 8) + noBlock
    return body
  }

  /// MADT after its header (§5.2.12).
  private static func madt(_ machine: ACPIMachine) -> [UInt8] {
    let hasDual8259: UInt32 = 1
    var body = UInt32(truncatingIfNeeded: PCMemoryLayout.localAPIC).littleEndianBytes + hasDual8259.littleEndianBytes
    let notEnabled: UInt32 = 0
    body += localAPICs(cpus: machine.cpus, absent: machine.absentCPUs, absentFlags: notEnabled)
    body +=
      [1, 12, 0, 0] + UInt32(truncatingIfNeeded: PCMemoryLayout.ioAPIC).littleEndianBytes + UInt32(0).littleEndianBytes
    // The 8254 reaches input 2; the SCI and PCI interrupts are level-triggered and active high.
    let busConforming: UInt16 = 0
    let levelActiveHigh: UInt16 = 0x000D
    body += override(irq: 0, to: 2, flags: busConforming)
    for irq in ([UInt32(PIIX4.sci)] + PIIX4.pciIRQs).sorted() {
      body += override(irq: UInt8(truncatingIfNeeded: irq), to: irq, flags: levelActiveHigh)
    }
    // NMI is LINT1 on every processor.
    return body + [4, 6, 0xFF] + busConforming.littleEndianBytes + [1]
  }

  /// A structure for each processor's local APIC (§5.2.12.2), those of absent ones last.
  static func localAPICs(cpus: Int, absent: Int, absentFlags: UInt32) -> [UInt8] {
    let enabled: UInt32 = 1
    return (0..<max(cpus + absent, 0)).flatMap { cpu in
      let id = UInt8(truncatingIfNeeded: cpu)
      return [0, 8, id, id] + (cpu < cpus ? enabled : absentFlags).littleEndianBytes
    }
  }

  private static func override(irq: UInt8, to input: UInt32, flags: UInt16) -> [UInt8] {
    let isaBus: UInt8 = 0
    return [2, 10, isaBus, irq] + input.littleEndianBytes + flags.littleEndianBytes
  }

  /// HPET after its header (IA-PC HPET 1.0a §3.2.4).
  private static func hpet() -> [UInt8] {
    // As in the low half of the capabilities register: Intel, legacy replacement, 64 bits, three comparators.
    let blockID: UInt32 = 0x8086_A201
    let systemMemory: UInt8 = 0
    let minimumTick: UInt16 = 0
    return blockID.littleEndianBytes + [systemMemory, 0, 0, 0] + PCMemoryLayout.hpet.littleEndianBytes
      + [0] + minimumTick.littleEndianBytes + [0]
  }

  /// WAET after its header (Windows ACPI Emulated Devices Table): the PM timer need be read only once.
  private static func waet() -> [UInt8] { UInt32(1 << 1).littleEndianBytes }
}
