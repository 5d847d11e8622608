import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Networks of whole machines, from the outside.
  @Suite struct Networks {
    /// What starts when the guest uses it: see the guest `rtl8139` too, which gets an answer to its first frame.
    @Test func aNetworkWithoutPortsHasNoProcessBeforeTheGuestSends() async throws {
      try await GuestRunner.run(Machines.arguments("spin.rom", "--net", "user")) { run in
        try await run.wait(for: "spinning")
        #expect(Self.process(of: run) == nil)
      }
    }

    @Test func networkProcessHasTheHostsNetworkAndNothingElse() async throws {
      try await whileRunning(["--net", "user,hostfwd=tcp:127.0.0.1:48223-:22"]) { run, network in
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
          #expect(ProcessTable.status(field, of: network) == "0000000000000000", "\(field)")
        }
        #expect(ProcessTable.status("NoNewPrivs", of: network) == "1")
        #expect(ProcessTable.status("Threads", of: network) == "1")
        if isRoot { #expect(ProcessTable.status("Uid", of: network)?.hasPrefix("0\t") == false) }
        for name in ["user", "mnt", "pid", "ipc", "uts"] {
          #expect(linkTarget("/proc/\(network)/ns/\(name)") != linkTarget("/proc/\(run.pid)/ns/\(name)"), "\(name)")
        }
        #expect(linkTarget("/proc/\(network)/ns/net") == linkTarget("/proc/\(run.pid)/ns/net"))
        if isRoot {
          #expect(ProcessTable.names(in: "/proc/\(network)/root/") == ["etc"])
          #expect(ProcessTable.names(in: "/proc/\(network)/root/etc") == ["resolv.conf"])
        }
      }
    }

    @Test func withoutItsProcessTheGuestGoesOnAndALineSaysSo() async throws {
      try await whileRunning(["--net", "user,hostfwd=tcp:127.0.0.1:48224-:22"]) { run, network in
        signalProcess(network, SignalNumber.kill)
        try await run.wait(for: "net0: its process was killed by signal 9", on: .error)
        #expect(ProcessTable.isRunning(run.pid))
        #expect(run.ending == nil)
      }
    }

    @Test(arguments: ["tcp", "udp"])
    func aTakenPortEndsTheRunBeforeTheGuestStarts(_ transport: String) async throws {
      let forward = "hostfwd=\(transport):127.0.0.1:48222-:22"
      try await whileRunning(["--net", "user,\(forward)"]) { _, _ in
        let second = try await GuestRunner.run(Machines.arguments("hello.rom", "--net", "user,\(forward)"))
        #expect(second.ending == .exited(125))
        #expect(second.output.isEmpty)
        let errors = lines(second.error).filter { $0.contains("net0") }
        #expect(errors.count == 1 && errors[0].contains("Address already in use; give another port"), "\(second.error)")
      }
      // And is free again at once.
      let third = try await GuestRunner.run(Machines.arguments("hello.rom", "--net", "user,\(forward)"))
      #expect(third.ending == .exited(0), "\(third.transcript)")
    }

    @Test(arguments: [
      ("unix,path=/nonexistent/socket", "start the peer first"), ("tap,fd=99", "give the number of an open descriptor"),
      ("tap,ifname=lo", "no TAP interface"), ("user,pcap=/nonexistent/a.pcap", "cannot write"),
    ])
    func aNetworkThatTheHostRefusesIsOneLine(_ network: String, _ advice: String) async throws {
      let run = try await GuestRunner.run(Machines.arguments("hello.rom", "--net", network))
      #expect(run.ending == .exited(125))
      #expect(run.error.contains("net0: ") && run.error.contains(advice), "\(run.error)")
    }

    private func whileRunning(
      _ more: [String], _ body: (RunningProgram, CInt) async throws -> Void
    ) async throws {
      try await GuestRunner.run(Machines.arguments("spin.rom") + more) { run in
        try await run.wait(for: "spinning")
        try await body(run, #require(Self.process(of: run)))
      }
    }

    private static func process(of run: RunningProgram) -> CInt? {
      ProcessTable.children(of: run.pid).first { ProcessTable.status("Name", of: $0) == "vmrun-network" }
    }
  }
}
