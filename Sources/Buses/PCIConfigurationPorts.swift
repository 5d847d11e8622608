import Synchronization

/// PCI configuration mechanism 1 (PCI 3.0 §3.2.2.3.2): an address latch at 0xCF8 and a data window at 0xCFC.
///
/// Only dword accesses reach the latch. Narrower ones in 0xCF8–0xCFB are ordinary I/O, and chipsets put a register
/// of their own there: the reset control register at 0xCF9.
// Safety: the latch is atomic and the overlay is guarded by its mutex.
public final class PCIConfigurationPorts: BusTarget, @unchecked Sendable {
  public static let base: UInt64 = 0xCF8
  public static let count: UInt64 = 8
  /// Offset of the port that `overlay` gives to another target: 0xCF9.
  public static let overlayOffset: UInt64 = 1

  private struct Overlay {
    let target: BusTarget
    let region: Int
  }

  private let address = Atomic<UInt32>(0)
  private let bus: PCIBus
  private let overlay = Mutex<Overlay?>(nil)

  public init(bus: PCIBus) { self.bus = bus }

  /// The latch goes back to zero.
  public func reset() { address.store(0, ordering: .relaxed) }

  /// Gives byte accesses of port 0xCF9 to `target`, as `region` and offset 0.
  public func overlay(_ target: BusTarget, region: Int) {
    overlay.withLock { $0 = Overlay(target: target, region: region) }
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    if offset < 4 {
      if offset == 0, width == .dword { return UInt64(address.load(ordering: .relaxed)) }
      guard offset == Self.overlayOffset, width == .byte, let overlay = overlay.withLock({ $0 }) else {
        return width.mask
      }
      return overlay.target.read(region: overlay.region, offset: 0, width: width)
    }
    guard let selected = selected(offset) else { return width.mask }
    let value = bus.read(
      slot: selected.slot, function: selected.function, register: selected.register, Self.fitting(offset, width))
    return UInt64(value) | ~Self.fitting(offset, width).mask & width.mask
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    if offset < 4 {
      if offset == 0, width == .dword {
        address.store(UInt32(truncatingIfNeeded: value) & 0x80FF_FFFC, ordering: .relaxed)
      } else if offset == Self.overlayOffset, width == .byte, let overlay = overlay.withLock({ $0 }) {
        overlay.target.write(region: overlay.region, offset: 0, width: width, value: value)
      }
      return
    }
    guard let selected = selected(offset) else { return }
    bus.write(
      slot: selected.slot, function: selected.function, register: selected.register, Self.fitting(offset, width),
      UInt32(truncatingIfNeeded: value & Self.fitting(offset, width).mask))
  }

  /// The widest aligned part of an access that lies in the data window: 0xCFF holds one byte.
  private static func fitting(_ offset: UInt64, _ width: AccessWidth) -> AccessWidth {
    switch (offset & 3, width) {
    case (_, .byte), (3, _): .byte
    case (0, .dword), (0, .qword): .dword
    case (1, _), (2, _), (_, .word): .word
    default: .byte
    }
  }

  private func selected(_ offset: UInt64) -> (slot: Int, function: Int, register: Int)? {
    let latch = address.load(ordering: .relaxed)
    guard latch & 0x8000_0000 != 0, latch >> 16 & 0xFF == 0 else { return nil }
    return (Int(latch >> 11 & 0x1F), Int(latch >> 8 & 0x7), Int(latch & 0xFC) + Int(offset & 3))
  }
}
