/// What a message-signalled interrupt writes, and where (PCI 3.0 §6.8; SDM vol. 3 §11.11).
public struct MSIMessage: Sendable, Hashable {
  public var address: UInt64
  public var data: UInt32

  public init(address: UInt64, data: UInt32) {
    self.address = address
    self.data = data
  }
}

/// One source of message-signalled interrupts: a vector of MSI-X. `signal` is called from any thread.
///
/// A class, not a protocol: the interrupt path makes no existential call.
// Safety: the base holds no state; each subclass restates the promise.
open class MessageInterrupt: @unchecked Sendable {
  public init() {}

  /// Sets what `signal` sends from now on. The vCPU whose access led to the call does not run on before it is in force.
  open func route(_ message: MSIMessage) {}

  /// Sends the message once. One that is called while `route` is not yet in force sends the new message.
  open func signal() {}
}
