import LinuxSystem
import TestKit
import Testing

@testable import Backends

/// What may be in a sector after a crash: what it held at the last flush, or anything that was written since.
private final class Expectation {
  private(set) var allowed: [[[UInt8]]]
  init(_ bytes: [UInt8]) {
    allowed = stride(from: 0, to: bytes.count, by: 512).map { [Array(bytes[$0..<$0 + 512])] }
  }

  func add(_ range: Range<Int>, of bytes: [UInt8]) {
    for sector in range.lowerBound / 512..<(range.upperBound + 511) / 512 {
      allowed[sector].append(Array(bytes[sector * 512..<sector * 512 + 512]))
    }
  }

  func settle() { for sector in allowed.indices { allowed[sector] = Array(allowed[sector].suffix(1)) } }

  func check(_ bytes: [UInt8]) -> [Int] {
    allowed.indices.filter { sector in
      let content = bytes[sector * 512..<sector * 512 + 512]
      return !allowed[sector].contains { isSame($0[...], content) }
    }
  }
}

@Suite struct QCOW2CrashTests {
  struct Case: Sendable, CustomTestStringConvertible {
    var options: QCOW2Options
    var hasBacking = false
    var testDescription: String { options.argument + (hasBacking ? " backing" : "") }

    static let all = [
      Case(options: QCOW2Options(clusterBits: 9)), Case(options: QCOW2Options(clusterBits: 9, version: 2)),
      Case(options: QCOW2Options(clusterBits: 9, refcountBits: 64)),
      Case(options: QCOW2Options(clusterBits: 12), hasBacking: true),
      Case(options: QCOW2Options(clusterBits: 12, version: 2), hasBacking: true),
    ]
  }

  private static let size = 96 << 10
  private static let operations = isLongTest ? 160 : 60

  private func empty(_ test: Case, size: Int = size) async throws -> [UInt8] {
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", test.options.argument, file.path, "\(size)")
    return try file.contents()
  }

  private func backing(_ test: Case) -> (any ImageLayer)? {
    guard test.hasBacking else { return nil }
    return RawImage(
      MemoryStorage((0..<Self.size / 2).map { UInt8(truncatingIfNeeded: $0 >> 4) }), size: UInt64(Self.size / 2))
  }

  /// Runs operations on the storage until it stops; what is expected of it then.
  private func run(_ storage: MemoryStorage, _ test: Case, seed: UInt64) throws -> Expectation {
    var start = [UInt8](repeating: 0, count: Self.size)
    if test.hasBacking {
      for index in 0..<Self.size / 2 { start[index] = UInt8(truncatingIfNeeded: index >> 4) }
    }
    let model = DiskModel(start)
    let expectation = Expectation(start)
    var generator = SeededGenerator(seed: seed)
    do {
      let image = try QCOW2Image(storage, backing: backing(test), isReadOnly: false)
      for step in 0..<Self.operations {
        let operation =
          step % 7 == 6
          ? DiskOperation.flush
          : DiskOperation.random(Self.size, cluster: 1 << test.options.clusterBits, &generator)
        switch operation {
        case .write(let range, let seed):
          // What arrives of a write that fails is anybody's guess, in whole sectors.
          var bytes = model.bytes
          bytes.replaceSubrange(range, with: DiskOperation.content(range, seed))
          expectation.add(range, of: bytes)
          try operation.perform(on: image, model)
        case .zero(let range, _), .discard(let range):
          var bytes = model.bytes
          bytes.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
          expectation.add(range, of: bytes)
          try operation.perform(on: image, model)
          expectation.add(range, of: model.bytes)
        case .flush:
          try operation.perform(on: image, model)
          expectation.settle()
        case .read: try operation.perform(on: image, model)
        }
      }
      try image.close()
      expectation.settle()
    } catch {
      #expect(storage.hasStopped, "\(error)")
    }
    return expectation
  }

  private func content(_ bytes: [UInt8], _ test: Case) throws -> (disk: [UInt8], image: [UInt8]) {
    let storage = MemoryStorage(bytes)
    let image = try QCOW2Image(storage, backing: backing(test), isReadOnly: false)
    try image.close()
    return (try DiskModel([UInt8](repeating: 0, count: Self.size)).read(image, 0..<Self.size), storage.bytes)
  }

  private func qemuCheck(_ bytes: [UInt8], status: CInt = 0) async throws {
    let file = try TemporaryFile(bytes)
    try await qemu("qemu-img", "check", "-q", file.path, status: status)
  }

  /// The process ends after each write in turn: what it wrote is in the host's cache.
  @Test(arguments: Case.all) func killedAfterAnyWriteTheImageIsConsistent(_ test: Case) async throws {
    let empty = try await empty(test)
    var limit = 0
    while true {
      let storage = MemoryStorage(empty, limit: limit)
      let expectation = try run(storage, test, seed: 42)
      let check = ReferenceCheck(storage.bytes)
      #expect(check.errors.isEmpty, "after \(limit) writes: \(check.errors)")
      let (disk, image) = try content(storage.bytes, test)
      #expect(expectation.check(disk).isEmpty, "after \(limit) writes: sectors \(expectation.check(disk))")
      let repaired = ReferenceCheck(image)
      #expect(
        repaired.errors.isEmpty && repaired.leaks == 0 && !repaired.isDirty,
        "after \(limit) writes, opened: \(repaired)")
      if limit % 41 == 0 { try await qemuCheck(image) }
      guard storage.hasStopped else { break }
      limit += 1
    }
    #expect(limit > 40)
  }

  /// Of what was written since the last flush, some is there and some not, in any order.
  @Test(arguments: Case.all) func afterAPowerLossWhatWasFlushedIsThere(_ test: Case) async throws {
    let empty = try await empty(test)
    var generator = SeededGenerator(seed: 1)
    var limit = 0
    while true {
      let storage = MemoryStorage(empty, limit: limit, keepsPending: true)
      let expectation = try run(storage, test, seed: 43)
      for _ in 0..<(isLongTest ? 20 : 2) {
        let bytes = storage.afterPowerLoss(&generator)
        let check = ReferenceCheck(bytes)
        #expect(check.isDirty || check.errors.isEmpty, "after \(limit) writes: \(check.errors)")
        let (disk, image) = try content(bytes, test)
        #expect(expectation.check(disk).isEmpty, "after \(limit) writes: sectors \(expectation.check(disk))")
        let repaired = ReferenceCheck(image)
        #expect(repaired.errors.isEmpty && repaired.leaks == 0, "after \(limit) writes, opened: \(repaired)")
      }
      guard storage.hasStopped else { break }
      limit += isLongTest ? 1 : 3
    }
  }

  /// A refcount table that becomes longer, stopped at each of its writes.
  @Test func killedWhileTheRefcountTableGrowsTheImageIsConsistent() async throws {
    let test = Case(options: QCOW2Options(clusterBits: 9, refcountBits: 64))
    let size = 2300 << 10
    let empty = try await empty(test, size: size)
    // Up to where the table ends.
    let before = MemoryStorage(empty)
    let filled = try QCOW2Image(before, backing: nil, isReadOnly: false)
    let model = DiskModel([UInt8](repeating: 0, count: size))
    try DiskOperation.write(0..<1900 << 10, 1).perform(on: filled, model)
    try filled.close()
    var limit = 0
    var hasGrown = false
    while true {
      let storage = MemoryStorage(before.bytes, limit: limit)
      do {
        let image = try QCOW2Image(storage, backing: nil, isReadOnly: false)
        for start in stride(from: 1900 << 10, to: size, by: 16 << 10) {
          let part = model.buffers(DiskOperation.content(start..<start + 16 << 10, 7))
          try image.write(part, at: UInt64(start))
          if start / 16 << 10 % 4 == 0 { try image.flush() }
        }
        try image.close()
      } catch { #expect(storage.hasStopped, "\(error)") }
      let check = ReferenceCheck(storage.bytes)
      #expect(check.errors.isEmpty, "after \(limit) writes: \(check.errors.prefix(3))")
      let again = MemoryStorage(storage.bytes)
      let image = try QCOW2Image(again, backing: nil, isReadOnly: false)
      try image.close()
      let repaired = ReferenceCheck(again.bytes)
      #expect(repaired.errors.isEmpty && repaired.leaks == 0, "after \(limit) writes, opened: \(repaired)")
      hasGrown = hasGrown || image.header.refcountTableClusters > 1
      #expect(try model.read(image, 0..<1900 << 10) == Array(model.bytes[..<(1900 << 10)]))
      guard storage.hasStopped else { break }
      limit += isLongTest ? 1 : 9
    }
    #expect(hasGrown)
  }
}
