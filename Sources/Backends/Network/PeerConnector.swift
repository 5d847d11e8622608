import LinuxSystem

/// Connects a Unix socket's peer again after it was lost, for a process that has not the right to: see
/// `PeerSource.connector`.
public final class PeerConnector: Sendable {
  private let link: DatagramSocket
  private let path: String
  /// The datagram socket that is connected in place.
  private let socket: Descriptor?

  /// Milliseconds between attempts.
  private static let pause: CInt = 200

  init(_ link: consuming DatagramSocket, path: String, socket: consuming Descriptor? = nil) {
    self.link = link
    self.path = path
    self.socket = socket
  }

  /// Serves on a thread of its own until the other process is gone.
  public func start() throws(SystemError) { _ = try HostThread("peer") { [self] in serve() } }

  private func serve() {
    while let request = try? link.receive(limit: 1), !request.bytes.isEmpty {
      while !connect() {
        var entries = [PollEntry(link.descriptor.raw, [])]
        waitForDescriptors(&entries, milliseconds: Self.pause)
        guard entries[0].ready.isEmpty else { return }
      }
    }
  }

  /// Whether the peer was there and the other process has been told.
  private func connect() -> Bool {
    do throws(SystemError) {
      switch socket {
      case .some(let socket):
        try UnixSocket.connect(socket.raw, to: path)
        try link.send([0])
      case .none:
        let connection = try UnixSocket.connectNonblocking(to: path)
        try link.send([0], descriptors: [connection.raw])
      }
      return true
    } catch { return false }
  }
}
