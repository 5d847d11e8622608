/// A first-in first-out store of bytes of fixed size.
struct ByteQueue: Sendable {
  private var storage: [UInt8]
  private var head = 0
  private(set) var count = 0

  init(capacity: Int) { storage = [UInt8](repeating: 0, count: max(capacity, 1)) }

  var capacity: Int { storage.count }
  var isEmpty: Bool { count == 0 }
  var isFull: Bool { count == storage.count }
  var room: Int { storage.count - count }

  var first: UInt8? { isEmpty ? nil : storage[head] }

  /// Changes the oldest byte, if there is one.
  mutating func replaceFirst(_ byte: UInt8) { if !isEmpty { storage[head] = byte } }

  func contains(where condition: (UInt8) -> Bool) -> Bool {
    (0..<count).contains { condition(storage[(head + $0) % storage.count]) }
  }

  /// Adds a byte; false when there is no room.
  @discardableResult
  mutating func append(_ byte: UInt8) -> Bool {
    guard !isFull else { return false }
    storage[(head + count) % storage.count] = byte
    count += 1
    return true
  }

  mutating func removeFirst() -> UInt8? {
    guard !isEmpty else { return nil }
    defer { removeFirst(1) }
    return storage[head]
  }

  mutating func removeFirst(_ number: Int) {
    let removed = min(number, count)
    head = (head + removed) % storage.count
    count -= removed
  }

  mutating func removeAll() { (head, count) = (0, 0) }

  /// Copies the oldest bytes without removing them and returns how many those were.
  func copyFirst(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    let copied = min(count, buffer.count)
    for index in 0..<copied { buffer[index] = storage[(head + index) % storage.count] }
    return copied
  }
}
