import LinuxSystem
import Synchronization

/// Reads compressed clusters and keeps the last few unpacked: a guest reads a cluster in several requests.
final class UnpackedClusters: Sendable {
  private struct State {
    var clusters: [(raw: UInt64, bytes: AlignedBuffer)] = []
  }

  private let header: QCOW2Header
  private let state = Mutex(State())
  private static let kept = 4

  init(_ header: QCOW2Header) { self.header = header }

  /// The cluster that the entry describes. No two clusters share an entry, and vmrun writes no compressed ones.
  func cluster(_ entry: QCOW2Entry, of file: any ImageStorage) throws(LayerError) -> AlignedBuffer {
    if let known = state.withLock({ state in state.clusters.first { $0.raw == entry.raw }?.bytes }) { return known }
    let (offset, count) = entry.compressedRange(clusterBits: header.clusterBits)
    let packed = AlignedBuffer(count: count)
    let source = UnsafeMutableRawBufferPointer(rebasing: packed.bytes[..<count])
    try file.read([source], at: offset, zeroFill: true)
    let result = AlignedBuffer(count: header.clusterSize)
    let isWhole =
      switch header.compression {
      case .zlib: inflateRaw(UnsafeRawBufferPointer(source), into: result.bytes)
      case .zstd: decompressZstandard(UnsafeRawBufferPointer(source), into: result.bytes)
      }
    guard isWhole else { throw .corrupt("the compressed cluster at \(hex(offset)) cannot be unpacked") }
    state.withLock { state in
      state.clusters.append((entry.raw, result))
      if state.clusters.count > Self.kept { state.clusters.removeFirst() }
    }
    return result
  }
}
