import LinuxSystem
import Synchronization

/// A guest's sockets as Unix sockets, in Firecracker's convention: a client of the listening socket writes
/// `CONNECT PORT` and a newline, and gets `OK HOSTPORT` and a newline when the guest has accepted; a guest that connects
/// to a port of the host's reaches the listening socket with `_PORT` behind its path, which `connector` opens.
public final class UnixVsockBackend: VsockBackend {
  /// Opens the socket of a port for the request of that number, and has `answered` called.
  public typealias Connector = @Sendable (_ request: UInt32, _ port: UInt32) -> Void

  /// Streams that there are at the most. A client of the host's beyond that is hung up.
  private static let limit = 1024
  /// How long to wait before the next try where the process is out of descriptors.
  private static let retryMilliseconds: CInt = 100
  private static let listenerToken: UInt64 = 0

  private struct State {
    var receiver: (any VsockReceiver)?
    var streams: [UInt64: UnixVsockStream] = [:]
    var lastToken = UnixVsockBackend.listenerToken
    var requests: [UInt32: @Sendable ((any VsockStream)?) -> Void] = [:]
    var lastRequest: UInt32 = 0
  }

  private let listener: Descriptor
  private let readiness: ReadinessQueue
  private let pause: EventDescriptor
  private let connector: Connector
  private let state = Mutex(State())

  /// Takes over a non-blocking listening stream socket.
  public init(listener: consuming Descriptor, connector: @escaping Connector) throws(SystemError) {
    readiness = try ReadinessQueue()
    pause = try EventDescriptor()
    self.listener = listener
    self.connector = connector
  }

  /// Connects the receiver and starts to listen. The backend lives as long as the process does.
  public func attach(_ receiver: any VsockReceiver) {
    state.withLock { $0.receiver = receiver }
    guard (try? readiness.add(listener.raw, token: Self.listenerToken, changesOnly: false)) != nil else { return }
    _ = try? HostThread("vsock", stackSize: 128 << 10) { [self] in run() }
  }

  public func connect(port: UInt32, _ answer: @escaping @Sendable ((any VsockStream)?) -> Void) {
    let request = state.withLock { state -> UInt32? in
      guard state.streams.count + state.requests.count < Self.limit else { return nil }
      repeat { state.lastRequest &+= 1 } while state.requests[state.lastRequest] != nil
      state.requests[state.lastRequest] = answer
      return state.lastRequest
    }
    guard let request else { return answer(nil) }
    connector(request, port)
  }

  /// The answer to a request: a connected non-blocking stream socket, or nil where nobody listens.
  public func answered(request: UInt32, _ descriptor: consuming Descriptor?) {
    guard let answer = state.withLock({ $0.requests.removeValue(forKey: request) }) else { return }
    guard let socket = descriptor.take() else { return answer(nil) }
    answer(add(socket, isAsked: false))
  }

  private func run() {
    while true {
      readiness.wait { token in
        if token == Self.listenerToken {
          accept()
        } else if let stream = state.withLock({ $0.streams[token] }) {
          look(at: stream)
        }
      }
    }
  }

  private func accept() {
    do throws(SystemError) {
      // One at a time: the listener stays ready while others wait.
      _ = add(try UnixSocket.accept(from: listener.raw), isAsked: true)
    } catch {
      if error.errno != ErrorNumber.again { pause.wait(milliseconds: Self.retryMilliseconds) }
    }
  }

  /// `isAsked`: the client has to say which port it wants.
  private func add(_ descriptor: consuming Descriptor, isAsked: Bool) -> UnixVsockStream? {
    let raw = descriptor.raw
    let token = state.withLock { state in
      state.lastToken += 1
      return state.lastToken
    }
    let stream = UnixVsockStream(descriptor, token: token, isAsked: isAsked) { [weak self] in
      _ = self?.state.withLock { $0.streams.removeValue(forKey: token) }
    }
    let isAdded = state.withLock { state in
      guard state.streams.count < Self.limit else { return false }
      state.streams[token] = stream
      return true
    }
    guard isAdded, (try? readiness.add(raw, token: token, changesOnly: true)) != nil else {
      stream.close()
      return nil
    }
    return stream
  }

  private func look(at stream: UnixVsockStream) {
    guard let receiver = state.withLock({ $0.receiver }) else { return }
    switch stream.readRequest() {
    case .connected: receiver.ready(stream)
    case .port(let port): receiver.requested(port: port, stream)
    case .incomplete: break
    case .invalid: stream.close()
    }
  }
}

/// A connected Unix socket.
final class UnixVsockStream: VsockStream {
  enum Request: Equatable {
    /// There is none to wait for.
    case connected
    case port(UInt32)
    case incomplete
    case invalid
  }

  /// `CONNECT 4294967295` and a newline.
  private static let longestRequest = 19

  private let descriptor: Mutex<Descriptor?>
  private let token: UInt64
  private let closed: @Sendable () -> Void
  /// What the client has written of its request; nil: the request is complete, or there is none.
  private let request: Mutex<[UInt8]?>

  init(
    _ descriptor: consuming Descriptor, token: UInt64, isAsked: Bool, closed: @escaping @Sendable () -> Void
  ) {
    self.descriptor = Mutex(descriptor)
    self.token = token
    self.closed = closed
    request = Mutex(isAsked ? [] : nil)
  }

  /// Reads the request byte by byte: what follows it is for the guest.
  func readRequest() -> Request {
    request.withLock { request in
      guard var line = request else { return .connected }
      while line.last != UInt8(ascii: "\n") {
        guard line.count < Self.longestRequest else { return .invalid }
        var byte: UInt8 = 0
        switch withUnsafeMutableBytes(of: &byte, { receive(into: $0) }) {
        case .bytes: line.append(byte)
        case .nothing:
          request = line
          return .incomplete
        case .end: return .invalid
        }
      }
      request = nil
      let words = line.dropLast().split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
      guard words.count == 2, words[0].elementsEqual("CONNECT".utf8),
        let port = UInt32(String(decoding: words[1], as: UTF8.self))
      else { return .invalid }
      return .port(port)
    }
  }

  func receive(into buffer: UnsafeMutableRawBufferPointer) -> VsockReceived {
    descriptor.withLock { descriptor -> VsockReceived in
      guard let raw = descriptor?.raw else { return .end }
      do throws(SystemError) {
        let count = try readDescriptor(raw, into: buffer)
        return count > 0 ? .bytes(count) : .end
      } catch {
        return error.errno == ErrorNumber.again ? .nothing : .end
      }
    }
  }

  func send(_ bytes: UnsafeRawBufferPointer) -> Int? {
    descriptor.withLock { descriptor -> Int? in
      guard let raw = descriptor?.raw else { return nil }
      do throws(SystemError) {
        return try UnixSocket.send(bytes, on: raw)
      } catch {
        return error.errno == ErrorNumber.again ? 0 : nil
      }
    }
  }

  func accepted(hostPort: UInt32) {
    // The socket's buffer is empty yet, so the line fits; a client that is gone does not miss it.
    Array("OK \(hostPort)\n".utf8).withUnsafeBytes { _ = send($0) }
  }

  func endSending() { descriptor.withLock { if let raw = $0?.raw { UnixSocket.endSending(on: raw) } } }

  func close() {
    descriptor.withLock { $0 = nil }
    closed()
  }
}
