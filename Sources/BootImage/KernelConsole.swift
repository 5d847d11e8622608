/// The kernel's command line with a console that the machine has.
///
/// Whoever boots an image in Xen's PV mode sees its console without having said so. Images are made for other machines:
/// where none of `consoles` is among the `console=` words, the first is appended, and is then what /dev/console means.
public func argumentsWithConsole(_ arguments: String, consoles: [String]) -> String {
  guard let console = consoles.first else { return arguments }
  for word in arguments.words where word.hasPrefix("console=") {
    let device = word.dropFirst("console=".count).prefix { $0 != "," }
    if consoles.contains(String(device)) { return arguments }
  }
  return (arguments.isEmpty ? "" : arguments + " ") + "console=\(console)"
}
