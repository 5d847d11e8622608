import LinuxSystem
import MachineModel

/// Why a network could not be opened: one line that says what to do.
public struct NetworkError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

/// How the device side drives the descriptors of an opened network, which follow in this order.
public struct NetworkPlan: Sendable, WireCodable {
  enum Source: UInt8, Sendable, WireCodable {
    case none
    case listener
    case connector
  }

  var framing: Framing
  /// Connections, one for each pair of queues; none where there is no peer yet.
  var connections = 1
  /// A datagram socket that is going to be connected.
  var hasSocket = false
  /// Where a lost connection comes from again: a listening socket or one to the connector, if any.
  var source = Source.none
  var hasCapture = false
}

extension NetworkPlan {
  public func write(to wire: inout WireWriter) { wire.put(framing, connections, hasSocket, source, hasCapture) }

  public init(from wire: inout WireReader) throws(WireError) {
    self.init(
      framing: try wire.get(), connections: try wire.get(), hasSocket: try wire.get(), source: try wire.get(),
      hasCapture: try wire.get())
  }
}

/// A network opened on the host, ready to be handed to the process that drives the device.
public struct OpenedNetwork: ~Copyable, Sendable {
  public fileprivate(set) var plan: NetworkPlan
  /// What the plan names, in its order.
  private var descriptors: [CInt] = []
  /// The other end of a user network's frames, for the network process.
  fileprivate var processEnd: CInt?
  /// Connects the peer when it comes back.
  public fileprivate(set) var connector: PeerConnector?
  /// A socket file to remove when the machine ends.
  public fileprivate(set) var temporaryPath: String?

  fileprivate init(_ plan: NetworkPlan) { self.plan = plan }

  deinit {
    for descriptor in descriptors { _ = Descriptor(owning: descriptor) }
    if let processEnd { _ = Descriptor(owning: processEnd) }
  }

  /// Gives the descriptors away: what the plan names, and the network process's end.
  public mutating func take() -> (descriptors: [CInt], processEnd: CInt?) {
    defer { (descriptors, processEnd) = ([], nil) }
    return (descriptors, processEnd)
  }

  fileprivate mutating func add(_ descriptor: consuming Descriptor) { descriptors.append(descriptor.release()) }
}

/// Opens what the spec names. To be called with the user's rights, before any sandbox.
public func openNetwork(_ spec: NetworkSpec) throws(NetworkError) -> OpenedNetwork {
  var network: OpenedNetwork
  switch spec.endpoint {
  case .user: network = try openUser(spec.id)
  case .tap(let interface, let queues): network = try openTAP(interface, queues, spec.id)
  case .tapDescriptors(let numbers): network = try adoptTAP(numbers, spec.id)
  case .unix(let unix): network = try openUnix(unix, spec.id)
  }
  if let path = spec.capture {
    do {
      network.add(try CaptureFile.create(path))
    } catch {
      throw NetworkError("\(spec.id): cannot write \(path): \(error.reason)")
    }
    network.plan.hasCapture = true
  }
  return network
}

/// The device side of an opened network. `take` gives the plan's descriptors in order.
public func makeNetworkBackend(
  _ id: String, _ plan: NetworkPlan, report: @escaping NetworkReport, take: () throws(SystemError) -> Descriptor
) throws(SystemError) -> any NetworkBackend {
  let connection: Descriptor? = plan.connections > 0 ? try take() : nil
  var others: [FrameNetwork] = []
  for _ in 1..<max(plan.connections, 1) {
    others.append(try FrameNetwork(id, plan.framing, connection: try take(), report: report))
  }
  let socket: Descriptor? = plan.hasSocket ? try take() : nil
  let source: PeerSource =
    switch plan.source {
    case .none: .none
    case .listener: .listener(try take())
    case .connector: .connector(DatagramSocket(owning: try take()))
    }
  let network = try FrameNetwork(
    id, plan.framing, connection: connection, socket: socket, source: source, others: others, report: report)
  // The host spreads frames over all queues from the start; a device says how many its guest uses.
  for other in others { other.setActive(false) }
  guard plan.hasCapture else { return network }
  return CapturingNetwork(network, to: CaptureFile(try take(), id: id, report: report))
}

private func openUser(_ id: String) throws(NetworkError) -> OpenedNetwork {
  do {
    var network = OpenedNetwork(NetworkPlan(framing: .networkProcess))
    let (near, far) = try DatagramSocket.pair()
    network.add(Descriptor(owning: near))
    network.processEnd = far
    return network
  } catch { throw NetworkError("\(id): \(error)") }
}

private func openTAP(_ interface: String, _ queues: Int, _ id: String) throws(NetworkError) -> OpenedNetwork {
  var network = OpenedNetwork(NetworkPlan(framing: .tap, connections: queues))
  do {
    for _ in 0..<queues { network.add(try TAP.open(interface, severalQueues: queues > 1)) }
    return network
  } catch {
    let several = queues > 1 ? " multi_queue" : ""
    let advice =
      switch error.errno {
      case ErrorNumber.noSuchFile, ErrorNumber.noDevice: "is the tun module loaded? modprobe tun"
      case ErrorNumber.notPermitted, ErrorNumber.accessDenied:
        "have root make it for you: ip tuntap add dev \(interface) mode tap user YOU\(several)"
      case ErrorNumber.busy: "another process uses it"
      case ErrorNumber.invalid:
        "it is no TAP interface\(queues > 1 ? " with" : ", or one with") several queues: "
          + "ip tuntap add dev \(interface) mode tap\(several)"
      default: error.call
      }
    throw NetworkError("\(id): interface \(interface): \(error.reason); \(advice)")
  }
}

private func adoptTAP(_ numbers: [Int32], _ id: String) throws(NetworkError) -> OpenedNetwork {
  var network = OpenedNetwork(NetworkPlan(framing: .tap, connections: numbers.count))
  for number in numbers {
    let adopted: TAP.Adopted?
    do throws(SystemError) {
      adopted = try TAP.adopt(number)
    } catch {
      throw NetworkError("\(id): fd=\(number): \(error.reason); give the number of an open descriptor")
    }
    guard let adopted else {
      throw NetworkError("\(id): fd=\(number) is no queue of a TAP interface made with IFF_NO_PI")
    }
    if !adopted.hasHeader { network.plan.framing = .bareTAP }
    network.add(adopted.takeQueue())
  }
  return network
}

private func openUnix(_ unix: UnixNetwork, _ id: String) throws(NetworkError) -> OpenedNetwork {
  do throws(SocketPathError) {
    if unix.listens { return try listen(unix.path) }
    return unix.kind == .stream ? try connectStream(unix.path) : try connectDatagram(unix)
  } catch { throw NetworkError("\(id): \(error)") }
}

private func listen(_ path: String) throws(SocketPathError) -> OpenedNetwork {
  var network = OpenedNetwork(NetworkPlan(framing: .stream, connections: 0, source: .listener))
  network.add(try SocketPath.bind(path) { path throws(SystemError) in try UnixSocket.listen(at: path) })
  network.temporaryPath = path
  return network
}

private func connectStream(_ path: String) throws(SocketPathError) -> OpenedNetwork {
  var network = OpenedNetwork(NetworkPlan(framing: .stream, source: .connector))
  do throws(SystemError) {
    network.add(try UnixSocket.connectNonblocking(to: path))
    let (near, far) = try DatagramSocket.pair()
    network.add(Descriptor(owning: far))
    network.connector = PeerConnector(DatagramSocket(owning: Descriptor(owning: near)), path: path)
    return network
  } catch { throw refusal(path, error, otherKind: .dgram) }
}

private func connectDatagram(_ unix: UnixNetwork) throws(SocketPathError) -> OpenedNetwork {
  var network = OpenedNetwork(NetworkPlan(framing: .datagram, hasSocket: true, source: .connector))
  let socket = try ownSocket(unix.local)
  network.temporaryPath = unix.local
  do throws(SystemError) {
    if try isThere(unix.path, for: socket) {
      network.add(try socket.duplicate())
    } else {
      network.plan.connections = 0
    }
    network.add(try socket.duplicate())
    let (near, far) = try DatagramSocket.pair()
    network.add(Descriptor(owning: far))
    network.connector = PeerConnector(
      DatagramSocket(owning: Descriptor(owning: near)), path: unix.path, socket: socket)
    return network
  } catch { throw refusal(unix.path, error, otherKind: .stream) }
}

private func ownSocket(_ path: String?) throws(SocketPathError) -> Descriptor {
  if let path { return try SocketPath.bind(path) { path throws(SystemError) in try UnixSocket.datagram(at: path) } }
  do {
    return try UnixSocket.datagram(at: nil)
  } catch { throw SocketPathError(description: error.description) }
}

/// Connects a datagram socket. False: its peer is not there yet, as of two that send to each other one comes first.
private func isThere(_ path: String, for socket: borrowing Descriptor) throws(SystemError) -> Bool {
  do {
    try UnixSocket.connect(socket.raw, to: path)
    return true
  } catch {
    // EPERM: it is still connected to one that is gone, which it notices when it sends.
    guard [ErrorNumber.noSuchFile, ErrorNumber.connectionRefused, ErrorNumber.notPermitted].contains(error.errno) else {
      throw error
    }
    return false
  }
}

private func refusal(_ path: String, _ error: SystemError, otherKind: UnixNetwork.Kind) -> SocketPathError {
  let advice =
    switch error.errno {
    case ErrorNumber.noSuchFile, ErrorNumber.connectionRefused: "; start the peer first, or give listen=on"
    case ErrorNumber.wrongProtocol: "; give type=\(otherKind.rawValue)"
    default: ""
    }
  return SocketPathError(description: "cannot connect to \(path): \(error.reason)\(advice)")
}
