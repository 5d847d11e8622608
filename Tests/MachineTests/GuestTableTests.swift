import TestKit
import Testing

/// A guest and how its run must end.
struct GuestRow: Sendable, CustomTestStringConvertible {
  let guest: String
  let status: CInt
  /// Lines that it must print; none may start with FAIL.
  let says: [String]
  var options: [String] = []
  /// Sent to COM1 when the first of its lines has come.
  var input = ""
  let engines: [Machines.Engine]

  var testDescription: String { ([guest] + options).joined(separator: " ") }

  init(
    _ guest: String, _ status: CInt, _ says: String..., options: [String] = [], input: String = "",
    on engines: [Machines.Engine] = Machines.Engine.allCases
  ) {
    (self.guest, self.status, self.says, self.options) = (guest, status, says, options)
    (self.input, self.engines) = (input, engines)
  }

  static func all(on engine: Machines.Engine) -> [GuestRow] { all.filter { $0.engines.contains(engine) } }

  /// Everything that `make guests` builds but the disk with GRUB. DISK, CD: the test disk, in a snapshot, and the test CD.
  static let all = [
    GuestRow("boot-sector.img", 0, "PASS boot-sector"),
    GuestRow("hello.img", 0, "PASS hello"),

    GuestRow("hello.rom", 0, "Hello from ring 0, in 64-bit mode.", "PASS hello"),
    GuestRow("hello.rom", 0, "PASS hello", options: ["-m", "16M"]),
    GuestRow("hello.rom", 0, "PASS hello", options: ["-m", "6G"]),
    GuestRow("ide-pio.rom", 0, "PASS ide-pio", options: ["--disk", "DISK"]),
    GuestRow("ide-dma.rom", 0, "PASS ide-dma", options: ["--disk", "DISK"]),
    GuestRow("atapi.rom", 0, "PASS atapi", options: ["--cdrom", "CD"]),
    GuestRow("cmos.rom", 0, "PASS cmos"),
    GuestRow("interrupts.rom", 0, "PASS interrupts"),
    GuestRow("faults.rom", 0, "PASS faults", on: [.soft]),
    GuestRow("legacy.rom", 0, "PASS legacy", on: [.soft]),
    GuestRow("instructions.rom", 0, "PASS instructions"),
    GuestRow("hpet.rom", 0, "PASS hpet"),
    GuestRow("doorbell.rom", 0, "PASS doorbell", options: ["--device", "testdev"]),
    GuestRow("memory.rom", 0, "total 512 MiB", "PASS memory"),
    GuestRow("memory.rom", 0, "PASS memory", options: ["-m", "6G"]),
    GuestRow("smp.rom", 0, "1 processors", "PASS smp"),
    GuestRow("smp.rom", 0, "3 others have started", "PASS smp", options: ["-c", "4"]),
    GuestRow("smp.rom", 0, "63 others have started", "PASS smp", options: ["-c", "64"]),
    GuestRow("coherence.rom", 0, "2 processors", "PASS coherence", options: ["-c", "2"]),
    GuestRow("coherence.rom", 0, "4 processors", "PASS coherence", options: ["-c", "4"]),
    GuestRow("pci.rom", 0, "PASS pci"),
    GuestRow("rtl8139.rom", 0, "PASS rtl8139", options: ["--net", "user,model=rtl8139"]),
    GuestRow("vga-text.rom", 0, "PASS vga-text"),
    GuestRow("vga-lfb.rom", 0, "PASS vga-lfb"),
    GuestRow("keyboard.rom", 0, "PASS keyboard"),
    GuestRow("fwcfg.rom", 0, "PASS fwcfg"),
    GuestRow("portbench.rom", 0, "PASS portbench"),
    GuestRow("first-byte.rom", 0, "!"),
    GuestRow("virtioblk.rom", 0, "PASS virtioblk", options: ["--mode", "pvhvm", "--disk", "DISK"]),
    GuestRow("serial-echo.rom", 0, "ready", "HELLO, WORLDQ", "PASS serial-echo", input: "hello, worldq"),
    GuestRow("reset.rom", 0, "reset by port 0x92", "round 3", "PASS reset"),

    GuestRow("power-off.rom", 0, "PASS power-off"),
    GuestRow("exit-code.rom", 42, "exit with 42"),
    GuestRow("pvpanic.rom", 121, "panic"),
    GuestRow("reset.rom", 122, "round 0", "reset by 0xCF9", options: ["--no-reboot"]),
    GuestRow("triple-fault.rom", 123, "a page fault without an IDT"),
    GuestRow("spin.rom", 124, "spinning", options: ["--timeout", "1s"]),
    GuestRow("halt.rom", 124, "halted", options: ["--timeout", "1s"]),
    GuestRow("diskwriter.rom", 124, "flushed 0 1", options: ["--disk", "DISK", "--timeout", "2s"]),
  ]
}

extension Machines {
  @Suite struct Guests {
    @Test(.enabled(if: Engine.kvm.isUsable, Engine.kvm.comment), arguments: GuestRow.all(on: .kvm))
    func endsAsTheTableSaysOnKVM(_ row: GuestRow) async throws { try await check(row, on: .kvm) }

    @Test(arguments: GuestRow.all(on: .soft))
    func endsAsTheTableSaysOnTheSoftwareCPU(_ row: GuestRow) async throws { try await check(row, on: .soft) }

    @Test func everyGuestIsInTheTable() throws {
      let built = (ProcessTable.names(in: "\(GuestRunner.root)/guests/build") ?? []).filter { $0.hasSuffix(".rom") }
      #expect(!built.isEmpty, "run make guests")
      #expect(Set(built).subtracting(GuestRow.all.map(\.guest)).isEmpty)
    }

    private func check(_ row: GuestRow, on engine: Engine) async throws {
      let options = try row.options.map { option in
        switch option {
        case "DISK": try GuestRunner.guest("test-disk.img") + ",snapshot=on"
        case "CD": try GuestRunner.guest("test-cd.img")
        default: option
        }
      }
      try await GuestRunner.run(
        Machines.arguments(row.guest, on: engine) + options, streams: ProgramStreams(input: .pipe)
      ) { run in
        if !row.input.isEmpty {
          try await run.wait(for: row.says[0])
          try run.send(row.input)
        }
        let ending = try await run.end()
        let said = lines(run.output)
        #expect(ending == .exited(row.status), "\(run.transcript)")
        #expect(!said.contains { $0.hasPrefix("FAIL") }, "\(run.transcript)")
        for line in row.says { #expect(said.contains { $0.hasSuffix(line) }, "\(run.transcript)") }
      }
    }
  }
}
