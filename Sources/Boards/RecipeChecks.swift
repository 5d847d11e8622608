import DeviceKit
import MachineModel

/// What must hold of every machine.
extension Recipe {
  static func model(of device: DeviceSpec, _ registry: Registry) throws(BoardError) -> DeviceModel {
    guard let model = registry.model(named: device.model) else {
      throw BoardError("there is no device model \(device.model): see --device help")
    }
    return model
  }

  static func properties(of device: DeviceSpec, _ model: DeviceModel) -> Properties {
    let defaults = model.options.compactMap { option in option.defaultValue.map { (option.name, $0) } }
    return Properties(device.properties.merging(defaults) { given, _ in given })
  }

  static func fillDefaults(_ device: inout DeviceSpec, _ registry: Registry) throws(BoardError) {
    let model = try model(of: device, registry)
    for name in device.properties.keys.sorted() where !model.options.contains(where: { $0.name == name }) {
      throw BoardError("device \(device.id): \(device.model) has no option \(name): see --device \(device.model),help")
    }
    device.properties = properties(of: device, model).values
  }

  static func checkUnique(_ ids: [String], _ what: String) throws(BoardError) {
    var seen: Set<String> = []
    for id in ids where !seen.insert(id).inserted {
      throw BoardError("two \(what) are called \(id): give one of them another id")
    }
  }

  /// A backend that a device names: which option names it and what kind it must be.
  struct BackendUse {
    let option: String
    let name: String
    let kind: OptionSpec.Kind
  }

  static func backends(of device: DeviceSpec, _ registry: Registry) throws(BoardError) -> [BackendUse] {
    try model(of: device, registry).options.compactMap { option in
      guard [.block, .character, .network].contains(option.kind), let name = device.string(option.name) else {
        return nil
      }
      return BackendUse(option: option.name, name: name, kind: option.kind)
    }
  }

  /// Every backend that a device names exists and is that device's alone.
  static func checkBackends(_ spec: MachineSpec, _ registry: Registry) throws(BoardError) {
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

  /// What a user's device can plug into.
  private static func buses(_ mode: Mode) -> [BusKind] {
    mode == .pv ? [.virtioMMIO, .pci, .virtioSerial, .scsi] : BusKind.allCases.filter { $0 != .virtioMMIO }
  }

  /// Every device of the user's has a bus on the board.
  static func checkBuses(_ spec: MachineSpec, _ registry: Registry) throws(BoardError) {
    let known = buses(spec.mode)
    for device in spec.devices {
      let model = try model(of: device, registry)
      guard !known.contains(model.bus) else { continue }
      let stem = device.model.split(separator: "-").dropLast().joined(separator: "-")
      let other = model.bus == .virtioMMIO ? stem + "-pci" : stem + "-device"
      let advice = registry.model(named: other).map { known.contains($0.bus) } == true ? "; use \(other)" : ""
      throw BoardError(
        "device \(device.id): mode \(spec.mode.rawValue) has no \(model.bus.title) for \(device.model)\(advice)")
    }
  }
}
