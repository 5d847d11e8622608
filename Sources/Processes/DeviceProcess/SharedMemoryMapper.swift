import DeviceKit
import Sandbox
import Synchronization

/// Writes the part of the memory map that devices control into the machine page.
final class SharedMemoryMapper: MemoryMapper {
  private let page: MachinePage
  private let reserved = Mutex(0)

  init(_ page: MachinePage) { self.page = page }

  func reserve() -> Int? {
    reserved.withLock { count in
      guard count < MachinePage.slotCount else { return nil }
      count += 1
      return count - 1
    }
  }

  func set(_ slot: Int, _ mapping: MemoryMapping?) {
    let shared = mapping.map { mapping in
      let (source, offset): (SharedSource, UInt64) =
        switch mapping.source {
        case .ram(let address): (.ram, address)
        case .firmware(let offset): (.firmware, offset)
        case .device(let offset): (.device, offset)
        }
      return SharedMapping(
        guestAddress: mapping.guestAddress, size: mapping.size, source: source, offset: offset,
        readOnly: mapping.readOnly)
    }
    // The page takes one writer at a time.
    reserved.withLock { _ in page.set(slot, shared) }
  }
}
