import LinuxSystem
import TestKit
import Testing

/// Ctrl-A.
private let escape = "\u{01}"

/// How a run on a terminal may end.
enum TerminalEnding: String, CaseIterable, Sendable {
  case quit, powerOff, exitDevice, panic, tripleFault, refusedReset, timeout, terminate, interrupt, hangUpSignal
  case deviceProcessKilled, launcherKilled, launcherKilledWithoutSandbox, missingImage

  var guest: String {
    switch self {
    case .powerOff: "power-off.rom"
    case .exitDevice: "exit-code.rom"
    case .panic: "pvpanic.rom"
    case .tripleFault: "triple-fault.rom"
    case .refusedReset: "reset.rom"
    default: "spin.rom"
    }
  }

  var options: [String] {
    switch self {
    case .refusedReset: ["--no-reboot"]
    case .timeout: ["--timeout", "1s"]
    case .launcherKilledWithoutSandbox: ["--sandbox", "off"]
    case .missingImage: ["/no/such.img"]
    default: []
    }
  }

  var ending: RunningProgram.Ending {
    switch self {
    case .quit, .interrupt: .exited(130)
    case .powerOff: .exited(0)
    case .exitDevice: .exited(42)
    case .panic: .exited(121)
    case .tripleFault: .exited(123)
    case .refusedReset: .exited(122)
    case .timeout: .exited(124)
    case .terminate: .exited(143)
    case .hangUpSignal: .exited(129)
    case .deviceProcessKilled, .missingImage: .exited(125)
    case .launcherKilled, .launcherKilledWithoutSandbox: .killed(signal: 9)
    }
  }

  /// What the test has to do for it once the guest spins.
  func bringAbout(_ run: RunningProgram) async throws {
    switch self {
    case .quit: try run.send("\(escape)x")
    case .terminate: run.signal(SignalNumber.terminate)
    case .interrupt: run.signal(SignalNumber.interrupt)
    case .hangUpSignal: run.signal(SignalNumber.hangUp)
    case .deviceProcessKilled: signalProcess(try await run.deviceProcess(), SignalNumber.kill)
    case .launcherKilled, .launcherKilledWithoutSandbox: run.signal(SignalNumber.kill)
    default: break
    }
  }
}

extension Machines {
  /// vmrun on a terminal of its own.
  @Suite struct Terminals {
    @Test(arguments: TerminalEnding.allCases)
    func modeIsAsBeforeHoweverItEnds(_ way: TerminalEnding) async throws {
      let arguments = try Machines.arguments(way.guest) + way.options
      try await GuestRunner.run(arguments, streams: .terminal) { run in
        let before = run.initialTerminalMode
        if way.guest == "spin.rom", way != .missingImage {
          try await run.wait(for: "spinning")
          #expect(run.terminalMode != before, "a guest's terminal is raw")
        }
        let start = monotonicNanoseconds()
        try await way.bringAbout(run)
        let seconds = try await run.allEnd(since: start).all
        #expect(run.ending == way.ending, "\(run.transcript)")
        #expect(before != nil && run.terminalMode == before)
        if way == .launcherKilled || way == .deviceProcessKilled { #expect(seconds < 1) }
      }
    }

    @Test func closedTerminalEndsWithHangUp() async throws {
      try await GuestRunner.run(arguments("spin.rom"), streams: .terminal) { run in
        try await run.wait(for: "spinning")
        let start = monotonicNanoseconds()
        run.hangUp()
        #expect(try await run.allEnd(since: start).all < 2)
        #expect(run.ending == .exited(129), "\(run.transcript)")
      }
    }

    @Test func controlAHPrintsHelpAndTheGuestGoesOn() async throws {
      try await echo { run in
        try run.send("\(escape)h")
        try await run.wait(for: "Ctrl-A x", on: .error)
        #expect(run.error.contains("Ctrl-A Ctrl-A"))
      }
    }

    @Test func controlATwiceIsOneForTheGuest() async throws {
      try await echo { run in
        try run.send("\(escape)\(escape)abc")
        try await run.wait(for: "\(escape)ABC")
      }
    }

    @Test func interruptKeysGoToTheGuest() async throws {
      // Ctrl-C, Ctrl-\, Ctrl-Z, Ctrl-D.
      try await echo { run in
        try run.send("\u{03}\u{1C}\u{1A}\u{04}abc")
        try await run.wait(for: "\u{03}\u{1C}\u{1A}\u{04}ABC")
      }
    }

    @Test func typedAheadReachesTheGuest() async throws {
      try await GuestRunner.run(arguments("serial-echo.rom"), streams: .terminal) { run in
        try await run.wait(for: "ready")
        try run.send(String(repeating: "abcdefgh", count: 64) + "\rq")
        #expect(try await run.end() == .exited(0))
        #expect(run.output.contains(String(repeating: "ABCDEFGH", count: 64)), "\(run.transcript)")
      }
    }

    @Test func continuedAfterAStopItIsRawAgain() async throws {
      try await GuestRunner.run(arguments("spin.rom"), streams: .terminal) { run in
        let before = run.initialTerminalMode
        try await run.wait(for: "spinning")
        let raw = run.terminalMode
        run.signal(SignalNumber.stop)
        run.restoreTerminal()
        #expect(run.terminalMode == before)
        run.signal(SignalNumber.continued)
        for _ in 0..<100 where run.terminalMode == before { try await Task.sleep(for: .milliseconds(10)) }
        #expect(run.terminalMode == raw)
      }
    }

    private func arguments(_ guest: String) throws -> [String] { try Machines.arguments(guest) }

    /// Runs `body` with a guest that echoes what it is sent in upper case, and ends the guest.
    private func echo(_ body: (RunningProgram) async throws -> Void) async throws {
      try await GuestRunner.run(arguments("serial-echo.rom"), streams: .terminal) { run in
        try await run.wait(for: "ready")
        try await body(run)
        try run.send("q")
        #expect(try await run.end() == .exited(0), "\(run.transcript)")
      }
    }
  }
}
