import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// A disk with GRUB 2 as Debian has it, by way of SeaBIOS.
  @Suite struct GRUB {
    @Test(arguments: Engine.usable) func showsItsMenuAndPowersOff(_ engine: Engine) async throws {
      try await Self.boot(on: engine)
    }

    /// Boots as far as the menu and chooses its last entry, which powers off by ACPI.
    static func boot(on engine: Engine) async throws {
      let image = try TemporaryFile(contentsOf: GuestRunner.guest("demo.img"))
      let before = try image.contents()
      try await GuestRunner.run(
        engine.arguments + ["--snapshot", image.path], streams: ProgramStreams(input: .pipe), seconds: 400
      ) { run in
        try await run.wait(for: "SeaBIOS", seconds: 30)
        try await run.wait(for: "GNU GRUB", seconds: 240)
        // Its last line: the menu reads keys from here on. Three times down is the last entry.
        try await run.wait(for: "command-line", seconds: 30)
        try run.send("\u{0E}\u{0E}\u{0E}\r")
        #expect(try await run.end(seconds: 90) == .exited(0), "\(run.transcript)")
      }
      #expect(try image.contents() == before, "--snapshot leaves the image alone")
    }

    @Test func textScreenIsTheMenu() async throws {
      let screen = try TemporaryFile()
      let arguments = try Machines.arguments("demo.img", "--screen-text", screen.path)
      try await GuestRunner.run(arguments, streams: ProgramStreams(input: .pipe), seconds: 150) { run in
        try await run.wait(for: "command-line", seconds: 120)
        // The serial line is ahead of the screen.
        try await Task.sleep(for: .seconds(2))
        run.signal(SignalNumber.terminate)
        #expect(try await run.end() == .exited(143), "\(run.transcript)")
      }
      let text = String(decoding: try screen.contents(), as: UTF8.self)
      #expect(text.contains("GNU GRUB  version 2"), "\(text)")
      #expect(text.contains("What the firmware says: date, memory map, PCI"), "\(text)")
    }
  }
}
