import DeviceKit
import LinuxSystem
import Synchronization

/// Doorbells as eventfds: the engine signals them on the guest's writes, the device process's main thread calls the
/// devices.
final class DoorbellEvents: DoorbellRegistrar {
  struct Doorbell: Sendable {
    let port: UInt16
    let event: SharedEvent
    let ring: @Sendable () -> Void
  }

  private let list = Mutex<[Doorbell]>([])

  func connect(port: UInt16, _ ring: @escaping @Sendable () -> Void) {
    // Without an eventfd the guest's writes arrive on the bus.
    guard let event = try? SharedEvent() else { return }
    list.withLock { $0.append(Doorbell(port: port, event: event, ring: ring)) }
  }

  /// In the order they were connected; complete when all devices are made.
  var doorbells: [Doorbell] { list.withLock { $0 } }
}
