import Synchronization

/// Bytes of a disk image, read at once.
public protocol DiskBytes: AnyObject, Sendable {
  /// Bytes on the disk.
  var size: UInt64 { get }
  /// Fills the buffer from `offset` on, all of which lies on the disk. Throws `unreadable`.
  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError)
}

/// A disk whose structures are read a few bytes at a time: through a small cache, and only so often. What a hostile image
/// makes its reader do ends with that.
final class Disk: Sendable {
  /// Bytes read from the disk together.
  static let chunk = 16 << 10
  private static let chunkLimit = 32
  /// How much may be read of structures: a request counts 1 and each 4 KiB 1. A directory or a file's map takes some ten.
  static let workLimit = 1 << 18

  let size: UInt64
  private let bytes: any DiskBytes
  private let state: Mutex<State>

  private struct State {
    var chunks: [(index: UInt64, bytes: [UInt8])] = []
    var next = 0
    var work: Int
  }

  init(_ bytes: any DiskBytes, workLimit: Int = workLimit) {
    self.bytes = bytes
    size = bytes.size
    state = Mutex(State(work: workLimit))
  }

  /// Reads structures. A range that is not on the disk is `damaged`.
  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError) {
    guard offset <= size, UInt64(buffer.count) <= size - offset else {
      throw BootImageError(.damaged, "it leads to a place beyond the end of the disk")
    }
    let result = state.withLock { state in Result { () throws(BootImageError) in try read(&state, offset, buffer) } }
    try result.get()
  }

  /// Reads content: neither cached nor counted.
  func readContent(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError) {
    guard offset <= size, UInt64(buffer.count) <= size - offset else {
      throw BootImageError(.damaged, "it leads to a place beyond the end of the disk")
    }
    try bytes.read(at: offset, into: buffer)
  }

  private func read(
    _ state: inout State, _ offset: UInt64, _ buffer: UnsafeMutableRawBufferPointer
  ) throws(BootImageError) {
    state.work -= 1 + buffer.count >> 12
    guard state.work >= 0 else {
      throw BootImageError(.limit, "its structures are more to read than a boot needs: it is damaged or hostile")
    }
    var done = 0
    while done < buffer.count {
      let position = offset + UInt64(done)
      let slot = try slot(&state, holding: position / UInt64(Self.chunk))
      let start = Int(position % UInt64(Self.chunk))
      let count = min(buffer.count - done, state.chunks[slot].bytes.count - start)
      guard count > 0 else { throw BootImageError(.unreadable, "the disk became smaller") }
      state.chunks[slot].bytes.withUnsafeBytes { chunk in
        UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count])
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: chunk[start..<start + count]))
      }
      done += count
    }
  }

  private func slot(_ state: inout State, holding index: UInt64) throws(BootImageError) -> Int {
    if let slot = state.chunks.firstIndex(where: { $0.index == index }) { return slot }
    let start = index * UInt64(Self.chunk)
    var bytes = [UInt8](repeating: 0, count: Int(min(UInt64(Self.chunk), size - start)))
    let result = bytes.withUnsafeMutableBytes { buffer in
      Result { () throws(BootImageError) in try self.bytes.read(at: start, into: buffer) }
    }
    try result.get()
    guard state.chunks.count == Self.chunkLimit else {
      state.chunks.append((index, bytes))
      return state.chunks.count - 1
    }
    let slot = state.next
    state.next = (slot + 1) % Self.chunkLimit
    state.chunks[slot] = (index, bytes)
    return slot
  }
}

/// A part of a disk: a partition, or all of it.
struct DiskRange: Sendable {
  let disk: Disk
  /// Bytes from the start of the disk.
  let start: UInt64
  let size: UInt64

  init(_ disk: Disk) { self.init(disk, start: 0, size: disk.size) }

  /// What of the range is not on the disk is left out.
  init(_ disk: Disk, start: UInt64, size: UInt64) {
    self.disk = disk
    self.start = min(start, disk.size)
    self.size = min(size, disk.size - self.start)
  }

  func contains(_ offset: UInt64, _ count: UInt64) -> Bool { offset <= size && count <= size - offset }

  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError) {
    try check(offset, buffer.count)
    try disk.read(at: start + offset, into: buffer)
  }

  func readContent(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError) {
    try check(offset, buffer.count)
    try disk.readContent(at: start + offset, into: buffer)
  }

  func fields(at offset: UInt64, _ count: Int) throws(BootImageError) -> ImageFields {
    try check(offset, count)
    var bytes = [UInt8](repeating: 0, count: count)
    let result = bytes.withUnsafeMutableBytes { buffer in
      Result { () throws(BootImageError) in try read(at: offset, into: buffer) }
    }
    try result.get()
    return ImageFields(bytes)
  }

  private func check(_ offset: UInt64, _ count: Int) throws(BootImageError) {
    guard contains(offset, UInt64(count)) else {
      throw BootImageError(.damaged, "it leads to a place beyond its end")
    }
  }
}

/// Little-endian fields of a structure on disk. What lies beyond its end reads as 0.
struct ImageFields: Sendable {
  let bytes: [UInt8]

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var count: Int { bytes.count }

  func integer<Value: FixedWidthInteger>(_ offset: Int, as type: Value.Type = Value.self) -> Value {
    var value: Value = 0
    for index in 0..<MemoryLayout<Value>.size where offset >= 0 && offset < bytes.count - index {
      value |= Value(truncatingIfNeeded: bytes[offset + index]) << Value(truncatingIfNeeded: index * 8)
    }
    return value
  }

  /// Bytes of the range that are there.
  func slice(_ offset: Int, _ count: Int) -> ArraySlice<UInt8> {
    let start = min(max(offset, 0), bytes.count)
    return bytes[start..<min(start + max(count, 0), bytes.count)]
  }
}
