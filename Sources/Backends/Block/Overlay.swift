import LinuxSystem
import Synchronization

/// A temporary file that holds the clusters of an image that were written to; the image itself never changes.
///
/// Callers do not let two requests touch one cluster at once unless both read.
final class Overlay: ImageLayer {
  /// Bytes that are copied together on the first write to any of them.
  static let clusterSize = 16 << 10

  private let file: Descriptor
  private let base: any ImageLayer
  let size: UInt64
  var granule: Int { Self.clusterSize }
  var features: BlockFeatures { [.discard, .writeZeroes, .unmap] }
  var limits: BlockLimits { BlockLimits(physicalBlock: 4096, discardBlock: Self.clusterSize) }
  /// One bit per cluster: it stands in the overlay.
  private let present: Mutex<[UInt64]>

  /// Covers all of `base`; the file gets the length it needs.
  init(file: consuming Descriptor, over base: any ImageLayer) throws(SystemError) {
    let size = base.size
    let whole = Self.fileSize(of: size)
    if try file.imageSize() != whole { try file.truncate(to: whole) }
    self.file = file
    self.base = base
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
    _ offset: UInt64, _ count: UInt64,
    _ body: (_ cluster: Int, _ start: Int, _ done: Int, _ run: Int) throws(LayerError) -> Void
  ) throws(LayerError) {
    var done: UInt64 = 0
    while done < count {
      let position = offset + done
      let start = Int(position % UInt64(Self.clusterSize))
      let run = Int(min(count - done, UInt64(Self.clusterSize - start)))
      try body(Int(position / UInt64(Self.clusterSize)), start, Int(done), run)
      done += UInt64(run)
    }
  }

  /// Reads a range that lies in the image; clusters that were never written come from the image.
  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    var start = 0
    var length = 0
    var isPresent = false
    func transfer() throws(LayerError) {
      guard length > 0 else { return }
      let part = slice(buffers, start, length)
      if isPresent {
        try onHost { () throws(SystemError) in try file.readFully(part, at: offset + UInt64(start)) }
      } else {
        try base.read(part, at: offset + UInt64(start))
      }
    }
    let count = buffers.reduce(UInt64(0)) { $0 + UInt64($1.count) }
    try forEachCluster(offset, count) { cluster, _, done, run throws(LayerError) in
      let inOverlay = contains(cluster)
      if inOverlay != isPresent || length == 0 {
        try transfer()
        (start, length, isPresent) = (done, 0, inOverlay)
      }
      length += run
    }
    try transfer()
  }

  /// Writes a range that lies in the image.
  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    let count = buffers.reduce(UInt64(0)) { $0 + UInt64($1.count) }
    try forEachCluster(offset, count) { cluster, start, done, run throws(LayerError) in
      try write(slice(buffers, done, run), cluster, start, run)
    }
  }

  /// Writes `run` bytes from `start` on of one cluster.
  private func write(_ part: [UnsafeMutableRawBufferPointer], _ cluster: Int, _ start: Int, _ run: Int)
    throws(LayerError)
  {
    let position = UInt64(cluster) * UInt64(Self.clusterSize)
    if run == Self.clusterSize || contains(cluster) {
      try onHost { () throws(SystemError) in try file.writeFully(part, at: position + UInt64(start)) }
    } else {
      let copy = AlignedBuffer(count: Self.clusterSize)
      let valid = Int(min(UInt64(Self.clusterSize), size - position))
      try base.read([UnsafeMutableRawBufferPointer(rebasing: copy.bytes[..<valid])], at: position)
      gather(part, UnsafeMutableRawBufferPointer(rebasing: copy.bytes[start..<start + run]))
      try onHost { () throws(SystemError) in try file.writeFully([copy.bytes], at: position) }
    }
    add(cluster)
  }

  /// Whole clusters become holes of the overlay; the rest of the range stays as it is.
  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError) {
    try forEachCluster(offset, length) { cluster, _, _, run throws(LayerError) in
      if run == Self.clusterSize { try empty(cluster) }
    }
  }

  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) {
    let zeroes = AlignedBuffer(count: Self.clusterSize)
    try forEachCluster(offset, length) { cluster, start, _, run throws(LayerError) in
      if run == Self.clusterSize { return try empty(cluster) }
      try write([UnsafeMutableRawBufferPointer(rebasing: zeroes.bytes[..<run])], cluster, start, run)
    }
  }

  private func empty(_ cluster: Int) throws(LayerError) {
    let position = UInt64(cluster) * UInt64(Self.clusterSize)
    if contains(cluster) {
      do throws(SystemError) {
        try file.punchHole(at: position, UInt64(Self.clusterSize))
      } catch {
        guard error.isUnsupported else { throw .host(error) }
        let zeroes = AlignedBuffer(count: Self.clusterSize)
        try onHost { () throws(SystemError) in try file.writeFully([zeroes.bytes], at: position) }
      }
    }
    add(cluster)
  }

  /// It goes with the process, so there is nothing to keep.
  func flush() {}
}
