/// The parts of `--help`. The parser makes parts of option groups, whose types cost a tenth of a millisecond each at every
/// start, asked for help or not.
enum HelpParts {
  /// The option that a part begins with, and its heading.
  private static let headings = [
    ("--mode", "MACHINE:"), ("--disk", "DISKS AND BOOT:"), ("--kernel", "KERNEL:"), ("--net", "NETWORK:"),
    ("--serial", "CONSOLE:"), ("--no-reboot", "RUN:"), ("--version", "OPTIONS:"),
  ]

  /// The parser's help, whose options are one list under `OPTIONS:`, in parts.
  static func divide(_ help: String) -> String {
    var lines: [Substring] = []
    for line in help.split(separator: "\n", omittingEmptySubsequences: false) where line != "OPTIONS:" {
      if let heading = headings.first(where: { line.hasPrefix("  \($0.0) ") }) {
        if lines.last != "" { lines.append("") }
        lines.append(heading.1[...])
      }
      lines.append(line)
    }
    return lines.joined(separator: "\n")
  }
}
