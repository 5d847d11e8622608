import LinuxSystem
import Synchronization

/// What a message interrupt sends, as the device process asks for it; the launcher trusts none of it.
public struct SharedRoute: Sendable, Equatable {
  public var address: UInt64
  public var data: UInt32

  public init(address: UInt64, data: UInt32) {
    self.address = address
    self.data = data
  }
}

/// Where the device process wants a doorbell.
public enum SharedDoorbell: Sendable, Equatable {
  case port(UInt16)
  case memory(UInt64)
  /// A write of 32 bits with this value.
  case register(UInt64, value: UInt32)
  /// The shared registers of this number.
  case sharedRegisters(UInt32)
}

/// The part of the machine page that says where message interrupts go and where doorbells are.
///
/// The device process writes a slot under a sequence number (odd while it writes) and raises the page's attention; the
/// vCPU whose access caused it brings the engine in line before it runs on. An interrupt that is signalled in between
/// waits in its slot, for its eventfd leads to the engine at once.
// Safety: the page's mapping outlives this; all fields that both sides touch are atomics.
public final class ConnectionTable: @unchecked Sendable {
  public static let messageCount = 1024
  public static let doorbellCount = 512

  private struct Message: ~Copyable {
    let sequence = Atomic<UInt32>(0)
    /// The sequence number of the route that the engine has.
    let applied = Atomic<UInt32>(0)
    /// 1: signalled before the route was applied.
    let isWaiting = Atomic<UInt32>(0)
    let data = Atomic<UInt32>(0)
    let address = Atomic<UInt64>(0)
  }

  private struct Bell: ~Copyable {
    let sequence = Atomic<UInt32>(0)
    /// 0: nowhere, 1: a port, 2: memory, 3: memory and a value, 4: shared registers.
    let kind = Atomic<UInt32>(0)
    let value = Atomic<UInt32>(0)
    let address = Atomic<UInt64>(0)
  }

  private struct Header: ~Copyable {
    /// Counts changes of any slot.
    let changes = Atomic<UInt32>(0)
  }

  private static let messagesOffset = 64
  private static let bellsOffset = messagesOffset + messageCount * MemoryLayout<Message>.stride
  /// Bytes of shared memory, whole pages.
  static let size = (bellsOffset + doorbellCount * MemoryLayout<Bell>.stride + 4095) & ~4095

  private let header: UnsafeMutablePointer<Header>
  private let messages: UnsafeMutablePointer<Message>
  private let bells: UnsafeMutablePointer<Bell>

  /// `base` has `size` bytes, aligned to a page, which were zero when the launcher began: what every field begins as.
  init(_ base: UnsafeMutableRawPointer) {
    header = base.assumingMemoryBound(to: Header.self)
    messages = (base + Self.messagesOffset).assumingMemoryBound(to: Message.self)
    bells = (base + Self.bellsOffset).assumingMemoryBound(to: Bell.self)
  }

  /// Counts up with each change of a slot.
  public var changes: UInt32 { header.pointee.changes.load(ordering: .acquiring) }

  // MARK: Device side

  /// Sets what a message interrupt sends; one writer for each at a time. The caller raises the page's attention.
  public func route(message index: Int, to route: SharedRoute) {
    guard 0..<Self.messageCount ~= index else { return }
    let slot = messages + index
    slot.pointee.sequence.wrappingAdd(1, ordering: .sequentiallyConsistent)
    slot.pointee.address.store(route.address, ordering: .relaxed)
    slot.pointee.data.store(route.data, ordering: .relaxed)
    slot.pointee.sequence.wrappingAdd(1, ordering: .sequentiallyConsistent)
    header.pointee.changes.wrappingAdd(1, ordering: .sequentiallyConsistent)
  }

  /// Whether the message interrupt's eventfd is to be signalled now; if not, the launcher does it once the route is in
  /// force.
  @inline(__always)
  public func admits(message index: Int) -> Bool {
    guard 0..<Self.messageCount ~= index else { return false }
    let slot = messages + index
    let applied = slot.pointee.applied.load(ordering: .acquiring)
    if applied == slot.pointee.sequence.load(ordering: .acquiring) { return true }
    slot.pointee.isWaiting.store(1, ordering: .sequentiallyConsistent)
    // Applied meanwhile: whoever takes the mark signals.
    return slot.pointee.applied.load(ordering: .sequentiallyConsistent)
      == slot.pointee.sequence.load(ordering: .sequentiallyConsistent)
      && slot.pointee.isWaiting.exchange(0, ordering: .sequentiallyConsistent) == 1
  }

  /// Moves a doorbell or takes it away; one writer for each at a time. The caller raises the page's attention.
  public func place(doorbell index: Int, at place: SharedDoorbell?) {
    guard 0..<Self.doorbellCount ~= index else { return }
    let (kind, address, value): (UInt32, UInt64, UInt32) =
      switch place {
      case nil: (0, 0, 0)
      case .port(let port): (1, UInt64(port), 0)
      case .memory(let address): (2, address, 0)
      case .register(let address, let value): (3, address, value)
      case .sharedRegisters(let number): (4, 0, number)
      }
    let slot = bells + index
    slot.pointee.sequence.wrappingAdd(1, ordering: .sequentiallyConsistent)
    slot.pointee.kind.store(kind, ordering: .relaxed)
    slot.pointee.address.store(address, ordering: .relaxed)
    slot.pointee.value.store(value, ordering: .relaxed)
    slot.pointee.sequence.wrappingAdd(1, ordering: .sequentiallyConsistent)
    header.pointee.changes.wrappingAdd(1, ordering: .sequentiallyConsistent)
  }

  // MARK: Launcher side

  /// One consistent copy of a route and its sequence number; nil where there never was one, or the other side keeps
  /// changing it.
  public func route(message index: Int) -> (sequence: UInt32, route: SharedRoute)? {
    let slot = messages + index
    return consistent(slot.pointee.sequence) {
      SharedRoute(
        address: slot.pointee.address.load(ordering: .relaxed), data: slot.pointee.data.load(ordering: .relaxed))
    }
  }

  /// The engine has the route of that sequence number. True: an interrupt waits, and its eventfd is to be signalled.
  public func applied(message index: Int, sequence: UInt32) -> Bool {
    let slot = messages + index
    slot.pointee.applied.store(sequence, ordering: .sequentiallyConsistent)
    return slot.pointee.isWaiting.exchange(0, ordering: .sequentiallyConsistent) == 1
  }

  /// One consistent copy of a doorbell's place and its sequence number, as `route(message:)`.
  public func place(doorbell index: Int) -> (sequence: UInt32, place: SharedDoorbell?)? {
    let slot = bells + index
    return consistent(slot.pointee.sequence) {
      let address = slot.pointee.address.load(ordering: .relaxed)
      return switch slot.pointee.kind.load(ordering: .relaxed) {
      case 1: .port(UInt16(truncatingIfNeeded: address))
      case 2: .memory(address)
      case 3: .register(address, value: slot.pointee.value.load(ordering: .relaxed))
      case 4: .sharedRegisters(slot.pointee.value.load(ordering: .relaxed))
      default: nil
      }
    }
  }

  private func consistent<Value>(_ sequence: borrowing Atomic<UInt32>, _ read: () -> Value) -> (UInt32, Value)? {
    for _ in 0..<1000 {
      let before = sequence.load(ordering: .acquiring)
      if before == 0 { return nil }
      let value = read()
      atomicMemoryFence(ordering: .acquiring)
      if before & 1 == 0, sequence.load(ordering: .relaxed) == before { return (before, value) }
      spinHint()
    }
    return nil
  }
}
