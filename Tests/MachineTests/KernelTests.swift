import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Kernels that are started directly.
  @Suite struct Kernels {
    static let protocols = ["pvh", "multiboot", "multiboot2", "linux64", "linux32"]
    static let arguments = ["--mode", "pv", "--net", "none"]

    /// A guest that checks how it was started, with two ramdisks.
    private func guest(_ name: String, on engine: Engine) throws -> [String] {
      Self.arguments + [
        "--accel", engine.rawValue, "--append", "one two=three", "--initrd", try GuestRunner.guest("test-disk.img"),
        "--initrd", try GuestRunner.guest("test-cd.img"), "--kernel", try GuestRunner.guest("\(name).elf"),
      ]
    }

    @Test(.enabled(if: Engine.kvm.isUsable, Engine.kvm.comment), arguments: protocols)
    func aKernelStartsAsItsBootProtocolSaysOnKVM(_ name: String) async throws {
      try await expectPass(guest(name, on: .kvm))
    }

    @Test(arguments: protocols)
    func aKernelStartsAsItsBootProtocolSaysOnTheSoftwareCPU(_ name: String) async throws {
      try await expectPass(guest(name, on: .soft))
    }

    @Test(arguments: Engine.usable) func aPCIDeviceOfModePVIsOnABusWithInterrupts(_ engine: Engine) async throws {
      try await expectPass(
        [
          "--mode", "pv", "--accel", engine.rawValue, "--net", "user,model=e1000", "--kernel",
          try GuestRunner.guest("pv-pci.elf"),
        ], saying: "pv-pci")
    }

    struct FirmwareStart: Sendable, CustomTestStringConvertible {
      let mode: String
      let engine: Engine
      var testDescription: String { "\(mode) \(engine)" }

      static let all = ["hvm", "pvhvm"].flatMap { mode in Engine.usable.map { FirmwareStart(mode: mode, engine: $0) } }
    }

    /// The guest resets once, and spoils itself before.
    @Test(arguments: FirmwareStart.all) func firmwareStartsABzImageIn16BitModeAndAgainAtAReset(
      _ row: FirmwareStart
    ) async throws {
      // The second begins on a multiple of four.
      let contents = [[1, 2, 3, 4, 5], (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }]
      let first = try TemporaryFile(contents[0])
      let second = try TemporaryFile(contents[1])
      let run = try await GuestRunner.run([
        "--mode", row.mode, "--accel", row.engine.rawValue, "--net", "none", "--kernel",
        try GuestRunner.guest("bzimage"), "--initrd", first.path, "--initrd", second.path, "--append",
        "reset two=three",
      ])
      #expect(run.ending == .exited(0), "\(run.transcript)")
      let said = lines(run.output)
      #expect(said.contains("PASS bzimage") && !said.contains { $0.hasPrefix("FAIL") }, "\(run.transcript)")
      #expect(said.count { $0 == "command line: reset two=three" } == 2, "\(run.transcript)")
      let bytes = contents[0] + [0, 0, 0] + contents[1]
      var sum: UInt32 = 0
      for index in stride(from: 0, to: bytes.count, by: 4) {
        for byte in 0..<4 { sum &+= UInt32(bytes[index + byte]) << UInt32(8 * byte) }
      }
      let expected = "ramdisk: \(hexadecimal(UInt32(bytes.count))) bytes, sum \(hexadecimal(sum))"
      #expect(said.contains(expected), "\(run.transcript)")
    }

    @Test func aGuestMarksItsTime() async throws {
      let kernel = try GuestRunner.guest("bzimage")
      let run = try await GuestRunner.run(["--accel", "soft", "--net", "none", "--timing", "--kernel", kernel])
      #expect(run.ending == .exited(0), "\(run.transcript)")
      let steps = lines(run.error).filter { $0.hasPrefix("vmrun: timing:") }
      #expect(steps.count { $0.hasSuffix("devices: the guest's mark 1") } == 1, "\(run.transcript)")
    }

    @Test(arguments: protocols) func firmwareStartsAKernelAsItsBootProtocolSays(_ name: String) async throws {
      try await expectPass(guest(name, on: .soft) + ["--mode", "hvm"])
    }

    @Test(.enabled(if: Engine.kvm.isUsable, Engine.kvm.comment), arguments: protocols)
    func firmwareStartsAKernelAsItsBootProtocolSaysOnKVM(_ name: String) async throws {
      try await expectPass(guest(name, on: .kvm) + ["--mode", "pvhvm"])
    }

    private func hexadecimal(_ value: UInt32) -> String {
      let digits = String(value, radix: 16, uppercase: true)
      return String(repeating: "0", count: 8 - digits.count) + digits
    }

    @Test func aResetLoadsTheKernelAgain() async throws {
      let kernel = try GuestRunner.guest("restart.elf")
      let run = try await GuestRunner.run(Self.arguments + ["--kernel", kernel])
      #expect(run.ending == .exited(0), "\(run.transcript)")
      #expect(lines(run.output).filter { $0 == "as new" }.count == 2, "\(run.transcript)")
    }

    @Test func aKernelMayComeOnStandardInputThroughAPipe() async throws {
      let options = try guest("pvh", on: .soft).dropLast()
      let script = #"cat "$1" | "$0" "${@:2}" -"#
      let run = try RunningProgram.start(
        "/bin/bash", ["-c", script, GuestRunner.program, try GuestRunner.guest("pvh.elf")] + options, seconds: 60)
      let ending = try await run.end()
      #expect(ending == .exited(0), "\(run.transcript)")
      #expect(lines(run.output).contains("PASS kernel"), "\(run.transcript)")
    }

    @Test func aKernelAndARamdiskMayBeDescriptors() async throws {
      let script = #"exec "$0" "${@:3}" --kernel fd:7 --initrd fd:8 7<"$1" 8<"$2""#
      let run = try RunningProgram.start(
        "/bin/bash",
        [
          "-c", script, GuestRunner.program, try GuestRunner.guest("multiboot.elf"),
          try GuestRunner.guest("test-disk.img"), "--accel", "soft", "--append", "one two=three", "--initrd",
          try GuestRunner.guest("test-cd.img"),
        ] + Self.arguments, seconds: 60)
      _ = try await run.end()
      // Its modules come in another order than it checks, but they are there.
      #expect(lines(run.output).contains("ok 2 modules"), "\(run.transcript)")
    }

    struct Failure: Sendable, CustomTestStringConvertible {
      let arguments: [String]
      let says: String
      var status: CInt = 125
      var testDescription: String { arguments.joined(separator: " ") }
    }

    static let failures = [
      Failure(arguments: ["--kernel", "/no/such/file"], says: "--kernel /no/such/file: No such file or directory"),
      Failure(arguments: ["--kernel", "/tmp"], says: "--kernel /tmp: this is a directory"),
      Failure(arguments: ["--kernel", "/dev/null"], says: "/dev/null: the file is empty"),
      Failure(arguments: ["--kernel", "/etc/passwd"], says: "/etc/passwd: this is a text file, not a kernel"),
      Failure(arguments: ["--kernel", "/bin/true"], says: "/bin/true: this is a program for a running Linux"),
      Failure(arguments: ["--kernel", "fd:99"], says: "--kernel fd:99: Bad file descriptor"),
      Failure(arguments: ["--kernel", "DISK"], says: "test-disk.img: this is"),
      Failure(
        arguments: ["-m", "4M", "--kernel", "KERNEL", "--initrd", "DISK"],
        says: "ramdisk of 4 MiB does not fit into memory of 4 MiB beside the kernel: give it --memory 64M"),
      Failure(arguments: ["-m", "2M", "--kernel", "KERNEL"], says: "the guest has 2: give it --memory 64M"),
      Failure(
        arguments: ["--kernel", "-", "--initrd", "-"], says: "only one of --kernel and --initrd can be -", status: 64),
      Failure(arguments: ["--kernel", "-", "--serial", "stdio"], says: "standard input is also that of", status: 64),
      Failure(arguments: ["--append", "x"], says: "no disk image given", status: 64),
      Failure(
        arguments: ["--mode", "hvm", "-m", "4M", "--kernel", "KERNEL"],
        says: "pvh.elf: the kernel needs 5 MiB of memory and the guest has 4: give it --memory 64M"),
      Failure(
        arguments: ["--mode", "pvhvm", "--kernel", "/etc/passwd"], says: "this is a text file, not a kernel"),
      Failure(
        arguments: ["--mode", "hvm", "-m", "5M", "--kernel", "BZIMAGE", "--initrd", "DISK"],
        says: "ramdisk of 4 MiB does not fit into memory of 5 MiB beside the kernel: give it --memory 64M"),
      Failure(arguments: ["--kernel", "fd:x"], says: "must be a path, - for standard input, or fd:N", status: 64),
    ]

    @Test(arguments: failures) func saysInOneLineWhatIsWrongWithAKernel(_ row: Failure) async throws {
      let options = try row.arguments.map { option in
        switch option {
        case "DISK": try GuestRunner.guest("test-disk.img")
        case "BZIMAGE": try GuestRunner.guest("bzimage")
        case "KERNEL": try GuestRunner.guest("pvh.elf")
        default: option
        }
      }
      let run = try await GuestRunner.run(Self.arguments + ["--accel", "soft"] + options)
      #expect(run.ending == .exited(row.status), "\(run.transcript)")
      #expect(lines(run.error).count == 1, "\(run.transcript)")
      #expect(run.error.contains(row.says), "\(run.transcript)")
    }

    private func expectPass(_ arguments: [String], saying name: String = "kernel") async throws {
      let run = try await GuestRunner.run(arguments)
      #expect(run.ending == .exited(0), "\(run.transcript)")
      let said = lines(run.output)
      #expect(said.contains("PASS \(name)") && !said.contains { $0.hasPrefix("FAIL") }, "\(run.transcript)")
    }
  }
}
