/// Bytes on their way to the host: a ring of fixed size.
struct OutputQueue: Sendable {
  static let capacity = 64 << 10

  /// Made for the first byte: many a run writes none.
  private var storage: [UInt8] = []
  private var head = 0
  private(set) var count = 0
  /// The sender was given less room than it wanted and waits to hear that there is some.
  var refused = false

  var isEmpty: Bool { count == 0 }
  var room: Int { Self.capacity - count }

  /// Takes what fits, and returns how much that was.
  mutating func append(_ bytes: UnsafeRawBufferPointer) -> Int {
    if storage.isEmpty { storage = [UInt8](repeating: 0, count: Self.capacity) }
    let taken = min(bytes.count, room)
    var tail = (head + count) % Self.capacity
    for index in 0..<taken {
      storage[tail] = bytes[index]
      tail = tail + 1 == Self.capacity ? 0 : tail + 1
    }
    count += taken
    if taken < bytes.count { refused = true }
    return taken
  }

  /// Copies the oldest bytes without removing them.
  func copyFirst(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    let copied = min(count, buffer.count)
    for index in 0..<copied { buffer[index] = storage[(head + index) % Self.capacity] }
    return copied
  }

  mutating func removeFirst(_ number: Int) {
    let removed = min(number, count)
    head = (head + removed) % Self.capacity
    count -= removed
  }

  mutating func removeAll() { (head, count) = (0, 0) }

  /// Whether a sender that was refused is to hear of room now: once half of the ring is free, so that it
  /// is not woken for each byte.
  mutating func takeRefusal() -> Bool {
    guard refused, count <= Self.capacity / 2 else { return false }
    refused = false
    return true
  }
}

/// Says one line to the user about a connection that fails.
public typealias CharacterReport = @Sendable (String) -> Void
