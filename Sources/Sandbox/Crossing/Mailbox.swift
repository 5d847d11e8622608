import Buses
import LinuxSystem
import Synchronization

/// What a mailbox asks the device process to do.
public enum MailboxOperation: UInt8, Sendable {
  case portRead
  case portWrite
  case memoryRead
  case memoryWrite
  /// Nothing: only waits for what was posted.
  case flush
}

/// The order of posted writes, machine-wide: each takes a number, and they are performed in the order of their numbers.
/// Zeroed shared memory is its first value.
struct PostedOrder: ~Copyable {
  /// Numbers given to writes.
  let given = Atomic<UInt64>(0)
  /// Writes performed, which is the number of the next.
  let performed = Atomic<UInt64>(0)

  /// Device side: returns when all writes below `number` have been performed. False: the mailbox was closed.
  borrowing func wait(for number: UInt64, unlessClosed state: borrowing Atomic<UInt32>) -> Bool {
    var tries = 0
    while performed.load(ordering: .acquiring) < number {
      if state.load(ordering: .relaxed) == Mailbox.State.closed { return false }
      tries += 1
      // The one before may need this processor.
      if tries & 63 == 0 { yieldProcessor() } else { spinHint() }
    }
    return true
  }
}

/// One vCPU's slot in the shared memory between the launcher and the device process: a bus access and its answer.
///
/// The vCPU fills the request, sets `state` to `request` and waits for `reply`; one thread of the device process
/// serves it. Each side spins briefly, then sleeps on `state`; a side that sleeps says so in `state`, so that no
/// system call is made when nobody does. Neither spins where the other last ran on its own processor: that would only
/// keep the other from running.
///
/// Writes whose effect the vCPU need not see are posted: it leaves them in a ring and goes on. They are performed in
/// their order machine-wide, before any access that a vCPU waits for and begins later.
///
/// Either side may be hostile to the other's logic but not to its memory: the launcher copies `count` bytes of its own
/// choosing, the device process clamps what it reads.
public struct Mailbox: ~Copyable {
  /// Items of a string access are moved at most this many bytes at a time.
  public static let capacity = 4096

  /// Values of `state`.
  enum State {
    static let idle: UInt32 = 0
    /// The server sleeps; whoever posts a request wakes it.
    static let idleAsleep: UInt32 = 1
    static let request: UInt32 = 2
    /// The vCPU sleeps until the reply.
    static let requestAsleep: UInt32 = 3
    static let reply: UInt32 = 4
    /// The other process is gone.
    static let closed: UInt32 = 5
  }

  let state = Atomic<UInt32>(State.idle)
  var operation: UInt8 = 0
  /// Bytes of one item: 1, 2, 4 or 8.
  var width: UInt8 = 0
  /// Items.
  var items: UInt32 = 0
  /// The processor that the vCPU's thread ran on as it made the request.
  let client = Atomic<UInt32>(.max)
  /// The processor that the server ran on as it served the last one.
  let server = Atomic<UInt32>(.max)
  var address: UInt64 = 0
  /// Writes posted and performed, modulo 2^32.
  let posted = Atomic<UInt32>(0)
  let performed = Atomic<UInt32>(0)

  /// Posted writes that fit.
  static let postedCapacity = UInt32(SharedRegisters.postedWrites)

  struct PostedWrite {
    /// In `PostedOrder`.
    var number: UInt64
    var address: UInt64
    var value: UInt64
    var operation: UInt8
    var width: UInt8
  }
  // The request and the data share cache lines on purpose: most accesses are one item, and then one line moves.
}

/// Where mailboxes stand in shared memory: each on pages of its own, the data right behind the header.
// Safety: the mapping outlives both views; a mailbox has one client thread and one server thread, ordered by `state`.
public struct MailboxSlot: @unchecked Sendable {
  static let dataOffset = MemoryLayout<Mailbox>.stride
  /// Bytes from one mailbox to the next.
  public static let stride = 8192

  /// Behind the data, on cache lines of its own.
  private static let ringOffset = (dataOffset + Mailbox.capacity + 63) & ~63

  let mailbox: UnsafeMutablePointer<Mailbox>
  let data: UnsafeMutableRawPointer
  let ring: UnsafeMutablePointer<Mailbox.PostedWrite>
  let order: UnsafeMutablePointer<PostedOrder>

  init(_ base: UnsafeMutableRawPointer, order: UnsafeMutablePointer<PostedOrder>) {
    mailbox = base.assumingMemoryBound(to: Mailbox.self)
    data = base + Self.dataOffset
    ring = (base + Self.ringOffset).assumingMemoryBound(to: Mailbox.PostedWrite.self)
    self.order = order
  }

  func entry(_ index: UInt32) -> UnsafeMutablePointer<Mailbox.PostedWrite> {
    ring + Int(index % Mailbox.postedCapacity)
  }

  /// Prepares zeroed shared memory; done once, by the launcher.
  func initialize() { mailbox.initialize(to: Mailbox()) }

  /// Ends every wait on this mailbox, now and later.
  public func close() {
    mailbox.pointee.state.store(Mailbox.State.closed, ordering: .releasing)
    wake()
  }

  func wake() {
    // Safety: `state` is the first field, so the mailbox's address is the word's.
    Futex.wake(UnsafeMutableRawPointer(mailbox).assumingMemoryBound(to: Atomic<UInt32>.self), count: .max)
  }

  func sleep(while value: UInt32) {
    Futex.wait(UnsafeMutableRawPointer(mailbox).assumingMemoryBound(to: Atomic<UInt32>.self), while: value)
  }
}

/// The vCPU's end of a mailbox.
public struct MailboxClient: Sendable {
  private let slot: MailboxSlot
  /// TSC cycles to spin before sleeping.
  private let spin: UInt64

  public init(_ slot: MailboxSlot, spin: UInt64) {
    self.slot = slot
    self.spin = spin
  }

  /// Performs `items` accesses of `width` bytes at one address. `data` holds or receives `width * items` bytes, at
  /// most `Mailbox.capacity`. False: the device process is gone.
  @inline(__always)
  public func access(
    _ operation: MailboxOperation, _ address: UInt64, width: Int, items: Int, data: UnsafeMutableRawPointer
  ) -> Bool {
    let count = width * items
    let box = slot.mailbox
    let isWrite = operation == .portWrite || operation == .memoryWrite
    if isWrite { copy(slot.data, data, count) }
    box.pointee.operation = operation.rawValue
    box.pointee.width = UInt8(truncatingIfNeeded: width)
    box.pointee.items = UInt32(truncatingIfNeeded: items)
    box.pointee.address = address
    let processor = Processor.current
    box.pointee.client.store(processor, ordering: .relaxed)
    let spin = box.pointee.server.load(ordering: .relaxed) == processor ? 0 : spin
    let before = box.pointee.state.exchange(Mailbox.State.request, ordering: .acquiringAndReleasing)
    if before == Mailbox.State.closed {
      slot.close()
      return false
    }
    if before == Mailbox.State.idleAsleep { slot.wake() }
    guard awaitReply(spin) else { return false }
    if !isWrite { copy(data, slot.data, count) }
    return true
  }

  /// Leaves a write of `width` bytes at `data` to the device process. Its number, which is performed when all up to it
  /// are; nil: there is no room, it must be waited for.
  @inline(__always)
  public func post(
    _ operation: MailboxOperation, _ address: UInt64, width: Int, data: UnsafeRawPointer
  ) -> UInt64? {
    let box = slot.mailbox
    let posted = box.pointee.posted.load(ordering: .relaxed)
    guard posted &- box.pointee.performed.load(ordering: .acquiring) < Mailbox.postedCapacity else { return nil }
    let value: UInt64 =
      switch width {
      case 1: UInt64(data.load(as: UInt8.self))
      case 2: UInt64(data.loadUnaligned(as: UInt16.self))
      case 4: UInt64(data.loadUnaligned(as: UInt32.self))
      default: data.loadUnaligned(as: UInt64.self)
      }
    let number = slot.order.pointee.given.wrappingAdd(1, ordering: .relaxed).oldValue
    slot.entry(posted).pointee = Mailbox.PostedWrite(
      number: number, address: address, value: value,
      operation: operation.rawValue, width: UInt8(truncatingIfNeeded: width))
    box.pointee.client.store(Processor.current, ordering: .relaxed)
    _ = box.pointee.posted.exchange(posted &+ 1, ordering: .sequentiallyConsistent)
    // A server that goes to sleep looks for posted writes after it has said so.
    if box.pointee.state.load(ordering: .sequentiallyConsistent) == Mailbox.State.idleAsleep,
      box.pointee.state.compareExchange(
        expected: Mailbox.State.idleAsleep, desired: Mailbox.State.idle, ordering: .acquiringAndReleasing
      ).exchanged
    {
      slot.wake()
    }
    return number
  }

  /// Returns when the device process has performed everything posted, or is gone.
  public func flush() {
    var nothing: UInt8 = 0
    let box = slot.mailbox
    guard box.pointee.posted.load(ordering: .relaxed) != box.pointee.performed.load(ordering: .acquiring) else {
      return
    }
    _ = access(.flush, 0, width: 1, items: 1, data: &nothing)
  }

  @inline(__always)
  private func copy(_ to: UnsafeMutableRawPointer, _ from: UnsafeMutableRawPointer, _ count: Int) {
    switch count {
    case 1: to.storeBytes(of: from.load(as: UInt8.self), as: UInt8.self)
    case 2: to.storeBytes(of: from.loadUnaligned(as: UInt16.self), as: UInt16.self)
    case 4: to.storeBytes(of: from.loadUnaligned(as: UInt32.self), as: UInt32.self)
    default: to.copyMemory(from: from, byteCount: count)
    }
  }

  @inline(__always)
  private func awaitReply(_ spin: UInt64) -> Bool {
    let box = slot.mailbox
    let start = timestamp()
    while true {
      let state = box.pointee.state.load(ordering: .acquiring)
      if state != Mailbox.State.request { return state != Mailbox.State.closed }
      if timestamp() &- start > spin { break }
      spinHint()
    }
    while true {
      let (slept, state) = box.pointee.state.compareExchange(
        expected: Mailbox.State.request, desired: Mailbox.State.requestAsleep, ordering: .acquiringAndReleasing)
      guard slept || state == Mailbox.State.requestAsleep else {
        // `reply`, or the server has gone to sleep since it replied.
        return state != Mailbox.State.closed
      }
      slot.sleep(while: Mailbox.State.requestAsleep)
    }
  }
}

/// A bus access as the device process takes it out of a mailbox.
public struct MailboxRequest {
  public let operation: MailboxOperation
  public let address: UInt64
  public let width: Int
  /// The items, all `width * items` bytes of them, to be read or filled.
  public let data: UnsafeMutableRawBufferPointer
}

/// The device process's end of a mailbox.
public struct MailboxServer: Sendable {
  private let slot: MailboxSlot
  private let window: PollingWindow

  /// - Parameter spin: for how long the vCPU's side spins, in TSC cycles.
  public init(_ slot: MailboxSlot, spin: UInt64) {
    self.slot = slot
    window = PollingWindow(limit: spin &* PollingWindow.patience)
  }

  /// Serves requests until the mailbox is closed.
  public func serve(_ handle: (MailboxRequest) -> Void) {
    let box = slot.mailbox
    var window = window
    var isAlone = true
    while let isAwaited = awaitWork(&window, mayPoll: isAlone) {
      let processor = Processor.current
      box.pointee.server.store(processor, ordering: .relaxed)
      isAlone = box.pointee.client.load(ordering: .relaxed) != processor
      guard performPosted(handle) else { return }
      guard isAwaited else { continue }
      guard
        slot.order.pointee.wait(
          for: slot.order.pointee.given.load(ordering: .acquiring), unlessClosed: box.pointee.state)
      else { return }
      let width = Int(box.pointee.width)
      let items = Int(box.pointee.items)
      if let operation = MailboxOperation(rawValue: box.pointee.operation), [1, 2, 4, 8].contains(width),
        items > 0, items <= Mailbox.capacity / width, operation != .flush
      {
        handle(
          MailboxRequest(
            operation: operation, address: box.pointee.address, width: width,
            data: UnsafeMutableRawBufferPointer(start: slot.data, count: width * items)))
      }
      let before = box.pointee.state.exchange(Mailbox.State.reply, ordering: .acquiringAndReleasing)
      if before == Mailbox.State.requestAsleep { slot.wake() }
      if before == Mailbox.State.closed {
        slot.close()
        return
      }
    }
  }

  /// Performs what has been posted. False: the mailbox was closed.
  private func performPosted(_ handle: (MailboxRequest) -> Void) -> Bool {
    let box = slot.mailbox
    var next = box.pointee.performed.load(ordering: .relaxed)
    while next != box.pointee.posted.load(ordering: .acquiring) {
      let write = slot.entry(next).pointee
      guard slot.order.pointee.wait(for: write.number, unlessClosed: box.pointee.state) else { return false }
      if let operation = MailboxOperation(rawValue: write.operation), [1, 2, 4, 8].contains(write.width) {
        var value = write.value
        withUnsafeMutableBytes(of: &value) { bytes in
          handle(
            MailboxRequest(
              operation: operation, address: write.address, width: Int(write.width),
              data: UnsafeMutableRawBufferPointer(rebasing: bytes[..<Int(write.width)])))
        }
      }
      slot.order.pointee.performed.store(write.number + 1, ordering: .releasing)
      next &+= 1
      box.pointee.performed.store(next, ordering: .releasing)
    }
    return true
  }

  /// Whether the vCPU waits for an access, or has only posted something; nil: the mailbox was closed.
  @inline(__always)
  private func awaitWork(_ window: inout PollingWindow, mayPoll: Bool) -> Bool? {
    let box = slot.mailbox
    let spin = mayPoll ? window.cycles : 0
    let start = timestamp()
    while true {
      if let work = self.work { return work == .closed ? nil : work == .request }
      if timestamp() &- start > spin { break }
      spinHint()
    }
    defer { window.slept(since: start) }
    while true {
      let state = box.pointee.state.load(ordering: .acquiring)
      if let work = self.work {
        // It does not sleep, whatever the mailbox says.
        if work == .posted, state == Mailbox.State.idleAsleep { change(state, to: Mailbox.State.idle) }
        return work == .closed ? nil : work == .request
      }
      switch state {
      case Mailbox.State.idleAsleep: slot.sleep(while: Mailbox.State.idleAsleep)
      default: change(state, to: Mailbox.State.idleAsleep)
      }
    }
  }

  private func change(_ state: UInt32, to new: UInt32) {
    _ = slot.mailbox.pointee.state.compareExchange(
      expected: state, desired: new, ordering: .sequentiallyConsistent)
  }

  private enum Work { case request, posted, closed }

  @inline(__always)
  private var work: Work? {
    let box = slot.mailbox
    switch box.pointee.state.load(ordering: .acquiring) {
    case Mailbox.State.request, Mailbox.State.requestAsleep: return .request
    case Mailbox.State.closed: return .closed
    default:
      let isEmpty =
        box.pointee.posted.load(ordering: .sequentiallyConsistent) == box.pointee.performed.load(ordering: .relaxed)
      return isEmpty ? nil : .posted
    }
  }
}
