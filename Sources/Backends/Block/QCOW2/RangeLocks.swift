import LinuxSystem
import Synchronization

/// Ranges that threads keep others out of: several readers or one writer each.
// Safety: `turn` points to a word that lives until deinit.
final class RangeLocks: Sendable {
  private struct Hold {
    let range: Range<UInt64>
    let isExclusive: Bool
  }

  private let holds = Mutex<[Hold]>([])
  /// Changes when a range is given back.
  private nonisolated(unsafe) let turn: UnsafeMutablePointer<Atomic<UInt32>>

  init() {
    turn = .allocate(capacity: 1)
    turn.initialize(to: Atomic(0))
  }

  deinit {
    turn.deinitialize(count: 1)
    turn.deallocate()
  }

  /// Runs `body` with the range taken. A thread takes one at a time.
  func withLock<Result>(
    _ range: Range<UInt64>, exclusive: Bool, _ body: () throws(LayerError) -> Result
  ) throws(LayerError) -> Result {
    while true {
      let seen = turn.pointee.load(ordering: .acquiring)
      let taken = holds.withLock { holds in
        guard !holds.contains(where: { ($0.isExclusive || exclusive) && $0.range.overlaps(range) }) else {
          return false
        }
        holds.append(Hold(range: range, isExclusive: exclusive))
        return true
      }
      if taken { break }
      Futex.wait(turn, while: seen)
    }
    defer {
      holds.withLock { holds in
        if let index = holds.firstIndex(where: { $0.range == range && $0.isExclusive == exclusive }) {
          holds.remove(at: index)
        }
      }
      turn.pointee.wrappingAdd(1, ordering: .releasing)
      Futex.wake(turn, count: .max)
    }
    return try body()
  }
}
