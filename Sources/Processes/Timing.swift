import LinuxSystem
import Synchronization

/// Says on standard error how long each step of the start took (`--timing`). Both processes count from the same moment.
public final class Timing: Sendable {
  /// When the program began, on the monotonic clock.
  let start: UInt64
  private let last: Mutex<UInt64>
  private let process: String

  /// - Parameter start: nanoseconds of the monotonic clock.
  public init(process: String = "vmrun", start: UInt64) {
    self.process = process
    self.start = start
    last = Mutex(monotonicNanoseconds())
  }

  /// The step that ends now.
  func step(_ name: String) {
    let now = monotonicNanoseconds()
    let took = last.withLock { last in
      defer { last = now }
      return now &- last
    }
    report(name, at: now, took: took)
  }

  /// The first step: what the process did before it counted, and the command line.
  func begin() {
    let (processor, counted) = (processorNanoseconds(), monotonicNanoseconds() &- start)
    // What the processor did for others meanwhile may be more than all before.
    report(
      "process started (microseconds of CPU time)", at: start, took: processor > counted ? processor - counted : 0)
    let now = monotonicNanoseconds()
    last.withLock { $0 = now }
    report("command line", at: now, took: now &- start)
  }

  /// CPU time of the whole process so far.
  func total(_ name: String) {
    report("\(name), CPU time so far", at: monotonicNanoseconds(), took: processorNanoseconds())
  }

  private func report(_ name: String, at now: UInt64, took: UInt64) {
    StandardStream.report("vmrun: timing: \(Self.column(now &- start)) \(Self.column(took)) \(process): \(name)")
  }

  private static func column(_ nanoseconds: UInt64) -> String {
    let text = String(nanoseconds / 1000)
    return String(repeating: " ", count: max(0, 8 - text.count)) + text
  }
}
