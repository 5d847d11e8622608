import Backends
import Buses
import DeviceKit
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Boards

/// Models with the hvm board's names and options that do nothing but tell when they are made and reset.
final class StubModels: Sendable {
  private let events = Mutex<[String]>([])

  // Safety: holds constants alone.
  private final class Stub: Device, @unchecked Sendable {
    let onReset: @Sendable () -> Void
    init(id: String, onReset: @escaping @Sendable () -> Void) {
      self.onReset = onReset
      super.init(id: id)
    }
    override func reset() { onReset() }
  }

  var registry: Registry {
    let drive = [
      OptionSpec("drive", .block, "disk"), OptionSpec("bus", .choice(["ide.0", "ide.1"]), "channel"),
      OptionSpec("unit", .integer(0...1), "position"), OptionSpec("serial", .string(maximumLength: 20), "number"),
      OptionSpec("bootindex", .integer(0...255), "boot order"),
    ]
    let options: [String: [OptionSpec]] = [
      "std-vga": [
        OptionSpec("addr", .pciAddress, default: .string("02.0"), "address"),
        OptionSpec("vgamem", .size(1 << 20...256 << 20), default: .integer(16 << 20), "memory"),
      ],
      "isa-serial": [
        OptionSpec("iobase", .integer(0...0xFFFF), default: .integer(0x3F8), "port"),
        OptionSpec("irq", .integer(0...15), default: .integer(4), "IRQ"), OptionSpec("chardev", .character, "backend"),
      ],
      "debugcon": [
        OptionSpec("iobase", .integer(0...0xFFFF), default: .integer(0x402), "port"),
        OptionSpec("chardev", .character, "backend"),
      ],
      "exit": [OptionSpec("iobase", .integer(0...0xFFFF), default: .integer(0xF4), "port")],
      "pvpanic": [OptionSpec("iobase", .integer(0...0xFFFF), default: .integer(0x505), "port")],
      "ide-hd": drive, "ide-cd": drive,
      "e1000": [OptionSpec("netdev", .network, "network"), OptionSpec("mac", .macAddress, "address")],
    ]
    let names = [
      "i440fx", "piix3", "piix3-ide", "piix4-pm", "std-vga", "mc146818", "i8042", "hpet", "fw-cfg", "debugcon",
      "port92", "exit", "pvpanic", "testdev", "isa-serial", "ide-hd", "ide-cd", "e1000",
    ]
    return Registry(
      names.map { name in
        let needs =
          name != "std-vga"
          ? SandboxNeeds.none
          : SandboxNeeds(
            deviceMemory: { $0.integer("vgamem") ?? 0 },
            files: { _ in ["vgabios": .init(path: "/vgabios.bin", package: "seabios")] })
        return DeviceModel(
          name: name, summary: "stub", bus: name.hasPrefix("ide-") ? .ide : .system, options: options[name] ?? [],
          needs: needs
        ) { (id, properties, _) throws(DeviceError) in
          if name == "testdev" { throw DeviceError("port taken") }
          self.note("make \(id)")
          return Stub(id: id) { self.note("reset \(id)") }
        }
      })
  }

  private func note(_ event: String) { events.withLock { $0.append(event) } }
  var log: [String] { events.withLock { $0 } }
}

@Suite struct HVMResolveTests {
  private let registry = StubModels().registry

  private func disk(_ id: String) -> BlockSpec { BlockSpec(id: id, path: "/\(id).img") }
  private func drive(_ id: String, _ block: String, _ more: [String: PropertyValue] = [:]) -> DeviceSpec {
    DeviceSpec(model: "ide-hd", id: id, properties: ["drive": .string(block)].merging(more) { $1 })
  }
  /// Where each disk stands: `disk0 ide-hd ide.0 0`.
  private func places(_ spec: MachineSpec) -> [String] {
    spec.devices.filter { $0.model.hasPrefix("ide-") }.map {
      "\($0.string("drive") ?? "?") \($0.model) \($0.string("bus") ?? "?") \($0.integer("unit") ?? 9)"
    }
  }

  @Test func putsTheBoardFirstWithDefaults() throws {
    let resolved = try Recipe.resolve(MachineSpec(), registry: registry)
    #expect(
      resolved.devices.map(\.model) == [
        "i440fx", "piix3", "piix3-ide", "piix4-pm", "std-vga", "mc146818", "i8042", "hpet", "fw-cfg", "debugcon",
        "port92", "exit", "pvpanic",
      ])
    #expect(resolved.devices[4].properties == ["addr": .string("02.0"), "vgamem": .integer(16 << 20)])
  }

  @Test func givesEverySerialConnectionItsPort() throws {
    let spec = MachineSpec(characters: (0..<4).map { CharacterSpec(id: "serial\($0)", endpoint: .null) })
    let ports = try Recipe.resolve(spec, registry: registry).devices.filter { $0.model == "isa-serial" }
    #expect(ports.map { $0.integer("iobase") } == [0x3F8, 0x2F8, 0x3E8, 0x2E8])
    #expect(ports.map { $0.integer("irq") } == [4, 3, 4, 3])
    #expect(ports.map { $0.string("chardev") } == ["serial0", "serial1", "serial2", "serial3"])
  }

  @Test func leavesConnectionsThatADeviceNamesToIt() throws {
    let spec = MachineSpec(
      characters: [.init(id: "serial0", endpoint: .stdio), .init(id: "serial1", endpoint: .null)],
      devices: [
        DeviceSpec(
          model: "debugcon", id: "debug", properties: ["iobase": .integer(0xE9), "chardev": .string("serial1")])
      ])
    let resolved = try Recipe.resolve(spec, registry: registry)
    #expect(resolved.devices.filter { $0.model == "isa-serial" }.map(\.id) == ["com1"])
    #expect(resolved.devices.last?.id == "debug")
  }

  private func network(_ id: String, card: NetworkCard? = nil) -> NetworkSpec {
    NetworkSpec(id: id, endpoint: .user(forwards: []), card: card, mac: MACAddress(machine: id, index: 0))
  }

  @Test func givesEveryNetworkItsCardAndEveryCardItsNetworksAddress() throws {
    let mine = DeviceSpec(model: "e1000", id: "mine", properties: ["netdev": .string("net1")])
    let addressed = DeviceSpec(
      model: "e1000", id: "addressed", properties: ["netdev": .string("net2"), "mac": .string("52:54:00:00:00:07")])
    let networks = [network("net0"), network("net1"), network("net2")]
    let spec = MachineSpec(networks: networks, devices: [mine, addressed])
    let cards = try Recipe.resolve(spec, registry: registry).devices.filter { $0.model == "e1000" }
    #expect(Set(cards.map(\.id)) == ["nic-net0", "mine", "addressed"])
    func address(_ id: String) -> String? { cards.first { $0.id == id }?.string("mac") }
    #expect(cards.first { $0.id == "nic-net0" }?.string("netdev") == "net0")
    #expect(address("nic-net0") == networks[0].mac.description)
    #expect(address("mine") == networks[1].mac.description)
    #expect(address("addressed") == "52:54:00:00:00:07")
  }

  @Test func refusesNetworksThatCannotBeConnected() throws {
    let card = DeviceSpec(model: "e1000", id: "mine", properties: ["netdev": .string("net0")])
    for (spec, advice) in [
      (MachineSpec(networks: [network("net0", card: .virtio)]), "no virtio-net-pci; give another model="),
      (MachineSpec(networks: [network("net0", card: .rtl8139)], devices: [card]), "drop one of the two"),
      (MachineSpec(devices: [card]), "netdev=net0 is not there (there are none): add it with --net"),
      (MachineSpec(networks: [network("net0"), network("net0")]), "two networks are called net0"),
    ] {
      let error = #expect(throws: BoardError.self) { try Recipe.resolve(spec, registry: registry) }
      #expect(error?.description.contains(advice) == true, "\(String(describing: error))")
    }
  }

  @Test(
    arguments: [
      (["disk0"], ["disk0 ide-hd ide.0 0"]),
      (["disk0", "cdrom0"], ["disk0 ide-hd ide.0 0", "cdrom0 ide-cd ide.1 0"]),
      (["cdrom0"], ["cdrom0 ide-cd ide.1 0"]),
      (
        ["disk0", "disk1", "disk2", "cdrom0"],
        ["disk0 ide-hd ide.0 0", "disk1 ide-hd ide.0 1", "disk2 ide-hd ide.1 1", "cdrom0 ide-cd ide.1 0"]
      ),
      (
        ["disk0", "disk1", "disk2", "disk3"],
        ["disk0 ide-hd ide.0 0", "disk1 ide-hd ide.0 1", "disk2 ide-hd ide.1 0", "disk3 ide-hd ide.1 1"]
      ),
      (["cdrom0", "cdrom1", "cdrom2"], ["cdrom0 ide-cd ide.1 0", "cdrom1 ide-cd ide.1 1", "cdrom2 ide-cd ide.0 1"]),
    ] as [([String], [String])])
  func placesDrives(blocks: [String], expected: [String]) throws {
    #expect(places(try Recipe.resolve(MachineSpec(blocks: blocks.map(disk)), registry: registry)) == expected)
  }

  @Test func usersPlacesComeFirst() throws {
    let spec = MachineSpec(
      blocks: [disk("disk0"), disk("disk1"), disk("disk2")],
      devices: [
        drive("mine", "disk1", ["bus": .string("ide.0"), "unit": .integer(0)]),
        drive("half", "disk2", ["bus": .string("ide.0")]),
      ])
    #expect(
      places(try Recipe.resolve(spec, registry: registry)) == [
        "disk0 ide-hd ide.1 0", "disk1 ide-hd ide.0 0", "disk2 ide-hd ide.0 1",
      ])
  }

  @Test(
    arguments: [
      (MachineSpec(blocks: (0..<5).map { BlockSpec(id: "disk\($0)", path: "/") }), "use fewer --disk and --cdrom"),
      (MachineSpec(cpus: 65), "1 to 64"), (MachineSpec(cpus: 0), "--cpus"), (MachineSpec(memory: 1), "--memory"),
      (MachineSpec(characters: [.init(id: "serial4", endpoint: .null)]), "drop a --serial"),
      (MachineSpec(devices: [.init(model: "floppy", id: "f")]), "no device model floppy: see --device help"),
      (
        MachineSpec(devices: [.init(model: "hpet", id: "h", properties: ["x": .integer(1)])]),
        "no option x: see --device hpet,help"
      ),
      (MachineSpec(devices: [.init(model: "testdev", id: "hpet")]), "two devices are called hpet"),
      (
        MachineSpec(blocks: [.init(id: "disk0", path: "/a"), .init(id: "disk0", path: "/b")]),
        "two disks are called disk0"
      ),
      (
        MachineSpec(devices: [.init(model: "ide-hd", id: "d", properties: ["drive": .string("disk7")])]),
        "drive=disk7 is not there (there are none): add it with --disk"
      ),
      (
        MachineSpec(
          characters: [.init(id: "serial0", endpoint: .null)],
          devices: [.init(model: "debugcon", id: "d", properties: ["chardev": .string("serial1")])]),
        "chardev=serial1 is not there (there are serial0): add it with --serial"
      ),
      (
        MachineSpec(
          blocks: [.init(id: "disk0", path: "/")],
          devices: ["a", "b"].map { .init(model: "ide-hd", id: $0, properties: ["drive": .string("disk0")]) }),
        "disk0 is used by a and by b"
      ),
      (
        MachineSpec(
          blocks: [.init(id: "disk0", path: "/"), .init(id: "disk1", path: "/")],
          devices: ["0", "1"].map {
            .init(
              model: "ide-hd", id: "d" + $0,
              properties: ["drive": .string("disk" + $0), "bus": .string("ide.1"), "unit": .integer(1)])
          }), "d0 and d1 are both at ide.1 unit 1: change bus= or unit="
      ),
      (
        MachineSpec(
          blocks: [.init(id: "disk0", path: "/"), .init(id: "disk1", path: "/")],
          devices: ["0", "1"].map {
            .init(
              model: "ide-hd", id: "d" + $0, properties: ["drive": .string("disk" + $0), "bootindex": .integer(1)])
          }), "both have bootindex=1"
      ),
      (
        MachineSpec(
          blocks: [.init(id: "disk0", path: "/")],
          devices: [.init(model: "ide-hd", id: "d", properties: ["drive": .string("disk0"), "bus": .string("ide.2")])]),
        "bus is ide.0 or ide.1"
      ),
    ] as [(MachineSpec, String)])
  func errorsNameTheFix(spec: MachineSpec, expected: String) throws {
    let error = try #require(throws: BoardError.self) { try Recipe.resolve(spec, registry: registry) }
    #expect(error.description.contains(expected), "\(error)")
  }
}

@Suite struct HVMAssembleTests {
  private let stubs = StubModels()

  /// Resolves and assembles a machine on a fake board, and returns what its firmware is told.
  private func firmware(_ spec: MachineSpec) throws -> FirmwareFiles.Contents {
    let resolved = try Recipe.resolve(spec, registry: stubs.registry)
    let fake = FakeBoard()
    _ = try Recipe.assemble(resolved, registry: stubs.registry, on: fake.board)
    return fake.board.firmware.snapshot
  }

  @Test func makesDevicesInOrderThenResetsThem() throws {
    let resolved = try Recipe.resolve(MachineSpec(blocks: [.init(id: "disk0", path: "/")]), registry: stubs.registry)
    let devices = try Recipe.assemble(resolved, registry: stubs.registry, on: FakeBoard().board)
    let ids = resolved.devices.map(\.id)
    #expect(devices.map(\.id) == ids)
    #expect(stubs.log == ids.map { "make \($0)" } + ids.map { "reset \($0)" })
  }

  @Test func namesTheDeviceThatCannotBeMade() throws {
    let spec = try Recipe.resolve(
      MachineSpec(devices: [.init(model: "testdev", id: "t1")]), registry: stubs.registry)
    #expect(throws: BoardError("device t1 (testdev): port taken")) {
      try Recipe.assemble(spec, registry: stubs.registry, on: FakeBoard().board)
    }
  }

  @Test func tellsFirmwareTheMachine() throws {
    let contents = try firmware(MachineSpec(cpus: 3, memory: 5 << 30))
    for name in [
      "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader", "etc/smbios/smbios-tables", "etc/smbios/smbios-anchor",
      "etc/e820", "etc/boot-fail-wait",
    ] { #expect(contents.files[name]?.isEmpty == false, "\(name)") }
    #expect(contents.files["etc/e820"]?.count == 3 * 20)
    #expect(contents.files["etc/e820"]?.suffix(20) == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 1, 0, 0, 0])
    #expect(contents.items[5] == [3, 0])
    #expect(contents.items[0x0F] == [3, 0])
    #expect(contents.items[3] == [0, 0, 0, 0x40, 1, 0, 0, 0])
    #expect(contents.files["bootorder"] == nil)
    let tables = try FirmwareLoader(contents.files).tables()
    #expect(tables["HPET"] != nil)
  }

  @Test(arguments: [
    (UInt64(512) << 20, UInt64(0xFFFF), UInt64(0x1F00), UInt64(0)), (3 << 30, 0xFFFF, 0xBF00, 0),
    (5 << 30, 0xFFFF, 0xBF00, 0x8000), (8 << 20, 7 << 10, 0, 0),
  ])
  func cmosHoldsMemorySizes(memory: UInt64, extended: UInt64, above16M: UInt64, above4G: UInt64) throws {
    let cmos = try firmware(MachineSpec(cpus: 8, memory: memory)).cmos
    func number(_ register: UInt8, _ bytes: Int) -> UInt64 {
      (0..<bytes).reduce(0) { $0 | UInt64(cmos[register + UInt8($1)] ?? 0) << ($1 * 8) }
    }
    #expect(number(0x15, 2) == 640)
    #expect(number(0x17, 2) == extended)
    #expect(number(0x30, 2) == extended)
    #expect(number(0x34, 2) == above16M)
    #expect(number(0x5B, 3) == above4G)
    #expect(cmos[0x5F] == 7)
    #expect(cmos[0x14] == 0x06)
  }

  @Test(
    arguments: [
      ([BootMedium.disk, .cdrom], ["drive@0/disk@0", "drive@0/disk@1", "drive@1/disk@0"], UInt8(0x32)),
      ([.cdrom, .disk], ["drive@1/disk@0", "drive@0/disk@0", "drive@0/disk@1"], 0x23),
      ([.cdrom], ["drive@1/disk@0"], 0x03), ([], [], 0),
    ] as [([BootMedium], [String], UInt8)])
  func bootOrderListsDrivesByMedium(order: [BootMedium], expected: [String], cmos: UInt8) throws {
    let blocks = ["disk0", "disk1", "cdrom0"].map { BlockSpec(id: $0, path: "/") }
    let contents = try firmware(MachineSpec(bootOrder: order, blocks: blocks))
    let text = expected.map { "/pci@i0cf8/ide@1,1/" + $0 }.joined(separator: "\n")
    #expect(contents.files["bootorder"] == (expected.isEmpty ? nil : Array(text.utf8) + [0]))
    #expect(contents.cmos[0x3D] == cmos)
  }

  @Test func aKernelIsTheFirstBootChoice() throws {
    var spec = MachineSpec(blocks: [BlockSpec(id: "disk0", path: "/")])
    spec.boot = BootSpec(kernel: .path("k"))
    let order = try #require(try firmware(spec).files["bootorder"])
    #expect(
      String(decoding: order, as: UTF8.self) == "/rom@genroms/vmrun-kernel.bin\n/pci@i0cf8/ide@1,1/drive@0/disk@0\0")
  }

  @Test func bootIndexGoesBeforeTheOrder() throws {
    let spec = MachineSpec(
      blocks: ["disk0", "disk1", "disk2"].map { BlockSpec(id: $0, path: "/") },
      devices: [("disk1", UInt64(5)), ("disk2", 2)].map {
        .init(model: "ide-hd", id: "my-" + $0.0, properties: ["drive": .string($0.0), "bootindex": .integer($0.1)])
      })
    let resolved = try Recipe.resolve(spec, registry: stubs.registry)
    // disk0 has no device of the user's and takes the first place.
    #expect(
      try HVM.bootPaths(resolved, stubs.registry)
        == ["drive@1/disk@0", "drive@0/disk@1", "drive@0/disk@0"]
        .map { "/pci@i0cf8/ide@1,1/" + $0 })
  }

  @Test(
    arguments: [
      (CharacterEndpoint.stdio, [0xF8, 0x03]), (.pty, [0xF8, 0x03]), (.file("/x"), nil), (.unix("/x"), nil),
      (.null, nil),
    ] as [(CharacterEndpoint, [UInt8]?)])
  func firmwareSpeaksOnTheSerialPortAPersonReads(endpoint: CharacterEndpoint, port: [UInt8]?) throws {
    let contents = try firmware(MachineSpec(characters: [.init(id: "serial0", endpoint: endpoint)]))
    #expect(contents.files["etc/sercon-port"] == port)
  }

  @Test func firmwareStaysOffASerialPortThatIsNotThere() throws {
    let debug = DeviceSpec(
      model: "debugcon", id: "d", properties: ["iobase": .integer(0xE9), "chardev": .string("serial0")])
    let contents = try firmware(
      MachineSpec(characters: [.init(id: "serial0", endpoint: .stdio)], devices: [debug]))
    #expect(contents.files["etc/sercon-port"] == nil)
  }

  @Test func acpiShowsTheDevicesOfTheMachine() throws {
    let spec = MachineSpec(cpus: 2, memory: 5 << 30, characters: [.init(id: "serial1", endpoint: .null)])
    let resolved = try Recipe.resolve(spec, registry: stubs.registry)
    #expect(
      ACPIMachine(resolved, layout: try Recipe.layout(resolved))
        == ACPIMachine(
          cpus: 2, pciHole: 0xC000_0000..<0xFEC0_0000, serialPorts: [.init(base: 0x2F8, irq: 3)], pvpanicPort: 0x505))
    let empty = ACPIMachine(MachineSpec(), layout: try PCMemoryLayout(memory: 1 << 30))
    #expect(
      !empty.hasHPET && !empty.hasRTC && !empty.hasKeyboardController && !empty.hasFWCfg && empty.pvpanicPort == nil)
  }

  @Test func sumsUpWhatTheHostMustProvide() throws {
    let second = DeviceSpec(
      model: "std-vga", id: "second", properties: ["addr": .string("05.0"), "vgamem": .integer(1 << 20 + 1)])
    let resolved = try Recipe.resolve(MachineSpec(firmware: "/bios.bin", devices: [second]), registry: stubs.registry)
    #expect(try Recipe.requiredDeviceMemory(resolved, registry: stubs.registry) == (17 << 20) + 0x1000)
    #expect(
      try Recipe.requiredFiles(resolved, registry: stubs.registry) == [
        "firmware": .init(path: "/bios.bin", package: "seabios"),
        "vgabios": .init(path: "/vgabios.bin", package: "seabios"),
      ])
  }
}
