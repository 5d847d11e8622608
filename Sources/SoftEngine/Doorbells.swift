import Engines
import LinuxSystem
import Synchronization

/// Addresses whose writes signal an eventfd and go nowhere else.
final class Doorbells: Sendable {
  private let events = Mutex<[DoorbellAddress: SharedEvent]>([:])
  private let isEmpty = Atomic<Bool>(true)

  func connect(_ address: DoorbellAddress, _ event: borrowing EventDescriptor) throws(SystemError) {
    let event = try SharedEvent(sharing: event)
    events.withLock { $0[address] = event }
    isEmpty.store(false, ordering: .releasing)
  }

  /// False: there is no doorbell at the address.
  func ring(_ address: DoorbellAddress) -> Bool {
    guard !isEmpty.load(ordering: .acquiring), let event = events.withLock({ $0[address] }) else { return false }
    event.event.signal()
    return true
  }
}
