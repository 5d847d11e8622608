/// A file of the boot loader specification's type #1 (UAPI.1): KEY VALUE on each line.
struct LoaderEntry: Equatable {
  /// The file's name without `.conf` and without boot counters.
  var id: String
  var title = ""
  var version = ""
  var machineID = ""
  var sortKey = ""
  var architecture = ""
  var kernel = ""
  var ramdisks: [String] = []
  var options: [String] = []
  /// It was tried as often as it may be, and has not come up.
  var isBad = false

  init(fileName: String, _ bytes: [UInt8]) {
    (id, isBad) = Self.id(fileName)
    for line in configurationLines(bytes) where !line.hasPrefix("#") {
      let (key, value) = line.headAndRest
      switch key {
      case "title": title = value
      case "version": version = value
      case "machine-id": machineID = value
      case "sort-key": sortKey = value
      case "architecture": architecture = value
      case "linux": kernel = value
      case "initrd": ramdisks += value.words
      case "options": options.append(value)
      default: break
      }
    }
  }

  /// NAME+LEFT or NAME+LEFT-DONE before `.conf`: how often it may still be tried.
  private static func id(_ fileName: String) -> (String, isBad: Bool) {
    let name = fileName.dropLast(".conf".count)
    guard let plus = name.lastIndex(of: "+") else { return (String(name), false) }
    let counters = name[name.index(after: plus)...].split(separator: "-", omittingEmptySubsequences: false)
    let numbers = counters.compactMap { UInt($0) }
    guard 1...2 ~= counters.count, numbers.count == counters.count else { return (String(name), false) }
    return (String(name[..<plus]), numbers[0] == 0)
  }

  /// The entry with its values changed, as GRUB puts variables in.
  func map(_ change: (String) throws(BootImageError) -> String) throws(BootImageError) -> LoaderEntry {
    var entry = self
    entry.title = try change(title)
    entry.kernel = try change(kernel)
    entry.ramdisks = []
    for file in ramdisks { entry.ramdisks += try change(file).words }
    entry.options = []
    for options in options { entry.options.append(try change(options)) }
    return entry
  }

  /// Whether a machine of this architecture can start it.
  var isUsable: Bool { !kernel.isEmpty && (architecture.isEmpty || architecture.asciiLowercased == "x64") }

  func bootEntry(on volume: Int) -> BootEntry {
    let arguments = options.filter { !$0.isEmpty }.joined(separator: " ")
    var entry = BootEntry(
      id: id, title: title.isEmpty ? id : title, kernel: kernel.isEmpty ? nil : BootPath(kernel, on: volume),
      ramdisks: ramdisks.prefix(BootLimits.ramdisks).map { BootPath($0, on: volume) },
      arguments: arguments)
    if ramdisks.count > BootLimits.ramdisks || arguments.utf8.count > BootLimits.arguments {
      entry.problem = "it has too many initial ramdisks or too long a command line"
    }
    return entry
  }

  /// The order of a menu ("Sorting"): what failed last, then by key, machine and version, newest first.
  static func isBefore(_ left: LoaderEntry, _ right: LoaderEntry) -> Bool {
    if left.isBad != right.isBad { return !left.isBad }
    if left.sortKey.isEmpty != right.sortKey.isEmpty { return !left.sortKey.isEmpty }
    if !left.sortKey.isEmpty {
      if left.sortKey != right.sortKey { return left.sortKey.utf8.lexicographicallyPrecedes(right.sortKey.utf8) }
      if left.machineID != right.machineID {
        return left.machineID.utf8.lexicographicallyPrecedes(right.machineID.utf8)
      }
      let order = compareVersions(left.version, right.version)
      if order != 0 { return order > 0 }
    }
    return compareVersions(left.id, right.id) > 0
  }

  /// GRUB's order: by the files' names, newest first.
  static func isBeforeInGRUB(_ left: LoaderEntry, _ right: LoaderEntry) -> Bool {
    compareVersions(left.id, right.id) > 0
  }
}

enum LoaderEntries {
  /// The usable entries of a directory; none where there is no such directory.
  static func read(_ directory: BootPath, _ volumes: any BootVolumes) throws(BootImageError) -> [LoaderEntry] {
    var entries: [LoaderEntry] = []
    for name in try volumes.names(in: directory) where name.asciiLowercased.hasSuffix(".conf") {
      guard entries.count < BootLimits.entries else {
        throw BootImageError(.limit, "there are more than \(BootLimits.entries) entries")
      }
      let path = BootPath(directory.path + "/" + name, on: directory.volume)
      guard let bytes = try volumes.contents(path) else { continue }
      let entry = LoaderEntry(fileName: name, bytes)
      if entry.isUsable { entries.append(entry) }
    }
    return entries
  }

  /// The pattern that `default` in loader.conf gives; nil: none.
  static func defaultPattern(_ bytes: [UInt8]) -> String? {
    var pattern: String?
    for line in configurationLines(bytes) {
      let (key, value) = line.headAndRest
      // @saved is a variable of the firmware's.
      if key == "default", !value.isEmpty, !value.hasPrefix("@") { pattern = value }
    }
    return pattern
  }

  /// The menu of several directories' entries.
  static func menu(_ entries: [(entry: LoaderEntry, volume: Int)], defaultPattern: String?) -> BootMenu {
    let sorted = entries.sorted { LoaderEntry.isBefore($0.entry, $1.entry) }
    var chosen = sorted.isEmpty ? nil : 0
    if let defaultPattern {
      let pattern = defaultPattern.asciiLowercased
      chosen =
        sorted.firstIndex { pair in
          let id = pair.entry.id.asciiLowercased
          return matchesGlob(id + ".conf", pattern) || matchesGlob(id, pattern)
        } ?? chosen
    }
    return BootMenu(items: sorted.map { .entry($0.entry.bootEntry(on: $0.volume)) }, chosen: chosen.map { [$0] })
  }
}
