/// How a run ended.
public enum Outcome: Sendable, Equatable {
  /// The guest powered off.
  case poweredOff
  /// The guest wrote this to the exit device.
  case exited(UInt8)
  case panicked
  /// The guest asked for a reset and `--no-reboot` was given.
  case resetRefused
  case tripleFault
  case timedOut
  /// vmrun or the host failed: what, on what, and what to do.
  case failed(String)
  /// The device process made this forbidden system call.
  case sandboxViolation(String)
  /// vmrun got this signal.
  case signalled(CInt)
  /// Ctrl-A x.
  case quit

  /// The status vmrun ends with.
  public var status: CInt {
    switch self {
    case .poweredOff: 0
    case .exited(let status): CInt(status)
    case .panicked: 121
    case .resetRefused: 122
    case .tripleFault: 123
    case .timedOut: 124
    case .failed: 125
    case .sandboxViolation: 126
    case .signalled(let number): 128 + number
    // As if the user had pressed Ctrl-C.
    case .quit: 130
    }
  }

  /// The line that says so on stderr, where there is something to say.
  public var message: String? {
    switch self {
    case .poweredOff, .exited, .quit, .signalled: nil
    case .panicked: "the guest panicked"
    case .resetRefused: "the guest reset and --no-reboot was given"
    case .tripleFault: "the guest's processor shut down (triple fault)"
    case .timedOut: "--timeout ran out"
    case .failed(let reason): reason
    case .sandboxViolation(let name):
      "the device process was ended by its sandbox: it called \(name), which its policy forbids; "
        + "please report this with the output of vmrun --version"
    }
  }
}
