import CSandbox
import LinuxSystem

/// How a process ended.
public enum ChildStatus: Equatable, Sendable {
  case exited(CInt)
  case killed(signal: CInt)
  /// It made the named system call, which its policy forbids.
  case sandboxViolation(String)

  /// Reads waitid(2)'s answer. `violation` is the word given to `Violation.report(to:)`, 0 where nothing was recorded.
  init(code: CInt, status: CInt, violation: UInt64) {
    let exited = code == CLD_EXITED
    if exited, status == Violation.exitStatus, let name = Violation.callName(violation) {
      self = .sandboxViolation(name)
    } else if exited {
      self = .exited(status)
    } else if status == SIGSYS {
      // The kernel's own kill, which leaves no record: another ABI than x86-64's, or a thread that blocked SIGSYS.
      self = .sandboxViolation(Violation.callName(violation) ?? "a system call of another ABI or with SIGSYS blocked")
    } else {
      self = .killed(signal: status)
    }
  }
}

/// A process that this one started and has to wait for.
public struct ChildProcess: ~Copyable, Sendable {
  /// Its number in this process's PID namespace.
  public let pid: CInt
  /// Becomes readable (poll, epoll) when the process has ended.
  public let pidfd: Descriptor
  /// One line for each layer that the host refused at the start.
  public let missingLayers: [String]

  /// How it ended, or nil while it runs; `wait` blocks until it has ended. Once an end was returned the process is gone
  /// and a further call throws ECHILD.
  public borrowing func status(violation: UInt64 = 0, wait: Bool = false) throws(SystemError) -> ChildStatus? {
    var code: CInt = 0
    var status: CInt = 0
    switch csandbox_wait(pidfd.raw, wait, &code, &status) {
    case 0: return nil
    case 1: return ChildStatus(code: code, status: status, violation: violation)
    default: throw SystemError("waitid")
    }
  }

  /// Sends SIGKILL. A process that has ended already is no error.
  public borrowing func kill() { _ = csandbox_pidfd_signal(pidfd.raw, SIGKILL) }
}
