import DeviceKit
import MachineModel

/// The recipe of `--mode hvm` and `--mode pvhvm`: an i440FX and PIIX PC that starts at the reset vector. The modes differ
/// in which disks and network cards it gets.
public enum HVM {
  /// A place for an IDE drive.
  struct IDEPosition: Hashable, Sendable, CustomStringConvertible {
    /// 0 for the primary channel, 1 for the secondary.
    let channel: Int
    let unit: Int

    var bus: String { "ide.\(channel)" }
    var description: String { "\(bus) unit \(unit)" }

    static let all = [(0, 0), (0, 1), (1, 0), (1, 1)].map { IDEPosition(channel: $0.0, unit: $0.1) }
    /// Where a CD-ROM goes first.
    static let secondaryMaster = IDEPosition(channel: 1, unit: 0)
  }

  /// Ports and IRQs of COM1–COM4.
  static let serialPorts: [(base: UInt64, irq: UInt64)] = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)]

  private static let vsockModel = "virtio-vsock-pci"

  /// The board's own models in the order they are made: bridges before what plugs into them.
  private static let boardModels = [
    "i440fx", "piix3", "piix3-ide", "piix4-pm", "std-vga", "mc146818", "i8042", "hpet", "fw-cfg", "debugcon", "port92",
    "exit", "pvpanic",
  ]

  /// The whole machine: the board's devices, a serial port and an IDE drive for every connection and disk that no
  /// device of the user's names, and then the user's devices; every property with its default.
  /// - Parameter spec: as the command line gave it; `devices` holds the user's alone.
  public static func resolve(_ spec: MachineSpec, registry: Registry) throws(BoardError) -> MachineSpec {
    guard 1...MachineSpec.maximumCPUs ~= spec.cpus else {
      throw BoardError("--cpus \(spec.cpus): a machine has 1 to \(MachineSpec.maximumCPUs) CPUs")
    }
    _ = try layout(spec)
    try checkUnique(spec.blocks.map(\.id), "disks")
    try checkUnique(spec.characters.map(\.id), "serial connections")
    try checkUnique(spec.networks.map(\.id), "networks")

    var used: Set<String> = []
    for device in spec.devices { used.formUnion(try backends(of: device, registry).map(\.name)) }
    var resolved = spec
    resolved.devices = boardModels.map { DeviceSpec(model: $0, id: $0) }
    resolved.devices += try serialDevices(spec.characters.filter { !used.contains($0.id) })
    resolved.devices += try placed(
      drives: spec.blocks.filter { !used.contains($0.id) }.map { drive($0, of: spec) }, user: spec.devices, registry)
    resolved.devices += try networkDevices(spec, used: used, registry)
    if let vsock = spec.vsock, !spec.devices.contains(where: { $0.model == vsockModel }) {
      resolved.devices.append(
        DeviceSpec(model: vsockModel, id: "vsock", properties: ["guest-cid": .integer(UInt64(vsock.guestID))]))
    }
    try addressCards(&resolved, registry)
    try placeCards(&resolved.devices, registry)
    for index in resolved.devices.indices { try fillDefaults(&resolved.devices[index], registry) }

    try checkUnique(resolved.devices.map(\.id), "devices")
    try checkBackends(resolved, registry)
    _ = try bootPaths(resolved, registry)
    return resolved
  }

  /// Makes every device of a resolved machine in order, tells firmware about the machine, and powers on.
  /// Returns the devices in the order they were made.
  public static func assemble(_ spec: MachineSpec, registry: Registry, on board: Board) throws(BoardError) -> [Device] {
    let layout = try layout(spec)
    var devices: [Device] = []
    for device in spec.devices {
      let model = try model(of: device, registry)
      do throws(DeviceError) {
        devices.append(try model.make(device.id, properties(of: device, model), board))
      } catch {
        throw BoardError("device \(device.id) (\(device.model)): \(error)")
      }
    }
    try describe(spec, layout: layout, registry: registry, to: board.firmware)
    for device in devices { device.reset() }
    return devices
  }

  /// Bytes of memory of devices that the guest can map, a multiple of 4 KiB.
  public static func requiredDeviceMemory(_ spec: MachineSpec, registry: Registry) throws(BoardError) -> UInt64 {
    var total: UInt64 = 0
    for device in spec.devices {
      let model = try model(of: device, registry)
      let size = model.needs.deviceMemory(properties(of: device, model))
      // Windows are whole pages.
      let (pages, overflow) = size.addingReportingOverflow(0xFFF)
      let (sum, tooMuch) = total.addingReportingOverflow(pages & ~0xFFF)
      guard !overflow, !tooMuch else { throw BoardError("device \(device.id) (\(device.model)) wants too much memory") }
      total = sum
    }
    return total
  }

  /// Host files that the machine needs, by the name its devices ask for; `firmware` is always among them.
  public static func requiredFiles(
    _ spec: MachineSpec, registry: Registry
  ) throws(BoardError) -> [String: SandboxNeeds.HostFile] {
    var files = ["firmware": SandboxNeeds.HostFile(path: spec.firmware, package: "seabios")]
    for device in spec.devices {
      let model = try model(of: device, registry)
      for (name, file) in model.needs.files(properties(of: device, model)) {
        if let other = files[name], other.path != file.path {
          throw BoardError(
            "device \(device.id) (\(device.model)) needs \(file.path) as \(name), which is already \(other.path)")
        }
        files[name] = file
      }
    }
    return files
  }

  /// The address map, with the error in terms of the command line.
  public static func layout(_ spec: MachineSpec) throws(BoardError) -> PCMemoryLayout {
    do throws(MemoryLayoutError) {
      return try PCMemoryLayout(memory: spec.memory)
    } catch {
      throw BoardError("--memory: \(error)")
    }
  }

  // MARK: Devices that follow from backends

  private static func serialDevices(_ characters: [CharacterSpec]) throws(BoardError) -> [DeviceSpec] {
    var devices: [DeviceSpec] = []
    for character in characters {
      guard let number = serialPorts.indices.first(where: { character.id == "serial\($0)" }) else {
        throw BoardError(
          "\(character.id) has no port: the board has serial0 to serial\(serialPorts.count - 1); "
            + "drop a --serial or name \(character.id) in a --device")
      }
      let port = serialPorts[number]
      devices.append(
        DeviceSpec(
          model: "isa-serial", id: "com\(number + 1)",
          properties: ["iobase": .integer(port.base), "irq": .integer(port.irq), "chardev": .string(character.id)]))
    }
    return devices
  }

  /// A card for each network that no device of the user's names.
  private static func networkDevices(
    _ spec: MachineSpec, used: Set<String>, _ registry: Registry
  ) throws(BoardError) -> [DeviceSpec] {
    var devices: [DeviceSpec] = []
    for network in spec.networks {
      guard !used.contains(network.id) else {
        guard let card = network.card else { continue }
        throw BoardError(
          "\(network.id) has model=\(card.rawValue), but a --device is connected to it: drop one of the two")
      }
      let card = network.card ?? .standard(for: spec.mode)
      guard registry.model(named: card.deviceModel) != nil else {
        throw BoardError("\(network.id): this version of vmrun has no \(card.deviceModel); give another model=")
      }
      devices.append(
        DeviceSpec(
          model: card.deviceModel, id: "nic-\(network.id)",
          properties: ["netdev": .string(network.id), "mac": .string(network.mac.description)]))
    }
    return devices
  }

  /// Gives every card without an address that of its network.
  private static func addressCards(_ spec: inout MachineSpec, _ registry: Registry) throws(BoardError) {
    for index in spec.devices.indices {
      let device = spec.devices[index]
      for option in try model(of: device, registry).options
      where option.kind == .macAddress && device.properties[option.name] == nil {
        guard let use = try backends(of: device, registry).first(where: { $0.kind == .network }),
          let network = spec.networks.first(where: { $0.id == use.name })
        else { continue }
        spec.devices[index].properties[option.name] = .string(network.mac.description)
      }
    }
  }

  /// The device of a disk that no device of the user's names.
  private static func drive(_ block: BlockSpec, of spec: MachineSpec) -> DeviceSpec {
    let properties: [String: PropertyValue] = ["drive": .string(block.id)]
    if block.id.hasPrefix("cdrom") { return DeviceSpec(model: "ide-cd", id: "ide-\(block.id)", properties: properties) }
    switch block.interface ?? .standard(for: spec.mode) {
    case .ide: return DeviceSpec(model: "ide-hd", id: "ide-\(block.id)", properties: properties)
    case .virtio:
      // A queue for each CPU, so that none waits for another's.
      let queues = PropertyValue.integer(UInt64(min(spec.cpus, maximumDiskQueues)))
      return DeviceSpec(
        model: virtioDisk, id: "virtio-\(block.id)", properties: properties.merging(["queues": queues]) { $1 })
    }
  }

  /// The drives and the user's devices, every IDE drive in a place of its own. Places the user chose come first,
  /// then CD-ROMs from the secondary master on, then the rest in order.
  private static func placed(
    drives: [DeviceSpec], user: [DeviceSpec], _ registry: Registry
  ) throws(BoardError) -> [DeviceSpec] {
    var devices = drives + user
    var isDrive: [Bool] = []
    for device in devices { isDrive.append(try model(of: device, registry).bus == .ide) }
    var taken: [IDEPosition: String] = [:]
    func settle(_ index: Int, _ candidates: [IDEPosition]) throws(BoardError) {
      guard let position = candidates.first(where: { taken[$0] == nil }) else {
        let id = devices[index].id
        if candidates.count == 1, let other = taken[candidates[0]] {
          throw BoardError("devices \(other) and \(id) are both at \(candidates[0]): change bus= or unit= of one")
        }
        let places = candidates.map(\.description).joined(separator: ", ")
        throw BoardError("no place for \(id): \(places) are all taken; use fewer --disk and --cdrom")
      }
      taken[position] = devices[index].id
      devices[index].properties["bus"] = .string(position.bus)
      devices[index].properties["unit"] = .integer(UInt64(position.unit))
    }

    let all = devices.indices.filter { isDrive[$0] }
    let chosen = all.filter { devices[$0].properties["bus"] != nil || devices[$0].properties["unit"] != nil }
    // A full address leaves no choice, so it goes before half of one.
    let exact = chosen.filter { devices[$0].properties["bus"] != nil && devices[$0].properties["unit"] != nil }
    for index in exact + chosen.filter({ !exact.contains($0) }) {
      let device = devices[index]
      let candidates = IDEPosition.all.filter { position in
        device.string("bus").map { $0 == position.bus } ?? true
          && device.integer("unit").map { $0 == UInt64(position.unit) } ?? true
      }
      guard !candidates.isEmpty else {
        throw BoardError("device \(device.id) (\(device.model)): bus is ide.0 or ide.1, and unit 0 or 1")
      }
      try settle(index, candidates)
    }
    let free = all.filter { !chosen.contains($0) }
    for index in free where devices[index].model == "ide-cd" {
      try settle(index, [.secondaryMaster] + IDEPosition.all.reversed().filter { $0 != .secondaryMaster })
    }
    for index in free where devices[index].model != "ide-cd" { try settle(index, IDEPosition.all) }
    return devices
  }

  // MARK: Checks

  static func model(of device: DeviceSpec, _ registry: Registry) throws(BoardError) -> DeviceModel {
    guard let model = registry.model(named: device.model) else {
      throw BoardError("there is no device model \(device.model): see --device help")
    }
    return model
  }

  private static func properties(of device: DeviceSpec, _ model: DeviceModel) -> Properties {
    let defaults = model.options.compactMap { option in option.defaultValue.map { (option.name, $0) } }
    return Properties(device.properties.merging(defaults) { given, _ in given })
  }

  private static func fillDefaults(_ device: inout DeviceSpec, _ registry: Registry) throws(BoardError) {
    let model = try model(of: device, registry)
    for name in device.properties.keys.sorted() where !model.options.contains(where: { $0.name == name }) {
      throw BoardError("device \(device.id): \(device.model) has no option \(name): see --device \(device.model),help")
    }
    device.properties = properties(of: device, model).values
  }

  private static func checkUnique(_ ids: [String], _ what: String) throws(BoardError) {
    var seen: Set<String> = []
    for id in ids where !seen.insert(id).inserted {
      throw BoardError("two \(what) are called \(id): give one of them another id")
    }
  }

  /// A backend that a device names: which option names it and what kind it must be.
  private struct BackendUse {
    let option: String
    let name: String
    let kind: OptionSpec.Kind
  }

  private static func backends(of device: DeviceSpec, _ registry: Registry) throws(BoardError) -> [BackendUse] {
    try model(of: device, registry).options.compactMap { option in
      guard [.block, .character, .network].contains(option.kind), let name = device.string(option.name) else {
        return nil
      }
      return BackendUse(option: option.name, name: name, kind: option.kind)
    }
  }

  /// Every backend that a device names exists and is that device's alone.
  private static func checkBackends(_ spec: MachineSpec, _ registry: Registry) throws(BoardError) {
    var owners: [String: String] = [:]
    for device in spec.devices {
      for use in try backends(of: device, registry) {
        let (names, flags) =
          switch use.kind {
          case .block: (spec.blocks.map(\.id), "--disk or --cdrom")
          case .network: (spec.networks.map(\.id), "--net")
          default: (spec.characters.map(\.id), "--serial")
          }
        guard names.contains(use.name) else {
          let known = names.isEmpty ? "there are none" : "there are " + names.joined(separator: ", ")
          throw BoardError(
            "device \(device.id) (\(device.model)): \(use.option)=\(use.name) is not there (\(known)): "
              + "add it with \(flags)")
        }
        if let owner = owners.updateValue(device.id, forKey: use.name) {
          throw BoardError(
            "\(use.name) is used by \(owner) and by \(device.id): give each its own with another \(flags)")
        }
      }
    }
  }
}
