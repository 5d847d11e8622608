import LinuxSystem
import Synchronization

/// A temporary file that holds the clusters of an image that were written to; the image itself never changes.
///
/// Callers do not let two requests touch one cluster at once unless both read.
final class Overlay: Sendable {
  /// Bytes that are copied together on the first write to any of them.
  static let clusterSize = 16 << 10

  private let file: Descriptor
  private let size: UInt64
  /// One bit per cluster: it stands in the overlay.
  private let present: Mutex<[UInt64]>

  init(file: consuming Descriptor, size: UInt64) {
    self.file = file
    self.size = size
    let clusters = Int(Self.fileSize(of: size) / UInt64(Self.clusterSize))
    present = Mutex([UInt64](repeating: 0, count: (clusters + 63) / 64))
  }

  /// The size of an overlay file for an image of `size` bytes.
  static func fileSize(of size: UInt64) -> UInt64 {
    let cluster = UInt64(clusterSize)
    return size / cluster * cluster + (size % cluster == 0 ? 0 : cluster)
  }

  private func contains(_ cluster: Int) -> Bool {
    present.withLock { $0[cluster / 64] & 1 << UInt64(cluster % 64) != 0 }
  }

  private func add(_ cluster: Int) {
    present.withLock { $0[cluster / 64] |= 1 << UInt64(cluster % 64) }
  }

  /// Calls `body` for each cluster that the range touches: its number, where in it, where in the range, how long.
  private func forEachCluster(
    _ offset: UInt64, _ count: Int,
    _ body: (_ cluster: Int, _ start: Int, _ done: Int, _ run: Int) throws(SystemError)
      -> Void
  ) throws(SystemError) {
    var done = 0
    while done < count {
      let position = offset + UInt64(done)
      let start = Int(position % UInt64(Self.clusterSize))
      let run = min(count - done, Self.clusterSize - start)
      try body(Int(position / UInt64(Self.clusterSize)), start, done, run)
      done += run
    }
  }

  /// Reads a range that lies in the image; clusters that were never written come from `image`.
  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64, over image: ImageAccess)
    throws(SystemError)
  {
    var start = 0
    var length = 0
    var isPresent = false
    func flush() throws(SystemError) {
      guard length > 0 else { return }
      let part = slice(buffers, start, length)
      if isPresent {
        try file.readFully(part, at: offset + UInt64(start))
      } else {
        try image.read(part, at: offset + UInt64(start))
      }
    }
    try forEachCluster(offset, buffers.reduce(0) { $0 + $1.count }) { cluster, _, done, run throws(SystemError) in
      let inOverlay = contains(cluster)
      if inOverlay != isPresent || length == 0 {
        try flush()
        (start, length, isPresent) = (done, 0, inOverlay)
      }
      length += run
    }
    try flush()
  }

  /// Writes a range that lies in the image.
  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64, over image: ImageAccess)
    throws(SystemError)
  {
    try forEachCluster(offset, buffers.reduce(0) { $0 + $1.count }) { cluster, start, done, run throws(SystemError) in
      let part = slice(buffers, done, run)
      if run == Self.clusterSize || contains(cluster) {
        try file.writeFully(part, at: offset + UInt64(done))
      } else {
        let base = UInt64(cluster) * UInt64(Self.clusterSize)
        let copy = AlignedBuffer(count: Self.clusterSize)
        let valid = Int(min(UInt64(Self.clusterSize), size - base))
        try image.read([UnsafeMutableRawBufferPointer(rebasing: copy.bytes[..<valid])], at: base)
        gather(part, UnsafeMutableRawBufferPointer(rebasing: copy.bytes[start..<start + run]))
        try file.writeFully([copy.bytes], at: base)
      }
      add(cluster)
    }
  }
}
