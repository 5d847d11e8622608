import Buses
import DeviceKit
import Synchronization

/// Keyboard controller of a PC at ports 0x60 and 0x64, with keyboard (IRQ1) and mouse (IRQ12).
// Safety: all that changes is in `state`.
public final class I8042: Device, @unchecked Sendable {
  private struct State {
    var chip = KeyboardController8042()
    var timer: MachineTimer?
  }

  /// Where a display or a control connection finds it among the board's sockets.
  public static let socket = "ps2.0"

  private enum Region {
    static let data = 0
    static let command = 1
  }

  private let state = Mutex(State())
  private let keyboardLine: InterruptLine
  private let mouseLine: InterruptLine
  private let clock: any MachineClock
  private let events: any MachineEvents

  init(id: String, board: Board) throws(DeviceError) {
    keyboardLine = board.interrupts.edge(1)
    mouseLine = board.interrupts.edge(12)
    clock = board.clock
    events = board.events
    super.init(id: id)
    try board.claim(ports: 0x60, 1, for: self, region: Region.data)
    try board.claim(ports: 0x64, 1, for: self, region: Region.command)
    let timer = board.timers.timer { [weak self] in self?.change { _ in } }
    state.withLock { $0.timer = timer }
    board.sockets.offer(Self.socket, self)
  }

  /// Presses or releases a key. Keys that the guest does not read in time are lost, as on a real keyboard.
  public func key(_ key: KeyCode, isPressed: Bool) {
    change { $0.keyboard.key(key, isPressed: isPressed) }
  }

  /// Moves the mouse by counts (positive: right and up) and its wheel by notches (positive: towards the user), and
  /// sets which buttons are down.
  public func moveMouse(dx: Int, dy: Int, wheel: Int = 0, buttons: MouseButtons = []) {
    change { $0.mouse.move(dx: dx, dy: dy, wheel: wheel, buttons: buttons) }
  }

  /// Scroll, Num and Caps Lock lights in bits 0–2.
  public var indicators: UInt8 { state.withLock { $0.chip.keyboard.indicators } }

  public override func reset() { change { $0 = KeyboardController8042() } }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    let now = clock.now
    let value = change { chip in region == Region.data ? chip.readData(now: now) : chip.readStatus() }
    return UInt64(value) | AccessWidth.qword.mask & ~0xFF
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    let byte = UInt8(truncatingIfNeeded: value)
    let wantsReset = change { chip in
      if region == Region.data { chip.writeData(byte) } else { chip.writeCommand(byte) }
      return chip.takeReset()
    }
    if wantsReset { events.post(.reset) }
  }

  /// Changes the chip and brings the interrupt lines and the timer up to date with it.
  private func change<Value>(_ body: (inout KeyboardController8042) -> Value) -> Value {
    state.withLock { state in
      let value = body(&state.chip)
      drive(state.chip)
      let wait = state.chip.advance(now: clock.now)
      drive(state.chip)
      if let wait { state.timer?.arm(at: wait) } else { state.timer?.cancel() }
      return value
    }
  }

  private func drive(_ chip: KeyboardController8042) {
    keyboardLine.set(chip.keyboardInterrupt)
    mouseLine.set(chip.auxiliaryInterrupt)
  }
}

extension I8042 {
  public static let model = DeviceModel(
    name: "i8042", summary: "keyboard controller with PS/2 keyboard and mouse", bus: .isa
  ) { (id, _, board) throws(DeviceError) in
    try I8042(id: id, board: board)
  }
}
