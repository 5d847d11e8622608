import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Disks whose own boot configuration says what is started.
  @Suite struct ImageBoot {
    /// A disk with one ext4 partition that holds a guest as its kernel.
    private func withDisk<Result>(
      kernel: String, _ configuration: String, body: (String) async throws -> Result
    ) async throws -> Result {
      let mark = try TemporaryFile(Array(configuration.utf8))
      let disk = mark.path + ".img"
      let script = """
        PATH=$PATH:/usr/sbin:/sbin; mkdir -p "$1.t/boot/grub"; cp "$2" "$1.t/boot/kernel"; cp "$1" "$1.t/boot/grub/grub.cfg"
        mkfs.ext4 -q -d "$1.t" "$1.fs" 8M; truncate -s 16M "$1.img"; echo 2048,,83 | sfdisk -q "$1.img"
        dd if="$1.fs" of="$1.img" bs=1M seek=1 conv=notrunc status=none; rm -r "$1.t" "$1.fs"
        """
      let made = try RunningProgram.start(
        "/bin/sh", ["-ec", script, "sh", mark.path, try GuestRunner.guest(kernel)], seconds: 60)
      try #require(try await made.end() == .exited(0), "\(made.transcript)")
      defer { try? removeFile(disk) }
      return try await body(disk)
    }

    private static let arguments = ["--mode", "pv", "--accel", "soft", "--net", "none"]
    private static let menu = """
      set default='More>good'
      menuentry 'Gone' --id gone { linux /boot/gone }
      submenu 'More' { menuentry 'Good\u{1B}[2J' --id good { linux /boot/kernel root=/dev/vda1 } }
      """

    @Test func theDefaultEntryStartsAndIsReadAgainAtAReset() async throws {
      let run = try await withDisk(kernel: "restart.elf", Self.menu) { disk in
        try await GuestRunner.run(Self.arguments + [disk])
      }
      #expect(run.ending == .exited(0), "\(run.transcript)")
      #expect(lines(run.output).filter { $0 == "as new" }.count == 2, "\(run.transcript)")
    }

    @Test func entriesAreListedWithoutWhatControlsATerminal() async throws {
      let run = try await withDisk(kernel: "restart.elf", Self.menu) { disk in
        try await GuestRunner.run(["--list-entries", disk])
      }
      #expect(run.ending == .exited(0), "\(run.transcript)")
      #expect(lines(run.output) == ["0\tgone\tGone", "1*\tgood\tMore>Good?[2J"], "\(run.transcript)")
    }

    @Test(arguments: [
      (["--entry", "gone"], "entry 'Gone': /boot/gone on partition 1: not found"),
      (["--entry", "7"], "has no entry '7': --list-entries prints the 2 that it has"),
    ])
    func anEntryThatCannotStartIsSaid(options: [String], says: String) async throws {
      let run = try await withDisk(kernel: "restart.elf", Self.menu) { disk in
        try await GuestRunner.run(Self.arguments + options + [disk])
      }
      #expect(run.ending == .exited(125), "\(run.transcript)")
      #expect(lines(run.error).count == 1 && run.error.contains(says), "\(run.transcript)")
    }

    @Test(arguments: [["--mode", "pv", "--net", "none"], ["--list-entries"]])
    func aDiskWithoutAKernelIsSaid(options: [String]) async throws {
      let run = try await GuestRunner.run(options + [try GuestRunner.guest("test-disk.img")])
      #expect(run.ending == .exited(125), "\(run.transcript)")
      #expect(lines(run.error).last?.contains("nothing to boot was found: looked for") == true, "\(run.transcript)")
    }
  }
}
