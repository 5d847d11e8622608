import DeviceKit

/// Every device model that vmrun has, in the order that `--device help` prints them.
public let catalog = Registry(fixed + virtio.map(\.pci) + virtio.map(\.mmio))

/// Those that come as PCI functions and in virtio-mmio slots.
private let virtio: [VirtioModel] = [
  VirtioBlock.model,
  VirtioNetwork.model,
  VirtioEntropy.model,
  VirtioBalloon.model,
  VirtioConsole.model,
  VirtioVsock.model,
  SCSIDriveDevice.controller,
]

private let fixed: [DeviceModel] = [
  // The chipset: 82441FX and 82371SB, and the power management of the 82371AB.
  I440FX.model,
  PIIX3.model,
  PIIX3IDE.model,
  PIIX4PowerDevice.model,
  // On its IDE channels.
  IDEDriveDevice.disk,
  IDEDriveDevice.cdrom,
  // Fixed on the board.
  FWCfgDevice.model,
  HPETDevice.model,
  // On the ISA bus.
  RealTimeClock.model,
  I8042.model,
  ISASerial.model,
  DebugConsole.model,
  Port92.model,
  ExitDevice.model,
  PanicDevice.model,
  TestDevice.model,
  // On the PCI bus.
  StandardVGA.model,
  E1000Device.model,
  RTL8139Device.model,
  // On a virtio-scsi.
  SCSIDriveDevice.disk,
  SCSIDriveDevice.cdrom,
  // Ports of a virtio-serial.
  VirtioConsole.console,
  VirtioConsole.port,
  // In place of a chipset on the PV board.
  ReducedPowerDevice.model,
  PCIHostBridge.model,
]
