import MachineModel

/// How a run ended: the status for the shell, and a line for the user where the status alone does not say it.
/// It is thrown where a run ends before it began.
public struct Outcome: Error, Sendable, Equatable {
  public let status: ExitStatus
  public let message: String?

  static let poweredOff = Outcome(status: .poweredOff, message: nil)
  static let panicked = Outcome(status: .panicked, message: "the guest panicked")
  static let resetRefused = Outcome(status: .reset, message: "the guest reset, and --no-reboot was given")
  static let tripleFault = Outcome(
    status: .tripleFault, message: "the guest's processor shut down after a triple fault")
  static let timedOut = Outcome(status: .timedOut, message: "--timeout ran out")
  /// Ctrl-A x: as if the user had pressed Ctrl-C.
  static let quit = Outcome(status: .signal(2), message: nil)

  static func exited(_ status: UInt8) -> Outcome { Outcome(status: .guest(status), message: nil) }
  static func signalled(_ number: CInt) -> Outcome {
    Outcome(status: .signal(UInt8(truncatingIfNeeded: number)), message: nil)
  }
  /// vmrun or the host failed: what, on what, and what to do.
  static func failed(_ reason: String) -> Outcome { Outcome(status: .hostFailure, message: reason) }
  /// The device process or a vCPU thread made a system call that its policy forbids.
  static func sandboxViolation(_ call: String, by culprit: String = "the device process") -> Outcome {
    Outcome(
      status: .sandboxViolation,
      message: "\(culprit) was ended by its sandbox: it called \(call), which its policy forbids; "
        + "please report this with the output of vmrun --version")
  }
}
