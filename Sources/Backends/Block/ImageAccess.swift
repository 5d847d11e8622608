import LinuxSystem

/// Reads and writes of any alignment on an image whose host may ask for aligned ones.
///
/// An unaligned write reads and writes back whole host blocks: callers do not let another request touch those
/// blocks meanwhile.
final class ImageAccess: Sendable {
  private let file: Descriptor
  private let geometry: ImageGeometry

  init(file: consuming Descriptor, geometry: ImageGeometry) {
    self.file = file
    self.geometry = geometry
  }

  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(SystemError) {
    if isAligned(buffers, offset) { return try file.readFully(buffers, at: offset) }
    try forEachBounce(buffers, offset) { bounce, base, inner, part throws(SystemError) in
      try file.readFully([bounce], at: base)
      scatter(UnsafeMutableRawBufferPointer(rebasing: bounce[inner]), part)
    }
  }

  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(SystemError) {
    if isAligned(buffers, offset) { return try file.writeFully(buffers, at: offset) }
    try forEachBounce(buffers, offset) { bounce, base, inner, part throws(SystemError) in
      if inner != 0..<bounce.count { try file.readFully([bounce], at: base) }
      gather(part, UnsafeMutableRawBufferPointer(rebasing: bounce[inner]))
      try file.writeFully([bounce], at: base)
    }
  }

  func flush() throws(SystemError) { try file.synchronizeData() }

  private func isAligned(_ buffers: [UnsafeMutableRawBufferPointer], _ offset: UInt64) -> Bool {
    guard geometry.alignment > 1 else { return true }
    let mask = geometry.alignment - 1
    return offset & UInt64(mask) == 0
      && buffers.allSatisfy { ($0.count | Int(bitPattern: $0.baseAddress)) & mask == 0 }
  }

  private static let bounceSize = 1 << 20

  /// Walks the range in aligned pieces of at most 1 MiB: the bounce buffer, its offset in the image, the part
  /// of it that belongs to the range and the memory that part stands for.
  private func forEachBounce(
    _ buffers: [UnsafeMutableRawBufferPointer], _ offset: UInt64,
    _ body: (UnsafeMutableRawBufferPointer, UInt64, Range<Int>, [UnsafeMutableRawBufferPointer]) throws(SystemError)
      -> Void
  ) throws(SystemError) {
    let count = buffers.reduce(0) { $0 + $1.count }
    let mask = geometry.alignment - 1
    let bounce = AlignedBuffer(count: min(Self.bounceSize, (count + 2 * geometry.alignment + mask) & ~mask))
    let room = bounce.bytes.count & ~mask
    var done = 0
    while done < count {
      let position = offset + UInt64(done)
      let start = Int(position & UInt64(mask))
      let run = min(count - done, room - start)
      let whole = (start + run + mask) & ~mask
      try body(
        UnsafeMutableRawBufferPointer(rebasing: bounce.bytes[..<whole]), position - UInt64(start), start..<start + run,
        slice(buffers, done, run))
      done += run
    }
  }
}
