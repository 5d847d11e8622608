import Buses
import DeviceKit
import Synchronization

/// A device for tests and benchmarks of the launcher itself: what a guest needs to try accesses and interrupts.
///
/// Sixteen I/O ports from `iobase`. Registers are little-endian; bytes of a register may be accessed alone.
///
///     +0x0  ECHO   read/write  32 bits, kept as written; 0 from reset
///     +0x4  PULSE  write       n pulses the edge-triggered input n (3–15) once; reads 0
///     +0x8  LEVEL  read/write  bit n holds the level-triggered input n asserted (3–23); 0 from reset
///     +0xC  TIME   read        nanoseconds of guest time, the low 32 bits
///           BELL   write       a doorbell: pulses the edge-triggered input in bits 0–3 of ECHO
///
/// Input numbers out of range do nothing, and their LEVEL bits read as zero.
public final class TestDevice: Device, @unchecked Sendable {
  private struct State {
    var echo: UInt32 = 0
    var level: UInt32 = 0
  }

  private static let pulseInputs = 3...15
  private static let levelInputs = 3...23
  private static let levelMask: UInt32 = 0x00FF_FFF8

  private let state = Mutex(State())
  private let edges: [InterruptLine]
  private let levels: [InterruptLine]
  private let clock: any MachineClock
  private let worker = Mutex<DeviceWorker?>(nil)

  init(id: String, base: UInt64, board: Board) throws(DeviceError) {
    edges = Self.pulseInputs.map { board.interrupts.edge($0) }
    levels = Self.levelInputs.map { board.interrupts.level($0) }
    clock = board.clock
    super.init(id: id)
    try board.claim(ports: base, 16, for: self)
    let worker = try board.workers.worker(id) { [unowned self] _ in
      ring()
      return .idle
    }
    worker.doorbell().place(at: .port(UInt16(truncatingIfNeeded: base + 0xC)))
    self.worker.withLock { $0 = worker }
  }

  public override func reset() {
    state.withLock { state in
      state = State()
      drive(state)
    }
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    let time = clock.now
    return state.withLock { state in
      readBytes(offset, width) { offset in
        let register: UInt32
        switch offset >> 2 {
        case 0: register = state.echo
        case 2: register = state.level
        case 3: register = UInt32(truncatingIfNeeded: time)
        default: register = 0
        }
        return UInt8(truncatingIfNeeded: register >> UInt32((offset & 3) * 8))
      }
    }
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    if offset == 4 { return pulse(value) }
    if offset >= 0xC { return ring() }
    state.withLock { state in
      writeBytes(offset, width, value) { offset, byte in
        let shift = UInt32((offset & 3) * 8)
        let (mask, bits) = (UInt32(0xFF) << shift, UInt32(byte) << shift)
        switch offset >> 2 {
        case 0: state.echo = state.echo & ~mask | bits
        case 2: state.level = (state.level & ~mask | bits) & Self.levelMask
        default: break
        }
      }
      drive(state)
    }
  }

  private func pulse(_ input: UInt64) {
    guard input <= 15, Self.pulseInputs.contains(Int(input)) else { return }
    edges[Int(input) - Self.pulseInputs.lowerBound].pulse()
  }

  private func ring() { pulse(UInt64(state.withLock { $0.echo } & 0xF)) }

  private func drive(_ state: State) {
    for input in Self.levelInputs {
      levels[input - Self.levelInputs.lowerBound].set(state.level >> UInt32(input) & 1 != 0)
    }
  }

  public static let model = DeviceModel(
    name: "testdev", summary: "registers and interrupts for vmrun's own tests", bus: .isa,
    options: [OptionSpec("iobase", .integer(0...0xFFF0), default: .integer(0xE0), "first of its sixteen I/O ports")]
  ) { (id, properties, board) throws(DeviceError) in
    try TestDevice(id: id, base: properties.integer("iobase") ?? 0xE0, board: board)
  }
}
