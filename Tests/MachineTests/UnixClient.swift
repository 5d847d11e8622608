import LinuxSystem
import TestKit

/// What a stream to a guest did not bring.
struct StreamError: Error, CustomStringConvertible {
  let description: String
}

/// The host's end of a stream to a guest.
final class UnixClient {
  private let descriptor: Descriptor

  init(_ raw: CInt) { descriptor = Descriptor(owning: raw) }

  /// Connects to a socket that vmrun is about to make.
  static func connect(to path: String) async throws -> UnixClient {
    for _ in 0..<1000 {
      if let socket = try? UnixSocket.connect(to: path) { return UnixClient(socket.release()) }
      try await Task.sleep(for: .milliseconds(10))
    }
    return UnixClient(try UnixSocket.connect(to: path).release())
  }

  func send(_ text: String) throws {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
      let count = try bytes.withUnsafeBytes { try descriptor.write($0) }
      bytes = bytes.dropFirst(count)
    }
  }

  func endSending() { UnixSocket.endSending(on: descriptor.raw) }

  /// What comes within that time, at most 64 KiB; nil: the stream has ended.
  func receive(milliseconds: CInt) -> String? {
    var entries = [PollEntry(descriptor.raw, .readable)]
    waitForDescriptors(&entries, milliseconds: milliseconds)
    guard !entries[0].ready.isEmpty else { return "" }
    var bytes = [UInt8](repeating: 0, count: 64 << 10)
    let count = (try? bytes.withUnsafeMutableBytes { try descriptor.read(into: $0) }) ?? 0
    return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : nil
  }

  /// What comes until `text` is in it, or until the stream ends.
  func receive(until text: String? = nil, seconds: Double = 60) async throws -> String {
    let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
    var heard = ""
    while monotonicNanoseconds() < deadline {
      guard let more = receive(milliseconds: 100) else { return heard }
      heard += more
      if let text, !more.isEmpty, heard.contains(text) { return heard }
      await Task.yield()
    }
    throw StreamError(description: "no \(text ?? "end") within \(seconds) s, but '\(heard.suffix(500))'")
  }
}
