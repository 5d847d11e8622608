import Buses
import DeviceKit
import Synchronization

/// Real-time clock and CMOS RAM of a PC: index port 0x70, data port 0x71, interrupt IRQ8. The clock keeps UTC.
// Safety: all that changes is in `state`.
public final class RealTimeClock: Device, @unchecked Sendable {
  private struct State {
    var chip = MC146818()
    /// Register that port 0x71 reaches. Bit 7 of port 0x70 masks NMI, which nothing here raises.
    var index: UInt8 = 0
    var isPowered = false
    var timer: MachineTimer?
  }

  private let state = Mutex(State())
  private let line: InterruptLine
  private let clock: any MachineClock
  private let firmware: FirmwareFiles

  init(id: String, board: Board) throws(DeviceError) {
    line = board.interrupts.edge(8)
    clock = board.clock
    firmware = board.firmware
    super.init(id: id)
    try board.claim(ports: 0x70, 2, for: self)
    let timer = board.timers.timer { [weak self] in
      self?.change { state, wall in state.chip.advance(wall: wall) }
    }
    state.withLock { $0.timer = timer }
  }

  /// At power-on RAM gets what the board's firmware files say; later resets leave it alone, as the battery does.
  public override func reset() {
    let contents = firmware.snapshot.cmos
    change { state, wall in
      if !state.isPowered {
        state.chip.load(contents)
        state.chip.synchronise(wall: wall)
        state.isPowered = true
      }
      state.chip.reset()
    }
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    change { state, wall in
      // The index port is write-only.
      readBytes(offset, width) { $0 == 1 ? state.chip.read(state.index, wall: wall) : 0xFF }
    }
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    change { state, wall in
      writeBytes(offset, width, value) { port, byte in
        switch port {
        case 0: state.index = byte & 0x7F
        case 1: state.chip.write(state.index, byte, wall: wall)
        default: break
        }
      }
    }
  }

  /// Changes the chip at the wall clock's present time and brings line and timer up to date with it.
  private func change<Value>(_ body: (inout State, Int64) -> Value) -> Value {
    state.withLock { state in
      let now = clock.now
      let wall = Int64(truncatingIfNeeded: clock.wallTime & UInt64(Int64.max))
      let value = body(&state, wall)
      line.set(state.chip.interrupt)
      if let next = state.chip.nextInterrupt(wall: wall) {
        state.timer?.arm(at: now &+ UInt64(max(next &- wall, 1)))
      } else {
        state.timer?.cancel()
      }
      return value
    }
  }
}

extension RealTimeClock {
  public static let model = DeviceModel(
    name: "mc146818", summary: "real-time clock and CMOS RAM", bus: .isa
  ) { (id, _, board) throws(DeviceError) in
    try RealTimeClock(id: id, board: board)
  }
}
