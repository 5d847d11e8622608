import Engines
import LinuxSystem
import Synchronization

/// Addresses whose writes signal an eventfd and go nowhere else.
final class Doorbells: Sendable {
  /// An eventfd stays open as long as it is connected.
  private struct Bell {
    let address: DoorbellAddress
    let event: CInt
  }

  private let bells = Mutex<[Bell]>([])
  private let isEmpty = Atomic<Bool>(true)

  /// False: there is one at the address already.
  func connect(_ address: DoorbellAddress, _ event: borrowing EventDescriptor) -> Bool {
    let raw = event.descriptor.raw
    return bells.withLock { bells in
      guard !bells.contains(where: { $0.address == address }) else { return false }
      bells.append(Bell(address: address, event: raw))
      isEmpty.store(false, ordering: .releasing)
      return true
    }
  }

  func disconnect(_ address: DoorbellAddress) {
    bells.withLock { bells in
      bells.removeAll { $0.address == address }
      isEmpty.store(bells.isEmpty, ordering: .releasing)
    }
  }

  /// False: there is no doorbell at the address.
  func ring(_ address: DoorbellAddress) -> Bool {
    guard !isEmpty.load(ordering: .acquiring) else { return false }
    // Signalled under the lock: a disconnected eventfd may be closed.
    return bells.withLock { bells in
      guard let bell = bells.first(where: { $0.address == address }) else { return false }
      return signalEvent(bell.event)
    }
  }
}
