import LinuxSystem
import MachineModel
import TestKit
import Testing

@testable import Backends

/// What a test's image is made of.
private enum Sample: CaseIterable {
  case plain, old, snapshots, compressed

  /// The bytes of an image with small clusters and a little of everything.
  func bytes() async throws -> [UInt8] {
    let file = try TemporaryFile()
    let raw = try TemporaryFile((0..<96 << 10).map { UInt8(truncatingIfNeeded: $0 >> 5) })
    let options = self == .old ? "cluster_size=512,compat=0.10" : "cluster_size=1024"
    let flags = self == .compressed ? ["-c"] : []
    let run = try RunningProgram.start(
      "/usr/bin/qemu-img",
      ["convert", "-q", "-f", "raw", "-O", "qcow2"] + flags + ["-o", options, raw.path, file.path], seconds: 30)
    try await run.end()
    if self == .snapshots { try await qemu("qemu-img", "snapshot", "-c", "s", file.path) }
    return try file.contents()
  }
}

@Suite struct QCOW2HostilityTests {
  private func refusal(_ bytes: [UInt8], readOnly: Bool = false) -> LayerError? {
    do throws(LayerError) {
      _ = try QCOW2Image(MemoryStorage(bytes), backing: nil, isReadOnly: readOnly)
      return nil
    } catch {
      #expect(!error.description.contains("\n") && error.description.utf8.count < 400)
      return error
    }
  }

  private func with(_ bytes: [UInt8], _ offset: Int, _ value: UInt64, _ width: Int) -> [UInt8] {
    var result = bytes
    for index in 0..<width {
      result[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * (width - 1 - index)))
    }
    return result
  }

  @Test func headersThatCannotBeAreRefused() async throws {
    let good = try await Sample.plain.bytes()
    #expect(refusal(good) == nil)
    let bad: [(String, Int, UInt64, Int)] = [
      ("magic", 0, 0, 4), ("version 1", 4, 1, 4), ("version 4", 4, 4, 4), ("cluster bits 8", 20, 8, 4),
      ("cluster bits 22", 20, 22, 4), ("cluster bits huge", 20, .max, 4), ("size 0", 24, 0, 8),
      ("size huge", 24, .max, 8), ("size beyond L1", 24, 1 << 40, 8), ("encrypted", 32, 1, 4), ("L1 of 0", 36, 0, 4),
      ("L1 huge", 36, .max, 4), ("L1 at 0", 40, 0, 8), ("L1 unaligned", 40, 513, 8), ("L1 far", 40, 1 << 60, 8),
      ("refcount table at 0", 48, 0, 8), ("refcount table unaligned", 48, 77, 8), ("refcount table of 0", 56, 0, 4),
      ("refcount table huge", 56, .max, 4), ("snapshots many", 60, .max, 4),
      ("snapshots unaligned", 60, 1 << 32 | 1, 4),
      ("external data", 72, 4, 8), ("subclusters", 72, 16, 8), ("unknown feature", 72, 1 << 40, 8),
      ("refcount order 7", 96, 7, 4), ("header short", 100, 8, 4), ("header long", 100, 4096, 4),
      ("extension long", 104 + 8, 0x1234_5678_FFFF_FF00, 8),
    ]
    for (name, offset, value, width) in bad {
      #expect(refusal(with(good, offset, value, width), readOnly: true) != nil, "\(name)")
    }
    for length in [0, 1, 4, 71, 72, 103, 104, 111] {
      #expect(refusal(Array(good[..<length])) != nil, "\(length) bytes")
    }
  }

  @Test func refusalsNameTheFeature() async throws {
    let good = try await Sample.plain.bytes()
    #expect(refusal(with(good, 72, 4, 8))?.description.contains("another file") == true)
    #expect(refusal(with(good, 72, 16, 8))?.description.contains("subclusters") == true)
    #expect(refusal(with(good, 72, 1 << 40, 8))?.description.contains("bit 40") == true)
    #expect(refusal(with(good, 72, 2, 8))?.description.contains("readonly=on") == true)
    #expect(refusal(with(good, 72, 2, 8), readOnly: true) == nil)
  }

  /// Data and tables that lie on each other: the first write that would destroy something ends all writing.
  @Test func entriesThatPointToMetadataNeverHaveItOverwritten() async throws {
    let good = try await Sample.plain.bytes()
    let header = try QCOW2Header(parsing: good)
    let fields = QCOW2Header.Fields(good)
    let l2 = Int(fields.long(at: Int(header.l1Offset)) & QCOW2Metadata.tableMask)
    let block = fields.long(at: Int(header.refcountTableOffset))
    for target in [0, header.l1Offset, header.refcountTableOffset, block, UInt64(l2)] where target != 0 || l2 != 0 {
      for operation in [
        DiskOperation.write(0..<512, 9), .write(0..<4096, 9), .discard(0..<4096), .zero(0..<1024, mayUnmap: true),
      ] {
        guard target != 0 else { continue }
        let bytes = with(good, l2, target | 1 << 63, 8)
        let storage = MemoryStorage(bytes)
        let image = try QCOW2Image(storage, backing: nil, isReadOnly: false)
        let model = DiskModel([UInt8](repeating: 0, count: Int(header.size)))
        #expect(throws: LayerError.self) { try operation.perform(on: image, model) }
        #expect(throws: LayerError.readOnly) { try DiskOperation.write(8192..<8704, 1).perform(on: image, model) }
        let after = storage.bytes
        let cluster = Int(target)..<Int(target) + 1024
        #expect(Array(after[cluster]) == Array(bytes[cluster]), "\(operation)")
        // Marked corrupt for everybody.
        #expect(after[79] & 2 == 2)
        #expect(refusal(after) != nil)
      }
    }
  }

  @Test func tablesOnTopOfEachOtherAreNotWrittenTo() async throws {
    let good = try await Sample.plain.bytes()
    let header = try QCOW2Header(parsing: good)
    let table = Int(header.refcountTableOffset)
    #expect(refusal(with(good, table, header.l1Offset, 8)) != nil)
    #expect(refusal(with(good, Int(header.l1Offset), header.l1Offset | 1 << 63, 8)) != nil)
    #expect(refusal(with(good, Int(header.l1Offset), 513, 8)) != nil)
  }

  /// Metadata whose refcount says that it is free is not given to data.
  @Test func metadataThatCountsAsFreeIsNotAllocated() async throws {
    let good = try await Sample.plain.bytes()
    let header = try QCOW2Header(parsing: good)
    let block = Int(QCOW2Header.Fields(good).long(at: Int(header.refcountTableOffset)))
    var bytes = good
    for index in block..<block + header.clusterSize { bytes[index] = 0 }
    let storage = MemoryStorage(bytes)
    let image = try QCOW2Image(storage, backing: nil, isReadOnly: false)
    let model = DiskModel([UInt8](repeating: 0, count: Int(header.size)))
    // A whole new cluster is needed once an old one is given up.
    try DiskOperation.discard(0..<1024).perform(on: image, model)
    #expect(throws: LayerError.self) {
      try DiskOperation.write(0..<512, 1).perform(on: image, model)
      try image.flush()
    }
  }

  /// Bytes changed at random, most of them where tables are: whatever happens, nothing traps, and no request reaches
  /// beyond the storage.
  @Test(arguments: [0, 1, 2, 3]) func damagedImagesDoNoHarm(_ number: Int) async throws {
    let sample = Sample.allCases[number]
    let good = try await sample.bytes()
    let header = try QCOW2Header(parsing: good)
    let fields = QCOW2Header.Fields(good)
    let l2 = Int(fields.long(at: Int(header.l1Offset)) & QCOW2Metadata.tableMask)
    let places = [0, Int(header.l1Offset), Int(header.refcountTableOffset), l2, Int(header.snapshotsOffset)]
    var generator = SeededGenerator(seed: UInt64(number))
    var opened = 0
    let size = Int(header.size)
    let model = DiskModel([UInt8](repeating: 0, count: size))
    for round in 0..<(isLongTest ? 40_000 : 600) {
      if round % 64 == 0 { await Task.yield() }
      var bytes = good
      for _ in 0..<Int.random(in: 1...6, using: &generator) {
        let base = places.randomElement(using: &generator) ?? 0
        let place = base + Int.random(in: 0..<(base == 0 ? 120 : 256), using: &generator)
        guard bytes.indices.contains(place) else { continue }
        switch Int.random(in: 0..<3, using: &generator) {
        case 0: bytes[place] = UInt8.random(in: 0...255, using: &generator)
        case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        default:
          // An entry to somewhere.
          let at = place & ~7
          guard at > 120, at + 8 <= bytes.count else { continue }
          let target = UInt64.random(in: 0...UInt64(good.count / 512), using: &generator) * 512
          let flags = ([0, 1, 1 << 63, 1 << 62, 3 << 62] as [UInt64]).randomElement(using: &generator) ?? 0
          bytes = with(bytes, at, target | flags, 8)
        }
      }
      guard let image = try? QCOW2Image(MemoryStorage(bytes), backing: nil, isReadOnly: round % 4 == 0) else {
        continue
      }
      opened += 1
      let disk = Int(min(UInt64(size), image.size))
      for _ in 0..<8 where disk >= 4096 {
        let start = Int.random(in: 0..<disk / 512, using: &generator) * 512
        let range = start..<min(disk & ~511, start + Int.random(in: 1...16, using: &generator) * 512)
        guard !range.isEmpty else { continue }
        let (offset, length) = (UInt64(range.lowerBound), UInt64(range.count))
        switch Int.random(in: 0..<6, using: &generator) {
        case 0, 1: _ = try? model.read(image, range)
        case 2, 3: try? image.write(model.buffers(DiskOperation.content(range, 3)), at: offset)
        case 4: try? image.discard(at: offset, length)
        default: try? image.writeZeroes(at: offset, length, mayUnmap: round % 2 == 0)
        }
      }
      try? image.flush()
      try? image.close()
    }
    #expect(opened > 50)
  }

  @Test func brokenCompressedDataIsAnError() async throws {
    let good = try await Sample.compressed.bytes()
    let header = try QCOW2Header(parsing: good)
    let fields = QCOW2Header.Fields(good)
    let l2 = Int(fields.long(at: Int(header.l1Offset)) & QCOW2Metadata.tableMask)
    let entry = QCOW2Entry(raw: fields.long(at: l2))
    #expect(entry.kind == .compressed)
    let (offset, count) = entry.compressedRange(clusterBits: header.clusterBits)
    var bytes = good
    for index in Int(offset)..<min(bytes.count, Int(offset) + count) { bytes[index] = 0xFF }
    let image = try QCOW2Image(MemoryStorage(bytes), backing: nil, isReadOnly: true)
    let model = DiskModel([UInt8](repeating: 0, count: 1024))
    #expect(throws: LayerError.self) { _ = try model.read(image, 0..<512) }
  }
}

@Suite struct UnpackingTests {
  /// Streams that are cut off, broken, or longer than the cluster end without a byte outside the target.
  @Test func hostileStreamsFillNoMoreThanTheTarget() throws {
    var generator = SeededGenerator(seed: 1)
    let memory = AlignedBuffer(count: 8192)
    let target = UnsafeMutableRawBufferPointer(rebasing: memory.bytes[1024..<2048])
    // 64 KiB of zeroes, deflated; an empty zstd frame; noise.
    let streams: [[UInt8]] =
      [
        [0xED, 0xC1, 0x01, 0x01, 0, 0, 0, 0x80, 0x90, 0xFE, 0xAF, 0xEE, 0x08, 0x0A, 0, 0, 0, 0, 0, 0, 0], [],
        [0x28, 0xB5, 0x2F, 0xFD, 0x20, 0, 1, 0, 0],
      ]
      + (0..<(isLongTest ? 40_000 : 2000)).map { round in
        (round % 2 == 0 ? [] : [0x28, 0xB5, 0x2F, 0xFD])
          + (0..<Int.random(in: 0..<64, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
      }
    for stream in streams {
      stream.withUnsafeBytes { source in
        _ = inflateRaw(source, into: target)
        _ = decompressZstandard(source, into: target)
      }
    }
    #expect(memory.bytes[..<1024].allSatisfy { $0 == 0 } && memory.bytes[2048...].allSatisfy { $0 == 0 })
  }
}
