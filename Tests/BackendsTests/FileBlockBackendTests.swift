import LinuxSystem
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Backends

/// Memory of a request.
// Safety: each test waits for its requests before it looks.
private final class Memory: @unchecked Sendable {
  let bytes: UnsafeMutableRawBufferPointer
  init(_ count: Int, _ value: UInt8 = 0) {
    bytes = .allocate(byteCount: count + 4096, alignment: 4096)
    bytes.initializeMemory(as: UInt8.self, repeating: value)
  }
  deinit { bytes.deallocate() }
  func part(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(rebasing: bytes[range])
  }
}

private final class Outcome: Sendable {
  private let results = Mutex<[Result<Void, BlockError>]>([])
  func add(_ result: Result<Void, BlockError>) { results.withLock { $0.append(result) } }
  var errors: [BlockError?] {
    results.withLock { results in results.map { if case .failure(let error) = $0 { error } else { nil } } }
  }
}

private func run(
  _ backend: FileBlockBackend, _ operation: BlockRequest.Operation, _ offset: UInt64 = 0,
  _ buffers: [UnsafeMutableRawBufferPointer] = []
) -> BlockError? {
  let outcome = Outcome()
  backend.submit(BlockRequest(operation, offset: offset, buffers: buffers) { outcome.add($0) })
  backend.drain()
  #expect(outcome.errors.count == 1)
  return outcome.errors.first ?? nil
}

private func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 9) } }

private func open(
  _ path: String, readOnly: Bool = false, cache: CacheMode = .writeback, snapshot: Bool = false
) throws -> FileBlockBackend {
  let spec = BlockSpec(id: "disk0", path: path, readOnly: readOnly, cache: cache, snapshot: snapshot)
  return try FileBlockBackend(try OpenedImage.open(spec), spec: spec)
}

@Suite struct FileBlockBackendTests {
  /// /dev/full takes no byte, and cannot be synchronised.
  @Test func theUserIsToldOnceOfEachHostErrorAndTheGuestEveryTime() throws {
    let lines = Mutex<[String]>([])
    let backend = try FileBlockBackend(
      image: try Descriptor.open("/dev/full", .readWrite), overlay: nil,
      spec: BlockSpec(id: "disk0", path: "/full.img"),
      geometry: ImageGeometry(size: 1 << 20)
    ) { line in lines.withLock { $0.append(line) } }
    let memory = Memory(512)
    for sector in 0..<3 {
      #expect(run(backend, .write, UInt64(sector) * 512, [memory.part(0..<512)]) == .noSpace)
      #expect(run(backend, .flush) == .host(errno: ErrorNumber.invalid))
    }
    #expect(
      lines.withLock { $0 } == [
        "/full.img: pwritev: No space left on device; the guest is told of an I/O error",
        "/full.img: fdatasync: Invalid argument; the guest is told of an I/O error",
      ])
  }

  @Test(arguments: [CacheMode.writeback, .writethrough, .unsafe])
  func whatIsWrittenIsReadBackAndStandsInTheFile(_ cache: CacheMode) throws {
    let file = try TemporaryFile(pattern(1 << 16))
    let backend = try open(file.path, cache: cache)
    let memory = Memory(4096, 0xAB)
    #expect(run(backend, .write, 512, [memory.part(0..<512), memory.part(1024..<2048)]) == nil)
    #expect(run(backend, .flush) == nil)
    let back = Memory(4096)
    #expect(run(backend, .read, 0, [back.part(0..<100), back.part(100..<4096)]) == nil)
    var expected = pattern(1 << 16)
    expected.replaceSubrange(512..<2048, with: [UInt8](repeating: 0xAB, count: 1536))
    #expect(Array(back.part(0..<4096)) == Array(expected[..<4096]))
    #expect(try file.contents() == expected)
  }

  @Test func aReadOnlyMediumRefusesWrites() throws {
    let file = try TemporaryFile(pattern(4096))
    let backend = try open(file.path, readOnly: true)
    let memory = Memory(512)
    #expect(backend.isReadOnly)
    #expect(run(backend, .write, 0, [memory.part(0..<512)]) == .readOnly)
    #expect(run(backend, .flush) == nil)
    #expect(try file.contents() == pattern(4096))
  }

  @Test func requestsBeyondTheEndFail() throws {
    let file = try TemporaryFile(pattern(4096))
    let backend = try open(file.path)
    let memory = Memory(1024)
    #expect(run(backend, .read, 3584, [memory.part(0..<1024)]) == .outOfRange)
    #expect(run(backend, .write, .max, [memory.part(0..<1024)]) == .outOfRange)
    #expect(run(backend, .read, 4096, [memory.part(0..<512)]) == .outOfRange)
    #expect(try file.contents().count == 4096)
  }

  @Test func anImageThatShrankGivesAnError() throws {
    let file = try TemporaryFile(pattern(8192))
    let backend = try open(file.path)
    try file.overwrite(pattern(4096))
    let memory = Memory(8192)
    #expect(run(backend, .read, 4096, [memory.part(0..<4096)]) == .host(errno: 5))
    #expect(run(backend, .read, 0, [memory.part(0..<8192)]) == .host(errno: 5))
    #expect(run(backend, .read, 0, [memory.part(0..<4096)]) == nil)
  }

  @Test func aFullHostIsNoSpace() throws {
    // Writes to /dev/full end with ENOSPC.
    let full = try Descriptor.openImage("/dev/full", ImageOpenMode(writable: true))
    let backend = try FileBlockBackend(
      image: full, overlay: nil, spec: BlockSpec(id: "disk0", path: "/dev/full"),
      geometry: ImageGeometry(size: 4096))
    let memory = Memory(512)
    #expect(run(backend, .write, 0, [memory.part(0..<512)]) == .noSpace)
  }

  @Test func hostErrorsKeepTheirNumber() {
    #expect(BlockError(SystemError("pwritev", errno: 28)) == .noSpace)
    #expect(BlockError(SystemError("pwritev", errno: 122)) == .noSpace)
    #expect(BlockError(SystemError("pwritev", errno: 30)) == .readOnly)
    #expect(BlockError(SystemError("preadv", errno: 5)) == .host(errno: 5))
  }

  @Test func moreBuffersThanOneCallTakes() throws {
    let file = try TemporaryFile(pattern(16384))
    let backend = try open(file.path)
    let memory = Memory(16384)
    let parts = (0..<4096).map { memory.part($0 * 4..<$0 * 4 + 4) }
    #expect(run(backend, .read, 0, parts) == nil)
    #expect(Array(memory.part(0..<16384)) == pattern(16384))
  }

  @Test func writesToOneRangeKeepTheirOrder() throws {
    let file = try TemporaryFile([UInt8](repeating: 0, count: 8192))
    let backend = try open(file.path)
    let memories = (0..<64).map { Memory(4096, UInt8($0)) }
    let outcome = Outcome()
    for (index, memory) in memories.enumerated() {
      backend.submit(
        BlockRequest(.write, offset: UInt64(index % 2) * 512, buffers: [memory.part(0..<4096)]) { outcome.add($0) })
    }
    backend.drain()
    #expect(outcome.errors.count == 64)
    #expect(try Set(file.contents()[512..<4608]) == [63])
  }
}

@Suite struct SnapshotTests {
  /// A medium whose writes take as long as it is told, where they are in the file.
  private final class SlowLayer: ImageLayer {
    let nanoseconds = Atomic<UInt64>(0)
    let size: UInt64 = 1 << 20
    let granule = 512
    let features = BlockFeatures()
    let limits = BlockLimits()
    func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {}
    func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError) {
      let end = monotonicNanoseconds() + nanoseconds.load(ordering: .relaxed)
      while monotonicNanoseconds() < end { yieldProcessor() }
    }
    func discard(at offset: UInt64, _ length: UInt64) throws(LayerError) {}
    func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError) {}
    func place(of request: BlockRequest) -> UInt64? { request.offset }
    func flush() throws(LayerError) {}
  }

  @Test func aWriteByItselfIsDoneAtOnceUntilOneTakesLong() throws {
    let layer = SlowLayer()
    let backend = FileBlockBackend(layer, spec: BlockSpec(id: "disk0", path: "slow.img"))
    let memory = Memory(4096)
    let outcome = Outcome()
    func write(atOnce: Bool, enqueue: Bool = false) {
      let before = outcome.errors.count
      let request = BlockRequest(.write, offset: 0, buffers: [memory.part(0..<4096)]) { outcome.add($0) }
      if enqueue { backend.enqueue(request) } else { backend.submit(request) }
      #expect((outcome.errors.count > before) == atOnce)
      backend.drain()
      #expect(outcome.errors.count == before + 1)
    }
    write(atOnce: true)
    layer.nanoseconds.store(50_000_000, ordering: .relaxed)
    write(atOnce: false, enqueue: true)
    write(atOnce: true)
    write(atOnce: false)
    layer.nanoseconds.store(0, ordering: .relaxed)
    let end = monotonicNanoseconds() + 1_200_000_000
    while monotonicNanoseconds() < end { _ = try EventDescriptor().wait(milliseconds: 50) }
    write(atOnce: true)
    #expect(outcome.errors.allSatisfy { $0 == nil })
  }

  @Test func workersStartAsRequestsWaitAndEndWithTheBackend() throws {
    let layer = SlowLayer()
    let memory = Memory(4096)
    let outcome = Outcome()
    do {
      let backend = FileBlockBackend(layer, spec: BlockSpec(id: "lazy-workers", path: "slow.img"))
      #expect(threads(named: "lazy-workers-") == 0)
      for _ in 0..<3 {
        backend.submit(BlockRequest(.flush) { outcome.add($0) })
        backend.drain()
        // The worker has yet to look for more.
        _ = try EventDescriptor().wait(milliseconds: 20)
      }
      #expect(threads(named: "lazy-workers-") == 1)
      layer.nanoseconds.store(50_000_000, ordering: .relaxed)
      for index in 0..<8 {
        backend.enqueue(
          BlockRequest(.write, offset: UInt64(index) * 4096, buffers: [memory.part(0..<4096)]) {
            outcome.add($0)
          })
      }
      backend.drain()
      #expect(threads(named: "lazy-workers-") == FileBlockBackend.maximumWorkers)
    }
    #expect(threads(named: "lazy-workers-") == 0)
    #expect(outcome.errors.count == 11 && outcome.errors.allSatisfy { $0 == nil })
  }

  @Test func aSnapshotNeverChangesTheImage() throws {
    // Not a whole number of clusters, so that the tail is tried too.
    let original = pattern(5 * Overlay.clusterSize + 1536)
    let file = try TemporaryFile(original)
    let backend = try open(file.path, snapshot: true)
    #expect(!backend.isReadOnly)
    var expected = original
    var generator = SystemRandomNumberGenerator()
    for round in 0..<200 {
      let sectors = original.count / 512
      let start = Int.random(in: 0..<sectors, using: &generator)
      let count = Int.random(in: 1...min(80, sectors - start), using: &generator)
      let memory = Memory(count * 512, UInt8(round))
      #expect(run(backend, .write, UInt64(start * 512), [memory.part(0..<count * 512)]) == nil)
      expected.replaceSubrange(
        start * 512..<(start + count) * 512, with: [UInt8](repeating: UInt8(round), count: count * 512))
    }
    #expect(run(backend, .flush) == nil)
    let back = Memory(original.count)
    #expect(run(backend, .read, 0, [back.part(0..<700), back.part(700..<original.count)]) == nil)
    #expect(Array(back.part(0..<original.count)) == expected)
    #expect(try file.contents() == original)
  }

  @Test func aPartialClusterKeepsItsOtherBytes() throws {
    let file = try TemporaryFile(pattern(2 * Overlay.clusterSize))
    let backend = try open(file.path, snapshot: true)
    let memory = Memory(512, 0xEE)
    #expect(run(backend, .write, 1024, [memory.part(0..<512)]) == nil)
    let back = Memory(4096)
    #expect(run(backend, .read, 0, [back.part(0..<4096)]) == nil)
    var expected = Array(pattern(2 * Overlay.clusterSize)[..<4096])
    expected.replaceSubrange(1024..<1536, with: [UInt8](repeating: 0xEE, count: 512))
    #expect(Array(back.part(0..<4096)) == expected)
  }
}

@Suite struct DirectAccessTests {
  @Test func unalignedRequestsGoThroughWholeBlocks() throws {
    let original = pattern(1 << 16)
    let file = try TemporaryFile(original)
    // The alignment is asked of an ordinary file: what counts is which bytes change.
    let spec = BlockSpec(id: "disk0", path: file.path, cache: .none)
    let image = try Descriptor.openImage(file.path, ImageOpenMode(writable: true))
    let backend = try FileBlockBackend(
      image: image, overlay: nil, spec: spec, geometry: ImageGeometry(size: 1 << 16, alignment: 4096))
    let memory = Memory(16384, 0x5A)
    #expect(run(backend, .write, 4096 + 512, [memory.part(3..<5003), memory.part(6000..<6120)]) == nil)
    var expected = original
    expected.replaceSubrange(4608..<4608 + 5120, with: [UInt8](repeating: 0x5A, count: 5120))
    #expect(try file.contents() == expected)
    let back = Memory(16384)
    #expect(run(backend, .read, 4000, [back.part(1..<7000)]) == nil)
    #expect(Array(back.part(1..<7000)) == Array(expected[4000..<4000 + 6999]))
  }

  @Test func directAccessWorksOrSaysWhyNot() throws {
    let file = try TemporaryFile(pattern(1 << 16))
    do {
      let backend = try open(file.path, cache: .none)
      let memory = Memory(4096, 0x77)
      #expect(run(backend, .write, 512, [memory.part(1..<513)]) == nil)
      #expect(run(backend, .flush) == nil)
      #expect(try Array(file.contents()[512..<1024]) == [UInt8](repeating: 0x77, count: 512))
    } catch let error as ImageError {
      #expect(error.reason == .noDirectAccess)
    }
  }
}

@Suite struct RequestQueueTests {
  private func request(_ operation: BlockRequest.Operation, _ offset: UInt64, _ memory: Memory) -> BlockRequest {
    BlockRequest(operation, offset: offset, buffers: operation == .flush ? [] : [memory.part(0..<512)]) { _ in }
  }

  @Test func onlyRequestsThatDoNotConflictOvertake() throws {
    let memory = Memory(512)
    var queue = RequestQueue(granule: 1024)
    queue.append(request(.write, 0, memory))
    queue.append(request(.read, 512, memory))
    queue.append(request(.write, 1024, memory))
    queue.append(request(.flush, 0, memory))
    let taken = [queue.take(), queue.take(), queue.take(), queue.take()].compactMap { $0 }
    #expect(taken.map(\.request.offset) == [0, 1024, 0])
    #expect(taken.map(\.request.operation) == [.write, .write, .flush])
    queue.finish(try #require(taken.first))
    let last = queue.take()
    #expect(last?.request.offset == 512)
    #expect(!queue.isEmpty)
  }

  @Test func readsOfOneRangeRunTogether() {
    let memory = Memory(512)
    var queue = RequestQueue(granule: 1)
    queue.append(request(.read, 0, memory))
    queue.append(request(.read, 0, memory))
    let taken = [queue.take(), queue.take()].compactMap { $0 }
    #expect(taken.count == 2)
  }
}

private func run(_ backend: FileBlockBackend, _ operation: BlockRequest.Operation, _ range: Range<UInt64>)
  -> BlockError?
{
  let outcome = Outcome()
  backend.submit(
    BlockRequest(operation, offset: range.lowerBound, length: range.upperBound - range.lowerBound) { outcome.add($0) })
  backend.drain()
  #expect(outcome.errors.count == 1)
  return outcome.errors.first ?? nil
}

@Suite struct ZeroAndDiscardTests {
  private static let size = 6 * Overlay.clusterSize + 1024

  @Test(arguments: [false, true], [BlockRequest.Operation.writeZeroes(mayUnmap: true), .writeZeroes(mayUnmap: false)])
  func zeroesAreReadBackAndNothingElseChanges(_ snapshot: Bool, _ operation: BlockRequest.Operation) throws {
    let original = pattern(Self.size)
    let file = try TemporaryFile(original)
    let backend = try open(file.path, snapshot: snapshot)
    var expected = original
    for range in [512..<1024, 4096..<12288, 3584..<70000 / 512 * 512, Self.size - 512..<Self.size] {
      #expect(run(backend, operation, UInt64(range.lowerBound)..<UInt64(range.upperBound)) == nil)
      expected.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
    }
    let back = Memory(Self.size)
    #expect(run(backend, .read, 0, [back.part(0..<Self.size)]) == nil)
    #expect(Array(back.part(0..<Self.size)) == expected)
    #expect(try file.contents() == (snapshot ? original : expected))
  }

  @Test func aDiscardGivesRoomBack() throws {
    let file = try TemporaryFile(pattern(1 << 20))
    let backend = try open(file.path)
    #expect(backend.features == [.discard, .writeZeroes, .unmap])
    let image = try Descriptor.openImage(file.path, ImageOpenMode(writable: false))
    let before = try image.allocatedSize()
    #expect(run(backend, .discard, 4096..<(1 << 20)) == nil)
    #expect(try image.allocatedSize() < before)
    #expect(try file.contents().count == 1 << 20)
    #expect(try Array(file.contents()[..<4096]) == Array(pattern(1 << 20)[..<4096]))
  }

  @Test func aSnapshotKeepsDiscardsToItself() throws {
    let original = pattern(Self.size)
    let file = try TemporaryFile(original)
    let backend = try open(file.path, snapshot: true)
    #expect(run(backend, .discard, 100..<UInt64(Self.size)) == nil)
    let back = Memory(Self.size)
    #expect(run(backend, .read, 0, [back.part(0..<Self.size)]) == nil)
    // The first cluster and the last are not whole.
    #expect(Array(back.part(0..<Overlay.clusterSize)) == Array(original[..<Overlay.clusterSize]))
    #expect(Array(back.part(6 * Overlay.clusterSize..<Self.size)) == Array(original[(6 * Overlay.clusterSize)...]))
    #expect(try file.contents() == original)
  }

  @Test func aReadOnlyMediumRefusesBoth() throws {
    let file = try TemporaryFile(pattern(8192))
    let backend = try open(file.path, readOnly: true)
    #expect(backend.features == [])
    #expect(run(backend, .discard, 0..<4096) == .readOnly)
    #expect(run(backend, .writeZeroes(mayUnmap: true), 0..<4096) == .readOnly)
    #expect(try file.contents() == pattern(8192))
  }

  @Test func rangesBeyondTheEndFail() throws {
    let file = try TemporaryFile(pattern(8192))
    let backend = try open(file.path)
    #expect(run(backend, .discard, 4096..<8193) == .outOfRange)
    #expect(run(backend, .writeZeroes(mayUnmap: false), 0..<UInt64.max) == .outOfRange)
    #expect(run(backend, .discard, UInt64.max - 1..<UInt64.max) == .outOfRange)
    #expect(try file.contents() == pattern(8192))
  }

  @Test func directAccessWritesZeroesWithinABlock() throws {
    let file = try TemporaryFile(pattern(16384))
    let spec = BlockSpec(id: "disk0", path: file.path, cache: .none)
    let image = try Descriptor.openImage(file.path, ImageOpenMode(writable: true))
    let backend = try FileBlockBackend(
      image: image, overlay: nil, spec: spec, geometry: ImageGeometry(size: 16384, alignment: 4096))
    #expect(run(backend, .writeZeroes(mayUnmap: false), 512..<1536) == nil)
    var expected = pattern(16384)
    expected.replaceSubrange(512..<1536, with: [UInt8](repeating: 0, count: 1024))
    #expect(try file.contents() == expected)
  }
}

@Suite struct ResizeTests {
  @Test func aNewSizeOfTheFileIsToldAndReached() throws {
    let file = try TemporaryFile(pattern(4096))
    let backend = try open(file.path)
    let told = Mutex<[UInt64]>([])
    backend.onResize { size in told.withLock { $0.append(size) } }
    backend.measure()
    try file.overwrite(pattern(8192))
    let back = Memory(4096)
    #expect(run(backend, .read, 4096, [back.part(0..<4096)]) == .outOfRange)
    backend.measure()
    #expect(backend.size == 8192)
    #expect(run(backend, .read, 4096, [back.part(0..<4096)]) == nil)
    #expect(Array(back.part(0..<4096)) == Array(pattern(8192)[4096...]))
    #expect(told.withLock { $0 } == [8192])
  }
}
