import DeviceKit
import MachineModel

extension VMRunCommand {
  /// What `--kernel`, `--initrd` and `--append` say; nil: none of them is there.
  func boot() throws(UsageError) -> BootSpec? {
    let isGiven = kernel.kernel != nil || !kernel.initrd.isEmpty || kernel.append != nil
    guard machine.mode == .pv else {
      guard !isGiven else {
        throw UsageError("--kernel, --initrd and --append go with --mode pv; in other modes firmware boots a disk")
      }
      return nil
    }
    guard isGiven else { throw UsageError("--mode pv: give the kernel to start with --kernel") }
    guard let path = kernel.kernel else {
      throw UsageError("--initrd and --append go with --kernel: give the kernel, too")
    }
    var boot = BootSpec(kernel: try bootFile("--kernel", path))
    for path in kernel.initrd { boot.ramdisks.append(try bootFile("--initrd", path)) }
    let files = [boot.kernel].compactMap { $0 } + boot.ramdisks
    guard files.count(where: { $0 == .standardInput }) <= 1 else {
      throw UsageError("only one of --kernel and --initrd can be - (standard input)")
    }
    if boot.readsStandardInput, console.serial.contains("stdio") {
      let flag = boot.kernel == .standardInput ? "--kernel" : "--initrd"
      throw UsageError(
        "\(flag) -: standard input is also that of --serial stdio; leave --serial out for a console without input")
    }
    boot.arguments = kernel.append ?? ""
    let count = boot.arguments.utf8.count
    guard count <= BootSpec.argumentsLimit, !boot.arguments.utf8.contains(0) else {
      throw UsageError("--append: \(count) bytes are too many; a command line has at most \(BootSpec.argumentsLimit)")
    }
    return boot
  }

  private func bootFile(_ flag: String, _ text: String) throws(UsageError) -> BootFile {
    guard let file = BootFile(text) else {
      throw UsageError(flag, text, "must be a path, - for standard input, or fd:N for an open descriptor above 2")
    }
    return file
  }
}
