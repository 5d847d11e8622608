import CSandbox
import CSeccomp

/// A list of the system calls that a thread or process may make; any other one is a violation.
///
/// A line of its text is `call: allow # reason` or `call: errno NAME # reason`, each perhaps with
/// `if argN [& MASK] OP VALUE [and ...]` before the reason. OP is one of == != < <= > >=, or == alone after a mask.
/// Values are constants of the kernel's headers, numbers, `A|B`, and `OWN_PID`, the process that installs the filter.
/// Of several lines for one call, the first action whose conditions hold applies; they must not overlap.
public struct Policy: Sendable, Equatable {
  public enum Action: Sendable, Equatable {
    case allow
    /// The call does nothing and fails with this errno.
    case errno(CInt)
  }

  public enum Comparison: String, Sendable, Equatable {
    case equal = "=="
    case notEqual = "!="
    case less = "<"
    case lessOrEqual = "<="
    case greater = ">"
    case greaterOrEqual = ">="
  }

  public enum Value: Sendable, Equatable {
    case number(UInt64)
    case ownProcess
  }

  /// A comparison of one of the call's six 64-bit arguments, after `& mask`.
  public struct Condition: Sendable, Equatable {
    public let argument: Int
    public let mask: UInt64?
    public let comparison: Comparison
    public let value: Value

    public init(argument: Int, mask: UInt64?, comparison: Comparison, value: Value) {
      (self.argument, self.mask, self.comparison, self.value) = (argument, mask, comparison, value)
    }
  }

  public struct Rule: Sendable, Equatable {
    public let line: Int
    public let call: String
    /// The call's number in the x86-64 ABI.
    public let number: CInt
    public let action: Action
    /// All of them must hold.
    public let conditions: [Condition]
    public let reason: String
  }

  public let name: String
  public let rules: [Rule]

  public init(name: String, text: String) throws(PolicyError) {
    self.name = name
    var parser = PolicyParser(policy: name)
    rules = try parser.parse(text)
  }
}

/// The policies in this program.
public enum BuiltInPolicy: String, CaseIterable, Sendable {
  /// The whole device process.
  case device
  /// The whole of a network process.
  case network
  /// A virtual CPU's thread.
  case vcpu

  /// The file's text.
  public var text: String {
    switch self {
    case .device: String(decoding: PackageResources.device_policy, as: UTF8.self)
    case .network: String(decoding: PackageResources.network_policy, as: UTF8.self)
    case .vcpu: String(decoding: PackageResources.vcpu_policy, as: UTF8.self)
    }
  }

  public func policy() throws(SandboxError) -> Policy {
    do { return try Policy(name: rawValue, text: text) } catch { throw .policy(error) }
  }
}

/// Every policy as it is written, for `--sandbox-policy`.
public func policyText() -> String {
  BuiltInPolicy.allCases.map { "## \($0.rawValue).policy\n\n\($0.text)" }.joined(separator: "\n")
}

/// A line of a policy that is not one.
public struct PolicyError: Error, Equatable, Sendable, CustomStringConvertible {
  public enum Problem: Equatable, Sendable {
    case noReason
    case noAction
    case unknownCall(String)
    case unknownAction(String)
    case unknownConstant(String)
    case notAnErrno(String)
    case badCondition(String)
    /// Two conditions of one rule on the same argument, which the filter cannot express.
    case argumentTwice(Int)
    /// The line is the same as, or made meaningless by, an earlier one for the same call.
    case overlaps(line: Int)
  }

  public let policy: String
  /// Counted from 1.
  public let line: Int
  public let problem: Problem

  public init(policy: String, line: Int, problem: Problem) {
    (self.policy, self.line, self.problem) = (policy, line, problem)
  }

  public var description: String {
    let text =
      switch problem {
      case .noReason: "the reason is missing: end the line with `# why`"
      case .noAction: "not of the form `call: action # reason`"
      case .unknownCall(let name): "unknown system call \(name)"
      case .unknownAction(let name): "unknown action \(name): allow or errno NAME"
      case .unknownConstant(let name): "unknown constant \(name)"
      case .notAnErrno(let name): "\(name) is not an error number"
      case .badCondition(let text): "not a condition: \(text)"
      case .argumentTwice(let argument): "arg\(argument) is compared twice"
      case .overlaps(let line): "overlaps with line \(line)"
      }
    return "\(policy).policy:\(line): \(text)"
  }
}
