import Glibc
import LinuxSystem

/// Mode pv, beside QEMU's `-M microvm` and beside mode hvm.
extension Bench {
  /// QEMU with what mode pv has beside disks and networks.
  private func microMachine(accel: String, memory: String, _ arguments: [String]) -> [String] {
    [
      qemu, "-M", "microvm,accel=\(accel)", "-m", memory, "-nodefaults", "-no-user-config", "-display", "none",
      "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
    ] + arguments
  }

  /// The processor time of all processes from exec until a guest has ended the run at its first instruction, on both
  /// engines, with a disk and a user network that it does not use; how long that takes; and how much of it comes before
  /// that instruction, which QEMU does not tell.
  func launch() throws -> [any Report] {
    let kernel = "\(guests)/pvh-exit.elf"
    let scratch = try ScratchImage("\(guests)/scratch.img", megabytes: 64)
    let disk = "file=\(scratch.path),format=raw,if=none,id=d"
    let hasKVM = access("/dev/kvm", R_OK | W_OK) == 0
    return try [("soft", "tcg"), ("kvm", "kvm")].filter { hasKVM || $0.0 != "kvm" }.flatMap { ours, theirs in
      let line = ["--mode", "pv", "--kernel", kernel, "--disk", scratch.path]
      let devices = [
        "-kernel", kernel, "-drive", disk, "-device", "virtio-blk-device,drive=d", "-netdev", "user,id=n", "-device",
        "virtio-net-device,netdev=n",
      ]
      let runs = try alternate(
        [
          ("vmrun --accel \(ours)", vmrunMachine(accel: ours, memory: "128M", line)),
          ("QEMU -M microvm,accel=\(theirs)", microMachine(accel: theirs, memory: "128M", devices)),
        ], times: repetitions)
      // isa-debug-exit says 0 by 1.
      for (contender, status) in zip(runs, [0, 1] as [CInt]) {
        for run in contender.runs where run.status != status {
          throw BenchError("\(contender.name) ended with status \(run.status) and wrote: \(run.text)")
        }
      }
      let timed = vmrunMachine(accel: ours, memory: "128M", line + ["--timing"])
      let starts = try (0..<repetitions).map { _ in try ChildRun(timed, readsErrors: true) }
      return [
        try table("Processor time until a PVH guest ends", goal: 0.5, runs) { $0.processorTime },
        try table("Exec to the end of the same run", runs) { $0.end },
        try table("Processor time until its first instruction", limit: 10e-3, [(runs[0].name, starts)], startTime),
      ]
    }
  }

  /// What `--timing` says that both processes have used up to the guest's first instruction, in nanoseconds.
  private func startTime(_ run: ChildRun) -> UInt64? {
    // `vmrun: timing: MICROSECONDS MICROSECONDS devices: devices, CPU time so far`, and one of the launcher's own.
    let times = run.lines.filter { $0.text.hasSuffix("CPU time so far") }
      .compactMap { UInt64($0.text.split(separator: " ").dropFirst(3).first ?? "") }
    return times.count == 2 ? times.reduce(0, +) * 1000 : nil
  }

  /// Power-on to the prompt of Debian's getty without firmware and emulated hardware: with the kernel that Debian installs,
  /// and with the one for clouds, which has no driver for the network card of mode hvm.
  func pv() throws -> [any Report] {
    try [("its standard kernel", "debian-generic"), ("its cloud kernel", "debian")].map { kernel, image in
      let runs = try alternate(
        ["pv", "hvm"].map { mode in
          let arguments = ["--mode", mode, "--snapshot", "\(guests)/\(image).img"]
          return ("mode \(mode)", vmrunMachine(accel: "soft", memory: "1G", arguments))
        }, mark: "vmrun login:", times: 3)
      return try table("Exec to Debian's \"login:\" without KVM, \(kernel)", goal: 0.7, runs) { $0.mark }
    }
  }

  /// Debian's cloud kernel to the first line of an init in its ramdisk.
  func microVM() throws -> [any Report] {
    let (kernel, ramdisk, arguments) = ("\(guests)/kernels/cloud-amd64", "\(guests)/init.cpio", "console=ttyS0")
    let runs = try alternate(
      [
        (
          "vmrun mode pv",
          vmrunMachine(
            accel: "soft",
            ["--mode", "pv", "--kernel", kernel, "--initrd", ramdisk, "--append", arguments])
        ),
        (
          "QEMU -M microvm",
          // With ACPI, Linux finds no timer here.
          microMachine(
            accel: "tcg,acpi=off", memory: "512M",
            ["-kernel", kernel, "-initrd", ramdisk, "-append", arguments])
        ),
      ], mark: "init has started", times: 5)
    return [try table("Exec to a ramdisk's init, both without KVM", goal: 1.5, runs) { $0.mark }]
  }
}
