import LinuxSystem
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Backends

struct QCOW2Options: Sendable, CustomTestStringConvertible {
  var clusterBits = 16
  var version = 3
  var refcountBits = 16
  var lazyRefcounts = false

  var argument: String {
    "cluster_size=\(1 << clusterBits),compat=\(version == 3 ? "1.1" : "0.10")"
      + (version == 3 ? ",refcount_bits=\(refcountBits),lazy_refcounts=\(lazyRefcounts ? "on" : "off")" : "")
  }
  var testDescription: String { argument }

  /// Long enough for several L2 tables or a longer refcount table where tables are small.
  var size: Int { clusterBits <= 12 ? 5 << 20 : max(4 << 20, 20 << clusterBits) }

  static let all =
    (9...21).map { QCOW2Options(clusterBits: $0) } + [9, 12, 16, 21].map { QCOW2Options(clusterBits: $0, version: 2) }
    + [1, 2, 4, 8, 32, 64].flatMap { bits in
      [9, 16].map { QCOW2Options(clusterBits: $0, refcountBits: bits) }
    } + [9, 16].map { QCOW2Options(clusterBits: $0, lazyRefcounts: true) }
}

@Suite struct QCOW2Tests {
  /// Random operations with the image closed and opened again in between.
  private func work(
    _ path: String, _ model: DiskModel, cluster: Int, operations: Int, seed: UInt64,
    backing: () throws -> (any ImageLayer)? = { nil }
  ) throws {
    var generator = SeededGenerator(seed: seed)
    var image = try openQCOW2(path, backing: try backing())
    for step in 0..<operations {
      let operation = DiskOperation.random(model.bytes.count, cluster: cluster, &generator)
      try operation.perform(on: image, model)
      if step % 60 == 59 {
        try image.close()
        image = try openQCOW2(path, backing: try backing())
      }
    }
    try image.close()
    #expect(isSame(try model.read(image, 0..<model.bytes.count)[...], model.bytes[...]))
  }

  private func expectSame(_ path: String, _ model: DiskModel) async throws {
    let raw = try TemporaryFile(model.bytes)
    try await qemu("qemu-img", "check", path)
    try await qemu("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw.path, path)
  }

  @Test(arguments: QCOW2Options.all) func whatIsWrittenIsWhatQEMUReads(_ options: QCOW2Options) async throws {
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", options.argument, file.path, "\(options.size)")
    let model = DiskModel([UInt8](repeating: 0, count: options.size))
    let cluster = 1 << options.clusterBits
    let count = (isLongTest ? 3000 : 120) / (options.clusterBits > 18 ? 2 : 1)
    try work(file.path, model, cluster: cluster, operations: count, seed: UInt64(options.clusterBits))
    try await expectSame(file.path, model)
  }

  /// With clusters of 512 bytes a refcount table of one cluster counts 2 MiB to 128 MiB.
  @Test(arguments: [16, 32, 64]) func theRefcountTableGrows(_ refcountBits: Int) async throws {
    let options = QCOW2Options(clusterBits: 9, refcountBits: refcountBits)
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", options.argument, file.path, "20M")
    let model = DiskModel([UInt8](repeating: 0, count: 20 << 20))
    let before = try QCOW2Header(reading: try .openImage(file.path, ImageOpenMode(writable: false)))
    let image = try openQCOW2(file.path)
    for start in stride(from: 0, to: model.bytes.count, by: 1 << 18) {
      try DiskOperation.write(start..<start + 1 << 18, UInt8(truncatingIfNeeded: start >> 18)).perform(on: image, model)
    }
    try image.close()
    let after = try QCOW2Header(reading: try .openImage(file.path, ImageOpenMode(writable: false)))
    if refcountBits >= 32 { #expect(after.refcountTableClusters > before.refcountTableClusters) }
    try await expectSame(file.path, model)
  }

  @Test(arguments: ["zlib", "zstd"], [12, 16]) func compressedClustersAreReadAndReplaced(
    _ compression: String, _ clusterBits: Int
  ) async throws {
    var generator = SeededGenerator(seed: 7)
    let size = 4 << 20
    // Some of it compresses well, some not at all.
    var bytes = [UInt8](repeating: 0, count: size)
    for start in stride(from: 0, to: size, by: 5000) where Bool.random(using: &generator) {
      let noisy = Bool.random(using: &generator)
      for index in start..<min(size, start + 5000) {
        bytes[index] = noisy ? UInt8.random(in: 0...255, using: &generator) : UInt8(truncatingIfNeeded: index >> 6)
      }
    }
    let raw = try TemporaryFile(bytes)
    let file = try TemporaryFile()
    let options = "cluster_size=\(1 << clusterBits),compression_type=\(compression)"
    try await qemu(
      "qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw.path, file.path)
    let model = DiskModel(bytes)
    let reader = try openQCOW2(file.path, readOnly: true)
    #expect(try model.read(reader, 0..<size) == bytes)
    try work(file.path, model, cluster: 1 << clusterBits, operations: isLongTest ? 2000 : 200, seed: 11)
    try await expectSame(file.path, model)
  }

  @Test(arguments: [2, 3]) func backingFilesShowThroughAndStayAsTheyAre(_ version: Int) async throws {
    var generator = SeededGenerator(seed: 3)
    // Shorter than the disk, and not a whole number of clusters.
    let base = try TemporaryFile((0..<(1 << 20) + 1536).map { _ in UInt8.random(in: 0...255, using: &generator) })
    let middle = try TemporaryFile()
    let top = try TemporaryFile()
    let compat = version == 3 ? "compat=1.1" : "compat=0.10"
    try await qemu(
      "qemu-img", "create", "-q", "-f", "qcow2", "-o", compat + ",cluster_size=4096", "-b", base.path, "-F", "raw",
      middle.path, "3M")
    try await qemu(
      "qemu-img", "create", "-q", "-f", "qcow2", "-o", compat, "-b", middle.path, "-F", "qcow2", top.path, "4M")
    let original = try base.contents()
    let model = DiskModel(original + [UInt8](repeating: 0, count: 4 << 20 - original.count))
    let lowest: () throws -> any ImageLayer = {
      RawImage(
        HostImage(file: try .openImage(base.path, ImageOpenMode(writable: false)), alignment: 1),
        size: UInt64(original.count))
    }
    let below = try openQCOW2(middle.path, backing: try lowest())
    let lower = DiskModel(Array(model.bytes[..<(3 << 20)]))
    for _ in 0..<40 { try DiskOperation.random(3 << 20, cluster: 4096, &generator).perform(on: below, lower) }
    try below.close()
    model.bytes.replaceSubrange(0..<3 << 20, with: lower.bytes)
    try work(top.path, model, cluster: 65536, operations: isLongTest ? 2000 : 200, seed: 5) {
      try openQCOW2(middle.path, backing: try lowest(), readOnly: true)
    }
    try await expectSame(top.path, model)
    try await expectSame(middle.path, lower)
    #expect(try base.contents() == original)
  }

  @Test func snapshotsKeepTheirContent() async throws {
    let file = try TemporaryFile()
    let size = 4 << 20
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", file.path, "\(size)")
    let model = DiskModel([UInt8](repeating: 0, count: size))
    var kept: [[UInt8]] = []
    for round in 0..<3 {
      try work(file.path, model, cluster: 4096, operations: 120, seed: UInt64(20 + round))
      kept.append(model.bytes)
      try await qemu("qemu-img", "snapshot", "-c", "s\(round)", file.path)
    }
    try work(file.path, model, cluster: 4096, operations: 120, seed: 30)
    try await expectSame(file.path, model)
    for (round, bytes) in kept.enumerated() {
      let raw = try TemporaryFile()
      try await qemu(
        "qemu-img", "convert", "-O", "raw", "-l", "snapshot.name=s\(round)", file.path, raw.path)
      #expect(try raw.contents() == bytes, "snapshot \(round)")
    }
    try await qemu("qemu-img", "snapshot", "-d", "s1", file.path)
    try work(file.path, model, cluster: 4096, operations: 60, seed: 31)
    try await expectSame(file.path, model)
  }

  /// Bitmaps that are not kept up may not count as valid.
  @Test func bitmapsAreInvalidAfterAWrite() async throws {
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", file.path, "4M")
    try await qemu("qemu-img", "bitmap", "--add", file.path, "b0")
    let before = try QCOW2Header(reading: try .openImage(file.path, ImageOpenMode(writable: false)))
    #expect(before.autoclear == 1)
    let image = try openQCOW2(file.path)
    let model = DiskModel([UInt8](repeating: 0, count: 4 << 20))
    try DiskOperation.write(0..<512, 3).perform(on: image, model)
    try image.close()
    let after = try QCOW2Header(reading: try .openImage(file.path, ImageOpenMode(writable: false)))
    #expect(after.autoclear == 0 && after.incompatible.isEmpty)
  }

  @Test func discardedRoomGoesBackToTheHostAndIsUsedAgain() async throws {
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", file.path, "16M")
    let model = DiskModel([UInt8](repeating: 0, count: 16 << 20))
    let image = try openQCOW2(file.path)
    let host = try Descriptor.openImage(file.path, ImageOpenMode(writable: false))
    try DiskOperation.write(0..<8 << 20, 1).perform(on: image, model)
    try image.flush()
    let full = try host.allocatedSize()
    try DiskOperation.discard(0..<8 << 20).perform(on: image, model)
    try image.flush()
    #expect(try host.allocatedSize() < full - 7 << 20)
    let length = try host.imageSize()
    try DiskOperation.write(8 << 20..<16 << 20, 2).perform(on: image, model)
    try image.close()
    #expect(try host.imageSize() <= length + 1 << 17)
    try await expectSame(file.path, model)
  }

  /// Requests of many threads to the same few clusters: copies from a backing file, compressed and new ones.
  @Test(arguments: [CacheMode.writeback, .writethrough, .unsafe, .none])
  func concurrentRequestsSeeOneAnother(_ cache: CacheMode) async throws {
    var generator = SeededGenerator(seed: 9)
    let size = 2 << 20
    let raw = try TemporaryFile((0..<size).map { UInt8(truncatingIfNeeded: $0 >> 8) })
    let file = try TemporaryFile()
    try await qemu("qemu-img", "convert", "-q", "-c", "-O", "qcow2", raw.path, file.path)
    var expected = try raw.contents()
    let spec = BlockSpec(id: "disk0", path: file.path, cache: cache)
    do {
      let backend = try FileBlockBackend(try OpenedImage.open(spec), spec: spec)
      let failures = Mutex<[BlockError]>([])
      var memories: [AlignedBuffer] = []
      for round in 0..<600 {
        let start = Int.random(in: 0..<size / 512 - 16, using: &generator) * 512
        let count = Int.random(in: 1...16, using: &generator) * 512
        let memory = AlignedBuffer(count: count)
        memories.append(memory)
        let content = DiskOperation.content(start..<start + count, UInt8(truncatingIfNeeded: round))
        let part = UnsafeMutableRawBufferPointer(rebasing: memory.bytes[..<count])
        part.copyBytes(from: content)
        expected.replaceSubrange(start..<start + count, with: content)
        backend.submit(
          BlockRequest(.write, offset: UInt64(start), buffers: [part]) { result in
            if case .failure(let error) = result { failures.withLock { $0.append(error) } }
          })
        if round % 50 == 0 { backend.submit(BlockRequest(.flush) { _ in }) }
      }
      backend.drain()
      #expect(failures.withLock { $0 }.isEmpty)
      withExtendedLifetime(memories) {}
    } catch {
      guard error.reason == .noDirectAccess else { throw error }
      return
    }
    try await expectSame(file.path, DiskModel(expected))
  }

  /// The overlay of a snapshot covers what only the device process knows the size of.
  @Test func aSnapshotRunOverQCOW2LeavesTheImageAlone() async throws {
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", file.path, "4M")
    let before = try file.contents()
    let spec = BlockSpec(id: "disk0", path: file.path, snapshot: true)
    let backend = try FileBlockBackend(try OpenedImage.open(spec), spec: spec)
    #expect(backend.size == 4 << 20)
    let memory = AlignedBuffer(count: 4096)
    memory.bytes.initializeMemory(as: UInt8.self, repeating: 5)
    let done = Mutex(0)
    let count: @Sendable (Result<Void, BlockError>) -> Void = { result in
      if case .success = result { done.withLock { $0 += 1 } }
    }
    backend.submit(BlockRequest(.write, offset: 1 << 20, buffers: [memory.bytes], completion: count))
    backend.drain()
    memory.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    backend.submit(BlockRequest(.read, offset: 1 << 20, buffers: [memory.bytes], completion: count))
    backend.drain()
    #expect(done.withLock { $0 } == 2)
    #expect(memory.bytes.allSatisfy { $0 == 5 })
    #expect(try file.contents() == before)
  }
}
