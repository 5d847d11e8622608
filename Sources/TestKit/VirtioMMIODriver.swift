import Buses
import DeviceKit

/// A driver of a virtio-mmio device of a fake board (virtio 1.2 §4.2).
public struct VirtioMMIODriver {
  public let fake: FakeBoard
  public let base: UInt64
  /// The device's interrupt input.
  public let interrupt: Int

  public init(_ fake: FakeBoard, at base: UInt64, interrupt: Int) {
    self.fake = fake
    self.base = base
    self.interrupt = interrupt
  }

  public func read(_ register: UInt64, _ width: AccessWidth = .dword) -> UInt64 {
    fake.board.mmio.read(base + register, width)
  }
  public func write(_ register: UInt64, _ value: UInt64, _ width: AccessWidth = .dword) {
    fake.board.mmio.write(base + register, width, value)
  }

  public var status: UInt64 { read(0x70) }

  public var offeredFeatures: UInt64 {
    write(0x14, 0)
    let low = read(0x10)
    write(0x14, 1)
    return low | read(0x10) << 32
  }

  /// Resets and negotiates; false: the device refused the features.
  @discardableResult
  public func negotiate(_ features: UInt64) -> Bool {
    write(0x70, 0)
    write(0x70, 3)
    for half: UInt64 in 0...1 {
      write(0x24, half)
      write(0x20, features >> (32 * half) & 0xFFFF_FFFF)
    }
    write(0x70, 11)
    return status & 8 != 0
  }

  /// Sets a queue up and makes it ready.
  public func enable(_ queue: Int, _ ring: VirtqueueDriver) {
    write(0x30, UInt64(queue))
    write(0x38, UInt64(ring.size))
    for (register, address) in [(0x80, ring.descriptors), (0x90, ring.driver), (0xA0, ring.device)]
      as [(UInt64, UInt64)]
    {
      write(register, address & 0xFFFF_FFFF)
      write(register + 4, address >> 32)
    }
    write(0x44, 1)
  }

  public func start() { write(0x70, 15) }

  /// A notification as the engine passes it on, or on the bus where there is no doorbell.
  public func notify(_ queue: Int) {
    let place = DoorbellPlace.register(base + 0x50, value: UInt32(truncatingIfNeeded: queue))
    if fake.workers.ring(.memory(base + 0x50)) || fake.workers.ring(place) { return }
    write(0x50, UInt64(queue))
  }

  /// Interrupts since the last call.
  public func takeInterrupts() -> Int { fake.interrupts.takePulses(interrupt) }
}
