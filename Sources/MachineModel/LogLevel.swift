/// How much vmrun says about itself on standard error; the names are those of swift-log.
public enum LogLevel: String, Sendable, CaseIterable {
  case trace
  case debug
  case info
  /// Which engine runs and why, and layers of the sandbox that the host lacks.
  case notice
  case warning
  case error
  case critical
}
