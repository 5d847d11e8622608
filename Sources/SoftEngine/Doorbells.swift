import Engines
import LinuxSystem
import Synchronization

/// Addresses whose writes signal an eventfd and go nowhere else.
final class Doorbells: Sendable {
  /// Eventfds by address; they stay open as long as they are connected.
  private let events = Mutex<[DoorbellAddress: CInt]>([:])
  private let isEmpty = Atomic<Bool>(true)

  /// False: there is one at the address already.
  func connect(_ address: DoorbellAddress, _ event: borrowing EventDescriptor) -> Bool {
    let raw = event.descriptor.raw
    return events.withLock { events in
      guard events[address] == nil else { return false }
      events[address] = raw
      isEmpty.store(false, ordering: .releasing)
      return true
    }
  }

  func disconnect(_ address: DoorbellAddress) {
    events.withLock { events in
      events[address] = nil
      isEmpty.store(events.isEmpty, ordering: .releasing)
    }
  }

  /// False: there is no doorbell at the address.
  func ring(_ address: DoorbellAddress) -> Bool {
    guard !isEmpty.load(ordering: .acquiring) else { return false }
    // Signalled under the lock: a disconnected eventfd may be closed.
    return events.withLock { events in
      guard let event = events[address] else { return false }
      return signalEvent(event)
    }
  }
}
