import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Which engine `--accel auto` takes, and what it says of it.
  @Suite struct EngineChoices {
    @Test func autoTakesKVMWhereItCanRunEveryGuestAndSaysWhich() async throws {
      let run = try await hello()
      let notice = lines(run.error).first { $0.hasPrefix("vmrun: accel ") }
      let expected =
        if !Processor.hasHardwareVirtualisation {
          "vmrun: accel soft: this host's processor shows no VT-x or AMD-V"
        } else {
          Engine.kvm.isUsable ? "vmrun: accel kvm: " : "vmrun: accel soft: /dev/kvm"
        }
      #expect(notice?.hasPrefix(expected) == true, "\(run.transcript)")
    }

    @Test(
      .enabled(if: Processor.hasHardwareVirtualisation, "this host's processor shows no VT-x or AMD-V"),
      .enabled(if: isRoot && userExists("tester"), "needs root and a user named tester"),
      .enabled(if: !GuestRunner.kvmIsForEverybody, "/dev/kvm is open to everybody"))
    func autoIsSoftwareWhereKVMIsForbidden() async throws {
      let run = try await hello(rights: .user("tester"))
      #expect(run.error.contains("vmrun: accel soft: /dev/kvm"), "\(run.transcript)")
    }

    private func hello(rights: ProgramRights = .same) async throws -> RunningProgram {
      let firmware = try GuestRunner.guest("hello.rom")
      let run = try await GuestRunner.run(["--accel", "auto", "--firmware", firmware], rights: rights)
      #expect(run.ending == .exited(0) && lines(run.output).contains("PASS hello"), "\(run.transcript)")
      return run
    }
  }
}
