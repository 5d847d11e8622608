import LinuxSystem
import Logging
import MachineModel

/// What vmrun says on standard error: one line a message, no time stamps (they would read time zone files).
struct StandardErrorLog: LogHandler {
  var logLevel: Logger.Level = .notice
  var metadata: Logger.Metadata = [:]
  var metadataProvider: Logger.MetadataProvider?

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let prefix =
      switch event.level {
      case .warning: "warning: "
      case .debug, .trace: "debug: "
      default: ""
      }
    // A raw terminal does not return the carriage by itself everywhere; OPOST stays on, so a newline is enough.
    StandardStream.report("vmrun: \(prefix)\(event.message)")
  }
}

/// The launcher's logger at a level.
func makeLogger(_ level: LogLevel) -> Logger {
  var logger = Logger(label: "vmrun") { _ in StandardErrorLog() }
  logger.logLevel = Logger.Level(rawValue: level.rawValue) ?? .notice
  return logger
}
