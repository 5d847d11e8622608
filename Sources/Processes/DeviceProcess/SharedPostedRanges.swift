import Buses
import Sandbox
import Synchronization

/// The registers of the machine page that devices have not taken.
final class SharedRegisterPool: Sendable {
  private let page: MachinePage
  private let taken = Mutex(0)

  init(_ page: MachinePage) { self.page = page }

  func take() -> SharedRegisters? {
    taken.withLock { taken in
      guard taken < page.registers.count else { return nil }
      taken += 1
      return page.registers[taken - 1]
    }
  }
}

/// Writes into the machine page where writes of an address space are posted.
final class SharedPostedRanges: PostedRanges {
  private let page: MachinePage
  private let ofPorts: Bool
  private let pool: SharedRegisterPool
  /// The number of the shared registers of each range, and whether its writes are posted.
  private let reserved = Mutex<[(registers: Int?, isPosted: Bool)]>([])

  init(_ page: MachinePage, ofPorts: Bool, _ pool: SharedRegisterPool) {
    self.page = page
    self.ofPorts = ofPorts
    self.pool = pool
  }

  func reserve(_ registers: SharedRegisters?, isPosted: Bool) -> Int? {
    // Registers that are this process's own are of no use to processors.
    guard isPosted || registers?.index != nil else { return nil }
    return reserved.withLock { reserved in
      guard reserved.count < MachinePage.postedRangeCount else { return nil }
      reserved.append((registers?.index, isPosted))
      return reserved.count - 1
    }
  }

  func makeRegisters() -> SharedRegisters? { pool.take() }

  func set(_ slot: Int, _ range: Range<UInt64>?) {
    // The page takes one writer at a time.
    reserved.withLock { reserved in
      page.setPostedRange(
        slot, ofPorts: ofPorts, range, registers: reserved[slot].registers, isPosted: reserved[slot].isPosted)
    }
  }
}
