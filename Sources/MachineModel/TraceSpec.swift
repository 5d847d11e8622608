/// What the software engine may be asked to write for debugging.
public enum TraceEvent: String, Sendable, Encodable, CaseIterable {
  case instructions = "in"
  case interrupts = "int"
  case exceptions = "exc"
  case io
}

/// `--trace`: what is written, and where to.
public struct TraceSpec: Sendable, Encodable, Equatable {
  public var events: [TraceEvent]
  /// Host file, created or emptied; nil: standard error.
  public var path: String?

  public init(events: [TraceEvent], path: String? = nil) {
    self.events = events
    self.path = path
  }
}
