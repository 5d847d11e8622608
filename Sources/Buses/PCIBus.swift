import Synchronization

/// A function on a PCI bus as the host bridge sees it.
public protocol PCIFunction: AnyObject, Sendable {
  func readConfiguration(_ register: Int, _ width: AccessWidth) -> UInt32
  func writeConfiguration(_ register: Int, _ width: AccessWidth, _ value: UInt32)
}

/// A slot that is taken or does not exist.
public struct PCISlotError: Error, Equatable, Sendable {
  public let slot: Int
  public let function: Int
}

/// One PCI bus: 32 slots of 8 functions.
public final class PCIBus: Sendable {
  private let functions = Mutex<[(any PCIFunction)?]>(Array(repeating: nil, count: 256))

  public init() {}

  public func attach(_ function: any PCIFunction, slot: Int, function number: Int) throws(PCISlotError) {
    guard 0..<32 ~= slot, 0..<8 ~= number else { throw PCISlotError(slot: slot, function: number) }
    let free = functions.withLock { functions -> Bool in
      guard functions[slot * 8 + number] == nil else { return false }
      functions[slot * 8 + number] = function
      return true
    }
    guard free else { throw PCISlotError(slot: slot, function: number) }
  }

  /// The lowest slot in `range` without a function 0.
  public func freeSlot(in range: Range<Int> = 3..<32) -> Int? {
    functions.withLock { functions in range.first { functions[$0 * 8] == nil } }
  }

  /// Reads a register of a function; an empty slot reads all ones (PCI 3.0 §6.1).
  public func read(slot: Int, function: Int, register: Int, _ width: AccessWidth) -> UInt32 {
    target(slot, function)?.readConfiguration(register, width) ?? UInt32(truncatingIfNeeded: width.mask)
  }

  public func write(slot: Int, function: Int, register: Int, _ width: AccessWidth, _ value: UInt32) {
    target(slot, function)?.writeConfiguration(register, width, value)
  }

  private func target(_ slot: Int, _ function: Int) -> (any PCIFunction)? {
    functions.withLock { $0[slot * 8 + function] }
  }
}

/// PCI configuration mechanism 1 (PCI 3.0 §3.2.2.3.2): an address latch at 0xCF8 and a data window at 0xCFC.
public final class PCIConfigurationPorts: BusTarget, @unchecked Sendable {
  public static let base: UInt64 = 0xCF8
  public static let count: UInt64 = 8

  private let address = Atomic<UInt32>(0)
  private let bus: PCIBus

  public init(bus: PCIBus) { self.bus = bus }

  /// The latch goes back to zero.
  public func reset() { address.store(0, ordering: .relaxed) }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    if offset < 4 { return offset == 0 && width == .dword ? UInt64(address.load(ordering: .relaxed)) : width.mask }
    guard let (slot, function, register) = selected(offset) else { return width.mask }
    return UInt64(bus.read(slot: slot, function: function, register: register, width))
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    if offset < 4 {
      // Only a dword write reaches the latch; narrower ones are ordinary I/O (§3.2.2.3.2).
      if offset == 0, width == .dword {
        address.store(UInt32(truncatingIfNeeded: value) & 0x80FF_FFFC, ordering: .relaxed)
      }
      return
    }
    guard let (slot, function, register) = selected(offset) else { return }
    bus.write(slot: slot, function: function, register: register, width, UInt32(truncatingIfNeeded: value))
  }

  private func selected(_ offset: UInt64) -> (slot: Int, function: Int, register: Int)? {
    let latch = address.load(ordering: .relaxed)
    guard latch & 0x8000_0000 != 0, latch >> 16 & 0xFF == 0 else { return nil }
    return (Int(latch >> 11 & 0x1F), Int(latch >> 8 & 0x7), Int(latch & 0xFC) + Int(offset & 3))
  }
}
