import LinuxSystem

/// Why a process could not be started or locked down.
public enum SandboxError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A system call failed.
  case system(SystemError)
  /// The new process failed at `stage` before it could run.
  case start(StartStage, SystemError)
  /// A policy file is wrong.
  case policy(PolicyError)
  /// libseccomp refused a rule or could not build the filter.
  case filter(policy: String, line: Int?, SystemError)

  public var description: String {
    switch self {
    case .system(let error): "sandbox: \(error)"
    case .start(let stage, let error): "new process: \(stage.rawValue): \(error)"
    case .policy(let error): "\(error)"
    case .filter(let policy, let line?, let error): "\(policy).policy:\(line): \(error)"
    case .filter(let policy, nil, let error): "\(policy).policy: \(error)"
    }
  }
}

/// Runs `body` and turns its system error into a sandbox error.
func asSandboxError<Result: ~Copyable>(_ body: () throws(SystemError) -> Result) throws(SandboxError) -> Result {
  do { return try body() } catch { throw .system(error) }
}

/// The part of starting a process that failed.
public enum StartStage: String, Sendable {
  case clone
  case userNamespace = "user namespace"
  /// In the new process, up to exec.
  case launch
}
