import DeviceKit
import MachineModel

extension HVM {
  /// The model of a disk with `if=virtio`.
  static let virtioDisk = "virtio-blk-pci"

  /// Where a PCI device is; nil where it has no place yet.
  static func pciAddress(of device: DeviceSpec) -> (slot: Int, function: Int)? {
    Properties(device.properties).pciAddress()
  }
}

extension Recipe {
  /// Slots that cards are put into: behind those of the host bridge and, on the PC, of the PIIX and the display.
  static func cardSlots(_ mode: Mode) -> Range<Int> { mode == .pv ? 1..<32 : 3..<32 }

  /// Puts every PCI card that has no place of its own into the lowest free slot, in order, so that firmware can be told
  /// where disks are.
  static func placeCards(
    _ devices: inout [DeviceSpec], in cardSlots: Range<Int>, _ registry: Registry
  ) throws(BoardError) {
    var taken: Set<Int> = []
    var waiting: [(index: Int, option: String)] = []
    for (index, device) in devices.enumerated() {
      guard let option = try Recipe.model(of: device, registry).options.first(where: { $0.kind == .pciAddress }) else {
        continue
      }
      if let value = device.properties[option.name] ?? option.defaultValue {
        if let slot = Properties(["addr": value]).pciAddress()?.slot { taken.insert(slot) }
      } else {
        waiting.append((index, option.name))
      }
    }
    for (index, option) in waiting {
      guard let slot = cardSlots.first(where: { !taken.contains($0) }) else {
        throw BoardError("no PCI slot is left for \(devices[index].id): use fewer disks, networks and devices")
      }
      taken.insert(slot)
      let number = String(slot, radix: 16)
      devices[index].properties[option] = .string("\(slot < 16 ? "0" : "")\(number).0")
    }
  }
}
