import Buses
import DeviceKit
import Synchronization

/// Power-off and reset of a machine with hardware-reduced ACPI (ACPI 6.4 §4.8.3.7 sleep control and status registers,
/// §4.8.3.6 reset register).
// Safety: what it holds is constant; the machine's events take calls of any thread.
public final class ReducedPowerDevice: Device, @unchecked Sendable {
  /// Ports of the sleep control and sleep status registers, a byte each.
  public static let sleepControl: UInt16 = 0x600
  public static let sleepStatus: UInt16 = 0x601
  /// SLP_TYP of S5, soft off.
  public static let softOff: UInt8 = 5
  /// The reset register is where a PC's keyboard controller takes its reset command, so that kernels without ACPI find
  /// it too.
  public static let resetPort: UInt16 = 0x64
  public static let resetValue: UInt8 = 0xFE

  /// SLP_TYPx and SLP_EN of the sleep control register (table 4.19).
  private static let sleepType: UInt8 = 7 << 2
  private static let sleepEnable: UInt8 = 1 << 5
  /// What port 64h shows to those who look for a keyboard controller: its output is always full, which none's is, and
  /// its input is free.
  private static let noController: UInt64 = 0xFD

  private enum Region {
    static let sleep = 0
    static let reset = 1
  }

  private let events: any MachineEvents

  init(id: String, board: Board) throws(DeviceError) {
    events = board.events
    super.init(id: id)
    try board.claim(ports: UInt64(Self.sleepControl), 2, for: self, region: Region.sleep)
    try board.claim(ports: UInt64(Self.resetPort), 1, for: self, region: Region.reset)
  }

  /// SLP_TYP and SLP_EN are write-only; WAK_STS is set by a wake from a sleep that this machine has not.
  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    region == Region.reset ? AccessWidth.qword.mask & ~0xFF | Self.noController : 0
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    let value = UInt8(truncatingIfNeeded: value)
    switch (region, offset) {
    case (Region.sleep, 0):
      guard value & Self.sleepEnable != 0, (value & Self.sleepType) >> 2 == Self.softOff else { return }
      events.post(.powerOff)
    case (Region.reset, 0) where value == Self.resetValue: events.post(.reset)
    default: break
    }
  }

  public static let model = DeviceModel(
    name: "acpi-power", summary: "power-off and reset by hardware-reduced ACPI", bus: .system
  ) { (id, _, board) throws(DeviceError) in
    try ReducedPowerDevice(id: id, board: board)
  }
}
