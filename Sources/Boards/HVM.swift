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

  /// The board's own models in the order they are made: bridges before what plugs into them.
  static let boardModels = [
    "i440fx", "piix3", "piix3-ide", "piix4-pm", "std-vga", "mc146818", "i8042", "hpet", "fw-cfg", "debugcon", "port92",
    "exit", "pvpanic",
  ]

  /// A drive for each of the disks, and the user's devices, drives in their places.
  static func drives(
    _ blocks: [BlockSpec], of spec: MachineSpec, _ registry: Registry
  ) throws(BoardError) -> [DeviceSpec] {
    var devices = try placed(drives: blocks.map { drive($0, of: spec) }, user: spec.devices, registry)
    try placeSCSIDrives(&devices, queues: spec.diskQueues, registry)
    return devices
  }

  /// The device of a disk that no device of the user's names.
  private static func drive(_ block: BlockSpec, of spec: MachineSpec) -> DeviceSpec {
    let properties: [String: PropertyValue] = ["drive": .string(block.id)]
    let isCDROM = block.id.hasPrefix("cdrom")
    switch block.interface ?? (isCDROM ? .ide : .standard(for: spec.mode)) {
    case .ide:
      return DeviceSpec(model: isCDROM ? "ide-cd" : "ide-hd", id: "ide-\(block.id)", properties: properties)
    case .scsi:
      return DeviceSpec(model: isCDROM ? "scsi-cd" : "scsi-hd", id: "scsi-\(block.id)", properties: properties)
    case .virtio:
      let queues = PropertyValue.integer(UInt64(spec.diskQueues))
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
    for device in devices { isDrive.append(try Recipe.model(of: device, registry).bus == .ide) }
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
}
