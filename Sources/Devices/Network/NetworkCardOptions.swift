import Backends
import Buses
import DeviceKit
import MachineModel

extension Properties {
  /// The option `mac`, or an address that stands for none given.
  var cardAddress: EthernetAddress {
    macAddress().map { EthernetAddress($0) } ?? EthernetAddress(MACAddress(machine: "", index: 0))
  }
}

extension Board {
  /// Where a network card goes: the option `addr`, or function 0 of the first free slot.
  func networkCardSlot(_ properties: Properties) throws(DeviceError) -> (slot: Int, function: Int) {
    if let address = properties.pciAddress() { return address }
    guard let slot = pci.freeSlot() else { throw DeviceError("every PCI slot is taken") }
    return (slot, 0)
  }

  /// The network that an option names; nil where the option is not given.
  func network(_ option: String, _ properties: Properties) throws(DeviceError) -> (any NetworkBackend)? {
    guard let name = properties.string(option) else { return nil }
    guard let backend = resources.network(name) else { throw DeviceError("there is no network '\(name)'") }
    return backend
  }
}
