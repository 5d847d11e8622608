import Glibc
import LinuxSystem

/// Processes as /proc shows them (proc(5)).
public enum ProcessTable {
  /// Every process.
  public static var all: [CInt] { (names(in: "/proc") ?? []).compactMap { CInt($0) } }

  /// The threads of a process, empty when it is gone.
  public static func threads(of pid: CInt) -> [CInt] { (names(in: "/proc/\(pid)/task") ?? []).compactMap { CInt($0) } }

  /// A field of /proc/PID/status, such as `CapEff`.
  public static func status(_ field: String, of pid: CInt, thread: CInt? = nil) -> String? {
    let path = thread.map { "/proc/\(pid)/task/\($0)/status" } ?? "/proc/\(pid)/status"
    return text(path).split(separator: "\n").first { $0.hasPrefix("\(field):") }
      .map { String($0.dropFirst(field.count + 1).drop { $0 == " " || $0 == "\t" }) }
  }

  public static func children(of pid: CInt) -> [CInt] { all.filter { status("PPid", of: $0) == "\(pid)" } }

  /// The processor time that it has used, all threads together, in seconds; 0 when it is gone.
  public static func processorTime(of pid: CInt) -> Double {
    // The name, in parentheses, may hold anything.
    let fields = text("/proc/\(pid)/stat").split(separator: ")").last?.split(separator: " ") ?? []
    guard fields.count > 12, let user = Double(fields[11]), let system = Double(fields[12]) else { return 0 }
    return (user + system) / Double(sysconf(CInt(_SC_CLK_TCK)))
  }

  /// Whether it exists and is not merely waiting to be reaped.
  public static func isRunning(_ pid: CInt) -> Bool {
    status("State", of: pid).map { !$0.hasPrefix("Z") && !$0.hasPrefix("X") } ?? false
  }

  /// The names in a directory, nil where it cannot be read.
  public static func names(in directory: String) -> [String]? {
    guard let stream = opendir(directory) else { return nil }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }

  private static func text(_ path: String) -> String {
    guard let file = try? Descriptor.open(path, .readOnly), let bytes = try? file.contents(limit: 1 << 20) else {
      return ""
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// A variable of the environment, nil where it is not set.
public func environmentVariable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// Whether there is a user of this name.
public func userExists(_ name: String) -> Bool { getpwnam(name) != nil }

/// Whether the tests run as root.
public let isRoot = geteuid() == 0

/// Gives a file to another user, with this mode.
public func changeOwner(_ path: String, to user: CUnsignedInt, mode: CUnsignedInt) throws(SystemError) {
  try retrying("chmod", path) { chmod(path, mode) }
  try retrying("chown", path) { chown(path, user, user) }
}

/// A file's permission bits, nil where there is none.
func fileMode(_ path: String) -> CUnsignedInt? {
  var status = stat()
  return stat(path, &status) == 0 ? status.st_mode & 0o7777 : nil
}
