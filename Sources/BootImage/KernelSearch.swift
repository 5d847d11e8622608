/// Kernels without a boot loader's configuration: the newest is taken, if it is clear which root file system is meant.
struct KernelSearch {
  private struct Kernel {
    let version: String
    let path: BootPath
    let ramdisk: BootPath?
  }

  private let volumes: any BootVolumes

  init(_ volumes: any BootVolumes) { self.volumes = volumes }

  /// nil: there is no kernel. Throws `notFound` where there are several systems.
  func run() throws(BootImageError) -> ConfigurationSearch.Found? {
    var kernels: [Kernel] = []
    var homes: [BootPath] = []
    for volume in 0..<volumes.count {
      // A /boot of its own has its kernels at the top.
      for directory in ["/boot", "/"] {
        let path = BootPath(directory, on: volume)
        let found = try self.kernels(in: path)
        guard !found.isEmpty else { continue }
        kernels += found
        homes.append(path)
        break
      }
    }
    guard let home = homes.first else { return nil }
    guard homes.count == 1 else {
      throw BootImageError(
        .notFound,
        "there is no boot loader's configuration, and there are kernels on "
          + homes.map { volumes.partition(of: $0.volume).description }.joined(separator: " and ")
          + ": give --kernel, --initrd and --append, or use --mode hvm")
    }
    let root = try rootVolume(kernelsAt: home)
    let sorted = kernels.sorted { compareVersions($0.version, $1.version) > 0 }
    let items = sorted.prefix(BootLimits.entries).map { kernel in
      BootMenu.Item.entry(
        BootEntry(
          id: "vmlinuz-\(kernel.version)", title: "Linux \(kernel.version)", kernel: kernel.path,
          ramdisks: kernel.ramdisk.map { [$0] } ?? [],
          arguments: "root=\(rootArgument(root, hasRamdisk: kernel.ramdisk != nil)) ro"))
    }
    let source = "\(home.path) on \(volumes.partition(of: home.volume).description)"
    return (BootMenu(items: items, chosen: [0]), source)
  }

  private func kernels(in directory: BootPath) throws(BootImageError) -> [Kernel] {
    let names = try volumes.names(in: directory)
    let prefix = directory.path == "/" ? "/" : directory.path + "/"
    var kernels: [Kernel] = []
    for name in names where name.hasPrefix("vmlinuz-") && !name.contains("rescue") && !name.hasSuffix(".old") {
      let version = String(name.dropFirst("vmlinuz-".count))
      let candidates = [
        "initrd.img-\(version)", "initramfs-\(version).img", "initrd-\(version)", "initrd-\(version).img",
        "initramfs-\(version)",
      ]
      let ramdisk = candidates.first { names.contains($0) }
      kernels.append(
        Kernel(
          version: version, path: BootPath(prefix + name, on: directory.volume),
          ramdisk: ramdisk.map { BootPath(prefix + $0, on: directory.volume) }))
    }
    return kernels
  }

  /// The only file system that looks like a system's root.
  private func rootVolume(kernelsAt home: BootPath) throws(BootImageError) -> Int {
    var roots: [Int] = []
    for volume in 0..<volumes.count {
      for mark in ["/etc/os-release", "/usr/lib/os-release", "/sbin/init", "/etc/fstab"]
      where try volumes.kind(of: BootPath(mark, on: volume)) != nil {
        roots.append(volume)
        break
      }
    }
    guard roots.count == 1, let root = roots.first else {
      throw BootImageError(
        .notFound,
        "there are kernels in \(home.path) on \(volumes.partition(of: home.volume).description), but no boot "
          + "loader's configuration, and \(roots.isEmpty ? "no partition" : "more than one partition") looks like the "
          + "root of a system: give --kernel, --initrd and --append root=...")
    }
    return root
  }

  /// Only an initial ramdisk finds a file system by its UUID.
  private func rootArgument(_ volume: Int, hasRamdisk: Bool) -> String {
    let partition = volumes.partition(of: volume)
    if hasRamdisk { return "UUID=\(volumes.uuid(of: volume))" }
    if !partition.uuid.isEmpty { return "PARTUUID=\(partition.uuid)" }
    return partition.number == 0 ? "/dev/vda" : "/dev/vda\(partition.number)"
  }
}
