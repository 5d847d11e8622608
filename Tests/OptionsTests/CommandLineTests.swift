import DeviceKit
import MachineModel
import Options
import Testing

import struct X86.CPUModel

@Suite struct GoodCommandLines {
  struct Case: Sendable, CustomTestStringConvertible {
    let line: String
    let change: @Sendable (inout MachineSpec) -> Void
    var testDescription: String { line }

    init(_ line: String, _ change: @escaping @Sendable (inout MachineSpec) -> Void) {
      self.line = line
      self.change = change
    }
  }

  /// What `vmrun a.img` runs; the cases change it.
  static let plain = MachineSpec(
    blocks: [BlockSpec(id: "disk0", path: "a.img")], characters: [CharacterSpec(id: "serial0", endpoint: .stdio)])

  @Test(arguments: [
    Case("a.img") { _ in },
    Case("--mode hvm --accel auto a.img") { _ in },
    Case("--accel kvm a.img") { $0.accelerator = .kvm },
    Case("-m 2G a.img") { $0.memory = 2 << 30 },
    Case("-m1.5g a.img") { $0.memory = 1536 << 20 },
    Case("--memory=64 a.img") { $0.memory = 64 << 20 },
    Case("--memory 1T a.img") { $0.memory = 1 << 40 },
    Case("-c 64 a.img") { $0.cpus = 64 },
    Case("--cpu v1 a.img") { $0.cpu = CPUModel(level: .v1) },
    Case("-c4 a.img") { $0.cpus = 4 },
    Case("--cpus 1 a.img") { _ in },
    Case("--disk a.img") { _ in },
    Case("--disk a.img,if=ide") { $0.blocks[0].interface = .ide },
    Case("--mode pvhvm --disk a.img,if=virtio") {
      $0.mode = .pvhvm
      $0.blocks[0].interface = .virtio
    },
    Case("--disk a.img,if=scsi --cdrom i,,j.iso,if=scsi") {
      $0.blocks[0].interface = .scsi
      $0.blocks.append(BlockSpec(id: "cdrom0", path: "i,j.iso", readOnly: true, interface: .scsi))
    },
    Case("--disk a.img,format=auto,backing=off,readonly=off,cache=writeback,snapshot=off") { _ in },
    Case("--disk a.img,format=raw") { $0.blocks[0].format = .raw },
    Case("--disk a.img,format=qcow2,backing=on") {
      $0.blocks[0].format = .qcow2
      $0.blocks[0].backing = .on
    },
    Case("--disk a.img,backing=b,,c.img,iops=500,bps=2M") {
      $0.blocks[0].backing = .file("b,c.img")
      $0.blocks[0].limits = BlockRateLimits(requests: 500, bytes: 2 << 20)
    },
    Case("--disk a.img,readonly=on,cache=none") {
      $0.blocks[0].readOnly = true
      $0.blocks[0].cache = .none
    },
    Case("a.img --disk b,,c.img,snapshot=on") {
      $0.blocks.append(BlockSpec(id: "disk1", path: "b,c.img", snapshot: true))
    },
    Case("a,b=c.img") { $0.blocks[0].path = "a,b=c.img" },
    Case("--snapshot a.img --cdrom i.iso --cdrom j.iso") {
      $0.blocks[0].snapshot = true
      $0.blocks.append(BlockSpec(id: "cdrom0", path: "i.iso", readOnly: true))
      $0.blocks.append(BlockSpec(id: "cdrom1", path: "j.iso", readOnly: true))
    },
    Case("--cdrom i.iso") { $0.blocks = [BlockSpec(id: "cdrom0", path: "i.iso", readOnly: true)] },
    Case("--firmware f.bin") {
      $0.blocks = []
      $0.firmware = "f.bin"
    },
    Case("--device pc-board") {
      $0.blocks = []
      $0.devices = [
        DeviceSpec(
          model: "pc-board", id: "pc-board.0",
          properties: [
            "iobase": .integer(0x3F8), "irq": .integer(4), "msi": .boolean(false), "vgamem": .integer(16 << 20),
          ])
      ]
    },
    Case("--boot cdrom a.img") { $0.bootOrder = [.cdrom] },
    Case("--boot cdrom,disk a.img") { $0.bootOrder = [.cdrom, .disk] },
    Case("--boot d a.img") { $0.bootOrder = [.cdrom] },
    Case("--boot dc a.img") { $0.bootOrder = [.cdrom, .disk] },
    Case("--serial null a.img") { $0.characters[0].endpoint = .null },
    Case("--serial pty --serial stdio --serial file:a:b --serial unix:s a.img") {
      $0.characters = [
        CharacterSpec(id: "serial0", endpoint: .pty), CharacterSpec(id: "serial1", endpoint: .stdio),
        CharacterSpec(id: "serial2", endpoint: .file("a:b")), CharacterSpec(id: "serial3", endpoint: .unix("s")),
      ]
    },
    Case("--device ide-hd,drive=disk0,bus=ide.1,unit=1,id=boot a.img") {
      $0.devices = [
        DeviceSpec(
          model: "ide-hd", id: "boot",
          properties: ["drive": .string("disk0"), "bus": .string("ide.1"), "unit": .integer(1)])
      ]
    },
    Case("--device ide-hd,id=ide-hd.0 --device ide-hd --device std-vga,addr=5 a.img") {
      $0.devices = [
        DeviceSpec(model: "ide-hd", id: "ide-hd.0"), DeviceSpec(model: "ide-hd", id: "ide-hd.1"),
        DeviceSpec(model: "std-vga", id: "std-vga.0", properties: ["addr": .string("05.0")]),
      ]
    },
    Case("--no-reboot a.img") { $0.reboot = false },
    Case("--timeout 90 a.img") { $0.timeout = 90_000_000_000 },
    Case("--timeout 500ms a.img") { $0.timeout = 500_000_000 },
    Case("--sandbox strict a.img") { $0.sandbox = .strict },
    Case("--sandbox off a.img") { $0.sandbox = .off },
    Case("--screen-text s.txt a.img") { $0.screenText = "s.txt" },
    Case("--trace io,exc a.img") { $0.trace = TraceSpec(events: [.io, .exceptions]) },
    Case("--trace in,int,file=t.log a.img") {
      $0.trace = TraceSpec(events: [.instructions, .interrupts], path: "t.log")
    },
    Case("--mode pv --kernel k --initrd i --initrd fd:5 --append quiet") {
      $0.mode = .pv
      $0.blocks = []
      $0.boot = BootSpec(kernel: .path("k"), ramdisks: [.path("i"), .descriptor(5)], arguments: "quiet")
    },
    Case("--mode pvhvm --kernel k --initrd i --append quiet a.img") {
      $0.mode = .pvhvm
      $0.boot = BootSpec(kernel: .path("k"), ramdisks: [.path("i")], arguments: "quiet")
    },
    Case("--mode pv --kernel - a.img") {
      $0.mode = .pv
      $0.boot = BootSpec(kernel: .standardInput)
    },
    Case("--timing a.img") { $0.timing = true },
    Case("-- --a.img") { $0.blocks[0].path = "--a.img" },
  ])
  func describeTheMachine(_ good: Case) {
    var expected = Self.plain
    good.change(&expected)
    #expect(request(good.line) == .run(expected, .notice))
  }

  @Test func setTheLogLevel() {
    #expect(request("--log-level debug a.img") == .run(Self.plain, .debug))
  }
}

@Suite struct BadCommandLines {
  /// The command line and the one line that it is answered with, under status 64.
  @Test(arguments: [
    (
      "",
      "no disk image given; try 'vmrun disk.img', 'vmrun --cdrom install.iso' or 'vmrun --kernel vmlinuz', "
        + "or 'vmrun --help'"
    ),
    (
      "--mode pv",
      "no disk image given; try 'vmrun disk.img' or 'vmrun --kernel vmlinuz', or 'vmrun --help'"
    ),
    ("--mode pv --initrd i a.img", "--initrd goes with --kernel: give the kernel, too"),
    (
      "--mode pv --kernel k --entry 1 a.img",
      "--entry: chooses from a disk's boot configuration; leave it out, or --kernel"
    ),
    ("--entry 1 a.img", "--entry: goes with --mode pv; in other modes the disk's own boot loader chooses"),
    ("--initrd i a.img", "--initrd goes with --kernel: give the kernel, too"),
    ("--mode pvhvm --append x a.img", "--append goes with --kernel: give the kernel, too"),
    (
      "--kernel k --entry 1",
      "--entry: chooses from a disk's boot configuration; leave it out, or --kernel"
    ),
    ("--list-entries", "--list-entries: give the disk image"),
    ("--list-entries --kernel k a.img", "--list-entries: lists a disk's boot configuration; leave it out, or --kernel"),
    (
      "--mode pv --cdrom a.iso",
      "--mode pv: give a disk image whose kernel is started, or a kernel with --kernel"
    ),
    (
      "--mode pv --kernel fd:2",
      "--kernel fd:2: must be a path, - for standard input, or fd:N for an open descriptor above 2"
    ),
    ("--mode pv --kernel - --initrd -", "only one of --kernel and --initrd can be - (standard input)"),
    (
      "--mode pv --kernel - --serial stdio",
      "--kernel -: standard input is also that of --serial stdio; leave --serial out for a console without input"
    ),
    ("--mode pv --boot cdrom a.img", "--boot cdrom: mode pv has no firmware; leave it out"),
    ("--mode pv --screen-text s a.img", "--screen-text s: mode pv has no display; leave it out"),
    ("--serial none --serial null a.img", "--serial none: takes no other --serial beside it"),
    (
      "--mode hmv a.img",
      "--mode hmv: must be one of hvm, pv, pvhvm"
    ),
    ("--accel tcg a.img", "--accel tcg: must be one of kvm, soft, auto"),
    ("--sandbox none a.img", "--sandbox none: must be one of on, strict, off"),
    ("--memry 1G a.img", "unknown option '--memry'. Did you mean '--memory'? See 'vmrun --help'"),
    ("--frobnicate a.img", "unknown option '--frobnicate'; see 'vmrun --help'"),
    ("--memory", "missing value for '--memory <size>'; see 'vmrun --help'"),
    (
      "--no-reboot=1 a.img",
      "the option '--no-reboot' does not take any value, but '1' was specified; see 'vmrun --help'"
    ),
    (
      "--log-level loud a.img",
      "--log-level loud: must be one of trace, debug, info, notice, warning, error, critical"
    ),
    (
      "--trace all a.img",
      "--trace all: write in, int, exc, io, each once, with commas, and file=PATH for a file"
    ),
    ("--accel kvm --trace io a.img", "--trace io: needs --accel soft; KVM cannot"),
    ("-m 5X a.img", "--memory 5X: not a size; write 512M or 2G"),
    ("-m 99999999999999999999G a.img", "--memory 99999999999999999999G: not a size; write 512M or 2G"),
    ("-m 0 a.img", "--memory 0: must be from 1M to 1T and a multiple of 1M"),
    ("-m 1025K a.img", "--memory 1025K: must be from 1M to 1T and a multiple of 1M"),
    ("-m 2T a.img", "--memory 2T: must be from 1M to 1T and a multiple of 1M"),
    ("-c 0 a.img", "--cpus 0: must be a number from 1 to 64"),
    ("-c 65 a.img", "--cpus 65: must be a number from 1 to 64"),
    ("--cpu v3 a.img", "--cpu v3: the model must be one of v1, v2, max, then ,+feature or ,-feature"),
    ("-c two a.img", "--cpus two: must be a number from 1 to 64"),
    ("--timeout soon a.img", "--timeout soon: not a time; write 30s, 5m, 1h or 500ms"),
    ("--timeout 0s a.img", "--timeout 0s: must be more than 0 and less than 292 years"),
    ("--boot floppy a.img", "--boot floppy: must be disk, cdrom, disk,cdrom or cdrom,disk, or the letters c and d"),
    ("--boot disk, a.img", "--boot disk,: must be disk, cdrom, disk,cdrom or cdrom,disk, or the letters c and d"),
    ("--boot cc a.img", "--boot cc: names a medium twice"),
    ("a.img b.img", "'b.img': only one image is booted; give further disks with --disk"),
    ("--disk ,readonly=on", "--disk: needs the path of a file"),
    ("--disk a.img,format=vmdk", "--disk a.img: a disk option 'format' is 'vmdk'; it must be raw, qcow2 or auto"),
    (
      "--disk a.img,iops=0",
      "--disk a.img: a disk option 'iops' is '0', out of range; it must be a number from 1 to 1000000000"
    ),
    (
      "--disk a.img,redonly=on",
      "--disk a.img: a disk has no option 'redonly', did you mean 'readonly'? "
        + "It has format, backing, if, readonly, cache, snapshot, iops, bps"
    ),
    (
      "--disk a.img,readonly",
      "--disk a.img: a disk option 'readonly' has no value; write readonly=VALUE with on or off"
    ),
    (
      "--disk a.img,cache=fast",
      "--disk a.img: a disk option 'cache' is 'fast'; it must be writeback, writethrough, none or unsafe"
    ),
    ("--serial tcp:1 a.img", "--serial tcp:1: must be stdio, file:PATH, unix:PATH, pty or null; or none for no port"),
    ("--serial file: a.img", "--serial file:: must be stdio, file:PATH, unix:PATH, pty or null; or none for no port"),
    ("--serial stdio --serial stdio a.img", "--serial stdio: is taken by another serial port"),
    ("--serial file:l --serial file:l a.img", "--serial file:l: is taken by another serial port"),
    ("--cdrom i.iso,if=virtio", "--cdrom i.iso: a CD-ROM drive option 'if' is 'virtio'; it must be ide or scsi"),
    (
      "--device ide-dh a.img",
      "--device ide-dh: unknown device 'ide-dh', did you mean 'ide-hd'? '--device help' lists all"
    ),
    ("--device frobnicator a.img", "--device frobnicator: unknown device 'frobnicator'; '--device help' lists all"),
    (
      "--device ide-dh,help",
      "--device ide-dh,help: unknown device 'ide-dh', did you mean 'ide-hd'? '--device help' lists all"
    ),
    (
      "--device ide-hd,drive=disk1 a.img",
      "--device ide-hd,drive=disk1: no 'disk1' for drive; there is disk0, add it with --disk or --cdrom"
    ),
    (
      "--device ide-hd,drive=disk0",
      "--device ide-hd,drive=disk0: no 'disk0' for drive; there is none, add it with --disk or --cdrom"
    ),
    (
      "--device isa-serial,chardev=serial1 a.img",
      "--device isa-serial,chardev=serial1: no 'serial1' for chardev; there is serial0, add it with --serial"
    ),
    (
      "--device std-vga,id=x --device ide-hd,id=x a.img",
      "--device ide-hd,id=x: id 'x' is taken by another device"
    ),
    ("--disk a --disk b --disk c --disk d --disk e", "--disk: the board has room for four disks"),
  ])
  func areAnsweredInOneLine(line: String, message: String) {
    #expect(request(line) == .failure(.usage, message))
  }

  @Test func emptyPathsAreRefused() {
    #expect(request(["--screen-text", "", "a.img"]) == .failure(.usage, "--screen-text: needs the path of a file"))
    #expect(request([""]) == .failure(.usage, "disk image: needs the path of a file"))
    #expect(request(["--cdrom", ""]) == .failure(.usage, "--cdrom: needs the path of a file"))
  }
}

@Suite struct PrintingCommandLines {
  @Test func versionIsOneLine() {
    #expect(request("--version") == .text("vmrun \(Release.version)"))
  }

  @Test func helpIsInParts() throws {
    guard case .text(let text) = request("--help") else {
      Issue.record("--help printed nothing")
      return
    }
    let parts = text.split(separator: "\n\n").filter { $0.first?.isUppercase == true }
    let headings = parts.map { String($0.prefix { $0 != ":" }) }
    #expect(
      headings == [
        "OVERVIEW", "Examples", "Exit status", "USAGE", "ARGUMENTS", "MACHINE", "DISKS AND BOOT", "KERNEL", "NETWORK",
        "CONSOLE", "RUN", "OPTIONS",
      ])
    let firsts = parts.dropFirst(5).map { $0.split(separator: "\n")[1].split(separator: " ")[0] }
    #expect(firsts == ["--mode", "--disk", "--kernel", "--net", "--serial", "--no-reboot", "--version"])
    let cards = NetworkCard.allCases.map(\.rawValue).joined(separator: "|")
    #expect(text.contains("model=\(cards)"))
    #expect(!text.contains("generate-devices-man"))
  }

  @Test func sandboxPolicyIsPrintedWithoutAnImage() {
    #expect(request("--sandbox-policy") == .text("read: disks\n"))
  }

  @Test func deviceHelpListsModelsByBus() {
    #expect(
      request("--device help")
        == .text(
          """
          Devices for --device MODEL[,option=value...]; '--device MODEL,help' shows a device's options.

          system board:
            pc-board    Board with an option of every kind

          ISA bus:
            isa-serial  16550A serial port

          PCI bus:
            std-vga     Standard VGA

          IDE channel:
            ide-hd      Hard disk

          """))
  }

  @Test func modelHelpListsOptions() {
    #expect(
      request("--device pc-board,help")
        == .text(
          """
          pc-board: Board with an option of every kind (system board)

            iobase=N     First port (a number from 0x0 to 0xfff8, default 0x3f8)
            irq=N        Interrupt (a number from 3 to 15, default 4)
            msi=on|off   Message signalled interrupts (default off)
            vgamem=SIZE  Frame buffer (a size from 1M to 256M, default 16M)
            label=TEXT   Text (text of at most 8 characters)
            id=TEXT      \(OptionSpec.id.summary) (text of at most 63 characters)

          """))
  }

  @Test func dryRunPrintsTheResolvedMachine() {
    #expect(
      request("--dry-run --serial file:/tmp/log -c 2 --firmware /f.bin --device std-vga --timeout 1s")
        == .text(
          """
          {
            "accelerator" : "auto",
            "blocks" : [

            ],
            "bootOrder" : [
              "disk",
              "cdrom"
            ],
            "characters" : [
              {
                "endpoint" : "file:/tmp/log",
                "id" : "serial0"
              }
            ],
            "cpu" : "max",
            "cpus" : 2,
            "devices" : [
              {
                "id" : "std-vga.0",
                "model" : "std-vga",
                "properties" : {
                  "addr" : "02.0"
                }
              }
            ],
            "firmware" : "/f.bin",
            "memory" : 536870912,
            "mode" : "hvm",
            "networks" : [

            ],
            "reboot" : true,
            "sandbox" : "on",
            "timeout" : 1000000000,
            "timing" : false
          }
          """))
  }

  @Test(arguments: ["bash", "zsh", "fish"])
  func completionsKnowTheOptions(shell: String) {
    guard case .text(let script) = request("--generate-completion-script \(shell)") else {
      Issue.record("no script for \(shell)")
      return
    }
    #expect(script.contains("screen-text"))
    #expect(script.contains("vmrun --device help"))
    let words =
      Mode.allCases.map(\.rawValue) + Accelerator.allCases.map(\.rawValue) + SandboxLevel.allCases.map(\.rawValue)
      + LogLevel.allCases.map(\.rawValue)
    let offered = Set(script.split { !$0.isLetter })
    for word in words { #expect(offered.contains(Substring(word)), "\(word)") }
  }
}
