import Sandbox
import Testing

struct PolicyTests {
  @Test(arguments: BuiltInPolicy.allCases)
  func builtInPoliciesParseAndGiveAReasonForEveryRule(_ builtIn: BuiltInPolicy) throws {
    let policy = try builtIn.policy()
    #expect(policy.name == builtIn.rawValue)
    #expect(policy.rules.count > 50)
    #expect(policy.rules.allSatisfy { !$0.reason.isEmpty })
    #expect(policyText().contains(builtIn.text))
  }

  @Test(arguments: BuiltInPolicy.allCases)
  func noPolicyGrantsAWayOutOfTheSandbox(_ builtIn: BuiltInPolicy) throws {
    let granted = Set(try builtIn.policy().rules.filter { $0.action == .allow }.map(\.call))
    var forbidden: Set<String> = [
      "open", "openat", "openat2", "creat", "execve", "execveat", "fork", "vfork", "clone3", "ptrace", "kill", "tkill",
      "socket", "connect", "bind", "listen", "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "bpf",
      "seccomp", "io_uring_setup", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "pidfd_open", "keyctl",
      "perf_event_open", "userfaultfd", "init_module", "memfd_create", "pkey_mprotect", "personality", "setuid",
    ]
    if builtIn == .network {
      // Its sockets are of the Internet protocols, and the one file that there is can be read.
      forbidden.subtract(["socket", "connect", "bind", "listen", "openat"])
      let rules = try builtIn.policy().rules
      #expect(rules.filter { $0.call == "socket" }.allSatisfy { $0.conditions.first?.argument == 0 })
      #expect(rules.filter { $0.call == "openat" }.allSatisfy { $0.conditions.first?.value == .number(0) })
    }
    #expect(granted.isDisjoint(with: forbidden))
  }

  @Test func parsesActionsConditionsAndReasons() throws {
    let policy = try Policy(
      name: "test",
      text: """
        # a comment

        read: allow # data
        clone3:  errno   ENOSYS   #   libc falls back
        mmap: allow if arg2 & PROT_EXEC == 0 and arg0 == 0x10 # no code # ever
        fcntl: allow if arg1 < 3 # small
        tgkill: allow if arg0 == OWN_PID # itself
        openat: errno ENOENT if arg2 & O_CREAT|0x3 == 0 # nothing there
        """)
    #expect(policy.rules.map(\.call) == ["read", "clone3", "mmap", "fcntl", "tgkill", "openat"])
    #expect(policy.rules.map(\.line) == [3, 4, 5, 6, 7, 8])
    #expect(policy.rules.map(\.number) == [0, 435, 9, 72, 234, 257])
    #expect(policy.rules.map(\.action) == [.allow, .errno(38), .allow, .allow, .allow, .errno(2)])
    #expect(policy.rules[1].reason == "libc falls back")
    #expect(policy.rules[2].reason == "no code # ever")
    #expect(
      policy.rules[2].conditions == [
        .init(argument: 2, mask: 4, comparison: .equal, value: .number(0)),
        .init(argument: 0, mask: nil, comparison: .equal, value: .number(16)),
      ])
    #expect(policy.rules[3].conditions == [.init(argument: 1, mask: nil, comparison: .less, value: .number(3))])
    #expect(policy.rules[4].conditions == [.init(argument: 0, mask: nil, comparison: .equal, value: .ownProcess)])
    #expect(policy.rules[5].conditions.first?.mask == 0x43)
  }

  static let wrong: [(text: String, problem: PolicyError.Problem)] = [
    ("read: allow", .noReason),
    ("read: allow #", .noReason),
    ("read: allow if arg0 == 1 #  ", .noReason),
    ("read # why", .noAction),
    ("read: # why", .noAction),
    ("read allow # why", .noAction),
    ("read: errno # why", .noAction),
    ("raed: allow # why", .unknownCall("raed")),
    (": allow # why", .unknownCall("")),
    ("read: permit # why", .unknownAction("permit")),
    ("read: errno ENOSUCH # why", .notAnErrno("ENOSUCH")),
    ("read: errno PROT_EXEC # why", .notAnErrno("PROT_EXEC")),
    ("read: errno 0 # why", .notAnErrno("0")),
    ("read: allow arg0 == 1 # why", .badCondition("arg0 == 1")),
    ("read: allow if # why", .badCondition("")),
    ("read: allow if arg6 == 1 # why", .badCondition("arg6 == 1")),
    ("read: allow if arg-1 == 1 # why", .badCondition("arg-1 == 1")),
    ("read: allow if arg01 == 1 # why", .badCondition("arg01 == 1")),
    ("read: allow if arg0 = 1 # why", .badCondition("arg0 = 1")),
    ("read: allow if arg0 & 1 != 1 # why", .badCondition("arg0 & 1 != 1")),
    ("read: allow if arg0 & 1 == 2 # why", .badCondition("arg0 & 1 == 2")),
    ("read: allow if arg0 == 1 and # why", .badCondition("")),
    ("read: allow if arg0 == -1 # why", .unknownConstant("-1")),
    ("read: allow if arg0 == 1| # why", .unknownConstant("")),
    ("read: allow if arg0 == 0xg # why", .unknownConstant("0xg")),
    ("read: allow if arg0 == 18446744073709551616 # why", .unknownConstant("18446744073709551616")),
    ("read: allow if arg0 == PROT_EXE # why", .unknownConstant("PROT_EXE")),
    ("read: allow if arg0 > 1 and arg0 < 9 # why", .argumentTwice(0)),
    ("write: allow # why\nwrite: errno EPERM if arg0 == 1 # why", .overlaps(line: 1)),
    ("write: allow if arg0 == 1 # why\nwrite: allow # why", .overlaps(line: 1)),
    ("write: allow if arg0 == 1 # why\nwrite: allow if arg0 == 1 # why", .overlaps(line: 1)),
  ]

  @Test(arguments: wrong)
  func aWrongLineIsRefusedWithItsNumber(_ entry: (text: String, problem: PolicyError.Problem)) {
    let text = "# first\nread: allow if arg1 == 0 # good\n"
    let lines = entry.text.split(separator: "\n").count
    #expect {
      // `overlaps` counts from the entry's own first line.
      _ = try Policy(name: "test", text: lines == 2 ? entry.text : text + entry.text)
    } throws: { error in
      guard let error = error as? PolicyError else { return false }
      let line = lines == 2 ? 2 : 3
      return error == PolicyError(policy: "test", line: line, problem: entry.problem)
    }
  }

  @Test func anErrorNamesFileAndLine() {
    let error = #expect(throws: PolicyError.self) { try Policy(name: "device", text: "\n\nraed: allow # why") }
    #expect(error?.description == "device.policy:3: unknown system call raed")
  }

  @Test func callsAreNamedByNumber() {
    #expect(syscallName(257) == "openat")
    #expect(syscallName(435) == "clone3")
    #expect(syscallName(9999) == "system call 9999")
  }
}
