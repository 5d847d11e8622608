import Backends

/// A frame as runs of memory, in order. The list keeps its storage from frame to frame.
// Safety: the runs are guest RAM or a device's own buffer, both of which outlive the list.
struct FrameParts: @unchecked Sendable {
  private(set) var list: [UnsafeRawBufferPointer] = []
  /// Bytes in all runs.
  private(set) var count = 0

  /// A place in the frame: a run and a byte of it.
  struct Cursor: Sendable {
    var index = 0
    var offset = 0
  }

  mutating func removeAll() {
    list.removeAll(keepingCapacity: true)
    count = 0
  }

  /// Adds a run, joined to the last one where it goes on behind it.
  mutating func append(_ run: UnsafeRawBufferPointer) {
    guard run.count > 0, let start = run.baseAddress else { return }
    count &+= run.count
    if let last = list.last, let base = last.baseAddress, base + last.count == start {
      list[list.count - 1] = UnsafeRawBufferPointer(start: base, count: last.count + run.count)
    } else {
      list.append(run)
    }
  }

  /// Forgets the last `number` bytes.
  mutating func removeLast(_ number: Int) {
    var left = min(number, count)
    count -= left
    while left > 0, let last = list.popLast() {
      if last.count > left { list.append(UnsafeRawBufferPointer(rebasing: last[..<(last.count - left)])) }
      left -= min(left, last.count)
    }
  }

  /// Calls `body` for up to `number` bytes from the cursor on, and moves it behind them.
  func forEach(from cursor: inout Cursor, _ number: Int, _ body: (UnsafeRawBufferPointer) -> Void) {
    var left = number
    while left > 0, cursor.index < list.count {
      let run = list[cursor.index]
      let part = min(left, run.count - cursor.offset)
      body(UnsafeRawBufferPointer(rebasing: run[cursor.offset..<cursor.offset + part]))
      left -= part
      cursor.offset += part
      if cursor.offset == run.count { cursor = Cursor(index: cursor.index + 1) }
    }
  }

  /// Copies bytes from the cursor on until the buffer is full or the frame ends; returns how many.
  func copy(from cursor: inout Cursor, into buffer: UnsafeMutableRawBufferPointer) -> Int {
    var done = 0
    forEach(from: &cursor, buffer.count) { run in
      UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + run.count]).copyMemory(from: run)
      done += run.count
    }
    return done
  }

  /// Adds the bytes of `range` to a checksum; what lies beyond the frame counts as nothing.
  func add(_ range: Range<Int>, to sum: inout InternetChecksum) {
    var position = 0
    for run in list {
      let start = max(range.lowerBound - position, 0)
      let end = min(range.upperBound - position, run.count)
      if start < end { sum.add(UnsafeRawBufferPointer(rebasing: run[start..<end])) }
      position += run.count
      if position >= range.upperBound { return }
    }
  }
}
