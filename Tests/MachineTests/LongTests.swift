import TestKit
import Testing

extension Machines {
  /// The same again and again.
  @Suite(.enabled(if: Machines.isLong, Machines.long)) struct Long {
    @Test(arguments: 1...17, Engine.usable) func threeResets(_ round: Int, _ engine: Engine) async throws {
      let run = try await GuestRunner.run(Machines.arguments("reset.rom", on: engine))
      #expect(run.ending == .exited(0) && lines(run.output).contains("PASS reset"), "\(run.transcript)")
    }

    @Test(arguments: 1...5, Engine.usable) func bootToGRUB(_ round: Int, _ engine: Engine) async throws {
      try await GRUB.boot(on: engine)
    }

    @Test(arguments: 1...20, [Interruption.launcherKilled, .deviceProcessKilled])
    func killedWhileWriting(_ round: Int, _ interruption: Interruption) async throws {
      try await Disks.interruptWriting(interruption)
    }

    @Test(arguments: 6...100) func killedWhileWritingQCOW2(_ round: Int) async throws {
      try await QCOW2Disks.killWhileWriting(round)
    }
  }
}
