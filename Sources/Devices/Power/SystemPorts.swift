import Buses
import DeviceKit
import Synchronization

/// System control port A of the PS/2 (port 0x92): bit 0 resets the processor when it goes from 0 to 1, bit 1 lets
/// address line 20 through.
public final class Port92: Device, @unchecked Sendable {
  private static let fastReset: UInt8 = 1 << 0
  private static let a20: UInt8 = 1 << 1

  private let value = Mutex<UInt8>(Port92.a20)
  private let events: any MachineEvents

  init(id: String, board: Board) throws(DeviceError) {
    events = board.events
    super.init(id: id)
    try board.claim(ports: 0x92, 1, for: self)
  }

  public override func reset() { value.withLock { $0 = Self.a20 } }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    UInt64(value.withLock { $0 }) | AccessWidth.qword.mask & ~0xFF
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value new: UInt64) {
    let new = UInt8(truncatingIfNeeded: new) & (Self.fastReset | Self.a20)
    let rising = value.withLock { value in
      defer { value = new }
      return new & ~value
    }
    if rising & Self.fastReset != 0 { events.post(.reset) }
  }

  public static let model = DeviceModel(
    name: "port92", summary: "system control port A: fast reset and A20", bus: .isa
  ) { (id, _, board) throws(DeviceError) in
    try Port92(id: id, board: board)
  }
}

/// Ends the machine with the status that the guest writes. A read changes nothing; it marks the moment for `--timing`.
public final class ExitDevice: Device, @unchecked Sendable {
  private let events: any MachineEvents

  init(id: String, base: UInt64, board: Board) throws(DeviceError) {
    events = board.events
    super.init(id: id)
    try board.claim(ports: base, 4, for: self)
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    events.post(.marked)
    return super.read(region: region, offset: offset, width: width)
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    events.post(.exit(UInt8(truncatingIfNeeded: value)))
  }

  public static let model = DeviceModel(
    name: "exit", summary: "ends vmrun with the status the guest writes; a read marks the time", bus: .isa,
    options: [OptionSpec("iobase", .integer(0...0xFFFC), default: .integer(0xF4), "first of its four I/O ports")]
  ) { (id, properties, board) throws(DeviceError) in
    try ExitDevice(id: id, base: properties.integer("iobase") ?? 0xF4, board: board)
  }
}

/// Takes word of a panic from the guest's kernel (QEMU, docs/specs/pvpanic).
public final class PanicDevice: Device, @unchecked Sendable {
  private static let panicked: UInt64 = 1 << 0
  /// A crash kernel takes over: nothing to do here.
  private static let crashLoaded: UInt64 = 1 << 1

  private let events: any MachineEvents

  init(id: String, base: UInt64, board: Board) throws(DeviceError) {
    events = board.events
    super.init(id: id)
    try board.claim(ports: base, 1, for: self)
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    Self.panicked | Self.crashLoaded | AccessWidth.qword.mask & ~0xFF
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    if value & Self.panicked != 0 { events.post(.panicked) }
  }

  public static let model = DeviceModel(
    name: "pvpanic", summary: "tells vmrun that the guest's kernel panicked", bus: .isa,
    options: [OptionSpec("iobase", .integer(0...0xFFFF), default: .integer(0x505), "its I/O port")]
  ) { (id, properties, board) throws(DeviceError) in
    try PanicDevice(id: id, base: properties.integer("iobase") ?? 0x505, board: board)
  }
}
