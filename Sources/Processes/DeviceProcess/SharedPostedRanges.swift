import Buses
import Sandbox
import Synchronization

/// Writes into the machine page where writes of an address space are posted.
final class SharedPostedRanges: PostedRanges {
  private let page: MachinePage
  private let ofPorts: Bool
  private let reserved = Mutex(0)

  init(_ page: MachinePage, ofPorts: Bool) {
    self.page = page
    self.ofPorts = ofPorts
  }

  func reserve() -> Int? {
    reserved.withLock { count in
      guard count < MachinePage.postedRangeCount else { return nil }
      count += 1
      return count - 1
    }
  }

  func set(_ slot: Int, _ range: Range<UInt64>?) {
    // The page takes one writer at a time.
    reserved.withLock { _ in page.setPostedRange(slot, ofPorts: ofPorts, range) }
  }
}
