import LinuxSystem

/// For how long a thread polls before it sleeps, in TSC cycles: as long as would have met what woke it the last times,
/// and less where nothing within the limit would have.
public struct PollingWindow: Sendable {
  /// What the limit is at most of the time for which both sides of a mailbox spin, where the other side is likely to need
  /// the thread again: with its 40 us about KVM's for halted vCPUs.
  public static let patience: UInt64 = 6

  public let limit: UInt64
  public private(set) var cycles: UInt64

  public init(limit: UInt64) { (self.limit, cycles) = (limit, limit / Self.patience) }

  /// The thread has slept since a point of time.
  public mutating func slept(since start: UInt64) {
    cycles = timestamp() &- start < limit ? min(max(cycles * 2, limit / 16), limit) : cycles / 2
  }
}
