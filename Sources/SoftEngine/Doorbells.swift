import Engines
import LinuxSystem
import Synchronization

/// Addresses whose writes signal an eventfd and go nowhere else.
final class Doorbells: Sendable {
  private let events = Mutex<[DoorbellAddress: SharedEvent]>([:])
  private let isEmpty = Atomic<Bool>(true)

  /// False: there is one at the address already.
  func connect(_ address: DoorbellAddress, _ event: borrowing EventDescriptor) throws(SystemError) -> Bool {
    let event = try SharedEvent(sharing: event)
    return events.withLock { events in
      guard events[address] == nil else { return false }
      events[address] = event
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
    guard !isEmpty.load(ordering: .acquiring), let event = events.withLock({ $0[address] }) else { return false }
    event.event.signal()
    return true
  }
}
