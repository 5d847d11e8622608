import DeviceKit

/// Every device model that vmrun has, in the order that `--device help` prints them.
public let catalog = Registry([
  I440FX.model,
  PIIX3.model,
  StandardVGA.model,
  FWCfgDevice.model,
])
