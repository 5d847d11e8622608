/// What a read of a host stream came to.
public enum VsockReceived: Sendable, Equatable {
  case bytes(Int)
  /// `VsockReceiver.ready` tells when there is more.
  case nothing
  /// The host sends no more.
  case end
}

/// The host's end of a connection with the guest. Calls do not block, and come from one thread at a time.
public protocol VsockStream: AnyObject, Sendable {
  /// Takes bytes that the host has sent.
  func receive(into buffer: UnsafeMutableRawBufferPointer) -> VsockReceived
  /// Gives bytes to the host and returns how many it took: where not all, `VsockReceiver.ready` tells when there is room.
  /// nil: the host takes no more.
  func send(_ bytes: UnsafeRawBufferPointer) -> Int?
  /// The guest has accepted the connection that the host asked for, from this port of the host's.
  func accepted(hostPort: UInt32)
  /// The guest sends no more.
  func endSending()
  /// The connection has ended; nothing else is called afterwards.
  func close()
}

/// The device side of a guest's sockets. Calls may come on any thread.
public protocol VsockReceiver: AnyObject, Sendable {
  /// A program of the host's asks for a connection to a port of the guest's.
  func requested(port: UInt32, _ stream: any VsockStream)
  /// The stream may have bytes or room now.
  func ready(_ stream: any VsockStream)
}

/// The host's side of a guest's sockets.
public protocol VsockBackend: AnyObject, Sendable {
  /// Connects the one receiver; the host's requests wait until then.
  func attach(_ receiver: any VsockReceiver)
  /// Connects to whatever listens on the host for the port. `answer` is called once, on any thread, possibly before this
  /// returns; nil: nobody listens.
  func connect(port: UInt32, _ answer: @escaping @Sendable ((any VsockStream)?) -> Void)
}
