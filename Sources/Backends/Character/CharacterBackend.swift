/// The device side of a character connection. Calls may come on any thread, never from within a call that the
/// device itself makes to the backend.
public protocol CharacterReceiver: AnyObject, Sendable {
  /// Takes bytes from the host and returns how many there was room for; the rest is offered again after
  /// `CharacterBackend.resumeInput()`.
  func receive(_ bytes: UnsafeRawBufferPointer) -> Int
  /// The backend has room again after `send` took less than it was given.
  func sendable()
  /// The terminal at the other end has this size now.
  func resized(columns: UInt16, rows: UInt16)
}

extension CharacterReceiver {
  public func resized(columns: UInt16, rows: UInt16) {}
}

/// A stream of bytes to and from the host, such as the other end of a serial line.
public protocol CharacterBackend: AnyObject, Sendable {
  /// Connects the one receiver; input is held back until then.
  func attach(_ receiver: any CharacterReceiver)
  /// Takes bytes for the host and returns how many there was room for. Never blocks.
  func send(_ bytes: UnsafeRawBufferPointer) -> Int
  /// The receiver has room for input again.
  func resumeInput()
  /// Gives the host what is still queued, waiting at most `nanoseconds`.
  func drain(nanoseconds: UInt64)
}
