import LinuxSystem
import TestKit
import Testing

/// How the writing of a disk is interrupted.
enum Interruption: String, CaseIterable, Sendable {
  case launcherKilled, deviceProcessKilled, terminated, quitByTimeLimit
}

extension Machines {
  /// What becomes of the images.
  @Suite struct Disks {
    @Test(arguments: Interruption.allCases) func whatTheGuestHasFlushedIsInTheImage(_ interruption: Interruption)
      async throws
    {
      try await Self.interruptWriting(interruption)
    }

    @Test func snapshotLeavesTheImageAlone() async throws {
      let image = try TemporaryFile(Self.pattern)
      try await GuestRunner.run(Machines.arguments("diskwriter.rom", "--snapshot", image.path)) { run in
        try await run.wait(for: "flushed 20 ")
      }
      #expect(try image.contents() == Self.pattern)
    }

    @Test func secondWriterIsTurnedAway() async throws {
      try await whileWriting { image in
        for options in [[image], ["--disk", image + ",readonly=on"], ["--snapshot", image]] {
          let run = try await GuestRunner.run(Machines.arguments("hello.rom") + options)
          #expect(run.ending == .exited(125), "\(options) \(run.transcript)")
          #expect(run.error.contains("\(image): the image is in use"), "\(run.transcript)")
        }
      }
    }

    @Test func readersShareAnImageAndKeepWritersOut() async throws {
      let image = try TemporaryFile(Self.pattern)
      try await GuestRunner.run(Machines.arguments("spin.rom", "--disk", image.path + ",readonly=on")) { run in
        try await run.wait(for: "spinning")
        let reader = try await GuestRunner.run(Machines.arguments("hello.rom", "--snapshot", image.path))
        #expect(reader.ending == .exited(0), "\(reader.transcript)")
        let writer = try await GuestRunner.run(Machines.arguments("hello.rom", image.path))
        #expect(writer.ending == .exited(125))
        #expect(writer.error.contains("another process reads it"), "\(writer.transcript)")
      }
    }

    @Test func lockGoesWithTheRun() async throws {
      let image = try TemporaryFile(Self.pattern)
      for _ in 0..<2 {
        try await GuestRunner.run(Machines.arguments("spin.rom", image.path)) { run in
          try await run.wait(for: "spinning")
        }
      }
    }

    // MARK: The guest that writes

    static let sectors = 64
    static let pattern = [UInt8](repeating: 0xA5, count: 512 * sectors)

    private func whileWriting(_ body: (String) async throws -> Void) async throws {
      let image = try TemporaryFile(Self.pattern)
      try await GuestRunner.run(Machines.arguments("diskwriter.rom", image.path)) { run in
        try await run.wait(for: "flushed")
        try await body(image.path)
      }
    }

    /// Lets diskwriter go through the disk more than once, stops it and looks at every sector.
    static func interruptWriting(_ interruption: Interruption) async throws {
      let image = try TemporaryFile(pattern)
      let limit = interruption == .quitByTimeLimit ? ["--timeout", "3s"] : []
      try await GuestRunner.run(Machines.arguments("diskwriter.rom", image.path) + limit) { run in
        if interruption != .quitByTimeLimit { try await run.wait(for: "flushed 10 2", seconds: 30) }
        switch interruption {
        case .launcherKilled: run.signal(SignalNumber.kill)
        case .deviceProcessKilled: signalProcess(try await run.deviceProcess(), SignalNumber.kill)
        case .terminated: run.signal(SignalNumber.terminate)
        case .quitByTimeLimit: break
        }
        try await run.allEnd()
        try check(image.contents(), flushed: run.output)
      }
    }

    /// Each sector is whole, and not older than what the guest has said about it.
    static func check(_ image: [UInt8], flushed output: String, untouched: UInt64 = 0xA5A5_A5A5_A5A5_A5A5) throws {
      let sectors = image.count / 512
      var generations = [UInt64](repeating: 0, count: sectors)
      for line in lines(output) {
        let words = line.split(separator: " ")
        guard words.count == 3, words[0] == "flushed", let sector = Int(words[1]), sector < sectors else { continue }
        // The last line may be cut short.
        if let generation = UInt64(words[2]) { generations[sector] = max(generations[sector], generation) }
      }
      #expect(generations[0] > 0)
      for (sector, generation) in generations.enumerated() {
        let bytes = image[512 * sector..<512 * (sector + 1)]
        let words = (0..<64).map { word in
          bytes.dropFirst(8 * word).prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        }
        #expect(Set(words).count == 1, "sector \(sector) is torn")
        if words[0] == untouched {
          #expect(generation == 0, "sector \(sector) was flushed and is not written")
        } else {
          #expect(words[0] & 0xFFFF_FFFF == UInt64(sector), "sector \(sector) is another's")
          #expect(words[0] >> 32 >= generation, "sector \(sector) is older than what was flushed")
        }
      }
    }
  }
}
