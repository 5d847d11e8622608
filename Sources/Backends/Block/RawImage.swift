import LinuxSystem

/// A raw image: the bytes of the medium are those of the file.
final class RawImage: ImageLayer {
  private let file: any ImageStorage
  let size: UInt64

  init(_ file: any ImageStorage, size: UInt64) {
    self.file = file
    self.size = size
  }

  var granule: Int { file.alignment }
  var features: BlockFeatures { [.discard, .writeZeroes, .unmap] }
  /// File systems allocate by pages of 4 KiB or more.
  var limits: BlockLimits { BlockLimits(physicalBlock: max(512, file.alignment), discardBlock: 4096) }

  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    try file.read(buffers, at: offset, zeroFill: false)
  }

  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    try file.write(buffers, at: offset)
  }

  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError) { try file.discard(at: offset, length) }

  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) {
    try file.writeZeroes(at: offset, length, mayUnmap: mayUnmap)
  }

  func place(of request: BlockRequest) -> UInt64? {
    file.takes(request.buffers, at: request.offset) ? request.offset : nil
  }

  func flush() throws(LayerError) { try file.flush() }

  func measure() throws(LayerError) -> UInt64 { try file.size() }
}
