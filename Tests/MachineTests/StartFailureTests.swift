import LinuxSystem
import TestKit
import Testing

/// A command line that cannot be carried out, and what the user is told.
struct FailureRow: Sendable, CustomTestStringConvertible {
  let arguments: [String]
  /// What one line on standard error has to say.
  let says: [String]
  let rights: ProgramRights

  var testDescription: String { arguments.joined(separator: " ") }

  init(_ arguments: String..., says: String..., rights: ProgramRights = .same) {
    (self.arguments, self.says, self.rights) = (arguments, says, rights)
  }

  static let all = [
    FailureRow("/no/such.img", says: "/no/such.img: there is no such file"),
    FailureRow("/tmp", says: "/tmp: this is a directory"),
    FailureRow("/dev/null", says: "/dev/null: this is neither a regular file nor a block device"),
    FailureRow("--cdrom", "/no/such.iso", says: "/no/such.iso: there is no such file"),
    FailureRow("--disk", "/dev/kvm", says: "/dev/kvm: this is neither"),
    FailureRow("-m", "1T", says: "--memory", "more than this host's"),
    FailureRow("--firmware", "/no/such.bin", says: "/no/such.bin: No such file or directory"),
    FailureRow("--firmware", "/", says: "/: ", "directory"),
    FailureRow("--firmware", "/dev/null", says: "/dev/null: a firmware image of 0 bytes is not possible"),
    FailureRow("--serial", "unix:/no/such/socket", says: "serial0: cannot listen at /no/such/socket"),
    FailureRow("--serial", "unix:/dev/null", says: "serial0: /dev/null exists and is not a socket"),
    FailureRow("--serial", "file:/no/such/file", says: "serial0: cannot write /no/such/file"),
  ]
}

extension Machines {
  /// What the user is told when the host cannot start the machine.
  @Suite struct StartFailures {
    @Test(arguments: FailureRow.all)
    func saysWhatIsWrongInOneLine(_ row: FailureRow) async throws {
      // A disk that is there, where it is not the disk that is wrong.
      let image = row.arguments[0].hasPrefix("-") ? [] : row.arguments
      let firmware = row.arguments.contains("--firmware") ? [] : ["--firmware", try GuestRunner.guest("spin.rom")]
      let options = image.isEmpty ? row.arguments : []
      try await expect(Engine.usual.arguments + firmware + options + image, row.says, rights: row.rights)
    }

    @Test(
      .enabled(if: isRoot, "needs a file that root does not own"))
    func unreadableImageNamesTheWaysOut() async throws {
      let image = try TemporaryFile([UInt8](repeating: 0, count: 512))
      try changeOwner(image.path, to: 1, mode: 0)
      let arguments = try Machines.arguments("spin.rom", image.path)
      try await expect(
        arguments, ["\(image.path): no permission to write to it", "readonly=on"], rights: .rootUnderFileModes)
      try await expect(
        arguments + ["--snapshot"], ["\(image.path): no permission to read it"], rights: .rootUnderFileModes)
    }

    @Test(
      .enabled(if: Engine.kvm.isUsable, Engine.kvm.comment),
      .enabled(if: isRoot && userExists("tester"), "needs root and a user named tester"),
      .enabled(if: !GuestRunner.kvmIsForEverybody, "/dev/kvm is open to everybody"))
    func forbiddenKVMSaysWhatToDo() async throws {
      try await expect(
        Machines.arguments("hello.rom", on: .kvm), ["/dev/kvm: permission denied", "usermod -aG kvm"],
        rights: .user("tester"))
    }

    @Test(.enabled(if: isRoot, "needs root to hide a directory"))
    func missingFirmwareNamesThePackage() async throws {
      let run = try await GuestRunner.run(
        Engine.usual.arguments + ["--snapshot", GuestRunner.guest("hello.img")], without: "/usr/share/seabios")
      check(run, ["/usr/share/seabios/", "install it with: apt install seabios"])
    }

    private func expect(_ arguments: [String], _ says: [String], rights: ProgramRights) async throws {
      check(try await GuestRunner.run(arguments, rights: rights), says)
    }

    private func check(_ run: RunningProgram, _ says: [String]) {
      #expect(run.ending == .exited(125), "\(run.transcript)")
      #expect(run.output.isEmpty)
      let said = lines(run.error).filter { !$0.hasPrefix("vmrun: accel ") }
      #expect(said.count == 1, "\(run.transcript)")
      for part in says { #expect(said.first?.contains(part) == true, "\(part) in \(run.transcript)") }
    }
  }
}
