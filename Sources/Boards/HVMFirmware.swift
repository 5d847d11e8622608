import DeviceKit
import MachineModel

/// fw_cfg items that firmware reads by number (QEMU fw_cfg, §Firmware Configuration Items).
private enum Item {
  static let uuid: UInt16 = 0x0002
  static let ramSize: UInt16 = 0x0003
  static let noGraphics: UInt16 = 0x0004
  static let cpus: UInt16 = 0x0005
  static let bootMenu: UInt16 = 0x000E
  static let maximumCPUs: UInt16 = 0x000F
  /// ISA IRQ 0 reaches I/O APIC input 2.
  static let irq0Override: UInt16 = 0x8002
}

/// fw_cfg files that SeaBIOS reads.
private enum File {
  static let e820 = "etc/e820"
  static let bootOrder = "bootorder"
  /// Milliseconds before another try when nothing boots.
  static let bootFailWait = "etc/boot-fail-wait"
  /// The serial port that text-mode BIOS output is also sent to, and BIOS keyboard input taken from.
  static let serialConsolePort = "etc/sercon-port"
  /// One byte for each of S0–S5: bit 7 is set where the state exists.
  static let systemStates = "etc/system-states"
}

/// CMOS RAM that firmware sizes the machine by (the AT's layout and SeaBIOS's additions).
private enum CMOS {
  static let equipment: UInt8 = 0x14
  /// KiB below 640 KiB.
  static let baseMemory: UInt8 = 0x15
  /// KiB from 1 MiB, twice.
  static let extendedMemory: UInt8 = 0x17
  static let extendedMemoryCopy: UInt8 = 0x30
  /// Units of 64 KiB from 16 MiB up to 4 GiB.
  static let memoryAbove16M: UInt8 = 0x34
  /// Third boot choice in the upper half; bit 0 skips the check of a floppy's signature.
  static let bootFlags1: UInt8 = 0x38
  /// First boot choice in the lower half, second in the upper.
  static let bootFlags2: UInt8 = 0x3D
  /// Units of 64 KiB from 4 GiB, three bytes.
  static let memoryAbove4G: UInt8 = 0x5B
  /// Processors besides the first.
  static let otherCPUs: UInt8 = 0x5F

  static let floatingPointUnit: UInt8 = 1 << 1
  static let pointingDevice: UInt8 = 1 << 2
}

extension HVM {
  /// Gives firmware the tables, files and CMOS bytes that describe a resolved machine.
  static func describe(
    _ spec: MachineSpec, layout: PCMemoryLayout, registry: Registry, to firmware: FirmwareFiles
  ) throws(BoardError) {
    for (name, bytes) in ACPITables(ACPIMachine(spec, layout: layout)).files { firmware.add(name, bytes) }
    let smbios = SMBIOSTables(cpus: spec.cpus, layout: layout, product: spec.mode.rawValue)
    for (name, bytes) in smbios.files { firmware.add(name, bytes) }
    firmware.add(
      File.e820,
      layout.e820.flatMap { entry in
        entry.base.littleEndianBytes + entry.size.littleEndianBytes + entry.kind.rawValue.littleEndianBytes
      })

    let paths = try bootPaths(spec, registry)
    // One path a line; the file is a C string.
    if !paths.isEmpty { firmware.add(File.bootOrder, Array(paths.joined(separator: "\n").utf8) + [0]) }
    // Nothing to boot stays so: firmware says it and stops, and does not reset for ever.
    firmware.add(File.bootFailWait, UInt32.max.littleEndianBytes)
    firmware.add(File.systemStates, [0x80, 0, 0, 0, 0, 0x80])
    if let port = serialConsolePort(spec) { firmware.add(File.serialConsolePort, port.littleEndianBytes) }

    let cpus = UInt16(truncatingIfNeeded: spec.cpus)
    firmware.add(item: Item.uuid, [UInt8](repeating: 0, count: 16))
    firmware.add(item: Item.ramSize, layout.totalMemory.littleEndianBytes)
    firmware.add(item: Item.noGraphics, UInt16(0).littleEndianBytes)
    firmware.add(item: Item.cpus, cpus.littleEndianBytes)
    firmware.add(item: Item.bootMenu, UInt16(0).littleEndianBytes)
    firmware.add(item: Item.maximumCPUs, cpus.littleEndianBytes)
    firmware.add(item: Item.irq0Override, UInt32(1).littleEndianBytes)

    for (register, value) in cmos(spec, layout: layout) { firmware.set(cmos: register, value) }
  }

  /// OpenFirmware device paths of the drives, first choice first: those with a boot index by it, then the media of
  /// the boot order, all after a kernel. Drives of a medium that the order leaves out come last, as firmware finds them.
  static func bootPaths(_ spec: MachineSpec, _ registry: Registry) throws(BoardError) -> [String] {
    var choices: [(rank: (Int, UInt64), path: String)] = []
    var indices: [UInt64: String] = [:]
    func add(_ device: DeviceSpec, _ medium: BootMedium, order: UInt64, _ path: String) throws(BoardError) {
      if let index = device.integer("bootindex") {
        if let other = indices.updateValue(device.id, forKey: index) {
          throw BoardError("devices \(other) and \(device.id) both have bootindex=\(index): change one")
        }
        choices.append(((0, index), path))
      } else if let place = spec.bootOrder.firstIndex(of: medium) {
        choices.append(((place + 1, order), path))
      }
    }
    // Disks on the interface that the mode prefers come before others; places on one interface are in order.
    func order(_ interface: BlockInterface, _ place: Int) -> UInt64 {
      let isPreferred = interface == .standard(for: spec.mode)
      let rank = isPreferred ? 0 : 1 + (BlockInterface.allCases.firstIndex(of: interface) ?? 0)
      return UInt64(rank << 16 | place)
    }
    /// A PCI storage card, as OpenFirmware calls it.
    func path(_ card: (slot: Int, function: Int)) -> String {
      "/pci@i0cf8/scsi@" + String(card.slot, radix: 16) + (card.function == 0 ? "" : ",\(card.function)")
    }
    let controllers = spec.devices.filter { $0.model == scsiController }
    for device in spec.devices {
      switch try Recipe.model(of: device, registry).bus {
      case .pci where device.model == virtioDisk:
        guard let card = pciAddress(of: device) else { continue }
        let order = order(.virtio, card.slot * 8 + card.function)
        try add(device, .disk, order: order, path(card) + "/disk@0,0")
      case .scsi:
        guard let place = SCSIPosition(device), controllers.indices.contains(place.controller),
          let card = pciAddress(of: controllers[place.controller])
        else { continue }
        let order = order(.scsi, place.controller * SCSIPosition.targets + place.target)
        let target = String(place.target, radix: 16)
        try add(
          device, device.model == "scsi-cd" ? .cdrom : .disk, order: order, path(card) + "/channel@0/disk@\(target),0")
      case .ide:
        guard let bus = device.string("bus"), let unit = device.integer("unit"),
          let position = IDEPosition.all.first(where: { $0.bus == bus && UInt64($0.unit) == unit })
        else { continue }
        let path = "/pci@i0cf8/ide@1,1/drive@\(position.channel)/disk@\(position.unit)"
        try add(
          device, device.model == "ide-cd" ? .cdrom : .disk,
          order: order(.ide, position.channel * 2 + position.unit), path)
      default: continue
      }
    }
    // The kernel of `--kernel` comes first.
    let kernel = spec.boot?.kernel == nil ? [] : ["/rom@" + KernelROM.fileName]
    return kernel + choices.sorted { $0.rank < $1.rank }.map(\.path)
  }

  /// The port of serial0 where a person reads it, so that text-mode firmware and boot loaders are seen without a
  /// display.
  static func serialConsolePort(_ spec: MachineSpec) -> UInt16? {
    guard let serial = spec.characters.first(where: { $0.id == "serial0" }) else { return nil }
    switch serial.endpoint {
    case .stdio, .pty: break
    case .file, .unix, .null: return nil
    }
    let port = spec.devices.first { $0.model == "isa-serial" && $0.string("chardev") == serial.id }?.integer("iobase")
    return port.map(UInt16.init(truncatingIfNeeded:))
  }

  /// Power-on values of CMOS RAM.
  static func cmos(_ spec: MachineSpec, layout: PCMemoryLayout) -> [UInt8: UInt8] {
    var values: [UInt8: UInt8] = [:]
    func put(_ register: UInt8, _ value: UInt64, bytes: Int = 2) {
      for index in 0..<bytes { values[register + UInt8(index)] = UInt8(truncatingIfNeeded: value >> (index * 8)) }
    }
    let low = layout.lowMemory
    let extended = min((low - min(low, 1 << 20)) >> 10, 0xFFFF)
    put(CMOS.baseMemory, 640)
    put(CMOS.extendedMemory, extended)
    put(CMOS.extendedMemoryCopy, extended)
    put(CMOS.memoryAbove16M, min((low - min(low, 16 << 20)) >> 16, 0xFFFF))
    put(CMOS.memoryAbove4G, layout.highMemory >> 16, bytes: 3)

    let codes = spec.bootOrder.prefix(3).map { medium -> UInt8 in
      switch medium {
      case .disk: 2
      case .cdrom: 3
      }
    }
    let choices = codes + [UInt8](repeating: 0, count: 3 - codes.count)
    values[CMOS.bootFlags2] = choices[0] | choices[1] << 4
    values[CMOS.bootFlags1] = choices[2] << 4
    values[CMOS.otherCPUs] = UInt8(truncatingIfNeeded: spec.cpus &- 1)
    let mouse = spec.devices.contains { $0.model == "i8042" } ? CMOS.pointingDevice : 0
    values[CMOS.equipment] = CMOS.floatingPointUnit | mouse
    return values
  }
}
