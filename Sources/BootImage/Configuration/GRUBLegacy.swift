/// menu.lst or grub.conf of GRUB 0.97 (GNU GRUB Legacy manual, "Configuration").
enum GRUBLegacy {
  /// `savedDefault` is the content of the file `default` beside it.
  static func menu(_ bytes: [UInt8], on home: Int, savedDefault: [UInt8]?, _ volumes: any BootVolumes)
    throws(BootImageError) -> BootMenu
  {
    var items: [BootMenu.Item] = []
    var chosen = 0
    var section: Section?
    func end() throws(BootImageError) {
      guard let section else { return }
      guard items.count < BootLimits.entries else {
        throw BootImageError(.limit, "it has more than \(BootLimits.entries) menu entries")
      }
      items.append(.entry(section.entry))
    }
    for line in configurationLines(bytes) where !line.hasPrefix("#") {
      let (key, rest) = split(line)
      switch key.asciiLowercased {
      case "default" where section == nil:
        chosen = rest == "saved" ? saved(savedDefault) : Int(rest) ?? 0
      case "title":
        try end()
        section = Section(rest, home, volumes)
      default: try section?.take(key.asciiLowercased, rest)
      }
    }
    try end()
    return BootMenu(items: items, chosen: items.isEmpty ? nil : [items.indices.contains(chosen) ? chosen : 0])
  }

  /// A keyword ends with a blank or an equals sign.
  private static func split(_ line: String) -> (String, String) {
    let bytes = Array(line.utf8)
    let key = bytes.prefix { !isBlank($0) && $0 != UInt8(ascii: "=") }
    let rest = bytes[key.endIndex...].drop { isBlank($0) || $0 == UInt8(ascii: "=") }
    return (String(decoding: key, as: UTF8.self), String(decoding: trimmed(rest), as: UTF8.self))
  }

  private static func saved(_ bytes: [UInt8]?) -> Int {
    guard let bytes else { return 0 }
    return Int(String(decoding: bytes.prefix { 0x30...0x39 ~= $0 }, as: UTF8.self)) ?? 0
  }

  /// The lines behind a title.
  private struct Section {
    private let title: String
    private let volumes: any BootVolumes
    private var root: Int?
    private var target = GRUBTarget()

    init(_ title: String, _ home: Int, _ volumes: any BootVolumes) {
      self.title = title
      self.volumes = volumes
      root = home
    }

    var entry: BootEntry { target.entry(id: "", title: title, menus: []) }

    mutating func take(_ key: String, _ rest: String) throws(BootImageError) {
      switch key {
      case "root", "rootnoverify": root = volume(rest.headAndRest.head)
      case "uuid":
        let uuid = rest.asciiLowercased
        root = (0..<volumes.count).first { volumes.uuid(of: $0).asciiLowercased == uuid }
      case "kernel":
        var line = rest
        while line.hasPrefix("--") { line = line.headAndRest.rest }
        let (file, arguments) = line.headAndRest
        guard let path = path(file) else { return }
        let name = file.split(separator: "/").last.map(String.init) ?? ""
        guard arguments.utf8.count <= BootLimits.arguments else {
          throw BootImageError(.limit, "a kernel's command line is too long")
        }
        if name.hasPrefix("xen") {
          target.multiboot = name
        } else {
          (target.kernel, target.arguments) = (path, arguments)
        }
      case "initrd":
        target.ramdisks = rest.words.prefix(BootLimits.ramdisks).compactMap { path($0) }
      case "module", "modulenounzip":
        let (file, arguments) = rest.headAndRest
        guard let path = path(file), target.modules.count < BootLimits.ramdisks else { return }
        target.modules.append((path, String(arguments.prefix(BootLimits.arguments))))
      default: break
      }
    }

    /// (hd0,N) counts partitions from 0; (hd0) is a disk without a table, or the first file system.
    private func volume(_ device: String) -> Int? {
      guard device.hasPrefix("(hd0"), device.hasSuffix(")") else { return nil }
      let digits = device.dropFirst(4).dropLast().drop { $0 == "," }
      guard !digits.isEmpty else { return volumes.count > 0 ? 0 : nil }
      guard let number = Int(digits) else { return nil }
      return (0..<volumes.count).first { volumes.partition(of: $0).number == number &+ 1 }
    }

    private mutating func path(_ text: String) -> BootPath? {
      var file = text
      var volume = root
      if text.hasPrefix("("), let close = text.firstIndex(of: ")") {
        volume = self.volume(String(text[...close]))
        file = String(text[text.index(after: close)...])
      }
      guard let volume else {
        target.problem = "\(text): no such file system on this disk"
        return nil
      }
      return BootPath(file, on: volume)
    }
  }
}
