import MachineModel

/// What the ACPI tables say of a machine.
struct ACPIMachine: Sendable, Equatable {
  struct SerialPort: Sendable, Equatable {
    var base: UInt16
    var irq: Int
  }

  var cpus: Int
  /// Processors that are listed as not there.
  var absentCPUs = 0
  /// 32-bit addresses for PCI devices.
  var pciHole: Range<UInt32>
  var serialPorts: [SerialPort] = []
  var hasKeyboardController = true
  var hasRTC = true
  var hasHPET = true
  var hasFWCfg = true
  /// The port of the pvpanic device, where there is one.
  var pvpanicPort: UInt16?
}

extension ACPIMachine {
  /// Describes the devices of a resolved machine.
  init(_ spec: MachineSpec, layout: PCMemoryLayout) {
    let models = Set(spec.devices.map(\.model))
    cpus = spec.cpus
    absentCPUs = spec.absentCPUs
    pciHole = UInt32(truncatingIfNeeded: layout.pciHole.lowerBound)..<UInt32(truncatingIfNeeded: PCMemoryLayout.ioAPIC)
    serialPorts = Self.serialPorts(spec)
    hasKeyboardController = models.contains("i8042")
    hasRTC = models.contains("mc146818")
    hasHPET = models.contains("hpet")
    hasFWCfg = models.contains("fw-cfg")
    pvpanicPort = Self.pvpanicPort(spec)
  }

  static func serialPorts(_ spec: MachineSpec) -> [SerialPort] {
    spec.devices.filter { $0.model == "isa-serial" }.compactMap { device in
      guard let base = device.integer("iobase"), let irq = device.integer("irq"), irq < 16 else { return nil }
      return SerialPort(base: UInt16(truncatingIfNeeded: base), irq: Int(irq))
    }
  }

  static func pvpanicPort(_ spec: MachineSpec) -> UInt16? {
    spec.devices.first { $0.model == "pvpanic" }?.integer("iobase").map(UInt16.init(truncatingIfNeeded:))
  }
}

/// Registers and interrupts of the PIIX4 power management function as firmware sets it up, and of the chipset round
/// it (82371AB §7, §8).
enum PIIX4 {
  static let sci: UInt16 = 9
  static let smiCommand: UInt16 = 0xB2
  /// Values of the SMI command that switch the power management events from SMI to SCI and back.
  static let acpiEnable: UInt8 = 0xF1
  static let acpiDisable: UInt8 = 0xF0
  /// PMBA: the power management registers.
  static let pmBase: UInt16 = 0x600
  static let pm1EventBlock: UInt16 = pmBase
  static let pm1ControlBlock: UInt16 = pmBase + 4
  static let pmTimerBlock: UInt16 = pmBase + 8
  /// SMBBA: the SMBus registers.
  static let smbusBase: UInt16 = 0x700
  static let gpe0Block: UInt16 = 0xAFE0
  static let gpe0Length: UInt8 = 4
  /// The PIIX3 reset control register and the value that resets the machine (82371SB §2.5.4).
  static let resetControl: UInt16 = 0xCF9
  static let hardReset: UInt8 = 0x06
  /// SLP_TYP for S5, soft off (82371AB §7.2.3).
  static let softOff: UInt64 = 0
  /// PIRQRC[A:D] in the ISA bridge's configuration space (82371SB §2.2.8); bit 7 turns a route off.
  static let pirqRouteControl: UInt64 = 0x60
  static let routeDisabled: UInt64 = 0x80
  /// The ISA bridge's `_ADR`: slot in the upper half, function in the lower.
  static let isaBridgeAddress: UInt64 = 0x0001_0000
  /// IRQs that PCI interrupts may be routed to.
  static let pciIRQs: [UInt32] = [5, 10, 11]
}

extension DeviceSpec {
  /// An integer property.
  func integer(_ name: String) -> UInt64? {
    if case .integer(let value) = properties[name] { value } else { nil }
  }

  /// A text property.
  func string(_ name: String) -> String? {
    if case .string(let value) = properties[name] { value } else { nil }
  }
}
