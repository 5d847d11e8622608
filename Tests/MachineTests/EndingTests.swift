import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// How runs end that the guest does not end. Whatever the way, `GuestRunner` sees to it that nothing is left running.
  @Suite struct Endings {
    @Test(arguments: [SignalNumber.hangUp, SignalNumber.interrupt, SignalNumber.terminate], Engine.usable)
    func signalEndsWith128AndItsNumber(_ signal: CInt, _ engine: Engine) async throws {
      try await GuestRunner.run(Machines.arguments("spin.rom", on: engine)) { run in
        try await run.wait(for: "spinning")
        let start = monotonicNanoseconds()
        run.signal(signal)
        #expect(try await run.allEnd(since: start).all < 1)
        #expect(run.ending == .exited(128 + signal))
      }
    }

    @Test(arguments: [SignalNumber.windowChanged, SignalNumber.user2])
    func otherSignalsEndNothing(_ signal: CInt) async throws {
      try await GuestRunner.run(arguments("diskwriter.rom", on: .usual)) { run in
        try await run.wait(for: "flushed 1 ")
        run.signal(signal)
        let count = run.output.utf8.count
        try await run.wait(for: "flushed", after: count)
        #expect(run.ending == nil)
      }
    }

    @Test(arguments: ["spin.rom", "halt.rom", "diskwriter.rom"], Engine.usable)
    func killedDeviceProcessEndsWith125WithinASecond(_ guest: String, _ engine: Engine) async throws {
      try await GuestRunner.run(arguments(guest, on: engine)) { run in
        let devices = try await run.deviceProcess()
        try await run.wait(for: guest == "spin.rom" ? "spinning" : guest == "halt.rom" ? "halted" : "flushed")
        let start = monotonicNanoseconds()
        signalProcess(devices, SignalNumber.kill)
        #expect(try await run.allEnd(since: start).all < 1)
        #expect(run.ending == .exited(125))
        #expect(run.error.contains("the device process was killed by signal 9"), "\(run.transcript)")
      }
    }

    @Test(arguments: ["spin.rom", "halt.rom", "diskwriter.rom"], Engine.usable)
    func killedLauncherTakesTheDeviceProcessAlong(_ guest: String, _ engine: Engine) async throws {
      try await GuestRunner.run(arguments(guest, on: engine)) { run in
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

    @Test(arguments: Engine.usable) func timeLimitEndsWith124InTime(_ engine: Engine) async throws {
      let start = monotonicNanoseconds()
      try await GuestRunner.run(Machines.arguments("spin.rom", "--timeout", "1500ms", on: engine)) { run in
        let seconds = try await run.allEnd(since: start).all
        #expect(run.ending == .exited(124))
        #expect(1.5 <= seconds && seconds < 3, "\(seconds) s")
        #expect(run.error.contains("--timeout ran out"))
      }
    }

    @Test(arguments: Engine.usable) func allProcessorsStopAtTheEnd(_ engine: Engine) async throws {
      let run = try await GuestRunner.run(Machines.arguments("smp.rom", "-c", "16", on: engine))
      #expect(run.ending == .exited(0), "\(run.transcript)")
    }

    @Test func withoutASandboxTheProcessesStillEndTogether() async throws {
      try await GuestRunner.run(Machines.arguments("spin.rom", "--sandbox", "off")) { run in
        try await run.wait(for: "spinning")
        let start = monotonicNanoseconds()
        run.signal(SignalNumber.kill)
        #expect(try await run.allEnd(since: start).all < 1)
      }
    }

    private func arguments(_ guest: String, on engine: Engine) throws -> [String] {
      try Machines.arguments(guest, "--disk", GuestRunner.guest("test-disk.img") + ",snapshot=on", on: engine)
    }
  }
}
