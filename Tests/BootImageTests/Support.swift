import LinuxSystem
import Synchronization
import TestKit
import Testing

@testable import BootImage

/// VMRUN_TEST_LONG=1: thousands of rounds instead of a sample.
let isLongTest = environment("VMRUN_TEST_LONG") == "1"

/// A disk in memory.
final class MemoryDisk: DiskBytes {
  private let bytes: [UInt8]
  private let counter = Mutex(0)

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var size: UInt64 { UInt64(bytes.count) }
  var reads: Int { counter.withLock { $0 } }

  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootImageError) {
    counter.withLock { $0 += 1 }
    let start = Int(offset)
    guard start + buffer.count <= bytes.count else { throw BootImageError(.unreadable, "beyond the end") }
    buffer.copyBytes(from: bytes[start..<start + buffer.count])
  }
}

/// Runs a shell script in a directory of its own and returns the file `disk` that it has made there.
func makeImage(_ script: String) async throws -> [UInt8] {
  let mark = try TemporaryFile()
  let directory = mark.path + ".d"
  // The tools' dates and random numbers do not matter; that mtools look at geometries does.
  let program = try RunningProgram.start(
    "/bin/sh",
    [
      "-ec",
      "export MTOOLS_SKIP_CHECK=1 PATH=$PATH:/usr/sbin:/sbin; mkdir \(directory); cd \(directory)\n{ \(script)\n} >log 2>&1 || { cat log >&2; exit 1; }\nmv disk \(mark.path).disk",
    ],
    seconds: 60)
  let ending = try await program.end()
  _ = try await RunningProgram.start("/bin/rm", ["-rf", directory], seconds: 60).end()
  try #require(ending == .exited(0), "\(program.error)")
  defer { try? removeFile(mark.path + ".disk") }
  return try Descriptor.open(mark.path + ".disk", .readOnly).contents(limit: 1 << 30)
}

func text(_ file: StoredFile) throws -> String { String(decoding: try file.bytes(limit: 1 << 20), as: UTF8.self) }

/// File systems as a table of files.
final class TestVolumes: BootVolumes {
  struct Volume {
    var partition: Partition
    var uuid = ""
    var label = ""
    var files: [String: String] = [:]
  }

  private let volumes: [Volume]

  /// The files of one partition.
  convenience init(_ files: [String: String]) {
    self.init([Volume(partition: .test(1), uuid: "1111-aaaa", label: "root", files: files)])
  }

  init(_ volumes: [Volume]) { self.volumes = volumes }

  var count: Int { volumes.count }
  func partition(of volume: Int) -> Partition { volumes[volume].partition }
  func uuid(of volume: Int) -> String { volumes[volume].uuid }
  func label(of volume: Int) -> String { volumes[volume].label }

  private func normal(_ path: String) -> String { "/" + path.pathNames.joined(separator: "/") }

  func contents(_ path: BootPath) throws(BootImageError) -> [UInt8]? {
    volumes[path.volume].files[normal(path.path)].map { Array($0.utf8) }
  }

  func kind(of path: BootPath) throws(BootImageError) -> PathKind? {
    if let bytes = try contents(path) { return .file(isEmpty: bytes.isEmpty) }
    return try names(in: path).isEmpty ? nil : .directory
  }

  func names(in path: BootPath) throws(BootImageError) -> [String] {
    let prefix = normal(path.path) == "/" ? "/" : normal(path.path) + "/"
    let names = volumes[path.volume].files.keys.filter { $0.hasPrefix(prefix) }
      .compactMap { $0.dropFirst(prefix.count).split(separator: "/").first.map(String.init) }
    return Set(names).sorted()
  }
}

extension Partition {
  static func test(_ number: Int, isActive: Bool = false) -> Partition {
    Partition(
      number: number, start: UInt64(number) << 20, size: 1 << 20, kind: .mbr(type: 0x83), uuid: "01020304-0\(number)",
      isActive: isActive)
  }
}

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
