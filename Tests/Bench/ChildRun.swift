import Glibc
import LinuxSystem

/// A finished run of a command: what it wrote, and when, in nanoseconds from just before it was started.
struct ChildRun {
  /// What it wrote to standard output, and to standard error where that was asked for.
  private(set) var text = ""
  /// Its lines, without their ends, and when each end had come.
  private(set) var lines: [(text: String, time: UInt64)] = []
  /// When the text that was waited for had come; nil when it did not.
  private(set) var mark: UInt64?
  private(set) var end: UInt64 = 0
  /// Processor time of the command and of all processes that it has waited for, in nanoseconds.
  private(set) var processorTime: UInt64 = 0
  /// The exit status; 128 and the signal's number where one ended it.
  private(set) var status: CInt = 0

  /// Runs `command` with an empty standard input, at most until it has written `mark` and a second more.
  init(_ command: [String], until mark: String = "", readsErrors: Bool = false) throws {
    let pipe = try Pipe.make()
    let input = Descriptor(owning: pipe.read)
    let output = Descriptor(owning: pipe.write)
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, output.raw, 1)
    if readsErrors {
      posix_spawn_file_actions_adddup2(&actions, output.raw, 2)
    } else {
      posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    }
    var arguments = command.map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }

    var child: pid_t = 0
    let start = monotonicNanoseconds()
    let error = posix_spawnp(&child, command[0], &actions, nil, &arguments, environ)
    guard error == 0 else { throw SystemError("posix_spawnp", command[0], errno: error) }
    _ = consume output
    var bytes: [UInt8] = []
    var line: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
      var entries = [PollEntry(input.raw, .readable)]
      waitForDescriptors(&entries, milliseconds: self.mark == nil ? -1 : 1000)
      let now = monotonicNanoseconds() - start
      guard !entries[0].ready.isEmpty else {
        kill(child, SIGTERM)
        break
      }
      let count = try buffer.withUnsafeMutableBytes { try input.read(into: $0) }
      guard count > 0 else { break }
      bytes += buffer.prefix(count)
      for byte in buffer.prefix(count) where byte != 0x0D {
        if byte != 0x0A {
          line.append(byte)
          continue
        }
        lines.append((String(decoding: line, as: UTF8.self), now))
        line = []
      }
      // The mark may begin in what came before.
      let new = String(decoding: bytes.suffix(count + mark.utf8.count), as: UTF8.self)
      if self.mark == nil, !mark.isEmpty, new.contains(mark) { self.mark = now }
    }
    text = String(decoding: bytes, as: UTF8.self)
    var status: CInt = 0
    var usage = rusage()
    guard wait4(child, &status, 0, &usage) == child else { throw SystemError("wait4") }
    end = monotonicNanoseconds() - start
    for time in [usage.ru_utime, usage.ru_stime] {
      processorTime += UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_usec) * 1000
    }
    self.status = status & 0x7F == 0 ? status >> 8 & 0xFF : 128 + status & 0x7F
  }
}

struct BenchError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

extension String {
  /// The number in the line that says `label number`.
  func number(after label: String) throws -> Double {
    let lines = split(whereSeparator: \.isNewline)
    guard let line = lines.first(where: { $0.hasPrefix(label + " ") }),
      let value = Double(line.dropFirst(label.count + 1))
    else { throw BenchError("a guest did not report its \(label): \(self)") }
    return value
  }
}
