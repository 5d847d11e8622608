import ArgumentParser
import DeviceKit
import FoundationEssentials
import LinuxSystem
import MachineModel

/// What the command line needs of the layers that it does not see.
public struct Environment: Sendable {
  public var registry: Registry
  /// Adds the board's own devices and gives every device its place; an error says which option to change.
  public var resolve: @Sendable (MachineSpec, Registry) throws -> MachineSpec
  /// Runs a resolved machine to its end; an error is a failure of the host.
  public var run: @Sendable (MachineSpec, LogLevel) throws -> ExitStatus
  /// The entries of the boot configuration of the machine's first disk.
  public var listEntries: @Sendable (MachineSpec) throws -> String
  /// The text of the sandbox's policies.
  public var sandboxPolicy: @Sendable () -> String

  public init(
    registry: Registry,
    resolve: @escaping @Sendable (MachineSpec, Registry) throws -> MachineSpec,
    run: @escaping @Sendable (MachineSpec, LogLevel) throws -> ExitStatus,
    listEntries: @escaping @Sendable (MachineSpec) throws -> String = { _ in "" },
    sandboxPolicy: @escaping @Sendable () -> String
  ) {
    self.registry = registry
    self.resolve = resolve
    self.run = run
    self.listEntries = listEntries
    self.sandboxPolicy = sandboxPolicy
  }
}

/// What a command line asks for.
public enum Request: Sendable, Equatable {
  /// Print this on standard output.
  case text(String)
  case run(MachineSpec, LogLevel)
  /// Print what its first disk can start.
  case listEntries(MachineSpec)
  /// Print this line on standard error and end with the status.
  case failure(ExitStatus, String)
}

extension VMRunCommand {
  /// Does what the arguments (without the program's name) ask for and returns the status to exit with.
  public static func launch(_ arguments: [String], in environment: Environment) -> ExitStatus {
    switch request(arguments, in: environment) {
    case .text(let text): return print(text)
    case .listEntries(let spec):
      do {
        return print(try environment.listEntries(spec))
      } catch { return fail(.hostFailure, "\(error)") }
    case .run(let spec, let logLevel):
      do {
        return try environment.run(spec, logLevel)
      } catch { return fail(.hostFailure, "\(error)") }
    case .failure(let status, let message):
      return fail(status, message)
    }
  }

  private static func print(_ text: String) -> ExitStatus {
    do {
      try StandardStream.output.write(text.hasSuffix("\n") ? text : text + "\n")
      return .poweredOff
    } catch { return fail(.hostFailure, "\(error)") }
  }

  private static func fail(_ status: ExitStatus, _ message: String) -> ExitStatus {
    // With standard error gone too, the status is all that is left to say it.
    try? StandardStream.error.write("vmrun: \(message)\n")
    return status
  }

  /// Parses the arguments and resolves the machine; nothing of the host is touched.
  public static func request(_ arguments: [String], in environment: Environment) -> Request {
    let command: VMRunCommand
    do {
      let parsed = try parseAsRoot(arguments)
      guard let parsedCommand = parsed as? VMRunCommand else {
        // `--help` and its like are commands of the parser's own; running them throws their text.
        var other = parsed
        try other.run()
        return .text("")
      }
      command = parsedCommand
    } catch {
      guard exitCode(for: error) != .success else {
        let text = fullMessage(for: error)
        return .text(text.hasPrefix("OVERVIEW:") ? HelpParts.divide(text) : text)
      }
      let line = oneLine(message(for: error))
      return .failure(.usage, line + (line.hasSuffix("?") ? " See" : "; see") + " 'vmrun --help'")
    }
    do {
      return try command.request(in: environment)
    } catch { return .failure(.usage, "\(error)") }
  }

  private func request(in environment: Environment) throws -> Request {
    if sandboxPolicy { return .text(environment.sandboxPolicy()) }
    if generateDevicesMan { return .text(environment.registry.manual) }
    if let help = try deviceHelp(environment.registry) { return .text(help) }
    let logLevel = try chosenLogLevel()
    if listEntries { return .listEntries(try listingSpec()) }
    let spec = try environment.resolve(try machineSpec(registry: environment.registry), environment.registry)
    guard dryRun else { return .run(spec, logLevel) }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return .text(String(decoding: try encoder.encode(spec), as: UTF8.self))
  }

  /// The text for `--device help` or `--device MODEL,help`.
  private func deviceHelp(_ registry: Registry) throws(UsageError) -> String? {
    for text in device {
      let list = KeyValueList(text)
      if list.head == "help" { return registry.help }
      guard list.items.contains(where: { $0.key == "help" && $0.value == nil }) else { continue }
      do {
        return try registry.model(required: list.head).help
      } catch { throw UsageError("--device", text, "\(error)") }
    }
    return nil
  }

  /// The parser's message in the manner of ours: one line, no capital, no full stop.
  private static func oneLine(_ message: String) -> String {
    var line = ""
    for part in message.split(separator: "\n") {
      let words = part.split(separator: " ").joined(separator: " ")
      if words.hasPrefix("- ") {
        line += (line.hasSuffix(":") ? " " : ", ") + words.dropFirst(2)
      } else {
        line += (line.isEmpty ? "" : " ") + words
      }
    }
    if line.hasSuffix(".") { line.removeLast() }
    return line.prefix(1).lowercased() + line.dropFirst()
  }
}
