/// A raw image that is one only because nobody has said otherwise and it did not look like another format.
///
/// A guest that could make it look like one would choose what the next run reads: such a write is refused.
final class ProbedRawImage: ImageLayer {
  private let base: any ImageLayer

  init(_ base: any ImageLayer) { self.base = base }

  var size: UInt64 { base.size }
  var granule: Int { base.granule }
  var features: BlockFeatures { base.features }
  var limits: BlockLimits { base.limits }

  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    try base.read(buffers, at: offset)
  }

  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    let magic = QCOW2Header.magic
    if offset < UInt64(magic.count) {
      let start = AlignedBuffer(count: magic.count)
      let bytes = UnsafeMutableRawBufferPointer(rebasing: start.bytes[..<magic.count])
      if size >= UInt64(magic.count) { try base.read([bytes], at: 0) }
      let count = min(magic.count - Int(offset), buffers.reduce(0) { $0 + $1.count })
      gather(slice(buffers, 0, count), UnsafeMutableRawBufferPointer(rebasing: bytes[Int(offset)...]))
      guard !QCOW2Header.isMagic(bytes) else { throw .disguise }
    }
    try base.write(buffers, at: offset)
  }

  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError) { try base.discard(at: offset, length) }

  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) {
    try base.writeZeroes(at: offset, length, mayUnmap: mayUnmap)
  }

  func place(of request: BlockRequest) -> UInt64? {
    request.operation == .write && request.offset < UInt64(QCOW2Header.magic.count) ? nil : base.place(of: request)
  }

  func flush() throws(LayerError) { try base.flush() }
  func close() throws(LayerError) { try base.close() }
  func measure() throws(LayerError) -> UInt64 { try base.measure() }
}
