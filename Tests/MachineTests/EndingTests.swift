import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// How runs end that the guest does not end. Whatever the way, `GuestRunner` sees to it that nothing is left running.
  @Suite(.enabled(if: Engine.kvm.isUsable, Engine.kvm.comment)) struct Endings {
    @Test(arguments: [SignalNumber.hangUp, SignalNumber.interrupt, SignalNumber.terminate])
    func signalEndsWith128AndItsNumber(_ signal: CInt) async throws {
      try await GuestRunner.run(arguments("spin.rom")) { run in
        try await run.wait(for: "spinning")
        let start = monotonicNanoseconds()
        run.signal(signal)
        #expect(try await run.allEnd(since: start).all < 1)
        #expect(run.ending == .exited(128 + signal))
      }
    }

    @Test(arguments: ["spin.rom", "halt.rom", "diskwriter.rom"])
    func killedDeviceProcessEndsWith125WithinASecond(_ guest: String) async throws {
      try await GuestRunner.run(arguments(guest, "--disk", GuestRunner.guest("test-disk.img") + ",snapshot=on")) {
        run in
        let devices = try await run.deviceProcess()
        try await run.wait(for: guest == "spin.rom" ? "spinning" : guest == "halt.rom" ? "halted" : "flushed")
        let start = monotonicNanoseconds()
        signalProcess(devices, SignalNumber.kill)
        #expect(try await run.allEnd(since: start).all < 1)
        #expect(run.ending == .exited(125))
        #expect(run.error.contains("the device process was killed by signal 9"), "\(run.transcript)")
      }
    }

    @Test(arguments: ["spin.rom", "halt.rom", "diskwriter.rom"])
    func killedLauncherTakesTheDeviceProcessAlong(_ guest: String) async throws {
      try await GuestRunner.run(arguments(guest, "--disk", GuestRunner.guest("test-disk.img") + ",snapshot=on")) {
        run in
        let devices = try await run.deviceProcess()
        try await run.wait(for: guest == "spin.rom" ? "spinning" : guest == "halt.rom" ? "halted" : "flushed")
        let start = monotonicNanoseconds()
        run.signal(SignalNumber.kill)
        #expect(try await run.allEnd(since: start).all < 1)
        #expect(run.ending == .killed(signal: 9))
        // Its streams close a moment before it is gone.
        while ProcessTable.isRunning(devices), monotonicNanoseconds() - start < 1_000_000_000 {
          try await Task.sleep(for: .milliseconds(5))
        }
        #expect(!ProcessTable.isRunning(devices))
      }
    }

    @Test func timeLimitEndsWith124InTime() async throws {
      let start = monotonicNanoseconds()
      try await GuestRunner.run(arguments("spin.rom", "--timeout", "1500ms")) { run in
        let seconds = try await run.allEnd(since: start).all
        #expect(run.ending == .exited(124))
        #expect(1.5 <= seconds && seconds < 3, "\(seconds) s")
        #expect(run.error.contains("--timeout ran out"))
      }
    }

    @Test func allProcessorsStopAtTheEnd() async throws {
      let run = try await GuestRunner.run(arguments("smp.rom", "-c", "16"))
      #expect(run.ending == .exited(0), "\(run.transcript)")
    }

    @Test func withoutASandboxTheProcessesStillEndTogether() async throws {
      try await GuestRunner.run(arguments("spin.rom", "--sandbox", "off")) { run in
        try await run.wait(for: "spinning")
        let start = monotonicNanoseconds()
        run.signal(SignalNumber.kill)
        #expect(try await run.allEnd(since: start).all < 1)
      }
    }

    private func arguments(_ guest: String, _ more: String...) throws -> [String] {
      try Machines.arguments(guest) + more
    }
  }
}
