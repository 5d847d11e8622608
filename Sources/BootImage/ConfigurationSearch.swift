/// Where boot loaders keep their configurations, and which of them counts.
///
/// A loader.conf says that systemd-boot boots this disk, for Fedora's GRUB keeps its entries in the same directories. After
/// that GRUB, then entries by themselves, GRUB legacy, SYSLINUX, and last a kernel without any configuration.
struct ConfigurationSearch {
  typealias Found = (menu: BootMenu, source: String)

  static let summary =
    "loader/entries/*.conf, grub/grub.cfg, grub2/grub.cfg, grub/menu.lst, extlinux.conf, syslinux.cfg and vmlinuz-*"

  private static let grub = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub/grub.cfg", "/grub2/grub.cfg"]
  private static let legacy = ["/boot/grub/menu.lst", "/boot/grub/grub.conf", "/grub/menu.lst", "/grub/grub.conf"]
  private static let syslinux =
    ["/boot/extlinux", "/extlinux", "/boot", ""].map { $0 + "/extlinux.conf" }
    + ["/boot/syslinux", "/syslinux", "/boot/isolinux", "/isolinux", ""].flatMap {
      [$0 + "/syslinux.cfg", $0 + "/isolinux.cfg"]
    }
  private static let entries = ["/loader", "/boot/loader", "/efi/loader", "/boot/efi/loader"]

  private let volumes: any BootVolumes

  init(_ volumes: any BootVolumes) { self.volumes = volumes }

  /// Partitions that are marked active come first.
  private var order: [Int] {
    let numbers = Array(0..<volumes.count)
    return numbers.filter { volumes.partition(of: $0).isActive }
      + numbers.filter { !volumes.partition(of: $0).isActive }
  }

  /// nil: there is none.
  func run() throws(BootImageError) -> Found? {
    if let found = try loaderEntries(withLoaderConfiguration: true) { return found }
    if let found = try grubConfiguration() { return found }
    if let found = try loaderEntries(withLoaderConfiguration: false) { return found }
    let legacy = try first(Self.legacy) { path, bytes throws(BootImageError) in
      let saved = try volumes.contents(BootPath(path.directory + "/default", on: path.volume))
      return try GRUBLegacy.menu(bytes, on: path.volume, savedDefault: saved, volumes)
    }
    if let legacy { return legacy }
    let syslinux = try first(Self.syslinux) { path, bytes throws(BootImageError) in
      try Syslinux.menu(path, bytes, volumes)
    }
    if let syslinux { return syslinux }
    return try KernelSearch(volumes).run()
  }

  /// The first of these files that has an entry with a kernel.
  private func first(
    _ paths: [String], _ read: (BootPath, [UInt8]) throws(BootImageError) -> BootMenu
  ) throws(BootImageError) -> Found? {
    for volume in order {
      for text in paths {
        let path = BootPath(text, on: volume)
        guard let bytes = try volumes.contents(path) else { continue }
        do throws(BootImageError) {
          let menu = try read(path, bytes)
          if !menu.entries.isEmpty { return (menu, name(path)) }
        } catch {
          throw BootImageError(error.kind, "\(name(path)): \(error.description)")
        }
      }
    }
    return nil
  }

  private func name(_ path: BootPath) -> String {
    "\(path.path) on \(volumes.partition(of: path.volume).description)"
  }

  private func grubConfiguration() throws(BootImageError) -> Found? {
    let read = { (path: BootPath, bytes: [UInt8]) throws(BootImageError) in
      try GRUBInterpreter.menu(path, bytes, on: volumes)
    }
    if let found = try first(Self.grub, read) { return found }
    // On an EFI system partition: one that leads to the other, or a whole one.
    var paths: [String] = []
    for volume in order {
      for vendor in try volumes.names(in: BootPath("/EFI", on: volume)).prefix(64) {
        paths.append("/EFI/\(vendor)/grub.cfg")
      }
    }
    return try first(paths, read)
  }

  /// Entries of all file systems that have some, as the specification wants of the ESP and the XBOOTLDR partition.
  private func loaderEntries(withLoaderConfiguration: Bool) throws(BootImageError) -> Found? {
    var entries: [(entry: LoaderEntry, volume: Int)] = []
    var pattern: String?
    var sources: [String] = []
    var isConfigured = false
    for volume in order {
      for directory in Self.entries {
        let configuration = try volumes.contents(BootPath(directory + "/loader.conf", on: volume))
        if let configuration {
          isConfigured = true
          pattern = pattern ?? LoaderEntries.defaultPattern(configuration)
        }
        let path = BootPath(directory + "/entries", on: volume)
        let found = try LoaderEntries.read(path, volumes)
        guard !found.isEmpty else { continue }
        sources.append(name(path))
        for entry in found { entries.append((try placed(entry, path), volume)) }
        break
      }
    }
    guard !entries.isEmpty, isConfigured || !withLoaderConfiguration else { return nil }
    guard entries.count <= BootLimits.entries else {
      throw BootImageError(.limit, "there are more than \(BootLimits.entries) boot loader entries")
    }
    return (LoaderEntries.menu(entries, defaultPattern: pattern), sources.joined(separator: " and "))
  }

  /// Paths start at the root of the partition that is mounted at /boot; where /boot is a directory, they are found there.
  private func placed(_ entry: LoaderEntry, _ directory: BootPath) throws(BootImageError) -> LoaderEntry {
    let kernel = entry.kernel.hasPrefix("/") ? entry.kernel : "/" + entry.kernel
    guard directory.path.hasPrefix("/boot/"), try volumes.kind(of: BootPath(kernel, on: directory.volume)) == nil,
      try volumes.kind(of: BootPath("/boot" + kernel, on: directory.volume)) != nil
    else { return entry }
    var moved = entry
    moved.kernel = "/boot" + kernel
    moved.ramdisks = entry.ramdisks.map { "/boot/" + $0 }
    return moved
  }
}
