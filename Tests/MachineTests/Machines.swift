import LinuxSystem
import TestKit
import Testing

/// Tests that run whole machines, one after the other: guests measure time.
@Suite(.serialized) enum Machines {
  /// The engine that a run of vmrun is to use.
  enum Engine: String, CaseIterable {
    case kvm, soft

    static let usable = allCases.filter(\.isUsable)
    /// What tests use that are not about engines.
    static let usual = usable[0]

    /// Why it cannot be used here, nil where it can.
    var problem: String? {
      switch self {
      case .kvm: GuestRunner.kvmProblem
      case .soft: nil
      }
    }

    var isUsable: Bool { problem == nil }
    var comment: Comment { Comment(rawValue: problem ?? "") }
    var arguments: [String] { ["--mode", "hvm", "--accel", rawValue] }
  }

  /// The arguments that run a guest as the machine's firmware (`hello.rom`) or from a disk that stays as it is.
  static func arguments(_ guest: String, _ more: String..., on engine: Engine = .usual) throws -> [String] {
    let path = try GuestRunner.guest(guest)
    return engine.arguments + (guest.hasSuffix(".rom") ? ["--firmware", path] : ["--snapshot", path]) + more
  }

  static let isLong = environmentVariable("VMRUN_TEST_LONG") == "1"
  static let long: Comment = "takes minutes: set VMRUN_TEST_LONG=1, or make test-long"
}

/// Lines of a guest or of vmrun without their ends.
func lines(_ text: String) -> [String] {
  text.split(whereSeparator: \.isNewline).map(String.init)
}
