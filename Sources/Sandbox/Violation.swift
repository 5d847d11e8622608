import CSandbox
import CSeccomp
import LinuxSystem
import Synchronization

/// What happens when a thread makes a system call that its policy forbids.
public enum Violation {
  /// The status a process ends with after a forbidden call.
  public static let exitStatus: CInt = 126

  /// From now on a forbidden call of this process is recorded in `word` and ends the process with `exitStatus`.
  /// With `notify`, the number of an eventfd, the process goes on: one is added to the eventfd and the thread that made
  /// the call never returns from it.
  /// To be called before the filter is installed; `word` and `notify` stay valid until the process ends.
  public static func report(to word: UnsafeMutablePointer<Atomic<UInt64>>, notify: CInt? = nil) throws(SandboxError) {
    guard csandbox_handle_violations(word, notify ?? -1) == 0 else { throw .system(SystemError("sigaction(SIGSYS)")) }
  }

  /// The name of the call recorded in `word`, or nil where it is 0.
  public static func callName(_ word: UInt64) -> String? {
    word == 0 ? nil : syscallName(CInt(truncatingIfNeeded: word))
  }
}

/// The name of a system call of this machine, such as `openat`; an unknown one is given by number.
public func syscallName(_ number: CInt) -> String {
  guard let name = seccomp_syscall_resolve_num_arch(seccomp_arch_native(), number) else {
    return "system call \(number)"
  }
  defer { free(name) }
  return String(cString: name)
}
