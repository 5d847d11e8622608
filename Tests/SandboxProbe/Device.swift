import Glibc
import LinuxSystem
import Sandbox
import Synchronization

func say(_ line: String) {
  print(line)
  fflush(nil)
}

func give(up reason: String) -> Never {
  say("error: \(reason)")
  exit(1)
}

/// The word of shared memory that a forbidden call is recorded in.
// Safety: the mapping is leaked, as the word is used until the process ends.
func recordWord(in file: CInt) -> UnsafeMutablePointer<Atomic<UInt64>> {
  guard let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), page != MAP_FAILED else {
    give(up: "mmap: \(errno)")
  }
  return page.assumingMemoryBound(to: Atomic<UInt64>.self)
}

func runDevice(_ name: String, filtered: Bool) -> Never {
  let word = recordWord(in: 3)
  do {
    let filter = try SystemCallFilter(try BuiltInPolicy.device.policy())
    try Violation.report(to: word)
    let before = monotonicNanoseconds()
    for line in try Lockdown.enter(channel: 4) { send("missing: \(line)") }
    let locked = monotonicNanoseconds()
    if filtered { try filter.install(on: .process) }
    let done = monotonicNanoseconds()
    send("time: lockdown \((locked - before) / 1000) µs, filter \((done - locked) / 1000) µs")
    if name == "probe-files" { tryFiles() }
    if name == "stay" {
      send("ready")
      while true { _ = call("ppoll") }
    }
    if name == "hold" {
      send("ready")
      var byte: UInt8 = 0
      _ = read(4, &byte, 1)
      exit(0)
    }
    guard let body = calls[name] else { give(up: "no call \(name)") }
    send("result: \(body())")
    exit(0)
  } catch {
    send("error: \(error)")
    exit(1)
  }
}

/// What the layers below the filter leave.
func tryFiles() -> Never {
  send("open: \(call("openat", -100, path("/etc/passwd")))")
  send("list: \(call("openat", -100, path("/"), Int(O_DIRECTORY)))")
  send("create: \(call("mkdir", path("/x"), 0o700))")
  send("up: \(call("openat", -100, path("../../../../etc/passwd")))")
  let socket = call("socket", 2, 1)
  send("bind: \(call("bind", socket, inetAddress(), 16))")
  send("mount: \(call("mount", path("none"), path("/"), path("tmpfs")))")
  send("userns: \(call("unshare", 0x1000_0000) == 0 ? "granted" : "refused")")
  exit(0)
}

func inetAddress() -> Int {
  let address = page()
  // Safety: a page of our own; AF_INET, port 18000, 127.0.0.1.
  UnsafeMutableRawPointer(bitPattern: address)?.storeBytes(of: 0x0100_007f_5046_0002, as: UInt64.self)
  return address
}

func send(_ line: String) {
  let bytes = Array((line + "\n").utf8)
  _ = write(4, bytes, bytes.count)
}
