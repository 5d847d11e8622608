import LinuxSystem
import Synchronization

/// A character connection whose other end comes and goes: clients of a listening Unix socket, one at a time, or
/// whoever has a pseudoterminal's slave open. Output while nobody is there is dropped.
final class DuplexPump: Sendable {
  enum Peer: ~Copyable, Sendable {
    case listener(Descriptor)
    case pseudoterminal(Descriptor)

    var raw: CInt {
      switch self {
      case .listener(let descriptor): descriptor.raw
      case .pseudoterminal(let descriptor): descriptor.raw
      }
    }
    var isListener: Bool {
      switch self {
      case .listener: true
      case .pseudoterminal: false
      }
    }
  }

  private struct Output {
    var queue = OutputQueue()
    /// The thread sleeps and does not know of the output queued since.
    var unnoticed = false
    /// Somebody is at the other end, as far as is known.
    var connected = false
    var drainers = 0
  }

  /// How often a pseudoterminal is looked at while nobody has its slave open: the kernel reports that state, but
  /// not its end.
  private static let retryMilliseconds: CInt = 250

  private let peer: Peer
  private let hold = InputHold()
  private let queued = Mutex(Output())
  private let stopping = Atomic<Bool>(false)
  private let wake: EventDescriptor
  private let drained: EventDescriptor

  init(_ peer: consuming Peer) throws(SystemError) {
    wake = try EventDescriptor()
    drained = try EventDescriptor()
    self.peer = peer
  }

  func start(_ name: String) throws(SystemError) { _ = try HostThread(name, stackSize: 128 << 10) { self.run() } }

  func stop() {
    stopping.store(true, ordering: .releasing)
    wake.signal()
  }

  func attach(_ receiver: any CharacterReceiver) {
    hold.attach(receiver)
    wake.signal()
  }

  func resumeInput() { if hold.resume() { wake.signal() } }

  func send(_ bytes: UnsafeRawBufferPointer) -> Int {
    let (taken, signal) = queued.withLock { output -> (Int, Bool) in
      guard output.connected else { return (bytes.count, false) }
      let taken = output.queue.append(bytes)
      defer { output.unnoticed = false }
      return (taken, output.unnoticed)
    }
    if signal { wake.signal() }
    return taken
  }

  func drain(_ nanoseconds: UInt64) {
    let start = monotonicNanoseconds()
    while true {
      let done = queued.withLock { output in
        let done = output.queue.isEmpty
        if !done { output.drainers += 1 }
        return done
      }
      if done { return }
      let passed = monotonicNanoseconds() &- start
      if passed < nanoseconds { drained.wait(milliseconds: milliseconds(nanoseconds - passed)) }
      queued.withLock { $0.drainers -= 1 }
      if passed >= nanoseconds { return }
    }
  }

  private func run() {
    blockBrokenPipeSignal()
    withUnsafeTemporaryAllocation(byteCount: 8192, alignment: 16) { buffer in
      let input = UnsafeMutableRawBufferPointer(rebasing: buffer[0..<4096])
      let output = UnsafeMutableRawBufferPointer(rebasing: buffer[4096..<8192])
      while !stopping.load(ordering: .acquiring) {
        if peer.isListener {
          guard let client = waitForClient() else { continue }
          serve(client.raw, input, output)
        } else if waitForSlave() {
          serve(peer.raw, input, output)
        }
      }
    }
  }

  private func waitForClient() -> Descriptor? {
    var entries = [PollEntry(wake.descriptor.raw, .readable), PollEntry(peer.raw, .readable)]
    waitForDescriptors(&entries)
    if entries[0].ready.contains(.readable) { _ = wake.drain() }
    guard !entries[1].ready.isEmpty else { return nil }
    do {
      return try UnixSocket.accept(from: peer.raw)
    } catch {
      // The client has gone again, or the process is out of descriptors: the next look may do better.
      if error.errno != ErrorNumber.again { wake.wait(milliseconds: Self.retryMilliseconds) }
      return nil
    }
  }

  private func waitForSlave() -> Bool {
    var entries = [PollEntry(peer.raw, .readable)]
    waitForDescriptors(&entries, milliseconds: 0)
    if !entries[0].ready.contains(.hangUp) { return true }
    wake.wait(milliseconds: Self.retryMilliseconds)
    return false
  }

  /// Moves bytes until the other end has gone and what it left behind was taken.
  private func serve(
    _ descriptor: CInt, _ input: UnsafeMutableRawBufferPointer, _ output: UnsafeMutableRawBufferPointer
  ) {
    queued.withLock { $0.connected = true }
    defer { disconnect() }
    var pending = 0..<0
    // A client may end its side and still listen (shutdown(2)).
    var inputEnded = false
    while !stopping.load(ordering: .acquiring) {
      if !pending.isEmpty {
        let taken = hold.offer(UnsafeRawBufferPointer(rebasing: input[pending]))
        pending = pending.lowerBound + taken..<pending.upperBound
      }
      let wantsInput = pending.isEmpty && !inputEnded && hold.isOpen
      let hasOutput = queued.withLock { output -> Bool in
        output.unnoticed = output.queue.isEmpty
        return !output.queue.isEmpty
      }
      var interest: PollEvents = hasOutput ? [.writable] : []
      if wantsInput { interest.insert(.readable) }
      var entries = [PollEntry(wake.descriptor.raw, .readable), PollEntry(descriptor, interest)]
      waitForDescriptors(&entries)
      if entries[0].ready.contains(.readable) { _ = wake.drain() }
      let ready = entries[1].ready
      let gone = !ready.isDisjoint(with: [.hangUp, .error, .invalid])
      if wantsInput, gone || ready.contains(.readable) {
        if let count = readSome(descriptor, input) {
          if gone, count == 0 { return }
          pending = 0..<count
        } else if gone || !peer.isListener {
          return
        } else {
          inputEnded = true
        }
      } else if gone {
        if inputEnded && pending.isEmpty || ready.contains(.invalid) { return }
        disconnect()
        guard waitForRoom() else { return }
      } else if ready.contains(.writable), !writeSome(descriptor, output) {
        disconnect()
      }
    }
  }

  /// Waits for the device to take input of an end that has gone; false when a new client wants the line.
  private func waitForRoom() -> Bool {
    var entries = [PollEntry(wake.descriptor.raw, .readable), PollEntry(peer.isListener ? peer.raw : -1, .readable)]
    waitForDescriptors(&entries, milliseconds: peer.isListener ? -1 : Self.retryMilliseconds)
    if entries[0].ready.contains(.readable) { _ = wake.drain() }
    return entries[1].ready.isEmpty
  }

  /// Bytes read, 0 when there are none at the moment, nil at the end.
  private func readSome(_ descriptor: CInt, _ buffer: UnsafeMutableRawBufferPointer) -> Int? {
    do {
      let count = try readDescriptor(descriptor, into: buffer)
      return count > 0 ? count : nil
    } catch {
      return error.errno == ErrorNumber.again ? 0 : nil
    }
  }

  private func writeSome(_ descriptor: CInt, _ buffer: UnsafeMutableRawBufferPointer) -> Bool {
    let count = queued.withLock { $0.queue.copyFirst(into: buffer) }
    guard count > 0 else { return true }
    do {
      finish(try writeDescriptor(descriptor, UnsafeRawBufferPointer(rebasing: buffer[0..<count])))
      return true
    } catch {
      return error.errno == ErrorNumber.again
    }
  }

  private func finish(_ written: Int) {
    let (heard, empty) = queued.withLock { output in
      output.queue.removeFirst(written)
      return (output.queue.takeRefusal(), output.queue.isEmpty && output.drainers > 0)
    }
    if empty { drained.signal() }
    if heard { hold.receiver?.sendable() }
  }

  private func disconnect() {
    let heard = queued.withLock { output -> Bool in
      output.connected = false
      output.unnoticed = false
      output.queue.removeAll()
      return output.queue.takeRefusal()
    }
    drained.signal()
    if heard { hold.receiver?.sendable() }
  }
}

/// A listening Unix socket as a character connection: one client at a time, the next waits.
public final class SocketCharacterBackend: CharacterBackend {
  private let pump: DuplexPump

  /// Takes over a non-blocking listening stream socket.
  public init(listener: consuming Descriptor) throws(SystemError) {
    pump = try DuplexPump(.listener(listener))
    try pump.start("char-socket")
  }

  deinit { pump.stop() }

  public func attach(_ receiver: any CharacterReceiver) { pump.attach(receiver) }
  public func send(_ bytes: UnsafeRawBufferPointer) -> Int { pump.send(bytes) }
  public func resumeInput() { pump.resumeInput() }
  public func drain(nanoseconds: UInt64) { pump.drain(nanoseconds) }
}

/// A pseudoterminal as a character connection.
public final class PseudoterminalCharacterBackend: CharacterBackend {
  private let pump: DuplexPump

  /// Takes over a non-blocking master.
  public init(master: consuming Descriptor) throws(SystemError) {
    pump = try DuplexPump(.pseudoterminal(master))
    try pump.start("char-pty")
  }

  deinit { pump.stop() }

  public func attach(_ receiver: any CharacterReceiver) { pump.attach(receiver) }
  public func send(_ bytes: UnsafeRawBufferPointer) -> Int { pump.send(bytes) }
  public func resumeInput() { pump.resumeInput() }
  public func drain(nanoseconds: UInt64) { pump.drain(nanoseconds) }
}

/// Takes output and forgets it; there is never input.
public final class NullCharacterBackend: CharacterBackend {
  public init() {}
  public func attach(_ receiver: any CharacterReceiver) {}
  public func send(_ bytes: UnsafeRawBufferPointer) -> Int { bytes.count }
  public func resumeInput() {}
  public func drain(nanoseconds: UInt64) {}
}
