/// What a disk image says about how it is booted. All that it reads is hostile: it reads a bounded amount, in bounded time.
public final class BootImage {
  private let volumes: ImageVolumes

  /// Reads the partition table and opens the file systems.
  public convenience init(_ disk: any DiskBytes) throws(BootImageError) { try self.init(Disk(disk)) }

  init(_ disk: Disk) throws(BootImageError) { volumes = try ImageVolumes(disk) }

  /// Finds the boot configuration. Throws `notFound` with what was looked for where there is none.
  public func configuration() throws(BootImageError) -> BootConfiguration {
    let search = ConfigurationSearch(volumes)
    guard let (menu, source) = try search.run() else {
      let found = volumes.contents.joined(separator: ", ")
      throw BootImageError(
        .notFound,
        "nothing to boot was found: looked for \(ConfigurationSearch.summary), on each partition, in / and in /boot"
          + (found.isEmpty ? "" : "; \(found)"))
    }
    return BootConfiguration(
      entries: menu.entries, chosen: menu.chosenEntry, source: source, remarks: volumes.remarks)
  }

  /// The files of an entry.
  public func open(_ entry: BootEntry) throws(BootImageError) -> OpenedEntry {
    if let problem = entry.problem {
      throw BootImageError(.unsupported, "entry '\(entry.titlePath)' cannot be started: \(problem)")
    }
    guard let kernel = entry.kernel else {
      throw BootImageError(.unsupported, "entry '\(entry.titlePath)' starts no Linux kernel")
    }
    do throws(BootImageError) {
      var ramdisks: [StoredFile] = []
      let file = try volumes.file(kernel)
      for path in entry.ramdisks { ramdisks.append(try volumes.file(path)) }
      return OpenedEntry(kernel: file, ramdisks: ramdisks, arguments: entry.arguments)
    } catch {
      throw BootImageError(error.kind, "entry '\(entry.titlePath)': \(error.description)")
    }
  }
}

/// What is loaded for an entry.
public struct OpenedEntry: Sendable {
  public let kernel: StoredFile
  /// In the order in which they follow one another in memory.
  public let ramdisks: [StoredFile]
  public let arguments: String
}

/// A boot configuration: what can be started, and what is if nobody says.
public struct BootConfiguration: Sendable {
  /// Entries that start a kernel, in the order of their menus.
  public let entries: [BootEntry]
  /// What the boot loader would start; it may be something that is no Linux kernel.
  public let chosen: BootEntry?
  /// Where it was read: `/boot/grub/grub.cfg on partition 1`.
  public let source: String
  /// What the user should know of how it was read, a line each.
  public let remarks: [String]

  /// The entry of this number, id or title, the last with its menus and `>` between them or without; nil: the default.
  public func entry(named name: String?) throws(BootImageError) -> BootEntry {
    guard let name else { return try defaultEntry() }
    if let number = Int(name), entries.indices.contains(number) { return entries[number] }
    let matches: [(BootEntry) -> Bool] = [
      { !$0.id.isEmpty && ($0.id == name || $0.id + ".conf" == name) }, { $0.titlePath == name }, { $0.title == name },
    ]
    for isMatch in matches { if let entry = entries.first(where: isMatch) { return entry } }
    throw BootImageError(
      .notFound, "\(source) has no entry '\(name)': --list-entries prints the \(entries.count) that it has")
  }

  private func defaultEntry() throws(BootImageError) -> BootEntry {
    guard let chosen else {
      throw BootImageError(.notFound, "\(source) has no default entry: choose one with --entry (see --list-entries)")
    }
    guard chosen.kernel != nil else {
      throw BootImageError(
        .unsupported,
        "the default entry '\(chosen.titlePath)' of \(source) "
          + (chosen.problem.map { "cannot be started (\($0))" } ?? "starts no Linux kernel")
          + ": choose another with --entry (see --list-entries)")
    }
    return chosen
  }

  /// A line for each entry: its number, `*` behind that of the default, id and title, with tabs between them.
  public var listing: String {
    entries.enumerated().map { index, entry in
      "\(index)\(entry == chosen ? "*" : "")\t\(entry.id)\t\(entry.titlePath)\n"
    }.joined()
  }
}
