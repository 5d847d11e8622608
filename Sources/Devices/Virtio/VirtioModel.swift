import DeviceKit

/// A kind of virtio device before it has a transport. `pci` and `mmio` are the entries of the registry.
public struct VirtioModel: Sendable {
  /// Without the transport: `virtio-blk`.
  let name: String
  let summary: String
  let options: [OptionSpec]
  /// Options that only the PCI function has, where firmware looks.
  let pciOptions: [OptionSpec]
  let make: @Sendable (_ id: String, _ properties: Properties, _ board: Board) throws(DeviceError) -> VirtioDevice

  init(
    name: String, summary: String, options: [OptionSpec] = [], pciOptions: [OptionSpec] = VirtioPCIDevice.options,
    make:
      @escaping @Sendable (_ id: String, _ properties: Properties, _ board: Board) throws(DeviceError)
      -> VirtioDevice
  ) {
    (self.name, self.summary, self.options, self.pciOptions, self.make) = (name, summary, options, pciOptions, make)
  }

  /// On the PCI bus: `virtio-blk-pci`.
  public var pci: DeviceModel {
    DeviceModel(name: name + "-pci", summary: summary, bus: .pci, options: options + pciOptions) {
      [make] (id, properties, board) throws(DeviceError) in
      try VirtioPCIDevice.attach(try make(id, properties, board), properties, to: board)
    }
  }

  /// In a virtio-mmio slot: `virtio-blk-device`.
  public var mmio: DeviceModel {
    DeviceModel(name: name + "-device", summary: summary, bus: .virtioMMIO, options: options + VirtioMMIO.options) {
      [make] (id, properties, board) throws(DeviceError) in
      try VirtioMMIODevice.attach(try make(id, properties, board), properties, to: board)
    }
  }
}
