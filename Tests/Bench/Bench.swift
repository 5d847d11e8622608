import Glibc
import LinuxSystem

/// Measures vmrun beside QEMU in the same run: `vmrun-bench VMRUN GUESTS [PART]...`, where GUESTS is the directory of
/// the built guests. Contenders take turns, so that what else the host does hits all alike.
/// `QEMU=` names another QEMU, `RUNS=` how often the shortest ones are repeated.
@main struct Bench {
  let vmrun: String
  let guests: String
  let qemu = getenv("QEMU").map { String(cString: $0) } ?? "qemu-system-x86_64"
  let repetitions = getenv("RUNS").flatMap { Int(String(cString: $0)) } ?? 101

  static func main() {
    var arguments = CommandLine.arguments.dropFirst()
    guard let vmrun = arguments.popFirst(), let guests = arguments.popFirst() else {
      StandardStream.report("usage: vmrun-bench VMRUN GUESTS [PART]...")
      exit(64)
    }
    let bench = Bench(vmrun: vmrun, guests: guests)
    let parts: [(name: String, run: () throws -> [any Report])] = [
      ("port", bench.port), ("version", bench.version), ("start", bench.start), ("launch", bench.launch),
      ("seabios", bench.seaBIOS),
      ("integer", { try bench.programs("integer", "Integer programs", goal: 0.35) }),
      ("sse2", { try bench.programs("sse2", "SSE2 double programs", goal: 1.2) }), ("login", bench.login),
      ("pv", bench.pv), ("microvm", bench.microVM),
      ("devices", bench.devices), ("tap", bench.tap), ("virtio-blk", bench.virtioBlock),
    ]
    do {
      for part in parts where arguments.isEmpty || arguments.contains(part.name) {
        for table in try part.run() { try StandardStream.output.write(table.text + "\n") }
      }
    } catch {
      StandardStream.report("vmrun-bench: \(error)")
      exit(1)
    }
  }

  init(vmrun: String, guests: String) { (self.vmrun, self.guests) = (vmrun, guests) }

  func vmrunMachine(accel: String = "kvm", memory: String = "512M", _ arguments: [String]) -> [String] {
    [vmrun, "--accel", accel, "--memory", memory, "--no-reboot"] + arguments
  }

  /// QEMU with the machine that vmrun has: a PC with a VGA and an IDE controller, its BIOS speaking on COM1.
  func qemuMachine(accel: String = "kvm", memory: String = "512M", _ arguments: [String]) -> [String] {
    [
      qemu, "-M", "pc,accel=\(accel),graphics=off", "-m", memory, "-nic", "none", "-vga", "std", "-display", "none",
      "-monitor", "none", "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
    ] + arguments
  }

  /// A port read that the real-time clock answers: in the device process, in QEMU, and in a loop around KVM_RUN.
  private func port() throws -> [any Report] {
    let rom = "\(guests)/portbench.rom"
    var contenders = [
      PortContender("vmrun") { try ChildRun(vmrunMachine(["--firmware", rom])).text },
      PortContender("QEMU") { try ChildRun(qemuMachine(["-bios", rom])).text },
      PortContender("a loop around KVM_RUN") { try runBare(rom: rom) },
    ]
    for _ in 0..<max(3, repetitions / 12) {
      for index in contenders.indices { try contenders[index].measure() }
    }
    return [
      Table("Port read, CMOS 0x71", goal: 1.5, contenders.map { ($0.name, $0.medians.median, $0.highs.median) })
    ]
  }

  private func version() throws -> [any Report] {
    let runs = try alternate([("vmrun", [vmrun, "--version"]), ("QEMU", [qemu, "--version"])], times: repetitions)
    return [try table("--version", goal: 0.5, runs) { $0.end }]
  }

  /// From before exec to the first byte of a guest that writes one to COM1 at once, and to the end of the run.
  private func start() throws -> [any Report] {
    let rom = "\(guests)/first-byte.rom"
    let runs = try alternate(
      [
        ("vmrun", vmrunMachine(["--firmware", rom])),
        ("QEMU", qemuMachine(["-bios", rom])),
        ("QEMU with no more than COM1", qemuMachine(["-nodefaults", "-vga", "none", "-bios", rom])),
      ], mark: "!", times: repetitions)
    return [
      try table("Exec to the guest's first byte on COM1", goal: 0.5, runs) { $0.mark },
      try table("Exec to the end of the same run", runs) { $0.end },
    ]
  }

  private func seaBIOS() throws -> [any Report] {
    let image = "\(guests)/boot-sector.img"
    let runs = try alternate(
      [
        ("vmrun", vmrunMachine(["--snapshot", image])),
        ("QEMU", qemuMachine(["-drive", "file=\(image),format=raw,snapshot=on"])),
      ], mark: "Booting from", times: max(3, repetitions / 20))
    return [try table("Exec to SeaBIOS's \"Booting from\"", goal: 1.3, runs) { $0.mark }]
  }

  /// What a compiler makes of everyday loops, on both software processors: `guests/Bench`.
  private func programs(_ rom: String, _ title: String, goal: Double) throws -> [any Report] {
    let image = ["\(guests)/bench/\(rom).rom"]
    var (ours, theirs) = (ProgramTimes("vmrun"), ProgramTimes("QEMU"))
    for _ in 0..<3 {
      try ours.add(ChildRun(vmrunMachine(accel: "soft", ["--firmware"] + image)))
      try theirs.add(ChildRun(qemuMachine(accel: "tcg", ["-bios"] + image)))
    }
    return [try SpeedTable("\(title), both without KVM", goal: goal, ours, theirs)]
  }

  /// Power-on to the prompt of Debian's getty.
  private func login() throws -> [any Report] {
    let image = "\(guests)/debian.img"
    let runs = try alternate(
      [
        ("vmrun", vmrunMachine(accel: "soft", memory: "1G", ["--snapshot", image])),
        (
          "QEMU",
          qemuMachine(accel: "tcg", memory: "1G", ["-drive", "file=\(image),format=raw,if=ide,snapshot=on"])
        ),
      ], mark: "vmrun login:", times: 3)
    return [try table("Exec to Debian's \"login:\", both without KVM", goal: 2.5, runs) { $0.mark }]
  }

  /// 4 KiB reads by a guest that polls a virtio disk, whose image the host has in memory: on KVM, beside QEMU with a
  /// thread for the disk and io_uring.
  private func virtioBlock() throws -> [any Report] {
    let rom = "\(guests)/virtioblk.rom"
    let scratch = try ScratchImage("\(guests)/scratch.img", megabytes: 64)
    let disk = "file=\(scratch.path),format=raw,if=none,id=d,aio=io_uring"
    let lines = [
      vmrunMachine(["--mode", "pvhvm", "--firmware", rom, "--disk", scratch.path]),
      qemuMachine(["-bios", rom, "-object", "iothread,id=t", "-drive", disk])
        + ["-device", "virtio-blk-pci,drive=d,iothread=t"],
    ]
    var samples = lines.map { _ in (one: Samples(), many: Samples()) }
    for _ in 0..<max(5, repetitions / 10) {
      for (index, line) in lines.enumerated() {
        let text = try ChildRun(line).text
        samples[index].one.add(try text.number(after: "round-trip-ns") / 1e9)
        samples[index].many.add(1 / (try text.number(after: "requests-per-second-32")))
      }
    }
    func table(_ title: String, _ of: KeyPath<(one: Samples, many: Samples), Samples>) -> Table {
      let rows = zip(["vmrun", "QEMU"], samples).map { name, samples in
        (name, samples[keyPath: of].median, samples[keyPath: of].percentile(99))
      }
      return Table(title, goal: 1, rows)
    }
    return [table("virtio-blk 4 KiB read, round trip", \.one), table("virtio-blk 4 KiB read, 32 under way", \.many)]
  }

  typealias Runs = (name: String, runs: [ChildRun])

  func alternate(_ commands: [(name: String, line: [String])], mark: String = "", times: Int) throws -> [Runs] {
    var results: [Runs] = commands.map { ($0.name, []) }
    for _ in 0..<times {
      for (index, command) in commands.enumerated() {
        results[index].runs.append(try ChildRun(command.line, until: mark))
      }
    }
    return results
  }

  func table(
    _ title: String, goal: Double? = nil, limit: Double? = nil, _ contenders: [Runs],
    _ nanoseconds: (ChildRun) -> UInt64?
  ) throws -> Table {
    let rows = try contenders.map { name, runs in
      let samples = try Samples(
        runs.map { run in
          guard let value = nanoseconds(run) else {
            throw BenchError("\(name) ended with status \(run.status) and wrote: \(run.text)")
          }
          return Double(value) / 1e9
        })
      return (name, samples.median, samples.percentile(99))
    }
    return Table(title, goal: goal, limit: limit, rows)
  }
}

/// One who runs portbench, which reports its own median and 99th percentile in cycles.
private struct PortContender {
  let name: String
  private let run: () throws -> String
  private(set) var medians = Samples()
  private(set) var highs = Samples()

  init(_ name: String, run: @escaping () throws -> String) { (self.name, self.run) = (name, run) }

  mutating func measure() throws {
    let text = try run()
    medians.add(try text.number(after: "median") / Self.frequency)
    highs.add(try text.number(after: "p99") / Self.frequency)
  }

  /// TSC cycles a second.
  private static let frequency: Double = {
    let (start, cycles) = (monotonicNanoseconds(), timestamp())
    usleep(100_000)
    return Double(timestamp() - cycles) / Double(monotonicNanoseconds() - start) * 1e9
  }()
}
