/// The definition block of the PC: its root bridge, interrupt routing, ISA devices, processors and soft-off.
enum DSDT {
  /// The AML after the table header.
  static func definition(_ machine: ACPIMachine) -> AML {
    AML([
      .scope("\\_SB", [rootBridge(machine)]),
      .scope("\\_SB", routing()),
      .scope("\\_SB.PCI0", [.name("_PRT", routingTable { (.path(links[$0]), 0) })]),
      .scope("\\_SB", (machine.hasHPET ? [hpet()] : []) + processors(machine.cpus)),
      // S5 alone: the machine has no S1-S4.
      .name("\\_S5", .package([.integer(PIIX4.softOff), .integer(PIIX4.softOff), .integer(0), .integer(0)])),
    ])
  }

  // MARK: PCI

  private static func rootBridge(_ machine: ACPIMachine) -> AML {
    .device(
      "PCI0",
      [
        .name("_HID", .eisaID("PNP0A03")),
        .name("_UID", .integer(0)),
        .name("_BBN", .integer(0)),
        // No 64-bit window: nothing decodes above 4 GiB, and Windows XP does not start with one.
        .name(
          "_CRS",
          .resourceTemplate([
            .busNumbers(0...0xFF),
            .io(0x0CF8, count: 8),
            .ioWindow(0...0x0CF7),
            .ioWindow(0x0D00...0xFFFF),
            .memoryWindow(
              UInt32(PCMemoryLayout.vgaWindow.lowerBound)..<UInt32(PCMemoryLayout.vgaWindow.upperBound)),
            .memoryWindow(machine.pciHole),
          ])),
        isaBridge(machine),
      ])
  }

  private static let links: [AML.NameString] = ["LNKA", "LNKB", "LNKC", "LNKD"]
  private static let routes: [AML.NameString] = [
    "\\_SB.PCI0.ISA.PIRA", "\\_SB.PCI0.ISA.PIRB", "\\_SB.PCI0.ISA.PIRC", "\\_SB.PCI0.ISA.PIRD",
  ]

  /// The four link devices (ACPI 6.4 §6.2.13, PNP0C0F) over the ISA bridge's route control registers.
  private static func routing() -> [AML] {
    let route = AML.arg(0)
    let isDisabled = AML.and(route, .integer(PIIX4.routeDisabled))
    let enabled: UInt64 = 0x0B
    let disabled: UInt64 = 0x09
    let status = AML.method(
      "RSTA", arguments: 1, [.if(isDisabled, [.return(.integer(disabled))]), .return(.integer(enabled))])
    // A disabled link has interrupt 0.
    let resources = AML.method(
      "RCRS", arguments: 1, serialized: true,
      [
        .name("RBUF", .resourceTemplate([.sharedInterrupts([0])])),
        .createDWordField(.path("RBUF"), byte: ResourceDescriptor.interruptNumberOffset, "RIRQ"),
        .if(.not(isDisabled), [.store(route, to: .path("RIRQ"))], else: [.store(.integer(0), to: .path("RIRQ"))]),
        .return(.path("RBUF")),
      ])
    return [status, resources] + links.indices.map { link(links[$0], uid: UInt64($0 + 1), routes[$0]) }
  }

  private static func link(_ name: AML.NameString, uid: UInt64, _ route: AML.NameString) -> AML {
    let register = AML.path(route)
    return .device(
      name,
      [
        .name("_HID", .eisaID("PNP0C0F")),
        .name("_UID", .integer(uid)),
        .name("_PRS", .resourceTemplate([.sharedInterrupts(PIIX4.pciIRQs)])),
        .method("_STA", [.return(.call("RSTA", [register]))]),
        .method("_CRS", [.return(.call("RCRS", [register]))]),
        .method("_DIS", [.or(register, .integer(PIIX4.routeDisabled), to: register)]),
        .method(
          "_SRS", arguments: 1, serialized: true,
          [
            .createDWordField(.arg(0), byte: ResourceDescriptor.interruptNumberOffset, "SIRQ"),
            .store(.path("SIRQ"), to: register),
          ]),
      ])
  }

  /// The link, 0 for LNKA, that INTA#–INTD# (`pin` 0–3) of a slot reaches: the wiring of `InterruptFabric.intx`.
  static func link(slot: Int, pin: Int) -> Int { (slot + pin + 3) & 3 }

  /// `_PRT` (ACPI 6.4 §6.2.13): what `source` says of PIRQ A–D (0–3), a link and an index, or 0 and an interrupt input.
  static func routingTable(_ source: (Int) -> (AML, UInt64)) -> AML {
    var entries: [AML] = []
    for slot in 0..<32 {
      for pin in 0..<4 {
        let allFunctions = UInt64(slot) << 16 | 0xFFFF
        let (name, index) = source(link(slot: slot, pin: pin))
        entries.append(.package([.integer(allFunctions), .integer(UInt64(pin)), name, .integer(index)]))
      }
    }
    return .package(entries)
  }

  // MARK: Devices behind the ISA bridge

  private static func isaBridge(_ machine: ACPIMachine) -> AML {
    var terms: [AML] = [
      .name("_ADR", .integer(PIIX4.isaBridgeAddress)),
      .operationRegion("PIRQ", .pciConfig, offset: PIIX4.pirqRouteControl, length: 4),
      .byteField(
        "PIRQ", [.named("PIRA", bits: 8), .named("PIRB", bits: 8), .named("PIRC", bits: 8), .named("PIRD", bits: 8)]),
      device(
        "MBRD", .eisaID("PNP0C02"),
        [
          .io(0x92, count: 1), .io(PIIX4.smiCommand, count: 2), .io(0x04D0, count: 2),
          .io(PIIX4.pmBase, count: 0x40), .io(PIIX4.smbusBase, count: 0x10),
          .io(PIIX4.gpe0Block, count: PIIX4.gpe0Length),
        ]),
    ]
    if machine.hasRTC { terms.append(device("RTC", .eisaID("PNP0B00"), [.io(0x70, count: 8), .irq(8)])) }
    if machine.hasKeyboardController {
      terms.append(device("KBD", .eisaID("PNP0303"), [.io(0x60, count: 1), .io(0x64, count: 1), .irq(1)]))
      terms.append(device("MOU", .eisaID("PNP0F13"), [.irq(12)]))
    }
    for (index, port) in machine.serialPorts.enumerated() {
      terms.append(
        device(
          "COM\(index + 1)", .eisaID("PNP0501"), uid: UInt64(index + 1), [.io(port.base, count: 8), .irq(port.irq)]))
    }
    if machine.hasFWCfg {
      terms.append(device("FWCF", .string("QEMU0002"), hidden: true, [.io(0x0510, count: 0x0C)]))
    }
    if let port = machine.pvpanicPort { terms.append(pvpanic(port)) }
    return .device("ISA", terms)
  }

  /// A device with fixed resources; a hidden one is left out of the operating system's lists of devices.
  static func device(
    _ name: AML.NameString, _ hardwareID: AML, uid: UInt64? = nil, hidden: Bool = false,
    _ resources: [ResourceDescriptor], _ terms: [AML] = []
  ) -> AML {
    var all: [AML] = [.name("_HID", hardwareID)]
    if let uid { all.append(.name("_UID", .integer(uid))) }
    if hidden { all.append(.name("_STA", .integer(0x0B))) }
    all.append(.name("_CRS", .resourceTemplate(resources)))
    return .device(name, all + terms)
  }

  /// The pvpanic device with the two methods its specification names.
  static func pvpanic(_ port: UInt16) -> AML {
    device(
      "PEVT", .string("QEMU0001"), hidden: true, [.io(port, count: 1)],
      [
        .operationRegion("PEOR", .systemIO, offset: UInt64(port), length: 1),
        .byteField("PEOR", [.named("PEPT", bits: 8)]),
        .method("RDPT", [.return(.path("PEPT"))]),
        .method("WRPT", arguments: 1, [.store(.arg(0), to: .path("PEPT"))]),
      ])
  }

  // MARK: The rest of the board

  private static func hpet() -> AML {
    device(
      "HPET", .eisaID("PNP0103"), uid: 0,
      [.readOnlyMemory32Fixed(UInt32(truncatingIfNeeded: PCMemoryLayout.hpet), size: 0x400)])
  }

  /// Processor objects, not ACPI0007 devices: systems older than ACPI 3.0 know only these.
  private static func processors(_ count: Int) -> [AML] {
    (0..<max(count, 0)).map { .processor(.init("CP", $0), id: UInt8(truncatingIfNeeded: $0)) }
  }
}
