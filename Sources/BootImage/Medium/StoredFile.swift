/// A file inside an image: where its bytes lie on the disk. Reading it needs nothing of its file system any more.
public struct StoredFile: Sendable {
  /// Consecutive bytes of the file that are consecutive on the disk.
  struct Run: Sendable, Equatable {
    /// From the start of the file.
    let offset: UInt64
    /// From the start of the partition.
    let place: UInt64
    let count: UInt64
  }

  private enum Content: Sendable {
    case bytes([UInt8])
    /// In ascending order; what they leave out is zero.
    case runs([Run], DiskRange)
  }

  /// Bytes in the file.
  public let count: UInt64
  private let content: Content

  /// Longest file: what is loaded has to fit in memory below 4 GiB.
  static let sizeLimit: UInt64 = 4 << 30
  /// Most pieces that a file may be in.
  static let runLimit = 1 << 16

  init(_ bytes: [UInt8]) {
    count = UInt64(bytes.count)
    content = .bytes(bytes)
  }

  /// A file of `count` bytes, each of whose runs has to lie in the partition and behind the one before.
  init(count: UInt64, runs: [Run], in range: DiskRange) throws(BootImageError) {
    guard count <= Self.sizeLimit else { throw BootImageError(.limit, "it is longer than 4 GiB") }
    var end: UInt64 = 0
    for run in runs {
      let (runEnd, overflow) = run.offset.addingReportingOverflow(run.count)
      guard !overflow, run.offset >= end, range.contains(run.place, run.count) else {
        throw BootImageError(.damaged, "its map of blocks is wrong")
      }
      end = runEnd
    }
    self.count = count
    content = .runs(runs, range)
  }

  /// Fills the buffer from `offset` on, straight from the disk.
  public func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError) {
    guard offset <= count, UInt64(buffer.count) <= count - offset else {
      throw BootImageError(.damaged, "it is shorter than what is read of it")
    }
    switch content {
    case .bytes(let bytes):
      let start = Int(offset)
      buffer.copyBytes(from: bytes[start..<start + buffer.count])
    case .runs(let runs, let range): try Self.read(runs, range, offset, buffer)
    }
  }

  private static func read(
    _ runs: [Run], _ range: DiskRange, _ offset: UInt64, _ buffer: UnsafeMutableRawBufferPointer
  ) throws(BootImageError) {
    // The first run that ends behind the offset.
    var (low, high) = (0, runs.count)
    while low < high {
      let middle = (low + high) / 2
      if runs[middle].offset + runs[middle].count <= offset { low = middle + 1 } else { high = middle }
    }
    var position = offset
    let end = offset + UInt64(buffer.count)
    func part(to next: UInt64) -> UnsafeMutableRawBufferPointer {
      UnsafeMutableRawBufferPointer(rebasing: buffer[Int(position - offset)..<Int(next - offset)])
    }
    while position < end {
      guard low < runs.count, runs[low].offset < end else {
        zero(part(to: end))
        return
      }
      let run = runs[low]
      if run.offset > position {
        zero(part(to: run.offset))
        position = run.offset
      }
      let next = min(end, run.offset + run.count)
      try range.readContent(at: run.place + (position - run.offset), into: part(to: next))
      position = next
      low += 1
    }
  }

  private static func zero(_ buffer: UnsafeMutableRawBufferPointer) {
    for index in buffer.indices { buffer[index] = 0 }
  }

  /// All of a small file.
  public func bytes(limit: Int) throws(BootImageError) -> [UInt8] {
    guard count <= UInt64(limit) else { throw BootImageError(.limit, "it is longer than \(limit >> 10) KiB") }
    var bytes = [UInt8](repeating: 0, count: Int(count))
    let result = bytes.withUnsafeMutableBytes { buffer in
      Result { () throws(BootImageError) in try read(at: 0, into: buffer) }
    }
    try result.get()
    return bytes
  }
}

/// Collects where a file lies, joining neighbours.
struct RunCollector {
  private(set) var runs: [StoredFile.Run] = []
  /// Bytes of the file; what lies beyond is left out.
  let count: UInt64

  init(count: UInt64) { self.count = count }

  enum Outcome { case more, full, tooMany }

  /// `full`: nothing further belongs to the file.
  mutating func add(offset: UInt64, place: UInt64, count added: UInt64) -> Outcome {
    guard offset < count else { return .full }
    let length = min(added, count - offset)
    if let last = runs.last, last.offset &+ last.count == offset, last.place &+ last.count == place {
      runs[runs.count - 1] = StoredFile.Run(offset: last.offset, place: last.place, count: last.count &+ length)
    } else {
      guard runs.count < StoredFile.runLimit else { return .tooMany }
      runs.append(StoredFile.Run(offset: offset, place: place, count: length))
    }
    return offset &+ length >= count ? .full : .more
  }
}
