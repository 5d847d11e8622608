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
    var msix: MSIX?
  }

  struct Mapping {
    let bar: Int
    let space: AddressSpace
    let claim: AddressSpace.Claim
    let window: DeviceWindow?
    let doorbells: [BARDoorbell]
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

  /// A doorbell at an offset of a BAR.
  public struct BARDoorbell: Sendable {
    let offset: UInt64
    let doorbell: Doorbell

    public init(_ doorbell: Doorbell, at offset: UInt64) {
      self.offset = offset
      self.doorbell = doorbell
    }
  }

  /// Lets BAR `bar` decode in `space`. With a window the guest reaches that memory without leaving the
  /// vCPU, and accesses arrive here only where the engine cannot map it. Doorbells move with the BAR. Writes may be
  /// posted as `AddressSpace.claim` says; processors may reach `registers` themselves.
  public func map(
    bar: Int, in space: AddressSpace, window: DeviceWindow? = nil, doorbells: [BARDoorbell] = [],
    isPosted: Bool = false, registers: SharedRegisters? = nil
  ) throws(BusConflict) {
    let claim = try space.claimMovable(self, region: bar, isPosted: isPosted, registers: registers)
    add(Mapping(bar: bar, space: space, claim: claim, window: window, doorbells: doorbells))
  }

  /// Lets BAR `bar` decode the table of `msix`, whose capability the configuration space has. From now on the pin is
  /// silent while MSI-X is enabled.
  public func map(_ msix: MSIX, bar: Int, in space: AddressSpace) throws(BusConflict) {
    let claim = try space.claimMovable(msix)
    add(Mapping(bar: bar, space: space, claim: claim, window: nil, doorbells: []))
    pci.withLock { $0.msix = msix }
  }

  private func add(_ mapping: Mapping) { pci.withLock { $0.mappings.append(mapping) } }

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
      state.msix?.reset()
      Self.follow(&state)
    }
  }

  /// Brings everything that depends on the configuration space in line with it.
  private static func follow(_ state: inout State) {
    let command = state.configuration.command
    state.msix?.configure(state.configuration.msixControl, isBusMaster: command.contains(.busMaster))
    if let interrupt = state.interrupt {
      let usesPin = state.isRequestingInterrupt && !state.configuration.msixControl.contains(.enable)
      state.configuration.setStatus(.interrupt, usesPin)
      interrupt.set(usesPin && !command.contains(.interruptDisable))
    }
    for index in state.mappings.indices {
      let mapping = state.mappings[index]
      let base = state.configuration.decodedBase(mapping.bar)
      guard base != mapping.base else { continue }
      state.mappings[index].base = base
      mapping.space.place(mapping.claim, at: base, state.configuration.bars[mapping.bar]?.size ?? 0)
      mapping.window?.place(at: base)
      let isPort = state.configuration.bars[mapping.bar]?.kind == .io
      for bell in mapping.doorbells {
        bell.doorbell.place(
          at: base.map { base in
            let address = base &+ bell.offset
            return isPort ? .port(UInt16(truncatingIfNeeded: address)) : .memory(address)
          })
      }
    }
  }
}
