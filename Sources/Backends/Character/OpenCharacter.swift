import LinuxSystem
import MachineModel

/// Why an endpoint could not be opened: one line that says what to do.
public struct CharacterError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}

/// How the device side drives the descriptor of an opened endpoint.
public enum CharacterKind: UInt8, Sendable, CaseIterable, WireCodable {
  /// No descriptor.
  case null
  /// The process's own terminal or pipes: whoever owns them supplies the descriptors.
  case stdio
  /// A descriptor to write to.
  case output
  /// A listening Unix socket.
  case listener
  /// The master of a pseudoterminal.
  case pseudoterminal
}

/// An endpoint opened on the host, ready to be handed to the process that drives the device.
public struct OpenedCharacter: ~Copyable, Sendable {
  public let id: String
  public let kind: CharacterKind
  /// nil for `null` and `stdio`.
  public var descriptor: Descriptor?
  /// The slave to tell the user about: `/dev/pts/3`.
  public let terminalPath: String?
  /// A socket file to remove when the machine ends.
  public let temporaryPath: String?

  init(
    id: String, kind: CharacterKind, descriptor: consuming Descriptor? = nil, terminalPath: String? = nil,
    temporaryPath: String? = nil
  ) {
    self.id = id
    self.kind = kind
    self.descriptor = descriptor
    self.terminalPath = terminalPath
    self.temporaryPath = temporaryPath
  }
}

/// Opens what the endpoint names. To be called with the user's rights, before any sandbox.
public func openCharacter(_ spec: CharacterSpec) throws(CharacterError) -> OpenedCharacter {
  switch spec.endpoint {
  case .null: return OpenedCharacter(id: spec.id, kind: .null)
  case .stdio: return OpenedCharacter(id: spec.id, kind: .stdio)
  case .file(let path):
    return OpenedCharacter(id: spec.id, kind: .output, descriptor: try createOutput(path, spec.id))
  case .unix(let path):
    return OpenedCharacter(
      id: spec.id, kind: .listener, descriptor: try listenAt(path, spec.id), temporaryPath: path)
  case .pty:
    do {
      let terminal = try Pseudoterminal()
      let path = terminal.slavePath
      return OpenedCharacter(
        id: spec.id, kind: .pseudoterminal, descriptor: terminal.takeMaster(), terminalPath: path)
    } catch {
      throw CharacterError("\(spec.id): no pseudoterminal: \(error.reason); is /dev/pts mounted?")
    }
  }
}

/// The device side of an opened endpoint. `stdio` takes its descriptors from `StreamCharacterBackend` itself; here
/// `descriptor` is then its output.
public func makeCharacterBackend(
  _ kind: CharacterKind, descriptor: consuming Descriptor?, report: @escaping CharacterReport
) throws(SystemError) -> any CharacterBackend {
  guard let descriptor = descriptor.take() else { return NullCharacterBackend() }
  switch kind {
  case .null: return NullCharacterBackend()
  case .listener: return try SocketCharacterBackend(listener: descriptor)
  case .pseudoterminal: return try PseudoterminalCharacterBackend(master: descriptor)
  case .output, .stdio: return try StreamCharacterBackend(output: descriptor, report: report)
  }
}

private func createOutput(_ path: String, _ id: String) throws(CharacterError) -> Descriptor {
  do {
    return try Descriptor.open(path, OpenFlags.writeCreateTruncate, mode: 0o666)
  } catch {
    throw CharacterError("\(id): cannot write \(path): \(error.reason)")
  }
}

/// A listening Unix socket at the path, in place of one that is left over from a process that has ended. `id` is who
/// wants it, for the error.
public func listenAt(_ path: String, _ id: String) throws(CharacterError) -> Descriptor {
  do {
    return try SocketPath.bind(path) { path throws(SystemError) in try UnixSocket.listen(at: path) }
  } catch {
    throw CharacterError("\(id): \(error)")
  }
}
