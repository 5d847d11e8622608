import ArgumentParser
import MachineModel

/// A command line that cannot be run: the flag, what is wrong with it and what to write instead, in one line.
public struct UsageError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String

  init(_ description: String) { self.description = description }
  init(_ flag: String, _ value: String, _ problem: String) { description = "\(flag) \(value): \(problem)" }
}

/// The command line of vmrun, not yet checked against the registry.
public struct VMRunCommand: ParsableCommand {
  public static let configuration = CommandConfiguration(
    commandName: "vmrun",
    abstract: "Run a virtual machine.",
    usage: "vmrun [<options>] [<image>]",
    discussion: """
      Examples:
        vmrun disk.img                             boot a disk; Ctrl-A x quits
        vmrun -m 2G -c 4 --cdrom setup.iso --boot cdrom disk.img
        vmrun --snapshot --timeout 5m --no-reboot disk.img < /dev/null

      Exit status: 0 powered off, 64 usage, 121 panic, 122 reset, 123 triple fault, 124 timeout, 125 host failure, \
      126 sandbox violation; or what the guest wrote to the exit device. The manual is vmrun(1).
      """,
    version: "vmrun \(Release.version)")

  @Argument(help: ArgumentHelp("Disk image to boot; same as a first --disk.", valueName: "image"), completion: .file())
  var images: [String] = []

  // Values are strings, words such as a mode as well: each type costs the parser a tenth of a millisecond at each start.

  // MARK: Machine

  @Option(
    help: ArgumentHelp("What kind of machine the guest sees: hvm, pv or pvhvm.", valueName: "mode"),
    completion: .list(["hvm", "pv", "pvhvm"]))
  var mode = "hvm"

  @Option(
    help: ArgumentHelp("What runs the vCPUs: kvm, soft or auto.", valueName: "engine"),
    completion: .list(["kvm", "soft", "auto"]))
  var accel = "auto"

  @Option(
    name: [.customShort("m", allowingJoined: true), .long],
    help: ArgumentHelp("Guest RAM, such as 512M or 2G; a number alone is in MiB.", valueName: "size"))
  var memory = "512M"

  @Option(name: [.customShort("c", allowingJoined: true), .long], help: "vCPUs, 1 to 64.")
  var cpus = "1"

  @Option(
    help: ArgumentHelp(
      "The processor under --accel soft: v1, v2 or max, then features to add or take away, as in v2,+aes.",
      valueName: "model[,+feature|,-feature...]"))
  var cpu = "max"

  @Option(
    help: ArgumentHelp(
      "Add a device; 'help' lists the models, 'MODEL,help' a model's options.", valueName: "model[,option=value...]"),
    completion: .shellCommand("vmrun --device help | sed -n 's/^  \\([a-z0-9-]*\\) .*/\\1/p'"))
  var device: [String] = []

  // MARK: Disks and boot

  @Option(
    help: ArgumentHelp(
      "Add a hard disk: an image or block device.",
      discussion: "Options: format=auto|raw|qcow2, backing=off|on|PATH, if=ide|virtio|scsi, readonly=on|off,"
        + " cache=writeback|writethrough|none|unsafe, snapshot=on|off, iops=N, bps=SIZE."
        + " A comma in PATH is written twice.",
      valueName: "path[,option=value...]"),
    completion: .file())
  var disk: [String] = []

  @Option(
    help: ArgumentHelp("Add a CD-ROM drive with this image.", valueName: "path[,if=ide|scsi]"), completion: .file())
  var cdrom: [String] = []

  @Flag(help: "Keep writes to all disks in a temporary overlay; the images stay as they are.")
  var snapshot = false

  @Option(
    help: ArgumentHelp(
      "Boot order: disk, cdrom, or both with a comma; or the letters c and d. (default: disk,cdrom)",
      valueName: "order"),
    completion: .list(["disk", "cdrom", "disk,cdrom", "cdrom,disk"]))
  var boot: String?

  @Option(
    help: ArgumentHelp("BIOS image. (default: \(MachineSpec.defaultFirmware))", valueName: "path"), completion: .file())
  var firmware: String?

  // MARK: Kernel

  @Option(
    help: ArgumentHelp(
      "Start this kernel: a bzImage, an ELF or a multiboot kernel; - is standard input, fd:N an open descriptor.",
      valueName: "path|-|fd:N"),
    completion: .file())
  var kernel: String?

  @Option(
    help: ArgumentHelp(
      "Give the kernel this initial ramdisk; several are joined, or are modules of a multiboot kernel.",
      valueName: "path|-|fd:N"),
    completion: .file())
  var initrd: [String] = []

  @Option(
    help: ArgumentHelp(
      "The kernel's command line; without --kernel, what is added to that of the disk's boot configuration.",
      valueName: "text"))
  var append: String?

  @Option(
    help: ArgumentHelp(
      "With --mode pv and no --kernel, the entry of the disk's boot configuration to start. (default: its own)",
      valueName: "number|id|title"))
  var entry: String?

  @Flag(help: "Print the entries of the disk's boot configuration: number (* is the default), id and title.")
  var listEntries = false

  // MARK: Network

  @Option(
    help: ArgumentHelp(
      "Add a network card connected to user, tap, unix or none. (default: user)",
      discussion: "user: hostfwd=tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT, any number of times. tap: ifname=NAME and"
        + " queues=N, or fd=N[:N...]. unix: path=PATH, type=stream|dgram, listen=on|off, local=PATH. All:"
        + " model=e1000|rtl8139|virtio, mac=ADDRESS, pcap=FILE.",
      valueName: "kind[,option=value...]"),
    completion: .list(["user", "user,hostfwd=tcp:127.0.0.1:2222-:22", "tap,ifname=", "unix,path=", "none"]))
  var net: [String] = []

  @Option(
    help: ArgumentHelp(
      "Give the guest sockets (AF_VSOCK): host programs connect to the Unix socket PATH and write CONNECT PORT,"
        + " the guest's connections to PORT of the host go to PATH_PORT.",
      valueName: "uds=path[,cid=number]"))
  var vsock: String?

  // MARK: Console

  @Option(
    help: ArgumentHelp(
      "Connect the next serial port, COM1 to COM4, or what a device names: stdio, file:PATH, unix:PATH, pty or null;"
        + " or none for no port."
        + " (default: stdio)",
      valueName: "endpoint"),
    completion: .list(["stdio", "file:", "unix:", "pty", "null"]))
  var serial: [String] = []

  @Option(
    help: ArgumentHelp("Write the VGA text screen to this file when the run ends.", valueName: "file"),
    completion: .file())
  var screenText: String?

  // MARK: Run

  @Flag(help: "End the run with status 122 when the guest resets.")
  var noReboot = false

  @Option(help: ArgumentHelp("End the run with status 124 after 30s, 5m, 1h or 500ms.", valueName: "time"))
  var timeout: String?

  @Option(
    help: ArgumentHelp(
      "Isolation of the device process: on, strict or off; strict fails where the host lacks a layer.",
      valueName: "level"),
    completion: .list(["on", "strict", "off"]))
  var sandbox = "on"

  @Flag(help: "Report the microseconds of each step up to the guest's first instruction on standard error.")
  var timing = false

  @Flag(help: "Print the sandbox's system call policies.")
  var sandboxPolicy = false

  @Flag(help: "Print the resolved machine as JSON and do not run it.")
  var dryRun = false

  @Option(
    help: ArgumentHelp(
      "How much vmrun reports on standard error: trace, debug, info, notice, warning, error or critical.",
      valueName: "level"),
    completion: .list(["trace", "debug", "info", "notice", "warning", "error", "critical"]))
  var logLevel = "notice"

  @Option(
    help: ArgumentHelp(
      "With --accel soft, write instructions (in), interrupts (int), exceptions (exc) and I/O (io) to standard error"
        + " or to a file.",
      valueName: "event[,event...][,file=path]"))
  var trace: String?

  /// How `make man` writes vmrun-devices(7).
  @Flag(help: .private)
  var generateDevicesMan = false

  public init() {}
}
