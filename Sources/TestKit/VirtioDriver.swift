import Buses
import DeviceKit
import GuestMemory

/// A driver of a whole virtio PCI function: its registers, a split ring for each of its queues, and buffers in RAM.
public final class VirtioDriver {
  /// Two pages for each ring from here.
  private static let rings: UInt64 = 0x1_0000
  private static let ringStride: UInt64 = 0x2000
  private static let buffers: UInt64 = 0x10_0000
  private static let version1: UInt64 = 1 << 32
  private static let needsResetBit: UInt8 = 0x40

  public let fake: FakeBoard
  public let pci: VirtioPCIDriver
  public private(set) var queues: [VirtqueueDriver] = []
  private var heap = VirtioDriver.buffers

  /// Resets and starts the device at a slot and places its registers.
  public init(_ fake: FakeBoard, _ device: Device, slot: Int = 3) {
    self.fake = fake
    device.reset()
    device.start()
    pci = VirtioPCIDriver(fake, slot: slot)
  }

  public var needsReset: Bool { pci.status & Self.needsResetBit != 0 }

  /// Resets the device and sets it up with the features and all of its queues (virtio 1.2 §3.1.1).
  public func start(_ features: UInt64 = 0, size: Int = 16) {
    pci.negotiate(features | Self.version1)
    queues = (0..<pci.queueCount).map { number in
      VirtqueueDriver(fake.board.memory, at: Self.rings + UInt64(number) * Self.ringStride, size: size)
    }
    for (number, queue) in queues.enumerated() { pci.enable(number, queue) }
    heap = Self.buffers
    pci.start()
  }

  public func stop() { pci.setStatus(0) }

  /// Room in RAM that nothing else uses until the next start.
  private func room(_ count: Int) -> UInt64 {
    defer { heap += UInt64(count + 15) & ~15 }
    return heap
  }

  /// A buffer that holds the bytes.
  public func readable(_ bytes: [UInt8]) throws -> TestDescriptor {
    let address = room(bytes.count)
    try fake.board.memory.write(address, bytes)
    return .readable(address, bytes.count)
  }

  /// A buffer for the device to fill.
  public func writable(_ count: Int) -> TestDescriptor { .writable(room(count), count) }

  /// What a buffer holds, or its first bytes.
  public func bytes(_ buffer: TestDescriptor, _ count: Int? = nil) throws -> [UInt8] {
    try fake.board.memory.bytes(buffer.address, count ?? Int(buffer.length))
  }

  /// Makes a chain available, notifies the device and returns the chain's head.
  @discardableResult
  public func add(_ queue: Int, _ chain: [TestDescriptor]) -> UInt16 {
    defer { pci.notify(queue) }
    return queues[queue].add(chain)
  }

  /// What the device has used of a queue since the last call.
  public func takeUsed(_ queue: Int) -> [VirtqueueDriver.Used] { queues[queue].takeUsed() }
}
