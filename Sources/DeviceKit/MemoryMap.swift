import GuestMemory
import Synchronization

/// What backs a mapping that devices may move.
public enum MappingSource: Sendable, Equatable {
  /// Guest RAM at this guest physical address of the RAM map.
  case ram(UInt64)
  /// The firmware image, from this offset.
  case firmware(UInt64)
  /// The memory of devices, from this offset.
  case device(UInt64)
}

/// A range of guest physical addresses that the vCPU reaches without leaving guest mode.
public struct MemoryMapping: Sendable, Equatable {
  public var guestAddress: UInt64
  public var size: UInt64
  public var source: MappingSource
  public var readOnly: Bool

  public init(guestAddress: UInt64, size: UInt64, source: MappingSource, readOnly: Bool) {
    self.guestAddress = guestAddress
    self.size = size
    self.source = source
    self.readOnly = readOnly
  }
}

/// The part of the guest's memory map that devices control. A change is in force before the guest's next
/// instruction on the vCPU whose access caused it.
public protocol MemoryMapper: AnyObject, Sendable {
  /// Reserves a slot of the map; nil when there is none left. To be called while the board is built.
  func reserve() -> Int?
  /// Sets a reserved slot, or empties it. Addresses and sizes are multiples of 4 KiB. An engine refuses a
  /// mapping that overlaps another; accesses to it then arrive as MMIO.
  func set(_ slot: Int, _ mapping: MemoryMapping?)
}

/// Memory of a device that the guest maps: a frame buffer, an option ROM.
// Safety: `bytes` stays mapped as long as the machine lives. The guest and the device touch it without a lock,
// as hardware does; readers copy before they use a value.
public final class DeviceWindow: @unchecked Sendable {
  public let bytes: UnsafeMutableRawBufferPointer
  private let offset: UInt64
  private let readOnly: Bool
  private let slot: Int
  private let mapper: any MemoryMapper

  /// `offset` is where `bytes` stand in the memory of devices.
  public init(
    bytes: UnsafeMutableRawBufferPointer, offset: UInt64, readOnly: Bool, slot: Int, mapper: any MemoryMapper
  ) {
    self.bytes = bytes
    self.offset = offset
    self.readOnly = readOnly
    self.slot = slot
    self.mapper = mapper
  }

  /// Shows the window at a guest physical address, or nowhere; nowhere too where no processor can address all of it.
  public func place(at guestAddress: UInt64?) {
    guard let guestAddress, guestAddress & 0xFFF == 0, guestAddress <= (1 << 52) - UInt64(bytes.count) else {
      mapper.set(slot, nil)
      return
    }
    mapper.set(
      slot,
      MemoryMapping(
        guestAddress: guestAddress, size: UInt64(bytes.count), source: .device(offset), readOnly: readOnly))
  }
}
