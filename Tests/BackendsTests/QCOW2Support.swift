import Glibc
import LinuxSystem
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Backends

/// Random numbers that come again with the same seed.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}

let isLongTest = environmentVariable("VMRUN_TEST_LONG") == "1"

/// A file in memory that can lose its power.
// Safety: its state is behind a lock.
final class MemoryStorage: ImageStorage, @unchecked Sendable {
  private struct State {
    var bytes: [UInt8]
    /// What was written since the last flush, in order.
    var pending: [(offset: Int, bytes: [UInt8])] = []
    var stable: [UInt8]
    var writes = 0
  }

  /// Writes that succeed; those after them and flushes fail and change nothing.
  let limit: Int
  let keepsPending: Bool
  private let state: Mutex<State>
  static let longest = 64 << 20
  let alignment = 1
  let isEmptyBeyondEnd = true

  init(_ bytes: [UInt8], limit: Int = .max, keepsPending: Bool = false) {
    state = Mutex(State(bytes: bytes, stable: keepsPending ? bytes : []))
    self.limit = limit
    self.keepsPending = keepsPending
  }

  var bytes: [UInt8] { state.withLock { $0.bytes } }
  var writes: Int { state.withLock { $0.writes } }
  var hasStopped: Bool { writes > limit }

  /// What is left when the host loses its power: what was flushed, and of the rest whatever `generator` picks.
  func afterPowerLoss(_ generator: inout SeededGenerator) -> [UInt8] {
    let (stable, pending) = state.withLock { ($0.stable, $0.pending) }
    var result = stable
    for write in pending where Bool.random(using: &generator) { Self.put(write.bytes, at: write.offset, in: &result) }
    return result
  }

  func size() throws(LayerError) -> UInt64 { state.withLock { UInt64($0.bytes.count) } }

  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64, zeroFill: Bool) throws(LayerError) {
    state.withLock { state in
      var position = offset
      for buffer in buffers {
        fillWithZeroes(buffer)
        if position < UInt64(state.bytes.count) {
          let start = Int(position)
          state.bytes[start..<min(state.bytes.count, start + buffer.count)].withUnsafeBytes {
            buffer.copyMemory(from: $0)
          }
        }
        position &+= UInt64(buffer.count)
      }
    }
  }

  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
    var bytes: [UInt8] = []
    for buffer in buffers { bytes.append(contentsOf: buffer) }
    try put(bytes, at: offset)
  }

  private func put(_ bytes: [UInt8], at offset: UInt64) throws(LayerError) {
    guard offset < UInt64(Self.longest - bytes.count) else { throw .host(SystemError("pwritev", errno: 27)) }
    try state.withLock { state throws(LayerError) in
      state.writes += 1
      guard state.writes <= limit else { throw .host(SystemError("pwritev", errno: 5)) }
      Self.put(bytes, at: Int(offset), in: &state.bytes)
      if keepsPending { state.pending.append((Int(offset), bytes)) }
    }
  }

  private static func put(_ bytes: [UInt8], at offset: Int, in target: inout [UInt8]) {
    if target.count < offset + bytes.count {
      target.append(contentsOf: [UInt8](repeating: 0, count: offset + bytes.count - target.count))
    }
    target.replaceSubrange(offset..<offset + bytes.count, with: bytes)
  }

  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) {
    try put([UInt8](repeating: 0, count: Int(length)), at: offset)
  }

  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError) {
    let end = min(offset + length, try size())
    if end > offset { try put([UInt8](repeating: 0, count: Int(end - offset)), at: offset) }
  }

  func flush() throws(LayerError) {
    try state.withLock { state throws(LayerError) in
      guard state.writes <= limit else { throw .host(SystemError("fdatasync", errno: 5)) }
      if keepsPending {
        for write in state.pending { Self.put(write.bytes, at: write.offset, in: &state.stable) }
        state.pending = []
      }
    }
  }
}

/// Runs a program of qemu-utils; its output, where it ends with status 0.
@discardableResult
func qemu(_ program: String, _ arguments: String..., status: CInt = 0) async throws -> String {
  let run = try RunningProgram.start("/usr/bin/" + program, arguments, seconds: 120)
  let ending = try await run.end()
  #expect(ending == .exited(status), "\(program) \(arguments)\n\(run.transcript)")
  return run.output
}

/// Counts references by itself, knowing nothing of the code under test. Images without snapshots and bitmaps.
struct ReferenceCheck {
  /// Clusters that have less references counted than there are: their content is in danger.
  var errors: [String] = []
  var leaks = 0
  var isDirty = false

  init(_ bytes: [UInt8]) {
    func long(_ at: Int) -> UInt64 {
      at + 8 <= bytes.count ? bytes[at..<at + 8].reduce(UInt64(0)) { $0 << 8 | UInt64($1) } : 0
    }
    func word(_ at: Int) -> Int { Int(long(at) >> 32) }
    let bits = word(20)
    let size = 1 << bits
    let version = word(4)
    let order = version == 3 ? word(96) : 4
    isDirty = version == 3 && long(72) & 1 != 0
    var counts: [Int: Int] = [:]
    func count(_ offset: UInt64, _ length: Int, _ what: String) {
      let first = Int(offset) >> bits
      for cluster in first...(Int(offset) + length - 1) >> bits { counts[cluster, default: 0] += 1 }
      if Int(offset) >= bytes.count { errors.append("\(what) at \(offset) is beyond the end") }
    }
    count(0, size, "header")
    let l1 = Int(long(40))
    let l1Entries = word(36)
    count(UInt64(l1), l1Entries * 8, "L1")
    let table = Int(long(48))
    let tableSize = word(56) << bits
    count(UInt64(table), tableSize, "refcount table")
    let mask: UInt64 = 0x00FF_FFFF_FFFF_FE00
    var blocks: [Int: Int] = [:]
    for index in 0..<tableSize / 8 {
      let block = long(table + index * 8) & mask
      guard block != 0 else { continue }
      blocks[index] = Int(block)
      count(block, size, "refcount block")
    }
    var copied: [(Int, Bool)] = []
    for index in 0..<l1Entries {
      let entry = long(l1 + index * 8)
      guard entry & mask != 0 else { continue }
      count(entry & mask, size, "L2 table")
      copied.append((Int(entry & mask) >> bits, entry >> 63 != 0))
      for place in 0..<size / 8 {
        let raw = long(Int(entry & mask) + place * 8)
        if raw & 1 << 62 != 0 {
          let split = UInt64(62 - (bits - 8))
          let start = raw & (1 << split - 1)
          let sectors = (raw & (1 << 62 - 1)) >> split
          count(start, Int((sectors + 1) * 512 - start % 512), "compressed data")
        } else if raw & mask != 0 {
          count(raw & mask, size, "data")
          copied.append((Int(raw & mask) >> bits, raw >> 63 != 0))
        }
      }
    }
    let perBlock = (size * 8) >> order
    func stored(_ cluster: Int) -> Int {
      guard let block = blocks[cluster / perBlock] else { return 0 }
      let index = cluster % perBlock
      if order >= 3 {
        let width = 1 << order / 8
        let place = block + index * (1 << order) / 8
        return (0..<max(width, (1 << order) / 8)).reduce(0) {
          $0 << 8 | (place + $1 < bytes.count ? Int(bytes[place + $1]) : 0)
        }
      }
      let bit = index << order
      return Int(bytes[block + bit / 8] >> (bit % 8)) & (1 << (1 << order) - 1)
    }
    for (cluster, wanted) in counts where stored(cluster) < wanted {
      errors.append("cluster \(cluster) has refcount \(stored(cluster)) and \(wanted) references")
    }
    for block in blocks.keys {
      for cluster in block * perBlock..<(block + 1) * perBlock where stored(cluster) > counts[cluster] ?? 0 {
        leaks += 1
      }
    }
    for (cluster, flag) in copied where flag != (counts[cluster] == 1) {
      errors.append("cluster \(cluster) has a wrong copied bit")
    }
  }
}

/// What a disk holds according to the operations on it.
final class DiskModel {
  var bytes: [UInt8]
  private let memory: UnsafeMutableRawBufferPointer
  init(_ bytes: [UInt8]) {
    self.bytes = bytes
    memory = .allocate(byteCount: max(bytes.count, 1), alignment: 4096)
  }
  deinit { memory.deallocate() }

  /// Memory of a request, in `parts` parts.
  func buffers(_ content: [UInt8], parts: Int = 1) -> [UnsafeMutableRawBufferPointer] {
    content.withUnsafeBytes { memory.copyMemory(from: $0) }
    return Self.split(UnsafeMutableRawBufferPointer(rebasing: memory[..<content.count]), parts)
  }

  static func split(_ whole: UnsafeMutableRawBufferPointer, _ parts: Int) -> [UnsafeMutableRawBufferPointer] {
    let step = max(1, whole.count / parts)
    return stride(from: 0, to: whole.count, by: step).map {
      UnsafeMutableRawBufferPointer(rebasing: whole[$0..<min(whole.count, $0 + step)])
    }
  }

  func read(_ image: any ImageLayer, _ range: Range<Int>, parts: Int = 1) throws -> [UInt8] {
    let whole = UnsafeMutableRawBufferPointer(rebasing: memory[..<range.count])
    if let base = whole.baseAddress { memset(base, 0xEE, whole.count) }
    try image.read(Self.split(whole, parts), at: UInt64(range.lowerBound))
    return Array(whole)
  }
}

/// memcmp(3): the library's comparison takes its time in builds for debugging.
func isSame(_ left: ArraySlice<UInt8>, _ right: ArraySlice<UInt8>) -> Bool {
  guard left.count == right.count else { return false }
  return left.withUnsafeBytes { left in
    right.withUnsafeBytes { right in
      guard let first = left.baseAddress, let second = right.baseAddress else { return true }
      return memcmp(first, second, left.count) == 0
    }
  }
}

let zeroSector = [UInt8](repeating: 0, count: 512)

/// One thing that a guest does to its disk.
enum DiskOperation {
  case write(Range<Int>, UInt8)
  case read(Range<Int>)
  case zero(Range<Int>, mayUnmap: Bool)
  case discard(Range<Int>)
  case flush

  static func random(_ size: Int, cluster: Int, _ generator: inout SeededGenerator) -> DiskOperation {
    let sectors = size / 512
    let start = Int.random(in: 0..<sectors, using: &generator)
    let most = Bool.random(using: &generator) ? max(1, 3 * cluster / 512) : 8
    let count = Int.random(in: 1...max(1, min(most, sectors - start)), using: &generator)
    var range = start * 512..<(start + count) * 512
    if Int.random(in: 0..<4, using: &generator) == 0 {
      let low = range.lowerBound / cluster * cluster
      range = low..<max(range.upperBound, min(size, low + cluster))
    }
    switch Int.random(in: 0..<16, using: &generator) {
    case 0..<7: return .write(range, UInt8.random(in: 1...255, using: &generator))
    case 7..<11: return .read(range)
    case 11..<13: return .zero(range, mayUnmap: Bool.random(using: &generator))
    case 13..<15: return .discard(range)
    default: return .flush
    }
  }

  /// Bytes that differ from place to place.
  static func content(_ range: Range<Int>, _ seed: UInt8) -> [UInt8] {
    // Sectors of a byte that begin with their number: made and compared without a loop over bytes.
    [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
      if let base = buffer.baseAddress { memset(base, CInt(seed | 1), range.count) }
      for place in stride(from: 0, through: range.count - 8, by: 512) {
        UnsafeMutableRawBufferPointer(buffer).storeBytes(
          of: UInt64(range.lowerBound + place), toByteOffset: place, as: UInt64.self)
      }
      count = range.count
    }
  }

  /// Does it to the image and the model.
  func perform(on image: any ImageLayer, _ model: DiskModel) throws {
    switch self {
    case .write(let range, let seed):
      let content = Self.content(range, seed)
      try image.write(model.buffers(content, parts: 1 + Int(seed) % 3), at: UInt64(range.lowerBound))
      model.bytes.replaceSubrange(range, with: content)
    case .read(let range):
      let bytes = try model.read(image, range, parts: 1 + range.count % 3)
      #expect(isSame(bytes[...], model.bytes[range]), "read \(range)")
    case .zero(let range, let mayUnmap):
      try image.writeZeroes(at: UInt64(range.lowerBound), UInt64(range.count), mayUnmap: mayUnmap)
      model.bytes.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
    case .discard(let range):
      try image.discard(at: UInt64(range.lowerBound), UInt64(range.count))
      let after = try model.read(image, range)
      let isKept = stride(from: 0, to: range.count, by: 512).allSatisfy { place in
        let sector = after[place..<place + 512]
        let start = range.lowerBound + place
        return isSame(sector, model.bytes[start..<start + 512]) || isSame(sector, zeroSector[...])
      }
      #expect(isKept, "discard \(range)")
      model.bytes.replaceSubrange(range, with: after)
    case .flush: try image.flush()
    }
  }
}

/// Calls `body` until the image is not in use, for a moment: a program that another test is just starting has a copy of
/// every descriptor, and of its lock, until it is that program.
func whenUnlocked<Result>(_ body: () throws(ImageError) -> Result) throws(ImageError) -> Result
where Result: ~Copyable {
  for _ in 0..<200 {
    do throws(ImageError) { return try body() } catch {
      guard error.reason == .locked else { throw error }
      usleep(5000)
    }
  }
  return try body()
}

/// Opens a qcow2 image in a file as the device process does.
func openQCOW2(_ path: String, backing: (any ImageLayer)? = nil, readOnly: Bool = false) throws -> QCOW2Image {
  let file = HostImage(file: try .openImage(path, ImageOpenMode(writable: !readOnly)), alignment: 1)
  return try QCOW2Image(file, backing: backing, isReadOnly: readOnly)
}
