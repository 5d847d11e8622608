import Buses
import DeviceKit

/// The host bridge of a board without chipset: configuration mechanism 1, and the interrupt pins of all slots on four inputs
/// of the I/O APIC.
// Safety: the ports guard what they hold; the rest is constant.
public final class PCIHostBridge: PCIDevice, @unchecked Sendable {
  public static let modelName = "pci-host"
  /// The level-triggered inputs of the I/O APIC that PIRQ A–D reach.
  public static let inputs = Array(20...23)

  private let ports: PCIConfigurationPorts

  private static var powerOn: PCIConfiguration {
    // The ID that QEMU's bridges without chipset have: systems know that there is nothing to set up.
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: 0x1B36, device: 0x0008, classCode: 0x060000, subsystemVendor: 0x1AF4, subsystem: 0x1100))
    // It always masters the bus; only error reporting can be switched.
    space.set16(PCIRegister.command, PCICommand([.memorySpace, .busMaster]).rawValue)
    space.allowWrite16(PCIRegister.command, PCICommand([.parityErrorResponse, .serr]).rawValue)
    return space
  }

  init(id: String, board: Board) throws(DeviceError) {
    ports = PCIConfigurationPorts(bus: board.pci)
    super.init(id: id, configuration: Self.powerOn)
    try board.claim(ports: PCIConfigurationPorts.base, PCIConfigurationPorts.count, for: ports)
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: 0, function: 0)
    } catch {
      throw DeviceError("PCI 00.0 is already taken")
    }
    for (pirq, input) in Self.inputs.enumerated() { board.interrupts.route(pirq: pirq, to: input) }
  }

  public override func reset() {
    super.reset()
    ports.reset()
  }
}

extension PCIHostBridge {
  static let model = DeviceModel(
    name: modelName, summary: "PCI host bridge of mode pv, there with the first PCI device", bus: .system
  ) { id, _, board throws(DeviceError) in try PCIHostBridge(id: id, board: board) }
}
