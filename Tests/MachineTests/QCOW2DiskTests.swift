import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// What becomes of qcow2 images.
  @Suite struct QCOW2Disks {
    @Test(arguments: 1...5) func deviceProcessIsKilledAndTheImageIsClean(_ round: Int) async throws {
      try await Self.killWhileWriting(round)
    }

    /// The launcher dies with it and puts nothing right: the next run does.
    @Test(arguments: ["compat=1.1,cluster_size=512", "compat=0.10,cluster_size=512"])
    func launcherIsKilledAndTheNextRunPutsTheImageRight(_ options: String) async throws {
      let image = try await Self.makeImage(options)
      let output = try await GuestRunner.run(Machines.arguments("diskwriter.rom", image.path)) { run in
        try await run.wait(for: "flushed 200 1", seconds: 30)
        run.signal(SignalNumber.kill)
        try await run.allEnd()
        return run.output
      }
      let run = try await GuestRunner.run(Machines.arguments("hello.rom", image.path))
      #expect(run.ending == .exited(0), "\(run.transcript)")
      try await Self.check(image.path, flushed: output)
    }

    @Test func backingFileIsOpenedWithLeaveOnly() async throws {
      let base = try TemporaryFile([UInt8](repeating: 0xA5, count: 64 * 512))
      let image = try TemporaryFile()
      try await Self.qemu("create", "-q", "-f", "qcow2", "-b", base.path, "-F", "raw", image.path)
      let refused = try await GuestRunner.run(Machines.arguments("hello.rom", image.path))
      #expect(refused.ending == .exited(125) && refused.error.contains("backing=on"), "\(refused.transcript)")
      #expect(lines(refused.error).count == 1, "\(refused.transcript)")
      let output = try await GuestRunner.run(
        Machines.arguments("diskwriter.rom", "--disk", image.path + ",backing=on,iops=2000")
      ) { run in
        try await run.wait(for: "flushed 20 1", seconds: 30)
        run.signal(SignalNumber.terminate)
        try await run.allEnd()
        return run.output
      }
      try await Self.qemu("check", "-q", image.path)
      let raw = try TemporaryFile()
      try await Self.qemu("convert", "-f", "qcow2", "-O", "raw", image.path, raw.path)
      try Disks.check(raw.contents(), flushed: output)
      #expect(try base.contents() == [UInt8](repeating: 0xA5, count: 64 * 512))
    }

    // MARK: The guest that writes

    private static let layouts = [
      "compat=1.1,cluster_size=512", "compat=1.1,cluster_size=4096", "compat=0.10,cluster_size=512", "compat=1.1",
      "compat=1.1,cluster_size=512,lazy_refcounts=on,refcount_bits=64",
    ]

    private static func makeImage(_ options: String) async throws -> TemporaryFile {
      let image = try TemporaryFile()
      try await qemu("create", "-q", "-f", "qcow2", "-o", options, image.path, "4M")
      return image
    }

    private static func qemu(_ arguments: String...) async throws {
      let run = try RunningProgram.start("/usr/bin/qemu-img", arguments, seconds: 60)
      let ending = try await run.end()
      #expect(ending == .exited(0), "qemu-img \(arguments)\n\(run.transcript)")
    }

    /// Kills the device process at some time while each write takes a new cluster. vmrun then ends with an error and
    /// leaves an image without so much as a leak.
    static func killWhileWriting(_ round: Int) async throws {
      let image = try await makeImage(layouts[round % layouts.count])
      let sector = 20 + round * 7919 % 400
      let output = try await GuestRunner.run(Machines.arguments("diskwriter.rom", image.path)) { run in
        let devices = try await run.deviceProcess()
        try await run.wait(for: "flushed \(sector) 1", seconds: 240)
        signalProcess(devices, SignalNumber.kill)
        try await run.allEnd()
        #expect(run.ending == .exited(125), "\(run.transcript)")
        return run.output
      }
      try await check(image.path, flushed: output)
    }

    private static func check(_ image: String, flushed output: String) async throws {
      try await qemu("check", "-q", image)
      let raw = try TemporaryFile()
      try await qemu("convert", "-f", "qcow2", "-O", "raw", image, raw.path)
      try Disks.check(raw.contents(), flushed: output, untouched: 0)
    }
  }
}
