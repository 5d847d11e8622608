import Glibc
import LinuxSystem
import Sandbox
import Synchronization

/// Starts a device process that makes the call, and prints what it says and how it ends.
func launch(_ call: String, namespaces: DeviceProcess.Namespaces, filtered: Bool, orphan: Bool = false) {
  guard let file = try? Descriptor.memory(named: "record", size: 4096) else { give(up: "memfd") }
  let word = recordWord(in: file.raw)
  var pair: [CInt] = [-1, -1]
  guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0 else { give(up: "socketpair") }
  do throws(SandboxError) {
    let before = monotonicNanoseconds()
    let child = try DeviceProcess.spawn(
      .init(
        arguments: ["vmrun", "--device-process", call, filtered ? "filtered" : "open"], environment: [],
        descriptors: [file.raw, pair[1]]),
      trying: namespaces)
    close(pair[1])
    for line in child.missingLayers { say("missing: \(line)") }
    say("spawned in \((monotonicNanoseconds() - before) / 1000) µs")
    let output = fdopen(pair[0], "r")
    var buffer = [CChar](repeating: 0, count: 4096)
    while fgets(&buffer, 4096, output) != nil {
      let line = String(decoding: buffer.prefix(while: { $0 != 0 }).map(UInt8.init(bitPattern:)), as: UTF8.self)
      print(line, terminator: "")
      fflush(nil)
      if line == "ready\n" { inspect(child.pid, orphan: orphan, pair[0]) }
    }
    let status: ChildStatus?
    do { status = try child.status(violation: word.pointee.load(ordering: .acquiring), wait: true) } catch {
      give(up: "\(error)")
    }
    switch status {
    case .exited(let code): say("status: exited \(code)")
    case .killed(let signal): say("status: killed \(signal)")
    case .sandboxViolation(let name): say("status: violation \(name)")
    case nil: say("status: running")
    }
  } catch {
    give(up: "\(error)")
  }
}

func contents(_ path: String) -> String {
  guard let file = fopen(path, "r") else { return "unreadable \(errno)" }
  defer { fclose(file) }
  var bytes = [UInt8](repeating: 0, count: 1 << 16)
  let count = fread(&bytes, 1, bytes.count, file)
  return String(decoding: bytes[..<count], as: UTF8.self)
}

func link(_ path: String) -> String {
  var bytes = [CChar](repeating: 0, count: 256)
  guard readlink(path, &bytes, 255) >= 0 else { return "unreadable \(errno)" }
  return String(decoding: bytes.prefix(while: { $0 != 0 }).map(UInt8.init(bitPattern:)), as: UTF8.self)
}

func inspect(_ pid: CInt, orphan: Bool, _ channel: CInt) {
  if orphan {
    say("pid: \(pid)")
    kill(getpid(), SIGKILL)
  }
  print(contents("/proc/\(pid)/status"), terminator: "")
  for name in ["user", "mnt", "pid", "net", "ipc", "uts"] {
    let (theirs, ours) = (link("/proc/\(pid)/ns/\(name)"), link("/proc/self/ns/\(name)"))
    say("ns \(name): \(theirs.hasPrefix("unreadable") ? theirs : theirs == ours ? "shared" : "own")")
  }
  say("root: \(entries(of: "/proc/\(pid)/root/").map { $0.isEmpty ? "empty" : $0 } ?? "unreadable")")
  say("core limit: \(limit("Max core file size", pid))")
  say("descriptors: \(entries(of: "/proc/\(pid)/fd") ?? "unreadable")")
  say("stdin: \(link("/proc/\(pid)/fd/0"))")
  _ = write(channel, "x", 1)
}

func limit(_ name: String, _ pid: CInt) -> String {
  for line in contents("/proc/\(pid)/limits").split(separator: "\n") where line.hasPrefix(name) {
    return line.dropFirst(name.count).split(separator: " ").prefix(2).joined(separator: " ")
  }
  return "unreadable"
}

/// The names in a directory in order, with a space between them; nil where it cannot be read.
func entries(of path: String) -> String? {
  guard let directory = opendir(path) else { return nil }
  defer { closedir(directory) }
  var names: [String] = []
  while let entry = readdir(directory) {
    let name = withUnsafeBytes(of: entry.pointee.d_name) {
      String(decoding: $0.prefix(while: { $0 != 0 }), as: UTF8.self)
    }
    if name != "." && name != ".." { names.append(name) }
  }
  return names.sorted().joined(separator: " ")
}
