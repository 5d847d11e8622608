import Backends
import Buses
import DeviceKit
import Synchronization

/// A serial port of a PC: a 16550A on eight I/O ports with an ISA interrupt. Its modem always has carrier.
// Safety: all that changes is in `state`.
public final class ISASerial: Device, CharacterReceiver, @unchecked Sendable {
  private struct State {
    var chip = Serial16550()
    /// The backend was given more than it took.
    var waitsForRoom = false
    /// The backend holds input that the receiver had no room for.
    var holdsInput = false
    /// The character timeout.
    var timeout: MachineTimer?
  }

  private let state = Mutex(State())
  private let shared: SharedRegisters
  private let line: InterruptLine
  private let backend: (any CharacterBackend)?
  private let clock: any MachineClock

  init(id: String, base: UInt64, irq: Int, backend: (any CharacterBackend)?, board: Board) throws(DeviceError) {
    line = board.interrupts.edge(irq)
    self.backend = backend
    clock = board.clock
    shared = board.ports.makeRegisters(Serial16550.sharedRegisters)
    super.init(id: id)
    try board.claim(ports: base, 8, for: self, isPosted: true, registers: shared)
    change { _ in }
    let timer = board.timers.timer { [weak self] in self?.timeoutExpired() }
    state.withLock { $0.timeout = timer }
  }

  public override func start() { backend?.attach(self) }

  public override func reset() {
    change { state in state.chip.reset() }
  }

  public override func drain() {
    for _ in 0..<2 {
      change { state in
        state.waitsForRoom = false
        transmit(&state)
      }
      backend?.drain(nanoseconds: 500_000_000)
    }
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    change { state in readBytes(offset, width) { state.chip.read($0) } }
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    change { state in
      writeBytes(offset, width, value) { register, byte in
        state.chip.write(register, byte)
        // INTR falls with the write of THR and rises again when the byte has gone: an edge for the 8259.
        line.set(state.chip.interrupt)
        transmit(&state)
      }
    }
  }

  public func receive(_ bytes: UnsafeRawBufferPointer) -> Int {
    change { state in
      let taken = min(bytes.count, state.chip.receiveRoom)
      for index in 0..<taken { state.chip.receive(bytes[index]) }
      if taken < bytes.count { state.holdsInput = true }
      return taken
    }
  }

  public func sendable() {
    change { state in
      state.waitsForRoom = false
      transmit(&state)
    }
  }

  /// Shows the guest a break condition from the other end.
  public func sendBreak() {
    change { state in if !state.chip.isLoopback { state.chip.receiveBreak() } }
  }

  private func timeoutExpired() {
    change { state in state.chip.timeoutExpired() }
  }

  /// Changes the chip and then brings line, timer and backend up to date with it.
  private func change<Value>(_ body: (inout State) -> Value) -> Value {
    let (value, resume) = state.withLock { state in
      let value = body(&state)
      state.chip.show(in: shared)
      line.set(state.chip.interrupt)
      switch state.chip.takeTimeoutChange() {
      case .keep: break
      case .cancel: state.timeout?.cancel()
      case .restart(let nanoseconds): state.timeout?.arm(at: clock.now &+ nanoseconds)
      }
      let resume = state.holdsInput && state.chip.isReceiverEmpty && state.chip.receiveRoom > 0
      if resume { state.holdsInput = false }
      return (value, resume)
    }
    if resume { backend?.resumeInput() }
    return value
  }

  /// Hands the backend what it takes. What stays keeps THRE clear.
  private func transmit(_ state: inout State) {
    guard let backend else {
      state.chip.sent(Serial16550.transmitterSize)
      return
    }
    guard !state.waitsForRoom else { return }
    withUnsafeTemporaryAllocation(byteCount: Serial16550.transmitterSize, alignment: 1) { buffer in
      let count = state.chip.copyOutput(into: buffer)
      guard count > 0 else { return }
      let taken = min(max(backend.send(UnsafeRawBufferPointer(rebasing: buffer[0..<count])), 0), count)
      state.chip.sent(taken)
      state.waitsForRoom = taken < count
    }
  }
}

extension ISASerial {
  public static let model = DeviceModel(
    name: "isa-serial", summary: "16550A serial port", bus: .isa,
    options: [
      OptionSpec("iobase", .integer(0...0xFFF8), default: .integer(0x3F8), "first of its eight I/O ports"),
      OptionSpec("irq", .integer(3...15), default: .integer(4), "ISA interrupt"),
      OptionSpec("chardev", .character, "connection that it is wired to; without one, output is dropped"),
    ]
  ) { (id, properties, board) throws(DeviceError) in
    try ISASerial(
      id: id, base: properties.integer("iobase") ?? 0x3F8, irq: Int(properties.integer("irq") ?? 4),
      backend: try board.character("chardev", properties), board: board)
  }
}
