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

  /// Reads a register of a function; an empty slot reads all ones (PCI 3.0 §6.1). Function 0 of a slot with
  /// several functions says so in its header type (§6.2.1), whatever the device itself put there.
  public func read(slot: Int, function: Int, register: Int, _ width: AccessWidth) -> UInt32 {
    guard let target = target(slot, function) else { return UInt32(truncatingIfNeeded: width.mask) }
    let value = target.readConfiguration(register, width)
    let header = PCIRegister.headerType - register
    guard function == 0, 0..<width.bytes ~= header, isMultifunction(slot) else { return value }
    return value | 0x80 << UInt32(header * 8)
  }

  public func write(slot: Int, function: Int, register: Int, _ width: AccessWidth, _ value: UInt32) {
    target(slot, function)?.writeConfiguration(register, width, value)
  }

  private func isMultifunction(_ slot: Int) -> Bool {
    functions.withLock { functions in (1..<8).contains { functions[slot * 8 + $0] != nil } }
  }

  private func target(_ slot: Int, _ function: Int) -> (any PCIFunction)? {
    functions.withLock { $0[slot * 8 + function] }
  }
}
