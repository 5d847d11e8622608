/// The file systems of a disk, by number, as what reads boot configurations sees them.
protocol BootVolumes: AnyObject {
  /// Their numbers are 0..<count.
  var count: Int { get }
  /// The partition it is in.
  func partition(of volume: Int) -> Partition
  func uuid(of volume: Int) -> String
  func label(of volume: Int) -> String
  /// The content of a file of at most `BootLimits.configuration` bytes. nil: there is none.
  func contents(_ path: BootPath) throws(BootImageError) -> [UInt8]?
  func kind(of path: BootPath) throws(BootImageError) -> PathKind?
  /// The names in a directory; none where there is no such directory.
  func names(in path: BootPath) throws(BootImageError) -> [String]
}

enum PathKind: Equatable {
  case file(isEmpty: Bool)
  case directory
}

/// A path in one of the file systems.
public struct BootPath: Sendable, Equatable {
  /// The number of its file system among those that can be read.
  let volume: Int
  /// From that file system's root.
  public let path: String

  init(_ path: String, on volume: Int) {
    self.volume = volume
    self.path = path.hasPrefix("/") ? path : "/" + path
  }

  /// The directory that holds it.
  var directory: String {
    guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return "/" }
    return slash == path.utf8.startIndex ? "/" : String(path[..<slash])
  }
}

enum BootLimits {
  /// Bytes of a configuration file.
  static let configuration = 1 << 20
  /// Entries of all menus.
  static let entries = 1024
  /// Files that include one another, menus in menus, blocks in blocks.
  static let depth = 32
  /// Initial ramdisks of an entry.
  static let ramdisks = 32
  /// Bytes of a command line. Linux takes 2048.
  static let arguments = 1 << 16
}

/// What a menu's entry starts.
public struct BootEntry: Sendable, Equatable {
  /// The name that its configuration gives it; empty where it gives none.
  public var id: String
  public var title: String
  /// The titles of the menus it is in, outermost first.
  public var menus: [String] = []
  /// nil: it starts something that is no Linux kernel.
  public var kernel: BootPath?
  public var ramdisks: [BootPath] = []
  /// The kernel's command line.
  public var arguments: String
  /// Why it cannot be started, where it has a kernel.
  public var problem: String?

  /// The titles of menus and entry with `>` between them.
  public var titlePath: String { (menus + [title]).joined(separator: ">") }
}

/// A menu as a boot loader shows it.
struct BootMenu: Equatable {
  enum Item: Equatable {
    case entry(BootEntry)
    case menu(id: String, title: String, items: [Item])

    var names: (id: String, title: String) {
      switch self {
      case .entry(let entry): (entry.id, entry.title)
      case .menu(let id, let title, _): (id, title)
      }
    }
  }

  var items: [Item]
  /// What the boot loader starts if nobody chooses: an index at each level. nil: nothing.
  var chosen: [Int]?

  /// Entries that start a kernel, those of inner menus where those menus are.
  var entries: [BootEntry] { Self.flat(items).filter { $0.kernel != nil } }

  private static func flat(_ items: [Item]) -> [BootEntry] {
    items.flatMap { item in
      switch item {
      case .entry(let entry): [entry]
      case .menu(_, _, let items): flat(items)
      }
    }
  }

  /// The entry that `chosen` leads to; where that is a menu, its first.
  var chosenEntry: BootEntry? {
    guard var path = chosen?[...] else { return nil }
    var items = items
    for _ in 0..<BootLimits.depth {
      let index = path.popFirst() ?? 0
      guard items.indices.contains(index) else { return nil }
      switch items[index] {
      case .entry(let entry): return entry
      case .menu(_, _, let inner): items = inner
      }
    }
    return nil
  }
}
