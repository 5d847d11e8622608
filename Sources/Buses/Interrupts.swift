import Synchronization

/// Where the board's interrupt requests go: the pins of the 8259 pair and the I/O APIC.
///
/// Inputs 0–15 are the ISA IRQs (input 0 reaches I/O APIC pin 2, as the MADT says), 16–23 I/O APIC pins alone.
public protocol InterruptSink: AnyObject, Sendable {
  /// A rising and falling edge on an edge-triggered input.
  func pulse(_ input: Int)
  /// The level of a level-triggered input.
  func setLevel(_ input: Int, _ asserted: Bool)
  /// Raises a level-triggered input for a source that shows its level in shared registers.
  func trigger(_ input: Int)
  /// A new source of message-signalled interrupts, which sends nothing before it is routed; nil when there is none left.
  /// To be called while the board is built.
  func messageInterrupt() -> MessageInterrupt?
}

/// One device's interrupt output. Setting the level that it already has does nothing.
public final class InterruptLine: Sendable {
  enum Wiring: Sendable, Equatable {
    case none
    case edge(Int)
    case level(Int)
    /// PIRQ A–D as 0–3.
    case pirq(Int)
  }

  let wiring: Wiring
  private let fabric: InterruptFabric?
  private let level = Atomic<Bool>(false)
  /// Where the line's level stands while it is set; nil: it stays until it is set again.
  let registers: SharedRegisters?

  init(_ wiring: Wiring, _ fabric: InterruptFabric?, _ registers: SharedRegisters? = nil) {
    self.wiring = wiring
    self.fabric = fabric
    self.registers = registers
  }

  /// A pin that is connected to nothing.
  public static func unconnected() -> InterruptLine { InterruptLine(.none, nil) }

  /// Drives the line. An edge-triggered input sees an interrupt on each rise.
  public func set(_ asserted: Bool) {
    guard level.exchange(asserted, ordering: .acquiringAndReleasing) != asserted else { return }
    fabric?.changed(self, asserted)
  }

  /// A rise and a fall of a line to an edge-triggered input, for a device that signals events rather than a state. Threads
  /// may pulse it at a time: each pulse that begins after an event comes after it.
  public func pulse() {
    if case .edge(let input) = wiring { fabric?.pulse(input) }
  }

  public var isAsserted: Bool { level.load(ordering: .acquiring) }
}

/// Joins device outputs to interrupt inputs: ISA lines, level lines, and PCI INTx through the PIRQ router; and hands out
/// message-signalled interrupts.
public final class InterruptFabric: Sendable {
  public static let inputCount = 24

  private struct State {
    /// Asserted sources of each level-triggered input.
    var holders = [Int](repeating: 0, count: InterruptFabric.inputCount)
    /// Asserted sources of PIRQ A–D.
    var pirqHolders = [0, 0, 0, 0]
    /// The input that PIRQ A–D reaches; nil while disabled.
    var routes: [Int?] = [nil, nil, nil, nil]
    /// Lines to PIRQ A–D that are set and have their level in shared registers.
    var shared: [InterruptLine] = []
  }

  private let state = Mutex(State())
  private let sink: any InterruptSink

  public init(sink: any InterruptSink) { self.sink = sink }

  /// A line to an edge-triggered input (0–23): an ISA device's IRQ.
  public func edge(_ input: Int) -> InterruptLine { InterruptLine(.edge(input), self) }

  /// A line to a level-triggered input that several devices may share: the ACPI SCI.
  public func level(_ input: Int) -> InterruptLine { InterruptLine(.level(input), self) }

  /// PCI device `slot`'s INTA#–INTD# (`pin` 1–4), swizzled to PIRQ (slot + pin - 1) mod 4 less one,
  /// as the 440FX board wires it: slot 1 INTA# is PIRQA.
  ///
  /// With `registers` that processors reach, the line has the level of their pin while it is set, and has to be set anew
  /// when that rises anew.
  public func intx(slot: Int, pin: Int, registers: SharedRegisters? = nil) -> InterruptLine {
    InterruptLine(.pirq((slot + pin - 2) & 3), self, registers?.index == nil ? nil : registers)
  }

  /// A source of message-signalled interrupts; nil when the machine has no more. To be called while the board is built.
  public func message() -> MessageInterrupt? { sink.messageInterrupt() }

  /// Connects PIRQ 0–3 to an input, or to none. Asserted sources move along.
  public func route(pirq: Int, to input: Int?) {
    state.withLock { state in
      let previous = state.routes[pirq]
      guard previous != input else { return }
      state.routes[pirq] = input
      for line in state.shared where line.wiring == .pirq(pirq) { drive(line, input) }
      guard state.pirqHolders[pirq] > 0 else { return }
      if let previous { hold(&state, previous, -state.pirqHolders[pirq]) }
      if let input { hold(&state, input, state.pirqHolders[pirq]) }
    }
  }

  /// Lets a line that has its level in shared registers reach an input, or none.
  private func drive(_ line: InterruptLine, _ input: Int?) {
    line.registers?.setInput(input)
    if let input, line.registers?.isAsserted == true { sink.trigger(input) }
  }

  func pulse(_ input: Int) { sink.pulse(input) }

  func changed(_ line: InterruptLine, _ asserted: Bool) {
    switch line.wiring {
    case .none: break
    case .edge(let input): if asserted { pulse(input) }
    case .level(let input): state.withLock { hold(&$0, input, asserted ? 1 : -1) }
    case .pirq(let pirq) where line.registers != nil:
      state.withLock { state in
        state.shared.removeAll { $0 === line }
        if asserted { state.shared.append(line) }
        drive(line, asserted ? state.routes[pirq] : nil)
      }
    case .pirq(let pirq):
      state.withLock { state in
        let change = asserted ? 1 : -1
        state.pirqHolders[pirq] += change
        if let input = state.routes[pirq] { hold(&state, input, change) }
      }
    }
  }

  private func hold(_ state: inout State, _ input: Int, _ change: Int) {
    let before = state.holders[input] > 0
    state.holders[input] += change
    let after = state.holders[input] > 0
    if before != after { sink.setLevel(input, after) }
  }
}
