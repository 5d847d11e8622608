import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Standard streams in every state that scripts leave them in, and the other serial connections.
  @Suite struct Streams {
    /// Sources of input that a guest which reads nothing must not notice.
    static let inputs: [ProgramStreams.Stream] = [
      .closed, .null, .pipe, .file("/dev/zero"), .file("/"), .file("/dev/full"),
    ]

    @Test(arguments: inputs) func anyInputWillDo(_ input: ProgramStreams.Stream) async throws {
      let run = try await GuestRunner.run(hello(), streams: ProgramStreams(input: input))
      #expect(run.ending == .exited(0), "\(run.transcript)")
      #expect(lines(run.output).contains("PASS hello"))
    }

    @Test(arguments: [ProgramStreams.Stream.closed, .null]) func outputMayBeMissing(_ output: ProgramStreams.Stream)
      async throws
    {
      let run = try await GuestRunner.run(hello(), streams: ProgramStreams(output: output))
      #expect(run.ending == .exited(0), "\(run.transcript)")
    }

    @Test func allThreeMayBeClosed() async throws {
      let run = try await GuestRunner.run(hello(), streams: ProgramStreams(input: .closed, output: .closed))
      #expect(run.ending == .exited(0), "\(run.transcript)")
    }

    @Test func fullDiskStopsTheOutputNotTheGuestAndIsSaidOnce() async throws {
      let run = try await GuestRunner.run(hello(), streams: ProgramStreams(output: .file("/dev/full")))
      #expect(run.ending == .exited(0), "\(run.transcript)")
      #expect(lines(run.error).filter { $0.contains("No space left on device") }.count == 1, "\(run.transcript)")
    }

    @Test func readerThatLeavesStopsTheOutputNotTheGuest() async throws {
      let disk = try GuestRunner.guest("test-disk.img") + ",snapshot=on"
      let arguments = try Machines.arguments("diskwriter.rom", "--disk", disk, "--timeout", "2s")
      try await GuestRunner.run(arguments, streams: ProgramStreams(input: .pipe)) { run in
        try await run.wait(for: "flushed")
        run.hangUp()
        #expect(try await run.end() == .exited(124), "\(run.transcript)")
        #expect(lines(run.error).filter { $0.contains("Broken pipe") }.count == 1, "\(run.transcript)")
      }
    }

    @Test func textForAFullDiskIsAnError() async throws {
      let run = try await GuestRunner.run(["--help"], streams: ProgramStreams(output: .file("/dev/full")))
      #expect(run.ending == .exited(125))
      #expect(run.error.contains("standard output"))
    }

    @Test func endOfInputLeavesTheGuestRunning() async throws {
      let run = try await GuestRunner.run(Machines.arguments("serial-echo.rom", "--timeout", "2s"))
      #expect(run.ending == .exited(124) && run.output.contains("ready"), "\(run.transcript)")
    }

    // MARK: --serial

    @Test func serialFileGetsTheOutput() async throws {
      let file = try TemporaryFile()
      let run = try await GuestRunner.run(hello("--serial", "file:\(file.path)"))
      #expect(run.ending == .exited(0) && run.output.isEmpty, "\(run.transcript)")
      #expect(lines(String(decoding: try file.contents(), as: UTF8.self)).contains("PASS hello"))
    }

    @Test func serialFileOnAFullDiskIsSaidOnce() async throws {
      let run = try await GuestRunner.run(hello("--serial", "file:/dev/full"))
      #expect(run.ending == .exited(0), "\(run.transcript)")
      #expect(lines(run.error).filter { $0.contains("No space left on device") }.count == 1, "\(run.transcript)")
    }

    @Test func serialNullDropsTheOutput() async throws {
      let run = try await GuestRunner.run(hello("--serial", "null"))
      #expect(run.ending == .exited(0) && run.output.isEmpty, "\(run.transcript)")
    }

    @Test func serialSocketCarriesBothWaysAndIsRemoved() async throws {
      let path = "/tmp/vmrun-test-\(monotonicNanoseconds()).sock"
      try await GuestRunner.run(Machines.arguments("serial-echo.rom", "--serial", "unix:\(path)")) { run in
        _ = try await run.deviceProcess()
        try await UnixClient.connect(to: path).converse(run)
      }
      #expect(throws: SystemError.self) { _ = try UnixSocket.connect(to: path) }
      #expect(ProcessTable.names(in: "/tmp")?.contains(String(path.dropFirst(5))) == false)
    }

    @Test func serialTerminalCarriesBothWays() async throws {
      try await GuestRunner.run(Machines.arguments("serial-echo.rom", "--serial", "pty")) { run in
        try await run.wait(for: "serial0 is /dev/pts/", on: .error)
        _ = try await run.deviceProcess()
        let line = try #require(lines(run.error).first { $0.contains("/dev/pts/") })
        let path = String(try #require(line.split(separator: " ").last))
        try await UnixClient(try Descriptor.open(path, .readWrite).release()).converse(run)
      }
    }

    private func hello(_ more: String...) throws -> [String] { try Machines.arguments("hello.rom") + more }
  }
}

extension UnixClient {
  /// Talks with the echo guest until it ends. What was sent before the guest listens may be lost, so it is repeated.
  fileprivate func converse(_ run: RunningProgram) async throws {
    var heard = ""
    for _ in 0..<50 where !heard.contains("HELLO") {
      try send("hello ")
      heard += receive(milliseconds: 100) ?? ""
      await Task.yield()
    }
    #expect(heard.contains("HELLO"), "\(heard) \(run.transcript)")
    // The guest reports whether an interrupt came, so the last byte finds it asleep.
    while receive(milliseconds: 300)?.isEmpty == false { await Task.yield() }
    try send("q")
    #expect(try await run.end() == .exited(0), "\(run.transcript)")
  }
}
