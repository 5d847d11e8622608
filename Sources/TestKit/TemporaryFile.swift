import LinuxSystem
import Synchronization

/// A file with a path of its own that is removed when the value goes.
public struct TemporaryFile: ~Copyable {
  public let path: String
  private static let counter = Atomic<Int>(0)

  public init(_ bytes: [UInt8] = []) throws {
    let number = Self.counter.add(1, ordering: .relaxed).newValue
    path = "/tmp/vmrun-test-\(monotonicNanoseconds())-\(number)"
    try TemporaryFile.fill(path, bytes)
  }

  /// A copy of another file.
  public init(contentsOf path: String) throws {
    try self.init(try Descriptor.open(path, .readOnly).contents(limit: 1 << 30))
  }

  deinit { try? removeFile(path) }

  /// Replaces the content.
  public func overwrite(_ bytes: [UInt8]) throws { try Self.fill(path, bytes) }

  public func contents() throws -> [UInt8] {
    let file = try Descriptor.openImage(path, ImageOpenMode(writable: false))
    var bytes = [UInt8](repeating: 0, count: Int(try file.imageSize()))
    try bytes.withUnsafeMutableBytes { try file.readFully([$0], at: 0) }
    return bytes
  }

  private static func fill(_ path: String, _ bytes: [UInt8]) throws {
    let file = try Descriptor.createEmpty(path)
    var copy = bytes
    try copy.withUnsafeMutableBytes { try file.writeFully([$0], at: 0) }
  }
}
