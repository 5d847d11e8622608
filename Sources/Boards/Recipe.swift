import DeviceKit
import MachineModel

/// What a mode makes of a machine's description: the devices, where they are, and what the guest is told of them.
public enum Recipe {
  /// The whole machine: the board's devices, one for every connection, disk and network that no device of the user's
  /// names, and then the user's devices; every property with its default.
  /// - Parameter spec: as the command line gave it; `devices` holds the user's alone.
  public static func resolve(_ spec: MachineSpec, registry: Registry) throws(BoardError) -> MachineSpec {
    guard 1...MachineSpec.maximumCPUs ~= spec.cpus else {
      throw BoardError("--cpus \(spec.cpus): a machine has 1 to \(MachineSpec.maximumCPUs) CPUs")
    }
    _ = try layout(spec)
    try checkUnique(spec.blocks.map(\.id), "disks")
    try checkUnique(spec.characters.map(\.id), "serial connections")
    try checkUnique(spec.networks.map(\.id), "networks")
    try checkBuses(spec, registry)

    var used: Set<String> = []
    for device in spec.devices { used.formUnion(try backends(of: device, registry).map(\.name)) }
    var resolved = spec
    resolved.devices = boardModels(spec.mode).map { DeviceSpec(model: $0, id: $0) }
    resolved.devices += try serialDevices(spec.characters.filter { !used.contains($0.id) })
    let blocks = spec.blocks.filter { !used.contains($0.id) }
    switch spec.mode {
    case .hvm, .pvhvm: resolved.devices += try HVM.drives(blocks, of: spec, registry)
    case .pv: resolved.devices += try PV.drives(blocks, of: spec) + spec.devices
    }
    resolved.devices += try networkDevices(spec, used: used, registry)
    resolved.devices += vsockDevice(spec)
    try addressCards(&resolved, registry)
    switch spec.mode {
    case .hvm, .pvhvm: break
    case .pv:
      try PV.addHostBridge(&resolved.devices, registry)
      try PV.placeDevices(&resolved.devices, registry)
    }
    try placeCards(&resolved.devices, in: cardSlots(spec.mode), registry)
    for index in resolved.devices.indices { try fillDefaults(&resolved.devices[index], registry) }

    try checkUnique(resolved.devices.map(\.id), "devices")
    try checkBackends(resolved, registry)
    if spec.mode != .pv { _ = try HVM.bootPaths(resolved, registry) }
    return resolved
  }

  /// The board's own models in the order they are made.
  private static func boardModels(_ mode: Mode) -> [String] {
    switch mode {
    case .hvm, .pvhvm: HVM.boardModels
    case .pv: PV.boardModels
    }
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
    if spec.mode != .pv { try HVM.describe(spec, layout: layout, registry: registry, to: board.firmware) }
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

  /// Host files that the machine needs, by the name its devices ask for; `firmware` is among them where there is one.
  public static func requiredFiles(
    _ spec: MachineSpec, registry: Registry
  ) throws(BoardError) -> [String: SandboxNeeds.HostFile] {
    var files: [String: SandboxNeeds.HostFile] = [:]
    if spec.mode != .pv { files["firmware"] = SandboxNeeds.HostFile(path: spec.firmware, package: "seabios") }
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
}
