/// Receive buffers that were taken from their queue and wait for a frame: where a frame needs more of them than there
/// are, those taken so far stay for the next try.
// Safety: the runs are guest RAM, valid as long as the machine lives.
struct ReceiveBuffers: @unchecked Sendable {
  private struct Buffer {
    var token: BufferToken
    var runs: Range<Int>
    var count: Int
  }

  private var buffers: [Buffer] = []
  private var runs: [UnsafeMutableRawBufferPointer] = []
  /// Bytes in all of them.
  private(set) var room = 0

  init() {
    buffers.reserveCapacity(64)
    runs.reserveCapacity(256)
  }

  var count: Int { buffers.count }

  mutating func removeAll() {
    buffers.removeAll(keepingCapacity: true)
    runs.removeAll(keepingCapacity: true)
    room = 0
  }

  mutating func append(_ chain: DescriptorChain) {
    let start = runs.count
    runs.append(contentsOf: chain.writable)
    buffers.append(Buffer(token: chain.token, runs: start..<runs.count, count: chain.writableCount))
    room += chain.writableCount
  }

  /// How many buffers, from the first on, `length` bytes take.
  func needed(_ length: Int) -> Int {
    var left = length
    var used = 0
    for buffer in buffers where left > 0 {
      left -= buffer.count
      used += 1
    }
    return used
  }

  /// Fills the first `number` buffers with the header and the frame, for which there is room, and gives each back by
  /// `put` with the bytes written to it.
  mutating func fill(
    _ number: Int, _ header: UnsafeRawBufferPointer, _ frame: UnsafeRawBufferPointer,
    _ put: (BufferToken, UInt32) -> Void
  ) {
    let total = header.count + frame.count
    var done = 0
    var usedRuns = 0
    for buffer in buffers[..<number] {
      let start = done
      for run in runs[buffer.runs] where done < total { done += Self.copy(header, frame, from: done, into: run) }
      put(buffer.token, UInt32(truncatingIfNeeded: done - start))
      room -= buffer.count
      usedRuns = buffer.runs.upperBound
    }
    if number == buffers.count {
      removeAll()
      return
    }
    buffers.removeFirst(number)
    runs.removeFirst(usedRuns)
    for index in buffers.indices {
      let old = buffers[index].runs
      buffers[index].runs = old.lowerBound - usedRuns..<old.upperBound - usedRuns
    }
  }

  /// Copies bytes from `offset` of header and frame together until the run is full or nothing is left.
  private static func copy(
    _ header: UnsafeRawBufferPointer, _ frame: UnsafeRawBufferPointer, from offset: Int,
    into run: UnsafeMutableRawBufferPointer
  ) -> Int {
    var done = 0
    if offset < header.count {
      done = min(header.count - offset, run.count)
      run.copyMemory(from: UnsafeRawBufferPointer(rebasing: header[offset..<offset + done]))
    }
    let start = offset + done - header.count
    let part = min(run.count - done, frame.count - start)
    guard part > 0, start >= 0 else { return done }
    UnsafeMutableRawBufferPointer(rebasing: run[done...]).copyMemory(
      from: UnsafeRawBufferPointer(rebasing: frame[start..<start + part]))
    return done + part
  }
}
