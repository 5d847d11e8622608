import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// The processes of a run, as the host sees them while the guest runs.
  @Suite struct SandboxedRuns {
    @Test func deviceProcessHasNoRights() async throws {
      try await whileRunning { run, devices in
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
          #expect(ProcessTable.status(field, of: devices) == "0000000000000000", "\(field)")
        }
        #expect(ProcessTable.status("NoNewPrivs", of: devices) == "1")
        if isRoot { #expect(ProcessTable.status("Uid", of: devices)?.hasPrefix("0\t") == false) }
        let threads = ProcessTable.threads(of: devices)
        #expect(threads.count > 1)
        for thread in threads { #expect(ProcessTable.status("Seccomp", of: devices, thread: thread) == "2") }
      }
    }

    @Test(arguments: ["user", "mnt", "pid", "net", "ipc", "uts"])
    func deviceProcessHasANamespaceOfItsOwn(_ name: String) async throws {
      try await whileRunning { run, devices in
        let namespace = linkTarget("/proc/\(devices)/ns/\(name)")
        #expect(namespace.hasPrefix("\(name):"))
        #expect(namespace != linkTarget("/proc/\(run.pid)/ns/\(name)"))
      }
    }

    @Test(.enabled(if: isRoot, "only root may look into the root directory of a process that cannot be traced"))
    func deviceProcessHasAnEmptyRoot() async throws {
      try await whileRunning { _, devices in
        #expect(ProcessTable.names(in: "/proc/\(devices)/root/") == [])
      }
    }

    @Test(.enabled(if: isRoot, "only root may look at the descriptors of a process that cannot be traced"))
    func deviceProcessHasNeitherKVMNorDirectories() async throws {
      try await whileRunning { run, devices in
        let descriptors = try #require(ProcessTable.names(in: "/proc/\(devices)/fd"))
        let targets = Set(descriptors.map { linkTarget("/proc/\(devices)/fd/\($0)") })
        #expect(targets.count > 5)
        #expect(!targets.contains { $0.contains("kvm") || $0.hasSuffix("/") }, "\(targets)")
        // Nothing of what the test program has open came along.
        #expect(!targets.contains { $0.contains("xctest") }, "\(targets)")
        #expect(ProcessTable.names(in: "/proc/\(run.pid)/fd")?.isEmpty == false)
      }
    }

    @Test(arguments: Engine.usable) func processorThreadsAreFiltered(_ engine: Engine) async throws {
      try await whileRunning(["-c", "4"], on: engine) { run, _ in
        try await run.waitForFilteredThreads("vcpu", count: 4)
        if engine == .soft { try await run.waitForFilteredThreads("interrupts", count: 1) }
      }
    }

    @Test func strictRunsWhereEverythingIsThereAndElseSaysWhatIsMissing() async throws {
      let usual = try await GuestRunner.run(Machines.arguments("hello.rom"))
      let missing = lines(usual.error).filter { $0.contains("sandbox: ") }
      let strict = try await GuestRunner.run(Machines.arguments("hello.rom", "--sandbox", "strict"))
      #expect(strict.ending == .exited(missing.isEmpty ? 0 : 125), "\(strict.transcript)")
      if !missing.isEmpty { #expect(strict.error.contains("--sandbox strict")) }
    }

    private func whileRunning(
      _ more: [String] = [], on engine: Engine = .usual, _ body: (RunningProgram, CInt) async throws -> Void
    ) async throws {
      try await GuestRunner.run(Machines.arguments("spin.rom", on: engine) + more) { run in
        let devices = try await run.deviceProcess()
        try await run.wait(for: "spinning")
        try await body(run, devices)
      }
    }
  }
}
