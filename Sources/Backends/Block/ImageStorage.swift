/// A host file or block device as image formats use it. Offsets and lengths may have any alignment.
protocol ImageStorage: AnyObject, Sendable {
  /// Bytes in the file now.
  func size() throws(LayerError) -> UInt64
  /// The alignment the host asks for; other writes read and write back whole blocks of it.
  var alignment: Int { get }
  /// What lies beyond the end reads as zero once it is within the file.
  var isEmptyBeyondEnd: Bool { get }
  /// Whether the host takes a request with these buffers at this offset as it is.
  func takes(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) -> Bool
  /// Fills the buffers. The end of the file before that is EIO, or zeroes with `zeroFill`.
  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64, zeroFill: Bool) throws(LayerError)
  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError)
  /// Makes the range read as zero, which may give its room back or not.
  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError)
  /// Gives the range back to the host if that can be done; a range of a block device reads as anything then.
  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError)
  /// Waits until what was written is on stable storage.
  func flush() throws(LayerError)
}

extension ImageStorage {
  func takes(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) -> Bool { false }
}
