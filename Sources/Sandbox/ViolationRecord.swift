import LinuxSystem
import Synchronization

/// Memory for the record of a process's forbidden call, shared with whoever waits for the process.
// Safety: the mapping lives as long as the value, and the word at its start is only used atomically.
public struct ViolationRecord: ~Copyable, @unchecked Sendable {
  private let mapping: Mapping

  /// Memory for one process, to be mapped by both sides.
  public static func file() throws(SystemError) -> Descriptor {
    try Descriptor.memory(named: "violation", size: size, isSealed: true)
  }

  public init(sharing file: borrowing Descriptor) throws(SystemError) {
    mapping = try Mapping(sharing: file, count: Int(Self.size))
  }

  /// For `Violation.report(to:)`.
  public var word: UnsafeMutablePointer<Atomic<UInt64>> { mapping.base.assumingMemoryBound(to: Atomic<UInt64>.self) }
  /// For `ChildProcess.status`; 0 where nothing was recorded.
  public var value: UInt64 { word.pointee.load(ordering: .acquiring) }

  private static let size: UInt64 = 4096
}
