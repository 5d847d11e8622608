import Backends
import DeviceKit
import Synchronization

/// One port of a virtio console: a stream of bytes between the guest and a connection of the host's.
///
/// What comes from the host waits in a small queue for the driver's buffers; what the driver sends stays in its buffer
/// until the host has taken it.
// Safety: `input` guards what the backend's threads touch; the rest belongs to the device's worker.
final class ConsolePort: CharacterReceiver, @unchecked Sendable {
  private struct Input {
    var bytes = ByteQueue(capacity: 4096)
    /// The backend was refused some and waits for `resumeInput`.
    var isHeld = false
    /// The guest has opened the port.
    var isOpen = false
    /// Of the terminal at the other end, where it is one.
    var size: ConsoleSize?
    /// The guest has not been told of the size.
    var isSizeNew = false

    /// Whether the backend waits and may go on now.
    mutating func takeHold(if canTake: Bool) -> Bool {
      guard isHeld, canTake else { return false }
      isHeld = false
      return true
    }
  }

  let number: Int
  let isConsole: Bool
  let name: String
  private let backend: (any CharacterBackend)?
  private let input = Mutex(Input())
  private let wake: @Sendable () -> Void

  /// The driver's buffer that the host has not taken all of, and what is left of it.
  private var pending: (token: BufferToken, runs: [UnsafeMutableRawBufferPointer])?

  init(
    number: Int, isConsole: Bool, name: String, backend: (any CharacterBackend)?, wake: @escaping @Sendable () -> Void
  ) {
    self.number = number
    self.isConsole = isConsole
    self.name = name
    self.backend = backend
    self.wake = wake
  }

  /// To be called when the device is ready to be woken.
  func start() { backend?.attach(self) }

  // MARK: From the host, on any thread

  func receive(_ bytes: UnsafeRawBufferPointer) -> Int {
    let taken = input.withLock { input -> Int in
      let taken = input.isOpen ? min(bytes.count, input.bytes.room) : 0
      for index in 0..<taken { input.bytes.append(bytes[index]) }
      if taken < bytes.count { input.isHeld = true }
      return taken
    }
    if taken > 0 { wake() }
    return taken
  }

  func sendable() { wake() }

  func resized(columns: UInt16, rows: UInt16) {
    let isNew = input.withLock { input -> Bool in
      let size = ConsoleSize(columns: columns, rows: rows)
      guard input.size != size else { return false }
      input.size = size
      input.isSizeNew = true
      return true
    }
    if isNew { wake() }
  }

  // MARK: On the worker

  /// The guest has opened or closed the port. What came for the guest that closed it is not for the next.
  func setOpen(_ isOpen: Bool) {
    let resumes = input.withLock { input -> Bool in
      input.isOpen = isOpen
      if !isOpen { input.bytes.removeAll() }
      return input.takeHold(if: isOpen)
    }
    if resumes { backend?.resumeInput() }
  }

  /// The terminal's size, where it is known and, unless `always`, has changed since the last call.
  func takeSize(always: Bool = false) -> ConsoleSize? {
    input.withLock { input in
      guard input.isSizeNew || always else { return nil }
      input.isSizeNew = false
      return input.size
    }
  }

  /// Whether something waits for the driver's buffers.
  var hasInput: Bool { input.withLock { !$0.bytes.isEmpty } }
  /// Whether the host has not taken all of the buffer before.
  var isBlocked: Bool { pending != nil }

  /// Fills the driver's buffers. False: there was nothing to put into one.
  func receive(into queue: inout Virtqueue) throws(VirtqueueFault) -> Bool {
    var worked = false
    while hasInput, let chain = try queue.take() {
      var written = 0
      let resumes = input.withLock { input -> Bool in
        for run in chain.writable {
          let count = input.bytes.copyFirst(into: run)
          input.bytes.removeFirst(count)
          written += count
          if input.bytes.isEmpty { break }
        }
        return input.takeHold(if: input.bytes.isEmpty)
      }
      queue.put(chain.token, written: UInt32(truncatingIfNeeded: written))
      worked = true
      // With no lock held: more may come at once.
      if resumes { backend?.resumeInput() }
    }
    return worked
  }

  /// Gives the host what the driver sent. False: there was nothing, or it takes no more for now.
  func send(from queue: inout Virtqueue) throws(VirtqueueFault) -> Bool {
    var worked = false
    if let (token, runs) = pending {
      pending = runs.withUnsafeBufferPointer { transmit($0) }.map { (token, $0) }
      guard pending == nil else { return false }
      queue.put(token, written: 0)
      worked = true
    }
    while let chain = try queue.take() {
      if let rest = transmit(chain.readable) {
        pending = (chain.token, rest)
        return worked
      }
      queue.put(chain.token, written: 0)
      worked = true
    }
    return worked
  }

  /// What the host does not take; nil: it took all.
  private func transmit(_ runs: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>) -> [UnsafeMutableRawBufferPointer]?
  {
    guard let backend else { return nil }
    for (index, run) in runs.enumerated() where !run.isEmpty {
      let taken = min(max(backend.send(UnsafeRawBufferPointer(run)), 0), run.count)
      guard taken < run.count else { continue }
      return [UnsafeMutableRawBufferPointer(rebasing: run[taken...])] + runs[(index + 1)...]
    }
    return nil
  }

  /// One byte past all queues (§5.3.4, emerg_wr).
  func emergencyWrite(_ byte: UInt8) {
    _ = withUnsafeBytes(of: byte) { bytes in backend?.send(bytes) }
  }

  /// The driver's transmit buffers are gone.
  func dropPending() { pending = nil }

  /// The device is reset.
  func reset() {
    dropPending()
    setOpen(false)
  }
}

/// A terminal's size in characters.
struct ConsoleSize: Sendable, Equatable {
  var columns: UInt16
  var rows: UInt16
}
