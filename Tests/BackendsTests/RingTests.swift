import LinuxSystem
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Backends

/// A backend whose requests an io_uring moves where it can; nil where the host has none.
func ringBackend(_ spec: BlockSpec) throws -> FileBlockBackend? {
  let opened = try OpenedImage.open(spec)
  guard let ring = try? BlockRing() else { return nil }
  return try FileBlockBackend(opened, spec: spec, ring: ring)
}

@Suite struct RingTests {
  @Test(arguments: [CacheMode.writeback, .none, .unsafe, .writethrough], [ImageFormat.raw, .qcow2])
  func requestsOfManyThreadsSeeOneAnother(_ cache: CacheMode, _ format: ImageFormat) async throws {
    let size = 4 << 20
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", format.rawValue, file.path, "\(size)")
    var generator = SeededGenerator(seed: 77)
    var expected = [UInt8](repeating: 0, count: size)
    do {
      guard let backend = try ringBackend(BlockSpec(id: "d", path: file.path, format: format, cache: cache)) else {
        return
      }
      let failures = Mutex(0)
      var memories: [AlignedBuffer] = []
      for round in 0..<1500 {
        let start = Int.random(in: 0..<size / 512 - 16, using: &generator) * 512
        let count = Int.random(in: 1...16, using: &generator) * 512
        let memory = AlignedBuffer(count: count)
        memories.append(memory)
        let part = UnsafeMutableRawBufferPointer(rebasing: memory.bytes[..<count])
        let request: BlockRequest
        let content = DiskOperation.content(start..<start + count, UInt8(truncatingIfNeeded: round))
        if round % 3 == 2 {
          let wanted = Array(expected[start..<start + count])
          request = BlockRequest(.read, offset: UInt64(start), buffers: DiskModel.split(part, 1 + round % 5)) { _ in
            if !isSame(Array(memory.bytes[..<count])[...], wanted[...]) { failures.withLock { $0 += 1 } }
          }
        } else {
          part.copyBytes(from: content)
          expected.replaceSubrange(start..<start + count, with: content)
          request = BlockRequest(.write, offset: UInt64(start), buffers: DiskModel.split(part, 1 + round % 3)) {
            result in
            if case .failure = result { failures.withLock { $0 += 1 } }
          }
        }
        if round % 4 == 0 { backend.submit(request) } else { backend.enqueue(request) }
        if round % 100 == 0 { backend.submit(BlockRequest(.flush) { _ in }) }
      }
      backend.drain()
      #expect(failures.withLock { $0 } == 0)
      withExtendedLifetime(memories) {}
    } catch {
      guard (error as? ImageError)?.reason == .noDirectAccess else { throw error }
      return
    }
    let raw = try TemporaryFile(expected)
    try await qemu("qemu-img", "compare", "-f", "raw", "-F", format.rawValue, raw.path, file.path)
    if format == .qcow2 { try await qemu("qemu-img", "check", "-q", file.path) }
  }

  @Test func anErrorOfTheHostReachesTheGuest() throws {
    let file = try TemporaryFile([UInt8](repeating: 1, count: 1 << 16))
    guard let backend = try ringBackend(BlockSpec(id: "d", path: file.path, format: .raw)) else { return }
    try file.overwrite([UInt8](repeating: 1, count: 1 << 12))
    let memory = AlignedBuffer(count: 4096)
    let results = Mutex<[Result<Void, BlockError>]>([])
    backend.submit(
      BlockRequest(.read, offset: 8192, buffers: [memory.bytes]) { result in
        results.withLock { $0.append(result) }
      })
    backend.drain()
    let error = results.withLock { $0.first.flatMap { if case .failure(let error) = $0 { error } else { nil } } }
    #expect(error == .host(errno: ErrorNumber.inputOutput))
    #expect(results.withLock { $0.count } == 1)
  }

  /// 4 KiB random reads of a file in the host's cache and past it, in requests a second; printed.
  @Test(.serialized, .enabled(if: environmentVariable("VMRUN_BENCH") == "1"), arguments: [CacheMode.writeback, .none])
  func measure(_ cache: CacheMode) throws {
    let size = 256 << 20
    let file = try TemporaryFile()
    let host = try Descriptor.openImage(file.path, ImageOpenMode(writable: true))
    let block = AlignedBuffer(count: 1 << 20)
    for start in stride(from: 0, to: size, by: 1 << 20) { try host.writeFully([block.bytes], at: UInt64(start)) }
    try host.synchronizeData()
    let spec = BlockSpec(id: "d", path: file.path, format: .raw, cache: cache)
    for depth in [1, 4, 32] {
      for kind in ["threads", "io_uring"] {
        guard
          let backend = kind == "threads"
            ? try FileBlockBackend(try OpenedImage.open(spec), spec: spec) : try ringBackend(spec)
        else { return }
        for write in [false, true] {
          let rate = Self.rate(backend, depth: depth, size: size, write: write)
          print("\(cache.rawValue) \(write ? "write" : "read") depth \(depth) \(kind): \(Int(rate)) requests/s")
        }
      }
    }
  }

  private static func rate(_ backend: FileBlockBackend, depth: Int, size: Int, write: Bool) -> Double {
    let memories = (0..<depth).map { _ in AlignedBuffer(count: 4096) }
    var generator = SeededGenerator(seed: 5)
    let done = Atomic<Int>(0)
    let count = depth == 1 ? 20_000 : 60_000
    let start = monotonicNanoseconds()
    var sent = 0
    while sent < count {
      // A burst, as a queue's doorbell brings it; then its completions.
      for index in 0..<depth {
        let place = UInt64(Int.random(in: 0..<size / 4096, using: &generator)) * 4096
        backend.enqueue(
          BlockRequest(write ? .write : .read, offset: place, buffers: [memories[index].bytes]) { _ in
            done.add(1, ordering: .releasing)
          })
      }
      sent += depth
      backend.kick()
      while done.load(ordering: .acquiring) < sent { spinHint() }
    }
    return Double(count) / (Double(monotonicNanoseconds() - start) / 1e9)
  }
}
