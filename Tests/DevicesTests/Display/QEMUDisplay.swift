import Foundation
import Glibc

/// QEMU's standard VGA, driven over its qtest protocol while its processor stands still.
final class QEMUDisplay: DisplayMachine {
  static let path = "/usr/bin/qemu-system-x86_64"
  static var isInstalled: Bool { access(path, X_OK) == 0 }

  private let process = Process()
  private let directory: String
  private let test: (toQEMU: FileHandle, fromQEMU: FileHandle)
  private let monitor: (toQEMU: FileHandle, fromQEMU: FileHandle)
  private var pending = ""
  private var batch = ""
  private var posted = 0

  init() throws {
    directory = NSTemporaryDirectory() + "vmrun-display-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    for name in ["monitor.in", "monitor.out"] { mkfifo(directory + "/" + name, 0o600) }
    let (input, output) = (Pipe(), Pipe())
    process.executableURL = URL(fileURLWithPath: Self.path)
    process.arguments = [
      "-machine", "pc,accel=tcg", "-S", "-nodefaults", "-display", "none", "-vga", "std", "-m", "16",
      "-qtest", "stdio", "-qtest-log", "none", "-chardev", "pipe,id=monitor,path=\(directory)/monitor",
      "-mon", "chardev=monitor,mode=readline",
    ]
    process.standardInput = input
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    test = (input.fileHandleForWriting, output.fileHandleForReading)
    // Opened for reading and writing, so that neither side waits for the other.
    monitor = (
      FileHandle(fileDescriptor: open(directory + "/monitor.in", O_RDWR), closeOnDealloc: true),
      FileHandle(fileDescriptor: open(directory + "/monitor.out", O_RDWR), closeOnDealloc: true)
    )
    // A QEMU that did not start closes its output; the monitor's pipes would wait for ever.
    guard !command("inb 0x3cc").isEmpty else { throw NotRunning() }
    _ = waitForPrompt()
  }

  struct NotRunning: Error {}

  deinit {
    // The child inherits a mask in which SIGTERM may be blocked.
    kill(process.processIdentifier, SIGKILL)
    process.waitUntilExit()
    try? FileManager.default.removeItem(atPath: directory)
  }

  /// Sends a command whose answer can wait.
  private func post(_ text: String) {
    batch += text + "\n"
    posted += 1
    // Answers must not fill the pipe while nobody reads them.
    if posted == 2000 { _ = command("inb 0x3cc") }
  }

  /// Sends a command after the posted ones and returns what follows its OK; empty when QEMU is gone.
  private func command(_ text: String) -> String {
    test.toQEMU.write(Data((batch + text + "\n").utf8))
    batch = ""
    defer { posted = 0 }
    var lines: [Substring] = []
    while lines.count <= posted {
      let data = test.fromQEMU.availableData
      guard !data.isEmpty else { return "" }
      pending += String(decoding: data, as: UTF8.self)
      let complete = pending.split(separator: "\n", omittingEmptySubsequences: false)
      lines += complete.dropLast().filter { $0.hasPrefix("OK") }
      pending = String(complete.last ?? "")
    }
    return String(lines[posted].dropFirst(3))
  }

  private func number(_ text: String) -> UInt64 { UInt64(text.dropFirst(2), radix: 16) ?? 0 }

  func outb(_ port: UInt64, _ value: UInt8) { post("outb \(port) \(value)") }
  func outw(_ port: UInt64, _ value: UInt16) { post("outw \(port) \(value)") }
  func inb(_ port: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: number(command("inb \(port)"))) }
  func inw(_ port: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: number(command("inw \(port)"))) }
  func poke(_ address: UInt64, _ value: UInt8) { post("writeb \(address) \(value)") }
  func peek(_ address: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: number(command("readb \(address)"))) }

  private func waitForPrompt() -> String {
    var text = ""
    while !text.hasSuffix("(qemu) ") {
      let data = monitor.fromQEMU.availableData
      guard !data.isEmpty else { break }
      text += String(decoding: data, as: UTF8.self)
    }
    return text
  }

  /// The picture that QEMU would show.
  var picture: (width: Int, height: Int, pixels: [UInt32]) {
    let file = directory + "/screen.ppm"
    _ = inb(0x3CC)
    monitor.toQEMU.write(Data("screendump \(file)\n".utf8))
    _ = waitForPrompt()
    return parsePPM((try? Data(contentsOf: URL(fileURLWithPath: file))).map { [UInt8]($0) } ?? [])
  }
}
