import TestKit
import Testing

extension Machines {
  /// The same again and again.
  @Suite(.enabled(if: Engine.kvm.isUsable, Engine.kvm.comment), .enabled(if: Machines.isLong, Machines.long))
  struct Long {
    @Test(arguments: 1...17) func threeResets(_ round: Int) async throws {
      let run = try await GuestRunner.run(Machines.arguments("reset.rom"))
      #expect(run.ending == .exited(0) && lines(run.output).contains("PASS reset"), "\(run.transcript)")
    }

    @Test(arguments: 1...20) func bootToGRUB(_ round: Int) async throws { try await GRUB.boot() }

    @Test(arguments: 1...20, [Interruption.launcherKilled, .deviceProcessKilled])
    func killedWhileWriting(_ round: Int, _ interruption: Interruption) async throws {
      try await Disks.interruptWriting(interruption)
    }
  }
}
