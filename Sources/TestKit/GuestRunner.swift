import LinuxSystem

/// Runs the `vmrun` that VMRUN_TEST_PROGRAM names, or else the one that was built with the tests.
public enum GuestRunner {
  public static let program: String = {
    if let program = environmentVariable("VMRUN_TEST_PROGRAM") { return program }
    // It lies in the build directory, as the test program does.
    let tests = linkTarget("/proc/self/exe")
    return tests[..<(tests.lastIndex(of: "/") ?? tests.startIndex)] + "/vmrun"
  }()

  /// What `make build` leaves: for whole systems, which an engine built for debugging takes too long for.
  public static var releaseProgram: String { "\(root)/.build/release/vmrun" }

  /// The top of the source tree.
  public static let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
    .joined(separator: "/")

  /// The path of a file that `make guests` has built.
  public static func guest(_ name: String) throws -> String {
    let path = "\(root)/guests/build/\(name)"
    guard (try? Descriptor.open(path, .readOnly)) != nil else {
      throw ProgramError("\(path) is missing: run make guests, or make -C guests systems")
    }
    return path
  }

  /// Why guests cannot run on KVM here, nil where they can.
  public static let kvmProblem: String? = {
    do throws(SystemError) {
      _ = try Descriptor.open("/dev/kvm", .readWrite)
      return nil
    } catch {
      return "no usable /dev/kvm: \(error.reason)"
    }
  }()

  /// Whether `/dev/kvm` is open to users that are not in its group.
  public static let kvmIsForEverybody = (fileMode("/dev/kvm") ?? 0) & 0o006 == 0o006

  /// Starts `vmrun` and lets `body` work with it. When `body` is done a vmrun that still runs is killed; that nothing is
  /// left running is then part of every test.
  /// - Parameter seconds: the time limit of the whole run.
  @discardableResult
  public static func run<Result>(
    _ arguments: [String], program: String = program, streams: ProgramStreams = ProgramStreams(), seconds: Double = 60,
    rights: ProgramRights = .same,
    body: (RunningProgram) async throws -> Result
  ) async throws -> Result {
    let running = try RunningProgram.start(program, arguments, streams: streams, seconds: seconds, rights: rights)
    do {
      let result = try await body(running)
      running.signal(SignalNumber.kill)
      try await running.allEnd()
      return result
    } catch {
      running.signal(SignalNumber.kill)
      _ = try? await running.allEnd()
      throw error
    }
  }

  /// Runs `vmrun` to its end where the files in `directory` are missing (mount_namespaces(7); needs root).
  public static func run(_ arguments: [String], without directory: String) async throws -> RunningProgram {
    let script = #"mount -t tmpfs none "$0" && exec "$@""#
    let running = try RunningProgram.start(
      "/usr/bin/unshare", ["--mount", "sh", "-c", script, directory, program] + arguments, seconds: 60)
    try await running.allEnd()
    return running
  }

  /// Runs `vmrun` to its end.
  public static func run(
    _ arguments: [String], streams: ProgramStreams = ProgramStreams(), seconds: Double = 60,
    rights: ProgramRights = .same
  ) async throws -> RunningProgram {
    try await run(arguments, streams: streams, seconds: seconds, rights: rights) { running in
      try await running.end()
      return running
    }
  }
}

extension RunningProgram {
  /// The process with the device models, once it has closed its sandbox.
  public func deviceProcess(seconds: Double = 60) async throws -> CInt {
    try await found("device process", seconds: seconds) {
      ProcessTable.children(of: pid).first {
        ProcessTable.status("Name", of: $0) == "vmrun-devices" && ProcessTable.status("Seccomp", of: $0) == "2"
      }
    }
  }

  /// Waits until its own process has exactly these threads with a name that begins with `prefix`, all of them under a
  /// system call filter: the guest runs on one vCPU while the others' threads begin.
  public func waitForFilteredThreads(_ prefix: String, count: Int, seconds: Double = 60) async throws {
    _ = try await found("\(count) filtered threads '\(prefix)'", seconds: seconds) {
      let threads = ProcessTable.threads(of: pid).filter {
        ProcessTable.status("Name", of: pid, thread: $0)?.hasPrefix(prefix) == true
      }
      let filtered = threads.count { ProcessTable.status("Seccomp", of: pid, thread: $0) == "2" }
      return threads.count == count && filtered == count ? threads : nil
    }
  }

  /// What `search` finds, as soon as it does.
  private func found<Value>(_ what: String, seconds: Double, _ search: () -> Value?) async throws -> Value {
    let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
    while true {
      if let value = search() { return value }
      guard monotonicNanoseconds() < deadline else {
        throw ProgramError("no \(what) within \(seconds) s\n\(transcript)")
      }
      try await Task.sleep(for: .milliseconds(5))
    }
  }
}
