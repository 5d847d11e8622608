import Backends
import DeviceKit
import MachineModel
import Synchronization

/// The socket device (virtio 1.2 §5.10): stream connections between the guest and programs of the host.
// Safety: `inbox` is what other threads touch; the rest that changes belongs to the worker.
public final class VirtioVsock: VirtioDevice, VsockReceiver, @unchecked Sendable {
  private enum Queue {
    static let receive = 0
    static let transmit = 1
    static let event = 2
  }

  /// The host's context identifier (§5.10.4).
  static let hostID: UInt64 = 2
  /// Connections at the most; more are refused.
  static let connectionLimit = 512
  /// Refusals that wait for the guest's buffers; a guest that gives none loses those beyond.
  private static let refusalLimit = 256
  /// Where the ports of connections that the host asks for start.
  private static let firstHostPort: UInt32 = 1 << 30
  /// `VIRTIO_VSOCK_F_STREAM` (§5.10.3).
  private static let streamFeature = VirtioFeatures(bit: 0)

  /// What came from the backend.
  private struct Inbox {
    var requests: [(port: UInt32, stream: any VsockStream)] = []
    var answers: [(connection: VsockConnection, stream: (any VsockStream)?)] = []
    var ready: Set<ObjectIdentifier> = []
    var isEmpty: Bool { requests.isEmpty && answers.isEmpty && ready.isEmpty }
  }

  private let guestID: UInt64
  private let backend: any VsockBackend
  private let inbox = Mutex(Inbox())
  private var connections: [VsockPorts: VsockConnection] = [:]
  private var byStream: [ObjectIdentifier: VsockConnection] = [:]
  /// Connections that may have something for the guest, each once.
  private var listed: [VsockConnection] = []
  private var refusals: [VsockHeader] = []
  private var lastHostPort = VirtioVsock.firstHostPort

  init(id: String, guestID: UInt32, backend: any VsockBackend, board: Board) throws(DeviceError) {
    self.guestID = UInt64(guestID)
    self.backend = backend
    var configuration = [UInt8](repeating: 0, count: 8)
    configuration.store(UInt64(guestID), at: 0, count: 8)
    try super.init(
      id: id, kind: VirtioKind(id: 19, transitionalID: nil, pciClass: 0x078000), features: Self.streamFeature,
      queues: [QueueSpec(size: 256), QueueSpec(size: 256), QueueSpec(size: 16)], configuration: configuration,
      board: board)
  }

  public override func start() { backend.attach(self) }

  // MARK: From the host, on any thread

  public func requested(port: UInt32, _ stream: any VsockStream) {
    inbox.withLock { $0.requests.append((port, stream)) }
    wake()
  }

  public func ready(_ stream: any VsockStream) {
    inbox.withLock { _ = $0.ready.insert(ObjectIdentifier(stream)) }
    wake()
  }

  // MARK: On the worker

  /// Nobody in the guest has ever been connected: who asked before is told so.
  public override func activate() { for request in takeInbox().requests { request.stream.close() } }

  public override func released(_ queue: Int?) {
    guard queue == nil else { return }
    let waiting = takeInbox()
    for request in waiting.requests { request.stream.close() }
    for answer in waiting.answers { answer.stream?.close() }
    for connection in connections.values { connection.stream?.close() }
    connections = [:]
    byStream = [:]
    listed = []
    refusals = []
  }

  private func takeInbox() -> Inbox {
    inbox.withLock { inbox in
      defer { inbox = Inbox() }
      return inbox
    }
  }

  public override func service(group: Int) throws(VirtqueueFault) -> Bool {
    let news = takeInbox()
    guard !news.isEmpty else { return false }
    for (port, stream) in news.requests { ask(port, stream) }
    for (connection, stream) in news.answers { answered(connection, stream) }
    for stream in news.ready {
      guard let connection = byStream[stream] else { continue }
      connection.hostMayHaveMore = true
      connection.flush()
      settle(connection)
    }
    return true
  }

  public override func wantsBuffers(_ queue: Int) -> Bool {
    switch queue {
    case Queue.receive: return !listed.isEmpty || !refusals.isEmpty
    case Queue.transmit: return true
    // The guest's identifier never changes while it runs (§5.10.6.7).
    default: return false
    }
  }

  public override func process(_ queue: Int) throws(VirtqueueFault) -> Bool {
    queue == Queue.receive ? try deliver() : queue == Queue.transmit ? try accept() : false
  }

  // MARK: Connections

  /// The host wants a connection to the guest's port.
  private func ask(_ port: UInt32, _ stream: any VsockStream) {
    guard connections.count < Self.connectionLimit else { return stream.close() }
    var ports: VsockPorts
    repeat {
      lastHostPort = lastHostPort == .max ? Self.firstHostPort : lastHostPort + 1
      ports = VsockPorts(host: lastHostPort, guest: port)
    } while connections[ports] != nil
    let connection = VsockConnection(ports, state: .requested, stream: stream)
    connections[ports] = connection
    byStream[ObjectIdentifier(stream)] = connection
    connection.notices.insert(.request)
    list(connection)
  }

  /// The guest wants a connection to the host's port.
  private func connect(_ ports: VsockPorts, _ header: VsockHeader) {
    let connection = VsockConnection(ports, state: .connecting)
    connection.noteCredit(header)
    connections[ports] = connection
    backend.connect(port: ports.host) { [weak self] stream in
      guard let self else { return }
      inbox.withLock { $0.answers.append((connection, stream)) }
      wake()
    }
  }

  private func answered(_ connection: VsockConnection, _ stream: (any VsockStream)?) {
    // The guest may have given up meanwhile.
    guard connections[connection.ports] === connection, connection.state == .connecting else {
      stream?.close()
      return
    }
    guard let stream else { return reset(connection) }
    connection.stream = stream
    connection.state = .established
    byStream[ObjectIdentifier(stream)] = connection
    connection.notices.insert(.response)
    list(connection)
  }

  private func list(_ connection: VsockConnection) {
    guard !connection.isListed else { return }
    connection.isListed = true
    listed.append(connection)
  }

  /// The connection has changed: it may have something for the guest, or be over.
  private func settle(_ connection: VsockConnection) {
    // A clean end of both sides is confirmed by a reset (§5.10.6.6).
    if connection.isOver { return reset(connection) }
    list(connection)
  }

  private func remove(_ connection: VsockConnection) {
    connections[connection.ports] = nil
    guard let stream = connection.stream else { return }
    byStream[ObjectIdentifier(stream)] = nil
    stream.close()
    connection.stream = nil
  }

  private func reset(_ connection: VsockConnection) {
    remove(connection)
    refuse(connection.header(VsockHeader.Operation.reset))
  }

  private func refuse(_ header: VsockHeader) {
    if refusals.count < Self.refusalLimit { refusals.append(header) }
  }

  /// Answers a packet that belongs to no connection; a reset has none (§5.10.6.4).
  private func refuse(_ ports: VsockPorts, _ header: VsockHeader) {
    guard header.operation != VsockHeader.Operation.reset else { return }
    var answer = VsockHeader()
    answer.sourcePort = ports.host
    answer.destinationPort = ports.guest
    answer.type = header.type
    answer.operation = VsockHeader.Operation.reset
    refuse(answer)
  }

  // MARK: From the guest

  private func accept() throws(VirtqueueFault) -> Bool {
    var worked = false
    while let chain = try queues[Queue.transmit].take() {
      if let header = VsockHeader(chain) { handle(header, chain) }
      queues[Queue.transmit].put(chain.token, written: 0)
      worked = true
    }
    return worked
  }

  private func handle(_ header: VsockHeader, _ chain: DescriptorChain) {
    // What claims to come from elsewhere is dropped (§5.10.6.4.2).
    guard header.source == guestID else { return }
    let ports = VsockPorts(host: header.destinationPort, guest: header.sourcePort)
    guard header.destination == Self.hostID, header.type == VsockHeader.stream else { return refuse(ports, header) }
    typealias Operation = VsockHeader.Operation
    guard let connection = connections[ports] else {
      guard header.operation == Operation.request, connections.count < Self.connectionLimit else {
        return refuse(ports, header)
      }
      return connect(ports, header)
    }
    connection.noteCredit(header)
    switch (header.operation, connection.state) {
    case (Operation.reset, _): return remove(connection)
    case (Operation.response, .requested):
      connection.state = .established
      connection.stream?.accepted(hostPort: ports.host)
    case (Operation.data, .established):
      let count = Int(header.length)
      guard count <= chain.readableCount - VsockHeader.size,
        connection.guestEnds & VsockHeader.Shutdown.send == 0, connection.take(chain, count)
      else { return reset(connection) }
    case (Operation.shutdown, .established):
      connection.noteShutdown(header.flags)
      connection.flush()
    case (Operation.creditUpdate, _): break
    case (Operation.creditRequest, .established): connection.notices.insert(.creditUpdate)
    default: return reset(connection)
    }
    settle(connection)
  }

  // MARK: To the guest

  private func deliver() throws(VirtqueueFault) -> Bool {
    var worked = false
    while queues[Queue.receive].hasAvailable {
      if let header = refusals.first {
        try send(header)
        refusals.removeFirst()
      } else if let connection = listed.first {
        listed.removeFirst()
        connection.isListed = false
        guard connections[connection.ports] === connection, try serve(connection) else { continue }
        // Whoever else waits comes first.
        list(connection)
      } else {
        break
      }
      worked = true
    }
    return worked
  }

  /// Sends one packet of the connection's; false: there was none to send.
  private func serve(_ connection: VsockConnection) throws(VirtqueueFault) -> Bool {
    typealias Operation = VsockHeader.Operation
    let hasData = connection.fetch()
    let order: [(VsockConnection.Notices, UInt16)] = [
      (.request, Operation.request), (.response, Operation.response), (.creditUpdate, Operation.creditUpdate),
      (.creditRequest, Operation.creditRequest), (.shutdown, Operation.shutdown),
    ]
    for (notice, operation) in order where connection.notices.contains(notice) {
      connection.notices.remove(notice)
      var header = connection.header(operation)
      if notice == .shutdown { header.flags = connection.hostEnds }
      try send(header)
      return true
    }
    guard hasData else { return false }
    try send(connection)
    return true
  }

  private func send(_ header: VsockHeader) throws(VirtqueueFault) {
    guard let chain = try queues[Queue.receive].take() else { return }
    guard chain.writableCount >= VsockHeader.size else { throw .request }
    finish(header).write(to: chain)
    queues[Queue.receive].put(chain.token, written: UInt32(VsockHeader.size))
  }

  private func send(_ connection: VsockConnection) throws(VirtqueueFault) {
    guard let chain = try queues[Queue.receive].take() else { return }
    guard chain.writableCount > VsockHeader.size else { throw .request }
    let count = min(chain.writableCount - VsockHeader.size, connection.incoming.count, connection.credit)
    var header = connection.header(VsockHeader.Operation.data)
    header.length = UInt32(truncatingIfNeeded: count)
    finish(header).write(to: chain)
    connection.incoming.prefix(count).withUnsafeBytes { _ = chain.write(at: VsockHeader.size, $0) }
    connection.noteSent(count)
    queues[Queue.receive].put(chain.token, written: UInt32(truncatingIfNeeded: VsockHeader.size + count))
  }

  private func finish(_ header: VsockHeader) -> VsockHeader {
    var header = header
    header.source = Self.hostID
    header.destination = guestID
    return header
  }

  // MARK: Model

  public static let model = VirtioModel(
    name: "virtio-vsock", summary: "virtio sockets between the guest and Unix sockets of the host",
    options: [
      OptionSpec("guest-cid", .integer(3...0xFFFF_FFFE), default: .integer(3), "context identifier of the guest")
    ],
    pciOptions: VirtioPCIDevice.modernOptions
  ) { (id, properties, board) throws(DeviceError) in
    guard let backend = board.resources.vsock() else {
      throw DeviceError("\(id): virtio-vsock needs sockets on the host: give --vsock uds=PATH")
    }
    let guestID = UInt32(clamping: properties.integer("guest-cid") ?? 3)
    return try VirtioVsock(id: id, guestID: guestID, backend: backend, board: board)
  }
}
