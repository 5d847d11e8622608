import Buses
import DeviceKit
import Synchronization

/// The interrupts of a virtio PCI function: MSI-X vectors that the driver has assigned, or the ISR status and the pin.
// Safety: `vectors` is allocated once; its elements are atomic. `function` outlives this, which it owns.
final class VirtioPCIInterrupts: VirtioInterrupts, @unchecked Sendable {
  private let msix: MSIX
  private unowned let function: PCIDevice
  private let queues: Int
  /// Of the queues, then of configuration changes.
  private let vectors: UnsafeMutablePointer<Atomic<UInt16>>
  private let isr = Mutex<UInt8>(0)

  init(_ msix: MSIX, queues: Int, function: PCIDevice) {
    self.msix = msix
    self.queues = queues
    self.function = function
    vectors = .allocate(capacity: queues + 1)
    for index in 0...queues { (vectors + index).initialize(to: Atomic(VirtioPCI.noVector)) }
  }

  deinit {
    vectors.deinitialize(count: queues + 1)
    vectors.deallocate()
  }

  /// A queue's vector, or with nil that of configuration changes. One that there is not reads back as none
  /// (virtio 1.2 §4.1.5.1.2).
  func vector(queue: Int?) -> UInt16 {
    guard let slot = slot(queue) else { return VirtioPCI.noVector }
    return vectors[slot].load(ordering: .relaxed)
  }

  func setVector(queue: Int?, _ vector: UInt16) {
    guard let slot = slot(queue) else { return }
    vectors[slot].store(Int(vector) < msix.count ? vector : VirtioPCI.noVector, ordering: .relaxed)
  }

  private func slot(_ queue: Int?) -> Int? {
    guard let queue else { return queues }
    return queue < queues ? queue : nil
  }

  func reset() {
    for index in 0...queues { vectors[index].store(VirtioPCI.noVector, ordering: .relaxed) }
    _ = takeISR()
  }

  /// Reads the ISR status, which clears it and lowers the pin (§4.1.4.5).
  func takeISR() -> UInt8 {
    isr.withLock { isr in
      defer { isr = 0 }
      if isr != 0 { function.setInterrupt(false) }
      return isr
    }
  }

  override func used(queue: Int) { send(queue, VirtioPCI.ISR.queue) }
  override func configurationChanged() { send(queues, VirtioPCI.ISR.configuration) }

  private func send(_ slot: Int, _ bit: UInt8) {
    guard !msix.isEnabled else {
      let vector = vectors[slot].load(ordering: .relaxed)
      // None is beyond every table.
      return msix.signal(Int(vector))
    }
    isr.withLock { isr in
      isr |= bit
      function.setInterrupt(true)
    }
  }
}
