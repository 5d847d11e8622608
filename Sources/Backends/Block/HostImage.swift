import LinuxSystem
import MachineModel
import Synchronization

/// An open image file or block device of the host, reached with any alignment where the host asks for aligned requests.
///
/// An unaligned write reads and writes back whole host blocks: callers do not let another request touch those
/// blocks meanwhile, unless `sharesBlocks` says that they cannot know.
final class HostImage: ImageStorage {
  private let file: Descriptor
  let alignment: Int
  var isEmptyBeyondEnd: Bool { !isBlockDevice }
  private let isBlockDevice: Bool
  /// A failed flush stays failed. Without the host's cache, each one counts for itself.
  private let rememberFlushError: Bool
  private let flushes: Bool
  private let flushError = Mutex<SystemError?>(nil)
  /// What the host has turned out not to do.
  private let missing = Mutex<Missing>([])
  /// Two callers may write to one host block: one write at a time.
  private let sharesBlocks: Bool
  private let blockWrites = Mutex<Void>(())

  private struct Missing: OptionSet {
    let rawValue: UInt8
    static let punchHole = Missing(rawValue: 1 << 0)
    static let zeroRange = Missing(rawValue: 1 << 1)
    static let discard = Missing(rawValue: 1 << 2)
  }

  /// With `.unsafe` a flush does nothing.
  init(file: consuming Descriptor, alignment: Int, cache: CacheMode = .writeback, sharesBlocks: Bool = false) {
    isBlockDevice = (try? file.kind()) == .blockDevice
    self.file = file
    self.alignment = alignment
    rememberFlushError = cache != .none
    flushes = cache != .unsafe
    self.sharesBlocks = sharesBlocks && alignment > 1
  }

  func size() throws(LayerError) -> UInt64 {
    try onHost { () throws(SystemError) in try file.imageSize() }
  }

  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64, zeroFill: Bool) throws(LayerError) {
    if isAligned(buffers, offset) { return try transfer(buffers, offset, zeroFill) }
    try forEachBounce(buffers, offset) { bounce, base, inner, part throws(LayerError) in
      try transfer([bounce], base, zeroFill)
      scatter(UnsafeMutableRawBufferPointer(rebasing: bounce[inner]), part)
    }
  }

  private func transfer(_ buffers: [UnsafeMutableRawBufferPointer], _ offset: UInt64, _ zeroFill: Bool)
    throws(LayerError)
  {
    try onHost { () throws(SystemError) in
      if zeroFill { try file.readFilling(buffers, at: offset) } else { try file.readFully(buffers, at: offset) }
    }
  }

  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    guard sharesBlocks else { return try writeAlone(buffers, at: offset) }
    try blockWrites.withLock { _ throws(LayerError) in try writeAlone(buffers, at: offset) }
  }

  private func writeAlone(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    if isAligned(buffers, offset) {
      return try onHost { () throws(SystemError) in try file.writeFully(buffers, at: offset) }
    }
    try forEachBounce(buffers, offset) { bounce, base, inner, part throws(LayerError) in
      if inner != 0..<bounce.count { try transfer([bounce], base, true) }
      gather(part, UnsafeMutableRawBufferPointer(rebasing: bounce[inner]))
      try onHost { () throws(SystemError) in try file.writeFully([bounce], at: base) }
    }
  }

  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) {
    guard length > 0 else { return }
    if try zeroOnHost(offset, length, mayUnmap: mayUnmap) { return }
    try writeZeroData(at: offset, length)
  }

  /// False: the host cannot, and nothing has changed.
  private func zeroOnHost(_ offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) -> Bool {
    if isBlockDevice {
      guard (offset | length) & 511 == 0 else { return false }
      return try attempt(.zeroRange) { () throws(SystemError) in try file.zeroBlocks(at: offset, length) }
    }
    if mayUnmap, try attempt(.punchHole, { () throws(SystemError) in try file.punchHole(at: offset, length) }) {
      return true
    }
    return try attempt(.zeroRange) { () throws(SystemError) in try file.zeroRange(at: offset, length) }
  }

  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError) {
    guard length > 0 else { return }
    if isBlockDevice {
      guard (offset | length) & 511 == 0 else { return }
      _ = try attempt(.discard) { () throws(SystemError) in try file.discardBlocks(at: offset, length) }
    } else {
      _ = try attempt(.punchHole) { () throws(SystemError) in try file.punchHole(at: offset, length) }
    }
  }

  /// Does what the host may not have; false if it has not, which is remembered.
  private func attempt(_ what: Missing, _ body: () throws(SystemError) -> Void) throws(LayerError) -> Bool {
    guard !missing.withLock({ $0.contains(what) }) else { return false }
    do throws(SystemError) {
      try body()
      return true
    } catch {
      // EINVAL: not in whole blocks of this device, which says nothing of other ranges.
      if error.isInvalid { return false }
      guard error.isUnsupported else { throw .host(error) }
      _ = missing.withLock { $0.insert(what) }
      return false
    }
  }

  private func writeZeroData(at offset: UInt64, _ length: UInt64) throws(LayerError) {
    let mask = UInt64(max(alignment, 1) - 1)
    let zeroes = AlignedBuffer(count: Int(min(UInt64(Self.bounceSize), (length &+ mask) & ~mask)))
    var done: UInt64 = 0
    while done < length {
      let run = Int(min(length - done, UInt64(zeroes.bytes.count)))
      try write([UnsafeMutableRawBufferPointer(rebasing: zeroes.bytes[..<run])], at: offset + done)
      done += UInt64(run)
    }
  }

  /// Once this has failed it fails for ever: the host's cache drops what it could not write and says so only once
  /// (fsync(2)), so a later success would say nothing of the writes before. Without that cache each try counts.
  func flush() throws(LayerError) {
    guard flushes else { return }
    if let error = flushError.withLock({ $0 }) { throw .host(error) }
    do throws(SystemError) {
      try file.synchronizeData()
    } catch {
      if rememberFlushError { flushError.withLock { $0 = error } }
      throw .host(error)
    }
  }

  func takes(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) -> Bool {
    !sharesBlocks && isAligned(buffers, offset)
  }

  private func isAligned(_ buffers: [UnsafeMutableRawBufferPointer], _ offset: UInt64) -> Bool {
    guard alignment > 1 else { return true }
    let mask = alignment - 1
    return offset & UInt64(mask) == 0
      && buffers.allSatisfy { ($0.count | Int(bitPattern: $0.baseAddress)) & mask == 0 }
  }

  private static let bounceSize = 1 << 20

  /// Walks the range in aligned pieces of at most 1 MiB: the bounce buffer, its offset in the image, the part
  /// of it that belongs to the range and the memory that part stands for.
  private func forEachBounce(
    _ buffers: [UnsafeMutableRawBufferPointer], _ offset: UInt64,
    _ body: (UnsafeMutableRawBufferPointer, UInt64, Range<Int>, [UnsafeMutableRawBufferPointer]) throws(LayerError)
      -> Void
  ) throws(LayerError) {
    let count = buffers.reduce(0) { $0 + $1.count }
    let mask = alignment - 1
    let bounce = AlignedBuffer(count: min(Self.bounceSize, (count + 2 * alignment + mask) & ~mask))
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
