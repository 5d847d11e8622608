/// Runs a GRUB script as far as it decides what the menu holds and which entry is the default (GNU GRUB manual 2.06).
///
/// What sets up a screen or a keyboard does nothing and succeeds. Variables of the environment block are read and never
/// written back: a `next_entry` counts at each boot.
struct GRUBInterpreter {
  let volumes: any BootVolumes
  var variables: [String: String] = [:]
  var items: [BootMenu.Item] = []
  /// The kernel that a menu entry's commands have named.
  var target = GRUBTarget()
  private var functions: [String: [GRUBStatement]] = [:]
  private var arguments: [String] = []
  var depth = 0
  private(set) var budget = Budget()

  /// What a script may do before it counts as endless: commands, and bytes that variables expand to.
  struct Budget {
    var steps = 200_000
    var bytes = 16 << 20
    var entries = BootLimits.entries
  }

  enum Flow { case next, leaveLoop, repeatLoop, leaveFunction }

  init(_ volumes: any BootVolumes) { self.volumes = volumes }

  /// Runs the configuration file and returns its menu.
  static func menu(_ path: BootPath, _ bytes: [UInt8], on volumes: any BootVolumes) throws(BootImageError)
    -> BootMenu
  {
    var interpreter = GRUBInterpreter(volumes)
    interpreter.start(path)
    _ = try interpreter.run(try GRUBParser.parse(bytes))
    try interpreter.takeKernelOutsideMenus()
    let chosen = defaultPath(interpreter.variables["default"] ?? "", interpreter.items)
    return BootMenu(items: interpreter.items, chosen: chosen)
  }

  /// The variables that GRUB itself sets.
  private mutating func start(_ path: BootPath) {
    let device = volumes.partition(of: path.volume).grubName
    variables = [
      "root": device, "prefix": "(\(device))\(path.directory)", "cmdpath": "(\(device))\(path.directory)",
      "grub_platform": "pc", "grub_cpu": "i386", "pager": "", "lang": "",
    ]
    for feature in [
      "timeout_style", "menuentry_id", "default_font_path", "platform_search_hint", "all_video_module", "ntldr",
      "chainloader_bpb", "nativedisk_cmd", "menuentry_options", "200_final",
    ] { variables["feature_" + feature] = "y" }
    setConfiguration(path)
  }

  mutating func setConfiguration(_ path: BootPath) {
    let device = volumes.partition(of: path.volume).grubName
    variables["config_directory"] = "(\(device))\(path.directory)"
    variables["config_file"] = "(\(device))\(path.path)"
  }

  /// A script without a menu that names a kernel boots it at its end, or at `boot`.
  private mutating func takeKernelOutsideMenus() throws(BootImageError) {
    guard items.isEmpty, target.kernel != nil || !target.modules.isEmpty else { return }
    items.append(.entry(target.entry(id: "", title: "GRUB script", menus: [])))
  }

  // MARK: Statements

  mutating func run(_ statements: [GRUBStatement]) throws(BootImageError) -> Flow {
    depth += 1
    defer { depth -= 1 }
    guard depth <= BootLimits.depth * 2 else {
      throw BootImageError(.limit, "its functions call one another too deeply")
    }
    for statement in statements {
      let flow = try run(statement)
      if flow != .next { return flow }
    }
    return .next
  }

  private mutating func run(_ statement: GRUBStatement) throws(BootImageError) -> Flow {
    budget.steps -= 1
    guard budget.steps >= 0 else { throw BootImageError(.limit, "it runs without an end") }
    switch statement {
    case .command(let words, let block): return try command(try expand(words), block)
    case .conditional(let branches, let otherwise):
      for branch in branches {
        let flow = try run(branch.condition)
        if flow != .next { return flow }
        if succeeded { return try run(branch.body) }
      }
      succeeded = true
      return try run(otherwise)
    case .forLoop(let variable, let words, let body):
      for word in try expand(words) {
        budget.steps -= 1
        variables[variable] = word
        switch try run(body) {
        case .leaveLoop: return .next
        case .leaveFunction: return .leaveFunction
        case .next, .repeatLoop: break
        }
      }
    case .whileLoop(let condition, let body, let isUntil):
      while true {
        budget.steps -= 1
        guard budget.steps >= 0 else { throw BootImageError(.limit, "it runs without an end") }
        _ = try run(condition)
        guard succeeded != isUntil else { break }
        switch try run(body) {
        case .leaveLoop: return .next
        case .leaveFunction: return .leaveFunction
        case .next, .repeatLoop: break
        }
      }
    case .function(let name, let body): functions[name] = body
    }
    return .next
  }

  /// Whether the last command did; `$?`.
  var succeeded = true

  private mutating func command(_ words: [String], _ block: [GRUBStatement]?) throws(BootImageError) -> Flow {
    var words = words[...]
    var isInverted = false
    while words.first == "!" {
      isInverted.toggle()
      words.removeFirst()
    }
    guard let name = words.popFirst() else {
      // A block by itself.
      return try block.map { block throws(BootImageError) in try run(block) } ?? .next
    }
    let arguments = Array(words)
    switch name {
    case "break": return .leaveLoop
    case "continue": return .repeatLoop
    case "return":
      succeeded = arguments.first.map { $0 == "0" } ?? succeeded
      return .leaveFunction
    case "menuentry": try addEntry(arguments, block ?? [])
    case "submenu": try addMenu(arguments, block ?? [])
    default:
      if let body = functions[name] {
        try call(body, arguments)
      } else {
        succeeded = try perform(name, arguments)
      }
    }
    if isInverted { succeeded.toggle() }
    return .next
  }

  private mutating func call(_ body: [GRUBStatement], _ arguments: [String]) throws(BootImageError) {
    let outer = self.arguments
    self.arguments = arguments
    defer { self.arguments = outer }
    _ = try run(body)
  }

  // MARK: Words

  mutating func expand(_ words: [GRUBWord]) throws(BootImageError) -> [String] {
    var result: [String] = []
    for word in words {
      var text: [UInt8] = []
      var isWord = word.isQuoted
      for part in word.parts {
        switch part {
        case .text(let bytes):
          text += bytes
          isWord = true
        case .variable(let name, let isQuoted):
          let value = Array(value(of: name).utf8)
          budget.bytes -= value.count
          guard budget.bytes >= 0 else { throw BootImageError(.limit, "its variables grow without an end") }
          guard !isQuoted else {
            text += value
            continue
          }
          for (index, piece) in value.split(omittingEmptySubsequences: false, whereSeparator: isBlank).enumerated() {
            if index > 0, isWord {
              result.append(String(decoding: text, as: UTF8.self))
              (text, isWord) = ([], false)
            }
            text += piece
            isWord = isWord || !piece.isEmpty
          }
        }
      }
      if isWord { result.append(String(decoding: text, as: UTF8.self)) }
    }
    return result
  }

  private func value(of name: String) -> String {
    switch name {
    case "?": succeeded ? "0" : "1"
    case "#": String(arguments.count)
    case "@", "*": arguments.joined(separator: " ")
    default:
      if let number = Int(name) {
        arguments.indices.contains(number - 1) ? arguments[number - 1] : ""
      } else {
        variables[name] ?? ""
      }
    }
  }

  // MARK: Menus

  private struct EntryOptions {
    var title = ""
    var id = ""
    var arguments: [String] = []

    init(_ words: [String]) {
      var words = words[...]
      var hasTitle = false
      while let word = words.popFirst() {
        switch word {
        case "--id": id = words.popFirst() ?? ""
        case "--class", "-c", "--users", "-u", "--hotkey", "-h", "--format", "-f", "--source", "-s":
          _ = words.popFirst()
        case _ where word.hasPrefix("--id="): id = String(word.dropFirst(5))
        case _ where word.hasPrefix("--") && !hasTitle, "--unrestricted", "-r", "--": break
        case _ where word.hasPrefix("--class=") || word.hasPrefix("--users=") || word.hasPrefix("--hotkey="): break
        default:
          if !hasTitle { title = word }
          hasTitle = true
          arguments.append(word)
        }
      }
    }
  }

  mutating func add(_ item: BootMenu.Item) throws(BootImageError) {
    budget.entries -= 1
    guard budget.entries >= 0 else {
      throw BootImageError(.limit, "it has more than \(BootLimits.entries) menu entries")
    }
    items.append(item)
  }

  /// The commands of an entry see the variables as they are when the menu is shown; generated scripts set none of those
  /// behind an entry that it uses, so they run where they stand.
  private mutating func addEntry(_ words: [String], _ block: [GRUBStatement]) throws(BootImageError) {
    let options = EntryOptions(words)
    let outer = (variables, arguments, target, items, functions, succeeded)
    arguments = options.arguments
    target = GRUBTarget()
    variables["chosen"] = options.title
    _ = try run(block)
    let entry = target.entry(id: options.id, title: options.title, menus: menuTitles)
    (variables, arguments, target, items, functions, succeeded) = outer
    try add(.entry(entry))
    succeeded = true
  }

  private(set) var menuTitles: [String] = []

  private mutating func addMenu(_ words: [String], _ block: [GRUBStatement]) throws(BootImageError) {
    let options = EntryOptions(words)
    let outer = (variables, arguments, items, functions)
    items = []
    arguments = options.arguments
    menuTitles.append(options.title)
    _ = try run(block)
    menuTitles.removeLast()
    let inner = items
    (variables, arguments, items, functions) = outer
    try add(.menu(id: options.id, title: options.title, items: inner))
    succeeded = true
  }

  /// Where `default` leads: a number, an id or a title, for inner menus with `>` between them. GRUB takes the first entry
  /// where there is none of that name.
  static func defaultPath(_ text: String, _ items: [BootMenu.Item]) -> [Int]? {
    guard !items.isEmpty else { return nil }
    let (first, rest) = splitDefault(text)
    let index = itemIndex(first, items) ?? 0
    guard case .menu(_, _, let inner) = items[index], !inner.isEmpty else { return [index] }
    return [index] + (defaultPath(rest, inner) ?? [])
  }

  /// Two `>` stand for one that is meant.
  private static func splitDefault(_ text: String) -> (String, String) {
    let bytes = Array(text.utf8)
    var first: [UInt8] = []
    var index = 0
    while index < bytes.count {
      if bytes[index] == UInt8(ascii: ">") {
        guard index + 1 < bytes.count, bytes[index + 1] == UInt8(ascii: ">") else {
          return (String(decoding: first, as: UTF8.self), String(decoding: bytes[(index + 1)...], as: UTF8.self))
        }
        index += 1
      }
      first.append(bytes[index])
      index += 1
    }
    return (String(decoding: first, as: UTF8.self), "")
  }

  private static func itemIndex(_ name: String, _ items: [BootMenu.Item]) -> Int? {
    guard !name.isEmpty else { return nil }
    if let number = Int(name) { return items.indices.contains(number) ? number : nil }
    return items.firstIndex { $0.names.id == name || $0.names.title == name }
  }
}

/// What the commands of a menu entry load.
struct GRUBTarget {
  var kernel: BootPath?
  var arguments = ""
  var ramdisks: [BootPath] = []
  /// A multiboot kernel, by the name of its file, and what is loaded with it.
  var multiboot: String?
  var modules: [(path: BootPath, arguments: String)] = []
  var problem: String?

  func entry(id: String, title: String, menus: [String]) -> BootEntry {
    var entry = BootEntry(
      id: id, title: title, menus: menus, kernel: kernel, ramdisks: ramdisks, arguments: arguments, problem: problem)
    // A Xen host's entry: its kernel is the first module.
    if let multiboot, multiboot.hasPrefix("xen"), let first = modules.first {
      entry.kernel = first.path
      entry.arguments = first.arguments
      entry.ramdisks = modules.dropFirst().map(\.path)
    }
    return entry
  }
}
