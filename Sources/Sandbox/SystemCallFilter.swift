import CSandbox
import CSeccomp
import LinuxSystem

/// A policy compiled to the BPF program that the kernel runs at each system call. Made once, installed on any number of
/// threads.
public struct SystemCallFilter: Sendable {
  public enum Scope: Sendable {
    case thread
    /// Every thread of the process, those of later as well.
    case process
  }

  /// Each is a `struct sock_filter`.
  private let instructions: [UInt64]

  /// How many instructions the longest way through the program has at most.
  public var instructionCount: Int { instructions.count }

  /// Compiles the policy for the calling process, whose number stands for `OWN_PID`.
  public init(_ policy: Policy) throws(SandboxError) {
    // A forbidden call raises SIGSYS, whose handler records the call and ends the process, so that the message can
    // name it. It is as sure as the kernel's own kill: the kernel kills where SIGSYS is blocked, ignored or without a
    // handler, and no policy lets the handler be replaced.
    guard let context = seccomp_init(seccompTrap) else { throw .system(SystemError("seccomp_init", errno: EINVAL)) }
    defer { seccomp_release(context) }
    func check(_ result: CInt, line: Int? = nil) throws(SandboxError) {
      guard result >= 0 else {
        throw .filter(policy: policy.name, line: line, SystemError("seccomp", errno: 0 &- result))
      }
    }
    // The x32 and i386 ABIs number calls differently: no handler, no answer.
    try check(seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, seccompKillProcess))
    // A binary search instead of a list. libseccomp before 2.5 has none and does without.
    _ = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2)
    for rule in policy.rules {
      let comparisons = rule.conditions.map(\.libseccompComparison)
      try check(
        seccomp_rule_add_array(
          context, rule.action.libseccompAction, rule.number, CUnsignedInt(comparisons.count), comparisons),
        line: rule.line)
    }
    do throws(SystemError) {
      instructions = try SystemCallFilter.export(context)
    } catch {
      throw .filter(policy: policy.name, line: nil, error)
    }
  }

  /// Installs the filter for ever; sets no_new_privs. Later filters can only take more away.
  public func install(on scope: Scope) throws(SandboxError) {
    guard csandbox_prctl(PR_SET_NO_NEW_PRIVS, 1) == 0 else {
      throw .system(SystemError("prctl(PR_SET_NO_NEW_PRIVS)"))
    }
    guard let count = CUnsignedShort(exactly: instructions.count) else {
      throw .system(SystemError("seccomp", errno: E2BIG))
    }
    let result = instructions.withUnsafeBytes { csandbox_seccomp($0.baseAddress, count, scope == .process) }
    guard result >= 0 else { throw .system(SystemError("seccomp")) }
    guard result == 0 else { throw .system(SystemError("seccomp", "thread \(result)", errno: EBUSY)) }
  }

  /// libseccomp writes programs to descriptors only.
  private static func export(_ context: scmp_filter_ctx) throws(SystemError) -> [UInt64] {
    // A pipe holds 64 KiB, twice the longest program that the kernel takes.
    let pipe = try Pipe.make()
    let input = Descriptor(owning: pipe.read)
    let output = Descriptor(owning: pipe.write)
    let result = seccomp_export_bpf(context, output.raw)
    guard result == 0 else { throw SystemError("seccomp_export_bpf", errno: 0 &- result) }
    _ = consume output
    var program: [UInt64] = []
    var part = [UInt64](repeating: 0, count: 512)
    while true {
      let raw = input.raw
      let count = try retrying("read") { part.withUnsafeMutableBytes { read(raw, $0.baseAddress, $0.count) } }
      guard count > 0 else { break }
      // What libseccomp writes at once is read in whole instructions.
      guard count % 8 == 0 else { throw SystemError("seccomp_export_bpf", errno: EIO) }
      program += part.prefix(count / 8)
    }
    guard !program.isEmpty else { throw SystemError("seccomp_export_bpf", errno: EIO) }
    return program
  }
}

// seccomp.h has these as macros with casts.
private let seccompTrap: UInt32 = 0x0003_0000
private let seccompKillProcess: UInt32 = 0x8000_0000
private let seccompAllow: UInt32 = 0x7fff_0000
private let seccompErrno: UInt32 = 0x0005_0000

extension Policy.Action {
  fileprivate var libseccompAction: UInt32 {
    switch self {
    case .allow: seccompAllow
    case .errno(let number): seccompErrno | UInt32(truncatingIfNeeded: number & 0xffff)
    }
  }
}

extension Policy.Condition {
  fileprivate var libseccompComparison: scmp_arg_cmp {
    let value =
      switch value {
      case .number(let number): number
      case .ownProcess: UInt64(getpid())
      }
    let argument = CUnsignedInt(argument)
    if let mask { return scmp_arg_cmp(arg: argument, op: SCMP_CMP_MASKED_EQ, datum_a: mask, datum_b: value) }
    let operation =
      switch comparison {
      case .equal: SCMP_CMP_EQ
      case .notEqual: SCMP_CMP_NE
      case .less: SCMP_CMP_LT
      case .lessOrEqual: SCMP_CMP_LE
      case .greater: SCMP_CMP_GT
      case .greaterOrEqual: SCMP_CMP_GE
      }
    return scmp_arg_cmp(arg: argument, op: operation, datum_a: value, datum_b: 0)
  }
}
