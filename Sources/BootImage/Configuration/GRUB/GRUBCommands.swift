extension GRUBInterpreter {
  /// Commands whose effect on a screen, a keyboard or a module is not wanted here.
  private static let withoutEffect: Set<String> = [
    "background_color", "background_image", "boot", "clear", "cpuid", "cutmem", "echo", "export", "gfxpayload",
    "hdparm",
    "insmod", "keymap", "loadfont", "password", "password_pbkdf2", "play", "rmmod", "save_env", "serial", "sleep",
    "terminal_input", "terminal_output", "terminfo", "true", "videoinfo", "videomode",
  ]

  /// One of GRUB's own commands. False: it failed, or is not known.
  mutating func perform(_ name: String, _ arguments: [String]) throws(BootImageError) -> Bool {
    switch name {
    case "set": return set(arguments)
    case "unset":
      for name in arguments { variables[name] = nil }
      return true
    case "increment", "decrement": return count(name, arguments)
    case "[": return try test(arguments.last == "]" ? arguments.dropLast() : arguments[...])
    case "test": return try test(arguments[...])
    case "search": return try search(arguments)
    case "search.fs_uuid", "search.fs_label", "search.file":
      return try search(["--" + name.dropFirst(7).replacingUnderscores] + arguments)
    case "probe": return probe(arguments)
    case "load_env": return try loadEnvironment(arguments)
    case "source", ".", "configfile", "extract_entries_source", "extract_entries_configfile":
      return try include(arguments, isConfiguration: name.hasSuffix("configfile"))
    case "linux", "linux16", "linuxefi": return try loadKernel(arguments)
    case "initrd", "initrd16", "initrdefi": return try loadRamdisks(arguments)
    case "multiboot", "multiboot2", "xen_hypervisor":
      target.multiboot = arguments.first { !$0.hasPrefix("--") }?.split(separator: "/").last.map(String.init)
      return true
    case "module", "module2", "xen_module": return try loadModule(arguments)
    case "blscfg": return try addLoaderEntries()
    case "false", "keystatus": return false
    default:
      // NAME=VALUE
      if let equals = name.utf8.firstIndex(of: UInt8(ascii: "=")), equals != name.utf8.startIndex {
        return set([name] + arguments)
      }
      return Self.withoutEffect.contains(name)
    }
  }

  private mutating func set(_ arguments: [String]) -> Bool {
    guard let text = arguments.first, let equals = text.utf8.firstIndex(of: UInt8(ascii: "=")) else { return true }
    variables[String(text[..<equals])] = String(text[text.utf8.index(after: equals)...])
    return true
  }

  private mutating func count(_ name: String, _ arguments: [String]) -> Bool {
    guard let variable = arguments.first, let value = Int(variables[variable] ?? "0") else { return false }
    variables[variable] = String(name == "increment" ? value &+ 1 : value &- 1)
    return true
  }

  // MARK: Places

  /// The volume that a device's name means: `hd0,msdos1`, `hd0,gpt1`, `hd0,1` or `hd0`. The disk is hd0.
  private func volume(_ device: String) -> Int? {
    let name = device.first == "(" && device.last == ")" ? String(device.dropFirst().dropLast()) : device
    let parts = name.split(separator: ",", maxSplits: 1)
    guard parts.first == "hd0" else { return nil }
    let digits = parts.count > 1 ? parts[1].drop { !("0"..."9" ~= $0) } : "0"
    guard let number = Int(digits) else { return nil }
    return (0..<volumes.count).first { volumes.partition(of: $0).number == number }
  }

  /// `(device)/path`, or a path on `$root`.
  func path(_ text: String) -> BootPath? {
    guard text.first == "(", let close = text.firstIndex(of: ")") else {
      return volume(variables["root"] ?? "").map { BootPath(text, on: $0) }
    }
    return volume(String(text[...close])).map { BootPath(String(text[text.index(after: close)...]), on: $0) }
  }

  private func test(_ words: some Collection<String>) throws(BootImageError) -> Bool {
    try GRUBTest.evaluate(Array(words)) { text throws(BootImageError) in
      guard let path = path(text) else { return nil }
      return try volumes.kind(of: path)
    }
  }

  private enum SearchKey { case uuid, label, file }

  private mutating func search(_ arguments: [String]) throws(BootImageError) -> Bool {
    var key = SearchKey.file
    var variable: String?
    var names: [String] = []
    var words = arguments[...]
    while let word = words.popFirst() {
      switch word {
      case "--fs-uuid", "-u": key = .uuid
      case "--label", "-l", "--fs-label": key = .label
      case "--file", "-f": key = .file
      case "--set", "-s": variable = variable ?? "root"
      case "--hint", "-h": _ = words.popFirst()
      case _ where word.hasPrefix("--set="): variable = String(word.dropFirst(6))
      case _ where word.hasPrefix("-"): break
      default: names.append(word)
      }
    }
    guard let name = names.first else { return false }
    guard let found = try find(key, name) else { return false }
    variables[names.count > 1 ? names[1] : variable ?? "root"] = volumes.partition(of: found).grubName
    return true
  }

  private func find(_ key: SearchKey, _ name: String) throws(BootImageError) -> Int? {
    for volume in 0..<volumes.count {
      let isFound =
        switch key {
        case .uuid: volumes.uuid(of: volume).asciiLowercased == name.asciiLowercased
        case .label: volumes.label(of: volume) == name
        case .file: try volumes.kind(of: BootPath(name, on: volume)) != nil
        }
      if isFound { return volume }
    }
    return nil
  }

  private mutating func probe(_ arguments: [String]) -> Bool {
    var value: ((Int) -> String)?
    var variable: String?
    var device: String?
    var words = arguments[...]
    while let word = words.popFirst() {
      switch word {
      case "--fs-uuid", "-u": value = volumes.uuid(of:)
      case "--label", "-l": value = volumes.label(of:)
      case "--part-uuid": value = { [volumes] in volumes.partition(of: $0).uuid }
      case "--set", "-s": variable = words.popFirst()
      case _ where word.hasPrefix("--set="): variable = String(word.dropFirst(6))
      default: device = word
      }
    }
    guard let value, let device, let volume = volume(device) else { return false }
    if let variable { variables[variable] = value(volume) }
    return true
  }

  // MARK: Files

  private mutating func loadEnvironment(_ arguments: [String]) throws(BootImageError) -> Bool {
    var file = (variables["prefix"] ?? "") + "/grubenv"
    var names: Set<String> = []
    var words = arguments[...]
    while let word = words.popFirst() {
      switch word {
      case "-f", "--file": file = words.popFirst() ?? ""
      case "-s", "--skip-sig": break
      case _ where word.hasPrefix("--file="): file = String(word.dropFirst(7))
      default: names.insert(word)
      }
    }
    guard let path = path(file), let bytes = try volumes.contents(path),
      let block = GRUBEnvironmentBlock.variables(bytes)
    else { return false }
    for (name, value) in block where names.isEmpty || names.contains(name) { variables[name] = value }
    return true
  }

  private mutating func include(_ arguments: [String], isConfiguration: Bool) throws(BootImageError) -> Bool {
    guard let text = arguments.first, let path = path(text), let bytes = try volumes.contents(path) else {
      return false
    }
    if isConfiguration { setConfiguration(path) }
    _ = try run(try GRUBParser.parse(bytes))
    return true
  }

  /// nil: GRUB would fail here, and the entry cannot be started.
  private mutating func required(_ text: String) -> BootPath? {
    if let path = path(text) { return path }
    target.problem = "\(text): no such file system on this disk (root is '\(variables["root"] ?? "")')"
    return nil
  }

  private mutating func loadKernel(_ arguments: [String]) throws(BootImageError) -> Bool {
    let words = arguments.drop { $0.hasPrefix("--") }
    guard let file = words.first else { return false }
    guard let path = required(file) else { return false }
    target.kernel = path
    target.ramdisks = []
    target.arguments = try Self.commandLine(["BOOT_IMAGE=" + file] + words.dropFirst())
    return true
  }

  private mutating func loadRamdisks(_ arguments: [String]) throws(BootImageError) -> Bool {
    target.ramdisks = []
    for file in arguments where !file.hasPrefix("--") {
      guard target.ramdisks.count < BootLimits.ramdisks else {
        throw BootImageError(.limit, "an entry has more than \(BootLimits.ramdisks) initial ramdisks")
      }
      guard !file.hasPrefix("newc:") else {
        target.problem = "initrd \(file): files that GRUB packs itself cannot be loaded"
        continue
      }
      guard let path = required(file) else { return false }
      target.ramdisks.append(path)
    }
    return true
  }

  private mutating func loadModule(_ arguments: [String]) throws(BootImageError) -> Bool {
    let words = arguments.drop { $0.hasPrefix("--") }
    guard let file = words.first, target.modules.count < BootLimits.ramdisks, let path = required(file) else {
      return false
    }
    target.modules.append((path, try Self.commandLine(words.dropFirst())))
    return true
  }

  /// Words as GRUB joins them: those with blanks in quotation marks.
  private static func commandLine(_ words: some Sequence<String>) throws(BootImageError) -> String {
    var line: [UInt8] = []
    for word in words {
      if !line.isEmpty { line.append(UInt8(ascii: " ")) }
      let isQuoted = word.utf8.contains(UInt8(ascii: " "))
      if isQuoted { line.append(UInt8(ascii: "\"")) }
      line += word.utf8
      if isQuoted { line.append(UInt8(ascii: "\"")) }
      guard line.count <= BootLimits.arguments else {
        throw BootImageError(.limit, "a kernel's command line is too long")
      }
    }
    return String(decoding: line, as: UTF8.self)
  }

  /// The entries of a boot loader specification directory, newest first, as Fedora's GRUB has them.
  private mutating func addLoaderEntries() throws(BootImageError) -> Bool {
    let devices = [variables["boot"], variables["root"]].compactMap { $0 }.filter { !$0.isEmpty }
    let directories = [variables["blsdir"], "/loader/entries", "/boot/loader/entries"].compactMap { $0 }
    for device in devices {
      guard let volume = volume(device) else { continue }
      for directory in directories where !directory.isEmpty {
        let entries = try LoaderEntries.read(BootPath(directory, on: volume), volumes)
        guard !entries.isEmpty else { continue }
        for entry in entries.sorted(by: LoaderEntry.isBeforeInGRUB) {
          let expanded = try entry.map { text throws(BootImageError) in
            try expandInLoaderEntry(text)
          }
          var found = expanded.bootEntry(on: volume)
          found.menus = menuTitles
          if let kernel = found.kernel { found.arguments = "BOOT_IMAGE=\(kernel.path) " + found.arguments }
          try add(.entry(found))
        }
        return true
      }
    }
    return false
  }

  /// Variables in the values of an entry.
  private mutating func expandInLoaderEntry(_ text: String) throws(BootImageError) -> String {
    // An entry's value is no script: only its variables are special.
    guard text.utf8.contains(UInt8(ascii: "$")) else { return text }
    let quoted = text.utf8.flatMap { byte -> [UInt8] in
      byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") ? [UInt8(ascii: "\\"), byte] : [byte]
    }
    let tokens = GRUBLexer.tokens(of: [UInt8(ascii: "\"")] + quoted + [UInt8(ascii: "\"")])
    let words = tokens.compactMap { token -> GRUBWord? in
      if case .word(let word) = token { word } else { nil }
    }
    return try expand(words).joined(separator: " ")
  }
}

extension Substring {
  fileprivate var replacingUnderscores: String { String(map { $0 == "_" ? "-" : $0 }) }
}
