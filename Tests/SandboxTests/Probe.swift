import Glibc

/// What `sandbox-probe` (Tests/SandboxProbe) printed.
struct ProbeOutput {
  let lines: [String]

  /// The text after `label: ` on the first line that has it.
  subscript(_ label: String) -> String? { self.all(label).first }

  func all(_ label: String) -> [String] {
    lines.filter { $0.hasPrefix("\(label): ") || $0.hasPrefix("\(label):\t") }
      .map { String($0.dropFirst(label.count + 1).drop { $0 == " " || $0 == "\t" }) }
  }
}

enum Probe {
  static func run(_ arguments: String) -> ProbeOutput { shell("\(program) \(arguments)") }

  static func shell(_ command: String) -> ProbeOutput {
    guard let pipe = popen("{ \(command); } 2>&1", "r") else {
      return ProbeOutput(lines: ["error: popen \(errno)"])
    }
    defer { pclose(pipe) }
    var lines: [String] = []
    var buffer = [CChar](repeating: 0, count: 4096)
    while fgets(&buffer, 4096, pipe) != nil { lines.append(String(text(buffer).prefix { $0 != "\n" })) }
    return ProbeOutput(lines: lines)
  }

  /// It lies in the build directory, as the test program does.
  static let program: String = {
    var path = [CChar](repeating: 0, count: 4096)
    guard readlink("/proc/self/exe", &path, 4095) > 0 else { return "sandbox-probe" }
    let program = text(path)
    return program[..<(program.lastIndex(of: "/") ?? program.startIndex)] + "/sandbox-probe"
  }()

  /// Whether the process exists and is not merely waiting to be reaped.
  static func isRunning(_ pid: pid_t) -> Bool {
    guard let file = fopen("/proc/\(pid)/stat", "r") else { return false }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 512)
    return fgets(&line, 512, file) != nil && !text(line).contains(") Z ")
  }

  static func text(_ bytes: [CChar]) -> String {
    String(decoding: bytes.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }
}

/// What this host lets the sandbox have.
enum Host {
  static let isRoot = geteuid() == 0
  /// As whom the tests run the device process.
  static let users: [String] = isRoot ? ["", "--user"] : [""]
  /// What the host refuses any of them, one line each.
  static let missingLayers: [String] = users.flatMap { Probe.run("\($0) run nothing").all("missing") }
  static let offersAll = missingLayers.isEmpty
}
