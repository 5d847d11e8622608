import DeviceKit
import MachineModel

extension VMRunCommand {
  /// What `--kernel`, `--initrd` and `--append` say; nil: none of them is there.
  func bootSpec() throws(UsageError) -> BootSpec? {
    guard let path = kernel else {
      if try chosenMode() == .pv { return try diskBoot() }
      let given = [("--initrd", !initrd.isEmpty), ("--append", append != nil)].first { $0.1 }
      if let given { throw UsageError("\(given.0) goes with --kernel: give the kernel, too") }
      guard entry == nil else {
        throw UsageError("--entry: goes with --mode pv; in other modes the disk's own boot loader chooses")
      }
      return nil
    }
    guard entry == nil else {
      throw UsageError("--entry: chooses from a disk's boot configuration; leave it out, or --kernel")
    }
    var boot = BootSpec(kernel: try bootFile("--kernel", path))
    for path in initrd { boot.ramdisks.append(try bootFile("--initrd", path)) }
    let files = [boot.kernel].compactMap { $0 } + boot.ramdisks
    guard files.count(where: { $0 == .standardInput }) <= 1 else {
      throw UsageError("only one of --kernel and --initrd can be - (standard input)")
    }
    if boot.readsStandardInput, serial.contains("stdio") {
      let flag = boot.kernel == .standardInput ? "--kernel" : "--initrd"
      throw UsageError(
        "\(flag) -: standard input is also that of --serial stdio; leave --serial out for a console without input")
    }
    boot.arguments = try arguments()
    return boot
  }

  /// What `--list-entries` needs to know: the disk, and how it is kept apart.
  func listingSpec() throws(UsageError) -> MachineSpec {
    guard kernel == nil else {
      throw UsageError("--list-entries: lists a disk's boot configuration; leave it out, or --kernel")
    }
    guard !images.isEmpty || !disk.isEmpty else { throw UsageError("--list-entries: give the disk image") }
    return MachineSpec(mode: .pv, blocks: try blocks(), sandbox: try sandboxLevel())
  }

  /// The kernel that the first disk's boot configuration names.
  private func diskBoot() throws(UsageError) -> BootSpec {
    guard initrd.isEmpty else { throw UsageError("--initrd goes with --kernel: give the kernel, too") }
    guard !images.isEmpty || !disk.isEmpty else {
      throw UsageError("--mode pv: give a disk image whose kernel is started, or a kernel with --kernel")
    }
    guard entry?.isEmpty != true else { throw UsageError("--entry: needs a number, an id or a title") }
    return BootSpec(arguments: try arguments(), entry: entry)
  }

  private func arguments() throws(UsageError) -> String {
    let text = append ?? ""
    guard text.utf8.count <= BootSpec.argumentsLimit, !text.utf8.contains(0) else {
      throw UsageError(
        "--append: \(text.utf8.count) bytes are too many; a command line has at most \(BootSpec.argumentsLimit)")
    }
    return text
  }

  private func bootFile(_ flag: String, _ text: String) throws(UsageError) -> BootFile {
    guard let file = BootFile(text) else {
      throw UsageError(flag, text, "must be a path, - for standard input, or fd:N for an open descriptor above 2")
    }
    return file
  }
}
