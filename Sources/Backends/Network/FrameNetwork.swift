import LinuxSystem
import Synchronization

/// Where lines for the user go.
public typealias NetworkReport = @Sendable (String) -> Void

/// Where a connection comes from again after its end.
public enum PeerSource: ~Copyable, Sendable {
  /// From nowhere.
  case none
  /// A listening Unix stream socket.
  case listener(Descriptor)
  /// The process that has the right to connect: it is sent a byte for each connection that is lost, and answers with a
  /// byte and the new connection, or without one where it has connected the old socket anew.
  case connector(DatagramSocket)

  fileprivate var raw: CInt {
    switch self {
    case .none: -1
    case .listener(let listener): listener.raw
    case .connector(let socket): socket.descriptor.raw
    }
  }
}

/// A network whose frames travel over a descriptor: a socket or a TAP queue. A thread of its own receives.
public final class FrameNetwork: NetworkBackend {
  private let core: Core
  private let others: [FrameNetwork]
  private let thread = Mutex<HostThread?>(nil)

  /// - Parameters:
  ///   - id: what lines for the user call it.
  ///   - connection: the descriptor, not blocking; nil where there is no peer yet.
  ///   - socket: the unconnected socket that a `connector` is going to connect.
  ///   - others: further pairs of queues of the same interface.
  public init(
    _ id: String, _ framing: Framing, connection: consuming Descriptor?, socket: consuming Descriptor? = nil,
    source: consuming PeerSource = .none, others: [FrameNetwork] = [], report: @escaping NetworkReport
  ) throws(SystemError) {
    core = try Core(id, framing, connection, socket, source, report)
    self.others = others
  }

  deinit {
    core.stop()
    thread.withLock { $0 }?.join()
  }

  public var offloads: NetworkOffloads { core.framing.offloads }
  public var isLinkUp: Bool { core.isLinkUp.load(ordering: .acquiring) }
  public var queuePairs: [any NetworkBackend] { [self] + others }

  public func setReceiveOffloads(_ offloads: NetworkOffloads) {
    core.receiveOffloads.store(offloads.rawValue, ordering: .relaxed)
    guard core.framing == .tap else { return }
    core.control { queue in try? TAP.setOffloads(queue, offloads.rawValue) }
  }

  public func setActive(_ isActive: Bool) {
    guard core.framing == .tap || core.framing == .bareTAP else { return }
    core.control { queue in try? TAP.setActive(queue, isActive) }
  }

  public func start(_ receiver: any NetworkReceiver) {
    thread.withLock { thread in
      guard thread == nil else { return }
      do {
        thread = try HostThread(core.id) { [core] in core.run(receiver) }
      } catch { core.report("\(core.id): no frames are received: \(error)") }
    }
  }

  public func send(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ header: FrameHeader) -> Bool {
    core.send(parts, header)
  }

  public func resume() { core.resume() }
  public func drain() { core.drain() }
}

extension FrameNetwork {
  /// What the thread and the device's side share.
  // Safety: the receiving thread alone uses `arrivals` and `segment`, which is freed with the object.
  fileprivate final class Core: @unchecked Sendable {
    let id: String
    let framing: Framing
    let report: NetworkReport
    let isLinkUp: Atomic<Bool>
    /// What the device's guest does for frames that it receives, as the bits of `NetworkOffloads`.
    let receiveOffloads = Atomic<UInt32>(0)
    private let output: Mutex<FrameOutput>
    private let arrivals: FrameArrivals
    /// A segment of a frame that the guest does not take in one piece.
    private let segment: UnsafeMutableRawBufferPointer
    /// A datagram socket that is there with and without a peer.
    private let socket: Descriptor?
    private let source: PeerSource
    private let wake: EventDescriptor
    private let isHeld = Atomic(false)
    private let isStopping = Atomic(false)

    /// How long `drain` waits for a peer that does not read.
    private static let drainTime: UInt64 = 100_000_000

    init(
      _ id: String, _ framing: Framing, _ connection: consuming Descriptor?, _ socket: consuming Descriptor?,
      _ source: consuming PeerSource, _ report: @escaping NetworkReport
    ) throws(SystemError) {
      self.id = id
      self.framing = framing
      self.report = report
      isLinkUp = Atomic(connection != nil)
      arrivals = FrameArrivals(framing)
      segment = .allocate(byteCount: FrameLength.maximum, alignment: 16)
      self.socket = socket
      self.source = source
      wake = try EventDescriptor()
      output = Mutex(FrameOutput(framing, connection))
    }

    deinit { segment.deallocate() }

    // MARK: The device's side

    func send(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ header: FrameHeader) -> Bool {
      let parts = FrameParts(parts)
      let (result, wantsRoom) = output.withLock { output in
        let result = output.send(parts, header)
        return (result, output.wantsRoom)
      }
      // The thread waits for room, or looks after the lost connection.
      if wantsRoom || result == .lost && isLinkUp.load(ordering: .relaxed) { wake.signal() }
      return result != .refused
    }

    func resume() {
      if isHeld.exchange(false, ordering: .acquiringAndReleasing) { wake.signal() }
    }

    func control(_ body: @Sendable (CInt) -> Void) {
      output.withLock { output in if output.descriptor >= 0 { body(output.descriptor) } }
    }

    func drain() {
      let end = monotonicNanoseconds() + Self.drainTime
      while true {
        let waiting = output.withLock { output -> CInt? in
          _ = output.flush()
          return output.hasPending ? output.descriptor : nil
        }
        let now = monotonicNanoseconds()
        guard let waiting, now < end else { return }
        var entries = [PollEntry(waiting, .writable)]
        waitForDescriptors(&entries, milliseconds: pollMilliseconds(end - now))
      }
    }

    func stop() {
      isStopping.store(true, ordering: .releasing)
      wake.signal()
    }

    // MARK: The thread

    func run(_ receiver: any NetworkReceiver) {
      if !isLinkUp.load(ordering: .acquiring) { askForPeer() }
      while !isStopping.load(ordering: .acquiring) {
        guard awaitFrames(receiver) else { continue }
        let connection = output.withLock { $0.descriptor }
        guard connection >= 0 else { continue }
        switch arrivals.receive(from: connection) {
        case .done:
          while let (frame, header) = arrivals.next() { hand(frame, header, receiver) }
          if arrivals.isBroken { lose("its peer sends what are no frames", receiver) }
        case .again: break
        case .closed: lose(nil, receiver)
        // What a TAP queue says whose interface was removed.
        case .failed(ErrorNumber.badDescriptorState): lose("its interface is gone", receiver)
        case .failed(let errno): lose("\(SystemError("read", errno: errno))", receiver)
        }
      }
    }

    /// Delivers the frame, in segments where the guest does not take it whole.
    private func hand(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader, _ receiver: any NetworkReceiver) {
      guard framing == .networkProcess, header.segmentation.kind != .none, !takes(header) else {
        return deliver(frame, header, receiver)
      }
      var count = 0
      func flush() {
        guard count > 0 else { return }
        deliver(UnsafeRawBufferPointer(rebasing: segment[..<count]), FrameHeader(flags: .dataValid), receiver)
      }
      // A segment is whole when the room for the next is asked for.
      let isCut = FrameCompletion.segment(frame, header) { size in
        flush()
        count = size
        return UnsafeMutableRawBufferPointer(rebasing: segment[..<size])
      }
      if isCut { flush() }
    }

    private func takes(_ header: FrameHeader) -> Bool {
      let offloads = NetworkOffloads(rawValue: receiveOffloads.load(ordering: .relaxed))
      return offloads.contains([.checksum, header.segmentation.kind == .tcp6 ? .tso6 : .tso4])
    }

    /// Hands the frame over, waiting until the device has room.
    private func deliver(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader, _ receiver: any NetworkReceiver) {
      while !receiver.receive(frame, header) {
        isHeld.store(true, ordering: .sequentiallyConsistent)
        // Room that was made before the line above has woken nobody.
        if receiver.receive(frame, header) {
          isHeld.store(false, ordering: .relaxed)
          return
        }
        while isHeld.load(ordering: .acquiring), !isStopping.load(ordering: .acquiring) {
          _ = awaitFrames(receiver, reading: false)
        }
        if isStopping.load(ordering: .acquiring) { return }
      }
    }

    /// Waits for something to do and does it; whether frames can be read.
    private func awaitFrames(_ receiver: any NetworkReceiver, reading: Bool = true) -> Bool {
      let (raw, wantsRoom) = output.withLock { ($0.descriptor, $0.wantsRoom) }
      if raw < 0, isLinkUp.load(ordering: .acquiring) { lose(nil, receiver) }
      var interest: PollEvents = reading ? .readable : []
      if wantsRoom { interest.insert(.writable) }
      // Without interest a hang-up would be reported all the time.
      var entries = [
        PollEntry(wake.descriptor.raw, .readable), PollEntry(interest.isEmpty ? -1 : raw, interest),
        PollEntry(raw < 0 ? source.raw : -1, .readable),
      ]
      waitForDescriptors(&entries)
      if !entries[0].ready.isEmpty { _ = wake.drain() }
      if !entries[2].ready.isEmpty { takePeer(receiver) }
      let ready = entries[1].ready
      if wantsRoom, !ready.isDisjoint(with: [.writable, .hangUp, .error]) { makeRoom(receiver) }
      return reading && !ready.isDisjoint(with: [.readable, .hangUp, .error, .invalid])
    }

    private func makeRoom(_ receiver: any NetworkReceiver) {
      let (result, heard) = output.withLock { output in
        let result = output.flush()
        return (result, result != .refused && output.takeRefusal())
      }
      if result == .lost { lose(nil, receiver) }
      if heard { receiver.sendable() }
    }

    /// The peer is gone.
    private func lose(_ reason: String?, _ receiver: any NetworkReceiver) {
      let heard = output.withLock { output in
        output.disconnect()
        return output.takeRefusal()
      }
      arrivals.reset()
      isLinkUp.store(false, ordering: .releasing)
      // A network process is looked after by the launcher, which knows how it ended.
      if framing != .networkProcess { report("\(id): \(reason ?? "the peer is gone"); the link is down") }
      receiver.linkChanged()
      if heard { receiver.sendable() }
      askForPeer()
    }

    private func connectedSocket() -> Descriptor? {
      switch socket {
      case .some(let socket): try? socket.duplicate()
      case .none: nil
      }
    }

    private func askForPeer() {
      switch source {
      case .connector(let connector): try? connector.send([0])
      case .none: break
      case .listener: break
      }
    }

    private func takePeer(_ receiver: any NetworkReceiver) {
      var connection: Descriptor?
      switch source {
      case .none: return
      case .listener(let listener):
        do { connection = try UnixSocket.accept(from: listener.raw) } catch { return }
      case .connector(let connector):
        guard let answer = try? connector.receive(limit: 1) else {
          // The launcher is gone, and this process with it.
          isStopping.store(true, ordering: .releasing)
          return
        }
        if let raw = answer.descriptors.first {
          connection = Descriptor(owning: raw)
        } else {
          connection = connectedSocket()
        }
      }
      let isThere = output.withLock { output in
        guard let connection = connection.take() else { return false }
        output.connect(connection)
        return true
      }
      guard isThere else { return }
      isLinkUp.store(true, ordering: .releasing)
      report("\(id): the peer is there; the link is up")
      receiver.linkChanged()
    }
  }
}

/// The receiving half of a connection: what has come and was not handed over.
// Safety: the buffers belong to the object and are freed with it; one thread uses it.
final class FrameArrivals {
  private let framing: Framing
  private let buffer: UnsafeMutableRawBufferPointer
  private let lengths: UnsafeMutableBufferPointer<UInt32>
  /// Bytes of a stream or of a TAP frame that are there.
  private var filled = 0..<0
  /// Datagrams that came, and how many of them were handed over.
  private var datagrams = (count: 0, taken: 0)
  /// A stream's peer broke the framing.
  private(set) var isBroken = false

  private static let lengthBytes = 4
  /// Each datagram's share of the buffer, a multiple of 64.
  private static let stride = (FrameLength.maximum + FrameHeader.size + 63) & ~63
  private static let streamCapacity = 4 * stride

  init(_ framing: Framing) {
    self.framing = framing
    let capacity =
      switch framing {
      case .datagram, .networkProcess: FrameIO.batch * Self.stride
      case .stream: Self.streamCapacity
      case .tap, .bareTAP: Self.stride
      }
    buffer = .allocate(byteCount: capacity, alignment: 64)
    lengths = .allocate(capacity: FrameIO.batch)
    lengths.initialize(repeating: 0)
  }

  deinit {
    buffer.deallocate()
    lengths.deallocate()
  }

  func reset() {
    filled = 0..<0
    datagrams = (0, 0)
    isBroken = false
  }

  /// Takes what the host has, as much as there is room for.
  func receive(from descriptor: CInt) -> TransferResult {
    switch framing {
    case .datagram, .networkProcess:
      let result = FrameIO.receiveDatagrams(into: buffer, stride: Self.stride, lengths: lengths, from: descriptor)
      guard case .done(let count) = result else { return result }
      datagrams = (count, 0)
      // No process sends an empty frame: this is the end of its socket.
      return framing == .networkProcess && count > 0 && lengths[0] == 0 ? .closed : result
    case .stream:
      if filled.lowerBound > 0 {
        // Less than a frame is left over.
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[filled]))
        filled = 0..<filled.count
      }
      let room = UnsafeMutableRawBufferPointer(rebasing: buffer[filled.upperBound...])
      let result = FrameIO.read(into: room, from: descriptor)
      if case .done(let count) = result { filled = 0..<filled.upperBound + count }
      return result
    case .tap, .bareTAP:
      let result = FrameIO.read(into: buffer, from: descriptor)
      if case .done(let count) = result { filled = 0..<count }
      return result
    }
  }

  /// The next frame; valid until `receive`.
  func next() -> (UnsafeRawBufferPointer, FrameHeader)? {
    while let (bytes, header) = nextBytes() {
      if FrameLength.ethernetHeader...FrameLength.maximum ~= bytes.count { return (bytes, header) }
    }
    return nil
  }

  private func nextBytes() -> (UnsafeRawBufferPointer, FrameHeader)? {
    switch framing {
    case .datagram, .networkProcess:
      guard datagrams.taken < datagrams.count else { return nil }
      let start = datagrams.taken * Self.stride
      let length = Int(lengths[datagrams.taken])
      datagrams.taken += 1
      // One that was cut is of no use.
      guard length <= Self.stride else { return (UnsafeRawBufferPointer(start: nil, count: 0), FrameHeader()) }
      let datagram = UnsafeRawBufferPointer(rebasing: buffer[start..<start + length])
      return framing == .networkProcess ? headed(datagram) : (datagram, FrameHeader())
    case .stream:
      guard filled.count >= Self.lengthBytes else { return nil }
      let length = UInt32(bigEndian: buffer.loadUnaligned(fromByteOffset: filled.lowerBound, as: UInt32.self))
      guard length <= FrameLength.maximum else {
        isBroken = true
        return nil
      }
      let start = filled.lowerBound + Self.lengthBytes
      let end = start + Int(length)
      guard end <= filled.upperBound else { return nil }
      filled = end..<filled.upperBound
      return (UnsafeRawBufferPointer(rebasing: buffer[start..<end]), FrameHeader())
    case .tap, .bareTAP:
      guard !filled.isEmpty else { return nil }
      let frame = UnsafeRawBufferPointer(rebasing: buffer[filled])
      filled = 0..<0
      return framing == .tap ? headed(frame) : (frame, FrameHeader())
    }
  }

  /// A frame behind its header; none where there are too few bytes.
  private func headed(_ bytes: UnsafeRawBufferPointer) -> (UnsafeRawBufferPointer, FrameHeader) {
    guard bytes.count >= FrameHeader.size else { return (UnsafeRawBufferPointer(start: nil, count: 0), FrameHeader()) }
    return (UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]), FrameHeader(decoding: bytes))
  }
}
