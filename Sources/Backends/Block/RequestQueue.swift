/// Requests in the order they were submitted, and which of them may run now.
///
/// Two requests that touch the same `granule` never run at the same time or out of order, unless both read. A flush
/// waits for nothing: it covers writes that completed before it was submitted.
struct RequestQueue {
  struct Entry {
    let id: UInt64
    let request: BlockRequest
    /// Whole granules.
    let range: Range<UInt64>

    func conflicts(with other: Entry) -> Bool {
      (request.operation.changesMedium || other.request.operation.changesMedium) && range.overlaps(other.range)
    }
  }

  private let granule: UInt64
  private var waiting: [Entry] = []
  private var running: [Entry] = []
  private var nextID: UInt64 = 0
  /// How far behind the oldest request a worker looks for one that may run.
  private static let window = 32

  /// `granule` is a power of two.
  init(granule: Int) { self.granule = UInt64(granule) }

  var isEmpty: Bool { waiting.isEmpty && running.isEmpty }
  var waitingCount: Int { waiting.count }

  /// Adds a request whose range the medium has.
  mutating func append(_ request: BlockRequest) { waiting.append(entry(for: request)) }

  /// Lets a request run at once until `finish`; nil where it has to wait for others.
  mutating func start(_ request: BlockRequest) -> Entry? {
    let entry = entry(for: request)
    guard !running.contains(where: entry.conflicts), !waiting.contains(where: entry.conflicts) else { return nil }
    running.append(entry)
    return entry
  }

  /// Lets an entry that was started wait for `take` after all, before all others.
  mutating func putBack(_ entry: Entry) {
    finish(entry)
    waiting.insert(entry, at: 0)
  }

  private mutating func entry(for request: BlockRequest) -> Entry {
    let mask = granule - 1
    let start = request.offset & ~mask
    // A medium ends before 2^63.
    let end = (request.offset &+ request.length &+ mask) & ~mask
    defer { nextID &+= 1 }
    let isEmpty = request.operation == .flush || end < start
    return Entry(id: nextID, request: request, range: isEmpty ? 0..<0 : start..<end)
  }

  /// Takes the oldest request that may run; it runs until `finish`.
  mutating func take() -> Entry? {
    for index in 0..<min(waiting.count, Self.window) {
      let entry = waiting[index]
      guard !running.contains(where: entry.conflicts), !waiting[..<index].contains(where: entry.conflicts) else {
        continue
      }
      waiting.remove(at: index)
      running.append(entry)
      return entry
    }
    return nil
  }

  mutating func finish(_ entry: Entry) { running.removeAll { $0.id == entry.id } }
}
