import Glibc
import LinuxSystem

/// What debian-bench.img measured of its second disk and its network card, from the lines that it writes to COM1:
/// `measured name rate`, in requests or bits a second.
struct DeviceRates {
  /// The contender's machine and devices.
  let name: String
  private(set) var rates: [String: Double] = [:]

  init(_ name: String, _ run: ChildRun) throws {
    self.name = name
    var isWhole = false
    for (text, _) in run.lines {
      let words = text.split(separator: " ").map(String.init)
      guard let first = words.firstIndex(of: "measured"), words.count > first + 1 else { continue }
      if words[first + 1] == "all" { isWhole = true }
      if words.count > first + 2, let rate = Double(words[first + 2]) { rates[words[first + 1]] = rate }
    }
    guard isWhole else { throw BenchError("\(name) ended with status \(run.status) and wrote: \(run.text)") }
  }
}

/// Rates of the emulated and the paravirtual devices of vmrun and of QEMU, with what vmrun is a multiple of.
struct DeviceTable: Report {
  static let measures = [
    ("random-read", "4 KiB random read"), ("random-write", "4 KiB random write"),
    ("sequential-read", "1 MiB sequential read"), ("sequential-write", "1 MiB sequential write"),
    ("send", "network, guest sends"), ("receive", "network, guest receives"),
  ]

  let hvm: DeviceRates
  let pvhvm: DeviceRates
  let emulated: DeviceRates
  let paravirtual: DeviceRates

  var text: String {
    let columns = [hvm, emulated, pvhvm, paravirtual]
    var lines = "Disk requests, network bits, a second".padded(to: 40)
    lines += columns.map { $0.name.aligned(to: 14) }.joined()
    lines += ["hvm/QEMU", "pvhvm/QEMU", "pvhvm/hvm"].map { $0.aligned(to: 12) }.joined()
    for (key, title) in Self.measures where hvm.rates[key] != nil {
      let rates = columns.map { $0.rates[key] ?? .nan }
      lines += "\n" + "  \(title)".padded(to: 40) + rates.map { rate($0).aligned(to: 14) }.joined()
      for ratio in [rates[0] / rates[1], rates[2] / rates[3], rates[2] / rates[0]] {
        lines += (decimal(ratio, places: 2) + " x").aligned(to: 12)
      }
    }
    return lines + "\n  goal:".padded(to: 97) + "1.00 x".aligned(to: 12) + "1.00 x".aligned(to: 12)
      + "3.00 x\n".aligned(to: 13)
  }

  private func rate(_ value: Double) -> String {
    switch value {
    case ..<1e3: decimal(value, places: 1)
    case ..<1e6: decimal(value / 1e3, places: 1) + " k"
    default: decimal(value / 1e6, places: 1) + " M"
    }
  }
}

/// An iperf3 server for as long as the value lives.
final class NetworkServer {
  private var child: pid_t = 0

  init() throws {
    var arguments = ["iperf3", "-s"].map { (word: String) in strdup(word) } + [nil]
    defer { for argument in arguments { free(argument) } }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    let error = posix_spawnp(&child, "iperf3", &actions, nil, &arguments, environ)
    guard error == 0 else { throw SystemError("posix_spawnp", "iperf3", errno: error) }
  }

  deinit {
    kill(child, SIGTERM)
    var status: CInt = 0
    waitpid(child, &status, 0)
  }
}
