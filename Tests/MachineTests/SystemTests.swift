import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Whole systems as their makers ship them (`make -C guests systems`), on the software CPU.
  @Suite(.enabled(if: Machines.isLong, Machines.long)) struct Systems {
    @Test(arguments: 1...20, [1, 2])
    func debianBootsLogsInAndPowersOff(_ round: Int, processors: Int) async throws {
      try await Self.boot("debian.img", processors: processors)
    }

    @Test(arguments: ["debian-generic.img", "debian-i386.img"], [1, 2])
    func otherKernelsBootLogInAndPowerOff(_ disk: String, processors: Int) async throws {
      try await Self.boot(disk, processors: processors)
    }

    @Test(arguments: [1, 2]) func idleDebianCostsLessThan3PercentOfAProcessor(processors: Int) async throws {
      try await Self.boot("debian.img", processors: processors) { run in
        // What systemd leaves for later.
        try await Task.sleep(for: .seconds(20))
        let processes = try await [run.pid, run.deviceProcess()]
        func time() -> Double { processes.reduce(0) { $0 + ProcessTable.processorTime(of: $1) } }
        let (start, before) = (monotonicNanoseconds(), time())
        try await Task.sleep(for: .seconds(30))
        let share = (time() - before) / (Double(monotonicNanoseconds() - start) / 1e9)
        #expect(share < 0.03, "\(share * 100) % of a processor")
      }
    }

    @Test func memtestTestsMemory() async throws {
      let screen = try await Self.screen(of: "memtest86+.iso", options: ["--timeout", "60s"]) { run in
        let ending = try await run.end()
        #expect(ending == .exited(124), "\(run.transcript)")
      }
      #expect(screen.contains("Memtest86+ v6"), "\(screen)")
      #expect(screen.contains("Status: Testing"), "\(screen)")
      #expect(screen.contains("Errors: 0"), "\(screen)")
    }

    @Test func grubRescueDiscShowsItsMenuAndPowersOff() async throws {
      let screen = try await Self.screen(of: "grub-rescue.iso") { run in
        // SeaBIOS shows on COM1 what GRUB writes to the screen by int 10h, and types what comes in.
        try await run.wait(for: "command-line", seconds: 120)
        try run.send("c")
        // Its delays are as long as its measure of the TSC is right, which takes a host that lets it run.
        try await run.wait(for: "grub>", seconds: 240)
        try run.send("halt\r")
        #expect(try await run.end(seconds: 60) == .exited(0), "\(run.transcript)")
      }
      #expect(screen.contains("GNU GRUB  version 2"), "\(screen)")
      #expect(screen.contains("grub> halt"), "\(screen)")
    }

    // MARK: Steps

    /// What Linux says when it is of no use to wait any longer.
    static let failures = ["Kernel panic", "Oops", "BUG: ", "segfault at", "INFO: rcu", "emergency mode"]

    /// From SeaBIOS through GRUB to a shell in which all services are up, where `body` may do something, and off by ACPI.
    static func boot(
      _ disk: String, processors: Int, body: (RunningProgram) async throws -> Void = { _ in }
    ) async throws {
      let arguments = try Machines.arguments(disk, "-m", "1G", "-c", "\(processors)", on: .soft)
      try await run(arguments, seconds: 900) { run in
        try await logIn(run, processors: processors)
        try await body(run)
        try await powerOff(run)
      }
    }

    /// From SeaBIOS through GRUB to a shell in which all services are up.
    static func logIn(_ run: RunningProgram, processors: Int = 1) async throws {
      try await run.wait(for: "SeaBIOS", seconds: 60)
      try await run.wait(for: "Loading Linux", seconds: 60)
      try await run.wait(for: "Linux version", seconds: 120)
      try await run.wait(for: "login: ", unless: failures, seconds: 600)
      try run.send("root\r")
      try await run.wait(for: "root@vmrun:~# ", unless: failures, seconds: 120)
      // Its status is 0 where no service has failed.
      try run.send("systemctl is-system-running --wait && echo $((6 * 7)) with $(nproc)\r")
      try await run.wait(for: "42 with \(processors)", unless: failures + ["degraded"], seconds: 120)
    }

    static func powerOff(_ run: RunningProgram) async throws {
      try run.send("poweroff\r")
      #expect(try await run.end(seconds: 120) == .exited(0), "\(run.transcript)")
    }

    static func run(
      _ arguments: [String], seconds: Double, body: (RunningProgram) async throws -> Void
    ) async throws {
      try await GuestRunner.run(
        arguments, program: GuestRunner.releaseProgram, streams: ProgramStreams(input: .pipe), seconds: seconds,
        body: body)
    }

    /// Boots a CD-ROM, and returns what the text screen shows in the end.
    private static func screen(
      of disc: String, options: [String] = [], body: (RunningProgram) async throws -> Void
    ) async throws -> String {
      let file = try TemporaryFile()
      let arguments = [
        "-m", "256M", "--cdrom", try GuestRunner.guest(disc), "--boot", "cdrom", "--screen-text", file.path,
      ]
      try await run(Engine.soft.arguments + arguments + options, seconds: 500, body: body)
      return String(decoding: try file.contents(), as: UTF8.self)
    }
  }
}
