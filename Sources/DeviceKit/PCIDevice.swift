import Buses
import Synchronization

/// A function on the PCI bus: its configuration space, and BARs that follow what the guest writes there.
///
/// Subclasses claim BARs with `map` when they are made and answer accesses with the BAR's index as region.
// Safety: configuration and claims are guarded by `pci`.
open class PCIDevice: Device, PCIFunction, @unchecked Sendable {
  struct State {
    var configuration: PCIConfiguration
    var mappings: [Mapping] = []
    var interrupt: InterruptLine?
    var isRequestingInterrupt = false
  }

  struct Mapping {
    let bar: Int
    let space: AddressSpace
    let claim: AddressSpace.Claim
    let window: DeviceWindow?
    var base: UInt64?
  }

  private let pci: Mutex<State>

  /// `configuration` is complete: BARs added and power-on values set.
  public init(id: String, configuration: PCIConfiguration) {
    var sealed = configuration
    sealed.seal()
    pci = Mutex(State(configuration: sealed))
    super.init(id: id)
  }

  /// Lets BAR `bar` decode in `space`. With a window the guest reaches that memory without leaving the
  /// vCPU, and accesses arrive here only where the engine cannot map it.
  public func map(bar: Int, in space: AddressSpace, window: DeviceWindow? = nil) throws(BusConflict) {
    let claim = try space.claimMovable(self, region: bar)
    pci.withLock { $0.mappings.append(Mapping(bar: bar, space: space, claim: claim, window: window)) }
  }

  /// Joins the function's interrupt pin to the line that the board made for it.
  public func connectInterrupt(_ line: InterruptLine) {
    pci.withLock { state in
      state.interrupt = line
      Self.follow(&state)
    }
  }

  /// Asks for an interrupt on the function's pin or stops asking. The status register shows it, and the pin follows
  /// unless the command register disables it (PCI 3.0 §6.2.2, §6.2.3).
  public func setInterrupt(_ asserted: Bool) {
    pci.withLock { state in
      state.isRequestingInterrupt = asserted
      Self.follow(&state)
    }
  }

  /// Reads the configuration space without side effects.
  public func configuration<Value>(_ body: (PCIConfiguration) -> Value) -> Value {
    pci.withLock { body($0.configuration) }
  }

  /// Changes the configuration space from the device's side, such as status bits.
  public func updateConfiguration(_ body: (inout PCIConfiguration) -> Void) {
    pci.withLock { state in
      body(&state.configuration)
      Self.follow(&state)
    }
  }

  /// Whether the guest allows the function to read and write memory.
  public var isBusMaster: Bool { configuration { $0.command.contains(.busMaster) } }

  open func readConfiguration(_ register: Int, _ width: AccessWidth) -> UInt32 {
    pci.withLock { $0.configuration.read(register, width) }
  }

  open func writeConfiguration(_ register: Int, _ width: AccessWidth, _ value: UInt32) {
    pci.withLock { state in
      state.configuration.write(register, width, value)
      Self.follow(&state)
    }
    configurationChanged(register, width)
  }

  /// Called after a guest write to the configuration space, with no lock held.
  open func configurationChanged(_ register: Int, _ width: AccessWidth) {}

  /// Subclasses call `super.reset()`: the configuration space goes back to power-on, BARs stop decoding and the
  /// interrupt pin is released.
  open override func reset() {
    pci.withLock { state in
      state.configuration.reset()
      state.isRequestingInterrupt = false
      Self.follow(&state)
    }
  }

  /// Brings everything that depends on the configuration space in line with it.
  private static func follow(_ state: inout State) {
    if let interrupt = state.interrupt {
      state.configuration.setStatus(.interrupt, state.isRequestingInterrupt)
      interrupt.set(state.isRequestingInterrupt && !state.configuration.command.contains(.interruptDisable))
    }
    for index in state.mappings.indices {
      let mapping = state.mappings[index]
      let base = state.configuration.decodedBase(mapping.bar)
      guard base != mapping.base else { continue }
      state.mappings[index].base = base
      mapping.space.place(mapping.claim, at: base, state.configuration.bars[mapping.bar]?.size ?? 0)
      mapping.window?.place(at: base)
    }
  }
}
