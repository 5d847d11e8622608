import Buses
import DeviceKit
import Synchronization

/// Function 3 of the PIIX4 (82371AB §7): ACPI power management, PM timer and SMBus, at 01.3.
// Safety: all that changes is in `state`.
public final class PIIX4PowerDevice: PCIDevice, @unchecked Sendable {
  /// Configuration registers (§3.4).
  private enum ConfigurationRegister {
    static let pmBase = 0x40
    /// COUNTA to DEVRESJ: activity counters and device monitors, kept and without effect here.
    static let deviceMonitors = 0x44..<0x7C
    static let deviceActivityB = 0x58
    static let pmMiscellaneous = 0x80
    static let smbusBase = 0x90
    static let smbusHost = 0xD2
  }

  private enum Region {
    static let powerManagement = 0
    static let generalPurposeEvents = 1
    static let smi = 2
    static let smbus = 3
  }

  private struct State {
    var chip: PIIX4PowerManagement
    var smbus = PIIX4SMBus()
    var timer: MachineTimer?
    var powerManagement: AddressSpace.Claim?
    var smbusClaim: AddressSpace.Claim?
    var powerManagementBase: UInt64?
    var smbusBase: UInt64?
  }

  private let state: Mutex<State>
  private let line: InterruptLine
  private let ports: AddressSpace
  private let clock: any MachineClock
  private let events: any MachineEvents

  init(id: String, board: Board) throws(DeviceError) {
    line = board.interrupts.level(PIIX4Power.sciInterrupt)
    ports = board.ports
    clock = board.clock
    events = board.events
    state = Mutex(State(chip: PIIX4PowerManagement(now: board.clock.now)))
    super.init(id: id, configuration: Self.powerOnConfiguration())
    try board.claim(
      ports: PIIX4Power.gpe0, UInt64(PIIX4Power.gpe0Length), for: self, region: Region.generalPurposeEvents)
    try board.claim(ports: PIIX4Power.smiCommandPort, 2, for: self, region: Region.smi)
    let claims = try Self.describing(id) { () throws(BusConflict) in
      (
        try ports.claimMovable(self, region: Region.powerManagement),
        try ports.claimMovable(self, region: Region.smbus)
      )
    }
    do {
      try board.pci.attach(self, slot: 1, function: 3)
    } catch {
      throw DeviceError("\(id): PCI address 01.3 is taken")
    }
    let timer = board.timers.timer { [weak self] in self?.change { _, _ in } }
    state.withLock { state in
      (state.powerManagement, state.smbusClaim) = claims
      state.timer = timer
    }
  }

  private static func describing<Value>(
    _ id: String, _ body: () throws(BusConflict) -> Value
  ) throws(DeviceError) -> Value {
    do {
      return try body()
    } catch {
      throw DeviceError("\(id): \(error)")
    }
  }

  private static func powerOnConfiguration() -> PCIConfiguration {
    var configuration = PCIConfiguration(
      PCIIdentity(vendor: 0x8086, device: 0x7113, revision: 3, classCode: 0x068000))
    // Fast back-to-back, medium DEVSEL#.
    configuration.set16(PCIRegister.status, 0x0280)
    configuration.setInterruptPin(1)
    configuration.set32(ConfigurationRegister.pmBase, 0x0000_0001)
    configuration.allowWrite32(ConfigurationRegister.pmBase, 0x0000_FFC0)
    for register in ConfigurationRegister.deviceMonitors { configuration.allowWrite(register, 0xFF) }
    // APMC_EN, which SeaBIOS takes as "system management mode is set up already".
    configuration.set32(ConfigurationRegister.deviceActivityB, 1 << 25)
    configuration.allowWrite(ConfigurationRegister.pmMiscellaneous, 0x01)
    configuration.set32(ConfigurationRegister.smbusBase, UInt32(PIIX4Power.smbusBase) | 1)
    configuration.allowWrite32(ConfigurationRegister.smbusBase, 0x0000_FFF0)
    // Host interface enabled, interrupt by IRQ9.
    configuration.set8(ConfigurationRegister.smbusHost, 0x09)
    configuration.allowWrite(ConfigurationRegister.smbusHost, 0x0F)
    return configuration
  }

  /// Someone pressed the machine's power button: an ACPI guest shuts down.
  public func pressPowerButton() { change { state, _ in state.chip.pressPowerButton() } }

  public override func reset() {
    super.reset()
    change { state, now in
      state.chip = PIIX4PowerManagement(now: now)
      state.smbus = PIIX4SMBus()
    }
    placePorts()
  }

  public override func configurationChanged(_ register: Int, _ width: AccessWidth) { placePorts() }

  /// Lets the port ranges decode where the configuration space says.
  private func placePorts() {
    state.withLock { state in
      let (base, smbusBase) = configuration { configuration -> (UInt64?, UInt64?) in
        let base = UInt64(configuration.get16(ConfigurationRegister.pmBase) & 0xFFC0)
        let isOn = configuration.get8(ConfigurationRegister.pmMiscellaneous) & 1 != 0
        let smbusBase = UInt64(configuration.get16(ConfigurationRegister.smbusBase) & 0xFFF0)
        let isSMBusOn = configuration.get8(ConfigurationRegister.smbusHost) & 1 != 0
        return (isOn && base != 0 ? base : nil, isSMBusOn && smbusBase != 0 ? smbusBase : nil)
      }
      if base != state.powerManagementBase, let claim = state.powerManagement {
        ports.place(claim, at: base, PIIX4Power.size)
        state.powerManagementBase = base
      }
      if smbusBase != state.smbusBase, let claim = state.smbusClaim {
        ports.place(claim, at: smbusBase, PIIX4SMBus.size)
        state.smbusBase = smbusBase
      }
    }
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    let now = clock.now
    return state.withLock { state in
      readBytes(offset, width) { offset in
        switch region {
        case Region.powerManagement: state.chip.read(offset, now: now)
        case Region.generalPurposeEvents: state.chip.readGPE(offset)
        case Region.smi: offset == 0 ? state.chip.smiCommand : state.chip.smiStatus
        default: state.smbus.read(offset)
        }
      }
    }
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    let isOff = change { state, now in
      writeBytes(offset, width, value) { offset, byte in
        switch region {
        case Region.powerManagement: state.chip.write(offset, byte, now: now)
        case Region.generalPurposeEvents: state.chip.writeGPE(offset, byte)
        case Region.smi:
          if offset == 0 { state.chip.writeSMICommand(byte) } else { state.chip.writeSMIStatus(byte) }
        default: state.smbus.write(offset, byte)
        }
      }
      return state.chip.takePowerOff()
    }
    if isOff { events.post(.powerOff) }
  }

  /// Changes the chip and brings the SCI and the timer up to date with it.
  private func change<Value>(_ body: (inout State, UInt64) -> Value) -> Value {
    state.withLock { state in
      let now = clock.now
      let value = body(&state, now)
      line.set(state.chip.sci(now: now))
      if let next = state.chip.nextTimerEvent(now: now) { state.timer?.arm(at: next) } else { state.timer?.cancel() }
      return value
    }
  }
}

extension PIIX4PowerDevice {
  public static let model = DeviceModel(
    name: "piix4-pm", summary: "PIIX4 power management, PM timer and SMBus", bus: .system
  ) { (id, _, board) throws(DeviceError) in
    try PIIX4PowerDevice(id: id, board: board)
  }
}
