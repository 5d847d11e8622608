import Buses
import DeviceKit
import Devices
import MachineModel
import TestKit
import Testing

@testable import Boards

@Suite struct PVResolveTests {
  private func resolve(_ change: (inout MachineSpec) -> Void = { _ in }) throws -> MachineSpec {
    var spec = MachineSpec(mode: .pv, memory: 64 << 20)
    change(&spec)
    return try Recipe.resolve(spec, registry: catalog)
  }

  private func disk(_ id: String, _ interface: BlockInterface? = nil) -> BlockSpec {
    BlockSpec(id: id, path: "/\(id).img", interface: interface)
  }

  @Test func theBoardHasNothingOfAPC() throws {
    #expect(try resolve().devices.map(\.model) == ["acpi-power", "exit", "pvpanic", "virtio-rng-device"])
    #expect(try Recipe.requiredFiles(try resolve(), registry: catalog).isEmpty)
  }

  @Test func disksTakeTheFirstSlotsAndEveryDeviceOneOfItsOwn() throws {
    let spec = try resolve {
      $0.blocks = [disk("disk0"), disk("disk1", .virtio), disk("cdrom0")]
      $0.characters = [CharacterSpec(id: "serial0", endpoint: .null)]
      $0.networks = [NetworkSpec(id: "net0", endpoint: .user(forwards: []), mac: MACAddress(machine: "a", index: 0))]
      $0.devices = [DeviceSpec(model: "virtio-balloon-device", id: "mine", properties: ["slot": .integer(1)])]
    }
    let slots = spec.devices.compactMap { device in device.integer("slot").map { "\(device.id) \($0)" } }
    #expect(
      slots == [
        "virtio-rng-device 4", "virtio-disk0 0", "virtio-disk1 2", "virtio-cdrom0 3", "mine 1", "nic-net0 5",
      ])
    #expect(spec.devices.contains { $0.model == "isa-serial" })
  }

  @Test(arguments: [
    ("ide-hd", "device x: mode pv has no IDE channel for ide-hd"),
    ("i8042", "device x: mode pv has no ISA bus for i8042"),
    ("hpet", "device x: mode pv has no system board for hpet"),
    ("pci-host", "device x: mode pv has no system board for pci-host"),
  ])
  func devicesOfAPCAreRefused(model: String, message: String) {
    let error = #expect(throws: BoardError.self) { try resolve { $0.devices = [DeviceSpec(model: model, id: "x")] } }
    #expect(error?.description == message)
  }

  @Test func aPCIDeviceBringsItsBusAndTheBusHasTheInterruptsOfSomeSlots() throws {
    let spec = try resolve {
      $0.networks = [
        NetworkSpec(id: "net0", endpoint: .user(forwards: []), card: .e1000, mac: MACAddress(machine: "a", index: 0))
      ]
      $0.devices = [DeviceSpec(model: "virtio-balloon-pci", id: "x")]
    }
    #expect(spec.devices.first?.model == "pci-host")
    #expect(spec.devices.compactMap { $0.string("addr") } == ["01.0", "02.0"])
    #expect(PV.description(spec).pciHole == 64 << 20..<0xFEB0_0000)
    #expect(throws: Never.self) {
      try resolve {
        $0.devices = [DeviceSpec(model: "e1000", id: "x")]
        $0.blocks = (0..<13).map { disk("disk\($0)") }
      }
    }
    #expect(throws: BoardError("no virtio-mmio slot is left for virtio-rng-device: there are 14; use fewer devices")) {
      try resolve {
        $0.devices = [DeviceSpec(model: "e1000", id: "x")]
        $0.blocks = (0..<14).map { disk("disk\($0)") }
      }
    }
    #expect(
      throws: BoardError("device y: the PCI bus has the interrupt of virtio-mmio slot 14; give another slot=")
    ) {
      try resolve {
        $0.devices = [
          DeviceSpec(model: "e1000", id: "x"),
          DeviceSpec(model: "virtio-balloon-device", id: "y", properties: ["slot": .integer(14)]),
        ]
      }
    }
    #expect(PV.description(try resolve()).pciHole == nil)
  }

  @Test func disksOfAPCAreRefused() {
    #expect(throws: BoardError("disk0: mode pv has no ide disks; leave if= out")) {
      try resolve { $0.blocks = [disk("disk0", .ide)] }
    }
  }

  @Test func slotsRunOutWithAnError() {
    #expect(throws: BoardError.self) { try resolve { $0.blocks = (0..<18).map { disk("disk\($0)") } } }
    #expect(throws: Never.self) { try resolve { $0.blocks = (0..<17).map { disk("disk\($0)") } } }
    #expect(throws: BoardError.self) {
      try resolve {
        $0.devices = (0..<2).map { number in
          DeviceSpec(model: "virtio-balloon-device", id: "b\(number)", properties: ["slot": .integer(1)])
        }
      }
    }
  }

  @Test func virtioMMIOHasNoPlaceInAPC() {
    let spec = MachineSpec(devices: [DeviceSpec(model: "virtio-rng-device", id: "x")])
    #expect(throws: BoardError("device x: mode hvm has no virtio-mmio slot for virtio-rng-device; use virtio-rng-pci"))
    {
      try Recipe.resolve(spec, registry: catalog)
    }
  }

  @Test func onlyKernelsWithoutACPIAreGivenTheDevicesOnTheirCommandLine() throws {
    let spec = try resolve { $0.blocks = [disk("disk0")] }
    #expect(PV.arguments("ro quiet", spec) == "ro quiet")
    #expect(
      PV.arguments("ro acpi=off", spec)
        == "ro acpi=off virtio_mmio.device=4K@0xfeb00000:5 virtio_mmio.device=4K@0xfeb01000:6")
  }
}

@Suite struct ReducedTableTests {
  static let machine = ReducedMachine(
    cpus: 3,
    slots: [
      .init(number: 0, address: 0xFEB0_0000, size: 0x1000, interrupt: 5),
      .init(number: 17, address: 0xFEB1_1000, size: 0x1000, interrupt: 23),
    ], serialPorts: [.init(base: 0x3F8, irq: 4)], pvpanicPort: 0x505)

  static let withPCI = ReducedMachine(
    cpus: 1, serialPorts: [.init(base: 0x3F8, irq: 4)], pciHole: 0x400_0000..<0xFEB0_0000)

  private func number(_ bytes: some Collection<UInt8>) -> UInt64 { bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) } }

  /// The tables by signature, found as a kernel finds them.
  private func tables(_ machine: ReducedMachine) throws -> [String: [UInt8]] {
    let memory = ReducedACPITables(machine).bytes
    func table(_ address: UInt64) throws -> [UInt8] {
      let start = Int(address - ReducedACPITables.address)
      let length = Int(number(memory[start + 4..<start + 8]))
      let table = Array(memory[start..<start + length])
      #expect(table.reduce(0, &+) == 0)
      return table
    }
    #expect(memory.starts(with: "RSD PTR ".utf8))
    #expect(memory[..<20].reduce(0, &+) == 0 && memory[..<36].reduce(0, &+) == 0)
    let xsdt = try table(number(memory[24..<32]))
    var found = ["XSDT": xsdt]
    for offset in stride(from: 36, to: xsdt.count, by: 8) {
      let next = try table(number(xsdt[offset..<offset + 8]))
      found[String(decoding: next[..<4], as: UTF8.self)] = next
    }
    found["DSDT"] = try table(number(try #require(found["FACP"])[140..<148]))
    return found
  }

  @Test func kernelsFindTheTables() throws {
    #expect(try tables(Self.machine).keys.sorted() == ["APIC", "DSDT", "FACP", "XSDT"])
  }

  @Test func fadtSaysThatThereIsNoACPIHardware() throws {
    let fadt = try #require(try tables(Self.machine)["FACP"])
    #expect(fadt.count == 276 && fadt[8] == 6)
    #expect(number(fadt[112..<116]) & (1 << 20 | 1 << 10) == 1 << 20 | 1 << 10)
    // No PM1 nor GPE blocks, no SMI command.
    #expect(fadt[46..<96].allSatisfy { $0 == 0 })
    #expect(fadt[116..<129] == [1, 8, 0, 1, 0x64, 0, 0, 0, 0, 0, 0, 0, 0xFE])
    #expect(fadt[244..<250] == [1, 8, 0, 1, 0x00, 0x06] && fadt[256..<262] == [1, 8, 0, 1, 0x01, 0x06])
  }

  @Test func madtHasNo8259Pair() throws {
    let madt = try #require(try tables(Self.machine)["APIC"])
    #expect(number(madt[40..<44]) == 0)
    #expect(madt.count == 44 + 3 * 8 + 12 + 6)
  }

  @Test func absentProcessorsAreListedAsCapableOfComingOnline() throws {
    let madt = try #require(try tables(ReducedMachine(cpus: 1, absentCPUs: 1))["APIC"])
    #expect(Array(madt[44..<60]) == [0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 2, 0, 0, 0])
  }

  @Test(
    .enabled(if: IASL.isInstalled, "iasl is missing: install acpica-tools"),
    arguments: [
      machine, withPCI, ReducedMachine(cpus: 64),
    ])
  func iaslDisassemblesAndRecompilesEveryTable(machine: ReducedMachine) throws {
    for (name, table) in try tables(machine) {
      let compiled = try IASL.compile(try IASL.disassemble(table, name), name)
      // The header names the compiler.
      #expect(compiled.dropFirst(36) == table.dropFirst(36), "\(name)")
    }
  }

  @Test(.enabled(if: IASL.isInstalled, "iasl is missing: install acpica-tools"))
  func dsdtReadsAsTheMachine() throws {
    let source = try IASL.disassemble(try #require(try tables(Self.machine)["DSDT"]), "DSDT")
    for expected in [
      "Device (VR11)", "\"LNRO0005\"", "0xFEB11000,         // Address Base", "0x00000017,", "EisaId (\"PNP0501\")",
      "\"QEMU0001\"", "\"ACPI0007\"", "Edge, ActiveHigh, Exclusive", "Name (\\_S5, Package (0x04)",
    ] { #expect(source.contains(expected), "\(expected)") }
    #expect(!source.contains("PNP0A03"))
  }

  @Test(.enabled(if: IASL.isInstalled, "iasl is missing: install acpica-tools"))
  func dsdtReadsAsAMachineWithPCI() throws {
    let source = try IASL.disassemble(try #require(try tables(Self.withPCI)["DSDT"]), "DSDT")
    for expected in [
      "EisaId (\"PNP0A03\")", "0x04000000,         // Range Minimum", "0xFEAFFFFF,         // Range Maximum",
      "Name (_PRT, Package (0x80)",
    ] { #expect(source.contains(expected), "\(expected)") }
    // INTA# of slot 1 is input 20, that of slot 31 input 22.
    let words = source.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    #expect(words.contains("Package (0x04) { 0x0001FFFF, Zero, Zero, 0x14 }"))
    #expect(words.contains("Package (0x04) { 0x001FFFFF, Zero, Zero, 0x16 }"))
  }

  @Test func kernelsWithoutACPIFindTheInterruptsOfPCIPins() {
    let table = Array(MultiprocessorTable(Self.withPCI).bytes[16...])
    // A processor, two buses, the I/O APIC, input 4, 128 pins, and the NMI.
    #expect(number(table[34..<36]) == 134)
    #expect(Array(table[64..<72]) == [1, 0] + "PCI   ".utf8)
    #expect(Array(table[72..<80]) == [1, 1] + "ISA   ".utf8)
    #expect(Array(table[88..<96]) == [3, 0, 5, 0, 1, 4, 0, 4])
    // Slot 1's INTB#: active low, level-triggered, input 21.
    #expect(Array(table[96 + 5 * 8..<96 + 6 * 8]) == [3, 0, 0xF, 0, 0, 5, 0, 21])
  }

  @Test func kernelsWithoutACPIFindTheMPTable() {
    let bytes = MultiprocessorTable(Self.machine).bytes
    #expect(bytes.starts(with: "_MP_".utf8) && bytes[..<16].reduce(0, &+) == 0)
    #expect(number(bytes[4..<8]) == 0xF_0010)
    let table = Array(bytes[16...])
    #expect(table.starts(with: "PCMP".utf8) && table.reduce(0, &+) == 0)
    #expect(Int(number(table[4..<6])) == table.count)
    // Three processors, the bus, the I/O APIC, inputs 4, 5 and 23, and the NMI.
    #expect(number(table[34..<36]) == 9)
    #expect(table.count == 44 + 3 * 20 + 6 * 8)
  }

  @Test func tablesOfTheLargestMachineFitBelow1MiB() {
    let slots = (0..<VirtioMMIO.slotCount).map {
      ReducedMachine.Slot(number: $0, address: 0xFEB0_0000, size: 0x1000, interrupt: 5)
    }
    let machine = ReducedMachine(
      cpus: 64, slots: slots, serialPorts: Self.machine.serialPorts, pvpanicPort: 0x505,
      pciHole: 0xC000_0000..<0xFEB0_0000)
    #expect(ReducedACPITables(machine).bytes.count <= MultiprocessorTable.address - ReducedACPITables.address)
    #expect(MultiprocessorTable(machine).bytes.count <= PV.resetEntry - MultiprocessorTable.address)
  }

  @Test func theBIOSEntryOfKernelsThatResetInRealModeWritesTheResetRegister() throws {
    let tables = PV.tables(MachineSpec(mode: .pv, memory: 64 << 20))
    let entry = try #require(tables.first { $0.address == 0xF_FFF0 })
    // MOV AL, FEh; OUT 64h, AL; HLT.
    #expect(entry.bytes.starts(with: [0xB0, 0xFE, 0xE6, 0x64, 0xF4]))
    #expect(entry.bytes.count <= 16)
  }
}

@Suite struct HostilePVGuestTests {
  /// Registers that matter most, and what drivers and others write to them.
  private static let registers: [UInt64] = [
    0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x70, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4, 0xAC, 0xC0, 0x100,
  ]
  private static let values: [UInt64] = [0, 1, 2, 3, 8, 11, 15, 16, 256, 0x1000, 0x8000, 0xFFFF, 0xFFFF_FFFF]

  @Test(arguments: 0..<4) func randomAccessesOfEveryDeviceNeverTrapOrHang(_ seed: UInt64) throws {
    var spec = MachineSpec(mode: .pv, memory: 4 << 20)
    spec.blocks = [BlockSpec(id: "disk0", path: "/disk")]
    spec.characters = [CharacterSpec(id: "serial0", endpoint: .null), CharacterSpec(id: "serial1", endpoint: .null)]
    spec.networks = [NetworkSpec(id: "net0", endpoint: .user(forwards: []), mac: MACAddress(machine: "a", index: 0))]
    spec.devices = [
      DeviceSpec(model: "virtio-balloon-device", id: "balloon"), DeviceSpec(model: "virtio-scsi-device", id: "scsi"),
      DeviceSpec(model: "virtio-serial-device", id: "console"),
      DeviceSpec(model: "virtconsole", id: "port", properties: ["chardev": .string("serial1")]),
    ]
    let resources = FakeResources(
      blocks: ["disk0": MemoryBlockBackend(sectors: 64)],
      characters: ["serial0": RecordingCharacter(room: 1 << 20), "serial1": RecordingCharacter(room: 1 << 20)],
      networks: ["net0": RecordingNetwork()])
    let fake = FakeBoard(ramSize: 4 << 20, deviceMemorySize: 4096, resources: resources)
    let resolved = try Recipe.resolve(spec, registry: catalog)
    let devices = try Recipe.assemble(resolved, registry: catalog, on: fake.board)
    for device in devices { device.start() }
    let slots = PV.description(resolved).slots
    #expect(slots.count == 6)
    var random = SeededGenerator(state: seed)
    for address in stride(from: UInt64(0), to: 0x2_0000, by: 8) {
      try fake.board.memory.store(random.next() & 0x80FF_FFFF_001F_FFFF, at: address)
    }
    let mmio = fake.board.mmio
    for _ in 0..<20_000 {
      let base = UInt64(slots[Int(random.next() % UInt64(slots.count))].address)
      let width: AccessWidth = [.dword, .dword, .dword, .byte, .word, .qword][Int(random.next() % 6)]
      let register =
        random.next() % 4 == 0
        ? random.next() % 0x1000 : Self.registers[Int(random.next() % UInt64(Self.registers.count))]
      let value =
        random.next() % 2 == 0 ? Self.values[Int(random.next() % UInt64(Self.values.count))] : random.next() & 0x1_FFF8
      switch random.next() % 8 {
      case 0:
        // A driver as it should be, with rings of noise.
        for (register, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] as [(UInt64, UInt64)] {
          mmio.write(base + register, .dword, value)
        }
        for queue: UInt64 in 0..<3 {
          let setup: [(UInt64, UInt64)] = [
            (0x30, queue), (0x38, 8), (0x80, queue << 12), (0x90, 0x8000), (0xA0, 0xC000),
          ]
          for (register, value) in setup {
            mmio.write(base + register, .dword, value)
          }
          mmio.write(base + 0x44, .dword, 1)
        }
        mmio.write(base + 0x70, .dword, 15)
      case 1: _ = mmio.read(base + register, width)
      default: mmio.write(base + register, width, value & width.mask)
      }
    }
    for device in devices { device.drain() }
    for device in devices { device.reset() }
    for slot in slots {
      #expect(mmio.read(UInt64(slot.address), .dword) == 0x7472_6976)
      #expect(mmio.read(UInt64(slot.address) + 0x70, .dword) == 0)
    }
  }
}
