import Buses

/// A device on the board. The lifecycle is: made by its model, `reset` by power-on, `start`, accesses and callbacks from
/// any thread, `reset` again whenever the machine is, `drain` before the process ends.
// Safety: the base holds nothing but constants; each device keeps its state in a `Mutex`.
open class Device: BusTarget, @unchecked Sendable {
  /// The name in the machine's description, unique among its devices.
  public let id: String

  public init(id: String) { self.id = id }

  /// Puts the device into its power-on state. vCPUs are stopped meanwhile.
  open func reset() {}

  /// Connects it with its backends, whose threads may call it from now on. Called once, when the machine is complete: a
  /// machine that cannot be built is taken apart without anyone looking on.
  open func start() {}

  /// Finishes requests under way and puts data where it is safe. Nothing is submitted afterwards.
  open func drain() {}
}
