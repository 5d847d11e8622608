import DeviceKit
import MachineModel

/// Devices that follow from what the machine is connected to, in every mode.
extension Recipe {
  /// Ports and IRQs of COM1–COM4.
  static let serialPorts: [(base: UInt64, irq: UInt64)] = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)]

  static func serialDevices(_ characters: [CharacterSpec]) throws(BoardError) -> [DeviceSpec] {
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
  static func networkDevices(
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
      let model = card.deviceModel(in: spec.mode)
      guard registry.model(named: model) != nil else {
        throw BoardError("\(network.id): this version of vmrun has no \(model); give another model=")
      }
      devices.append(
        DeviceSpec(
          model: model, id: "nic-\(network.id)",
          properties: ["netdev": .string(network.id), "mac": .string(network.mac.description)]))
    }
    return devices
  }

  /// The guest's sockets, where no device of the user's has them.
  static func vsockDevice(_ spec: MachineSpec) -> [DeviceSpec] {
    let model = spec.mode == .pv ? "virtio-vsock-device" : "virtio-vsock-pci"
    let isThere = spec.devices.contains { ["virtio-vsock-device", "virtio-vsock-pci"].contains($0.model) }
    guard let vsock = spec.vsock, !isThere else { return [] }
    return [DeviceSpec(model: model, id: "vsock", properties: ["guest-cid": .integer(UInt64(vsock.guestID))])]
  }

  /// Gives every card without an address that of its network.
  static func addressCards(_ spec: inout MachineSpec, _ registry: Registry) throws(BoardError) {
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
}
