/// syslinux.cfg or extlinux.conf (SYSLINUX documentation, "The Configuration File").
struct Syslinux {
  private struct Label {
    var name: String
    var title: String?
    var kernel: String?
    var ramdisks: [String] = []
    var arguments: String?
  }

  private let volumes: any BootVolumes
  private let home: BootPath
  private var labels: [Label] = []
  private var defaultName: String?
  private var menuDefault: Int?
  private var globalArguments = ""
  private var includes = 0

  static func menu(_ path: BootPath, _ bytes: [UInt8], _ volumes: any BootVolumes) throws(BootImageError) -> BootMenu {
    var reader = Syslinux(volumes: volumes, home: path)
    try reader.read(bytes, depth: 0)
    return reader.menu()
  }

  private init(volumes: any BootVolumes, home: BootPath) {
    (self.volumes, self.home) = (volumes, home)
  }

  /// Relative names start at the directory of the configuration.
  private func path(_ name: String) -> BootPath {
    name.hasPrefix("/")
      ? BootPath(name, on: home.volume)
      : BootPath("/" + (home.directory + "/" + name).pathNames.joined(separator: "/"), on: home.volume)
  }

  private mutating func read(_ bytes: [UInt8], depth: Int) throws(BootImageError) {
    for line in configurationLines(bytes) where !line.hasPrefix("#") {
      let (key, rest) = line.headAndRest
      switch key.asciiLowercased {
      case "default": defaultName = rest
      case "ontimeout" where defaultName == nil: defaultName = rest
      case "label":
        guard labels.count < BootLimits.entries else {
          throw BootImageError(.limit, "it has more than \(BootLimits.entries) entries")
        }
        labels.append(Label(name: rest))
      case "kernel", "linux": change { $0.kernel = rest }
      case "initrd": change { $0.ramdisks = Self.files(rest) }
      case "append":
        if labels.isEmpty { globalArguments = rest } else { change { $0.arguments = rest } }
      case "menu": try menu(rest, depth)
      case "include": try include(rest, depth)
      default: break
      }
    }
  }

  private mutating func change(_ body: (inout Label) -> Void) {
    if !labels.isEmpty { body(&labels[labels.count - 1]) }
  }

  private mutating func menu(_ line: String, _ depth: Int) throws(BootImageError) {
    let (key, rest) = line.headAndRest
    switch key.asciiLowercased {
    // ^ marks a key.
    case "label": change { $0.title = rest.filter { $0 != "^" } }
    case "default": if !labels.isEmpty { menuDefault = labels.count - 1 }
    case "include": try include(rest, depth)
    default: break
    }
  }

  private mutating func include(_ line: String, _ depth: Int) throws(BootImageError) {
    includes += 1
    guard depth < BootLimits.depth, includes <= BootLimits.entries else {
      throw BootImageError(.limit, "its files include one another too often")
    }
    guard let bytes = try volumes.contents(path(line.headAndRest.head)) else { return }
    try read(bytes, depth: depth + 1)
  }

  private static func files(_ text: String) -> [String] {
    text.utf8.split { $0 == UInt8(ascii: ",") || isBlank($0) }.prefix(BootLimits.ramdisks)
      .map { String(decoding: $0, as: UTF8.self) }
  }

  private func menu() -> BootMenu {
    var items = labels.map { BootMenu.Item.entry(entry($0)) }
    // A module of SYSLINUX's, mostly the menu itself, then decides.
    let name = defaultName.map(\.headAndRest.head) ?? ""
    var chosen = labels.firstIndex { $0.name.asciiLowercased == (defaultName ?? "").asciiLowercased }
    chosen = chosen ?? labels.firstIndex { $0.name.asciiLowercased == name.asciiLowercased }
    if let chosen, items.indices.contains(chosen), case .entry(let entry) = items[chosen], entry.kernel == nil {
      // The label of a menu.
      return BootMenu(items: items, chosen: (menuDefault ?? firstKernel(items)).map { [$0] })
    }
    if chosen == nil, let line = defaultName, !name.isEmpty, Self.isKernel(name) {
      let (file, arguments) = line.headAndRest
      items.append(.entry(entry(Label(name: name, kernel: file, arguments: arguments))))
      chosen = menuDefault ?? (labels.isEmpty ? items.count - 1 : nil)
    }
    return BootMenu(items: items, chosen: (chosen ?? menuDefault ?? firstKernel(items)).map { [$0] })
  }

  private func firstKernel(_ items: [BootMenu.Item]) -> Int? {
    items.firstIndex { item in
      if case .entry(let entry) = item { entry.kernel != nil } else { false }
    }
  }

  /// Files with these endings are no kernels ("KERNEL file").
  private static func isKernel(_ name: String) -> Bool {
    let file = name.asciiLowercased
    return ![".c32", ".com", ".cbt", ".0", ".bin", ".bs", ".bss", ".img"].contains { file.hasSuffix($0) }
  }

  private func entry(_ label: Label) -> BootEntry {
    // A label without KERNEL is the kernel's name; `-` takes the global arguments away.
    let name = label.kernel ?? label.name
    let arguments = label.arguments.map { $0 == "-" ? "" : $0 } ?? globalArguments
    var ramdisks = label.ramdisks
    var words: [String] = []
    for word in arguments.words {
      if word.asciiLowercased.hasPrefix("initrd=") {
        if ramdisks.isEmpty { ramdisks = Self.files(String(word.dropFirst(7))) }
      } else {
        words.append(word)
      }
    }
    let isKernel = Self.isKernel(name) && !name.isEmpty && !name.contains(":")
    var entry = BootEntry(
      id: label.name, title: label.title ?? label.name, kernel: isKernel ? path(name) : nil,
      ramdisks: ramdisks.map { path($0) }, arguments: words.joined(separator: " "))
    if entry.arguments.utf8.count > BootLimits.arguments { entry.problem = "its command line is too long" }
    return entry
  }
}
