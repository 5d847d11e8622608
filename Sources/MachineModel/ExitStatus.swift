/// How a run ended, as the shell sees it (vmrun(1), EXIT STATUS).
public enum ExitStatus: Sendable, Hashable {
  /// The guest powered off, or there was nothing to run (`--help`): 0.
  case poweredOff
  /// The guest wrote this status to the exit device: the status itself.
  case guest(UInt8)
  /// The command line is wrong: 64, as EX_USAGE of sysexits(3).
  case usage
  /// The guest's kernel panicked and said so through pvpanic: 121.
  case panicked
  /// The guest reset under `--no-reboot`: 122.
  case reset
  /// A vCPU triple-faulted: 123.
  case tripleFault
  /// `--timeout` ran out: 124, as timeout(1).
  case timedOut
  /// vmrun or the host failed: 125, as env(1) and timeout(1).
  case hostFailure
  /// The sandbox killed the device process: 126.
  case sandboxViolation
  /// A signal ended the run: 128 and its number, as shells count.
  case signal(UInt8)

  /// The status for exit(3), 0–255.
  public var code: UInt8 {
    switch self {
    case .poweredOff: 0
    case .guest(let status): status
    case .usage: 64
    case .panicked: 121
    case .reset: 122
    case .tripleFault: 123
    case .timedOut: 124
    case .hostFailure: 125
    case .sandboxViolation: 126
    case .signal(let number): 128 | number
    }
  }
}
