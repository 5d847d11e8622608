import LinuxSystem
import Synchronization
import TestKit
import Testing

@testable import Backends

@Suite struct UnixVsockTests {
  /// Records what the backend tells the device.
  final class Receiver: VsockReceiver {
    let requests = Mutex<[(port: UInt32, stream: any VsockStream)]>([])
    let readies = Atomic<Int>(0)
    func requested(port: UInt32, _ stream: any VsockStream) { requests.withLock { $0.append((port, stream)) } }
    func ready(_ stream: any VsockStream) { readies.add(1, ordering: .relaxed) }
  }

  final class Answers: Sendable {
    let streams = Mutex<[(any VsockStream)?]>([])
    let asked = Mutex<[(request: UInt32, port: UInt32)]>([])
  }

  private func eventually(_ condition: () -> Bool) async throws -> Bool {
    for _ in 0..<2000 {
      if condition() { return true }
      try await Task.sleep(for: .milliseconds(5))
    }
    return false
  }

  private func path() -> String { "/tmp/vmrun-vsock-\(monotonicNanoseconds())" }

  private func text(_ client: borrowing Descriptor) throws -> String {
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = try bytes.withUnsafeMutableBytes { try client.read(into: $0) }
    return String(decoding: bytes[..<count], as: UTF8.self)
  }

  private func send(_ text: String, _ client: borrowing Descriptor) throws {
    let raw = client.raw
    _ = try Array(text.utf8).withUnsafeBytes { try writeDescriptor(raw, $0) }
  }

  @Test func aClientSaysWhichPortItWantsAndIsToldWhenItIsAccepted() async throws {
    let path = path()
    let receiver = Receiver()
    let backend = try UnixVsockBackend(listener: try listenAt(path, "test")) { _, _ in }
    defer { try? removeFile(path) }
    backend.attach(receiver)
    let client = try UnixSocket.connect(to: path)
    try send("CONN", client)
    try send("ECT 1234\nhello", client)
    #expect(try await eventually { receiver.requests.withLock { $0.count == 1 } })
    let (port, stream) = try #require(receiver.requests.withLock { $0.first })
    #expect(port == 1234)
    stream.accepted(hostPort: 77)
    #expect(try text(client) == "OK 77\n")
    var bytes = [UInt8](repeating: 0, count: 64)
    #expect(bytes.withUnsafeMutableBytes { stream.receive(into: $0) } == .bytes(5))
    #expect(bytes.withUnsafeMutableBytes { stream.receive(into: $0) } == .nothing)
    #expect(Array("yes".utf8).withUnsafeBytes { stream.send($0) } == 3)
    #expect(try text(client) == "yes")
    let before = receiver.readies.load(ordering: .relaxed)
    try send("more", client)
    #expect(try await eventually { receiver.readies.load(ordering: .relaxed) > before })
    #expect(bytes.withUnsafeMutableBytes { stream.receive(into: $0) } == .bytes(4))
    stream.close()
    #expect(try text(client).isEmpty)
  }

  @Test(arguments: [
    "CONNECT\n", "CONNECT x\n", "connect 1\n", "CONNECT 4294967296\n", "CONNECT 00000000000000000001\n",
  ])
  func aClientThatAsksForNoPortIsHungUp(line: String) async throws {
    let path = path()
    let receiver = Receiver()
    let backend = try UnixVsockBackend(listener: try listenAt(path, "test")) { _, _ in }
    defer { try? removeFile(path) }
    backend.attach(receiver)
    let client = try UnixSocket.connect(to: path)
    try send(line, client)
    #expect((try? text(client)) ?? "" == "")
    #expect(receiver.requests.withLock { $0.isEmpty })
  }

  @Test func theConnectorsAnswerReachesWhoAsked() async throws {
    let path = path()
    let answers = Answers()
    let backend = try UnixVsockBackend(listener: try listenAt(path, "test")) { request, port in
      answers.asked.withLock { $0.append((request, port)) }
    }
    defer { try? removeFile(path) }
    backend.attach(Receiver())
    backend.connect(port: 9) { stream in answers.streams.withLock { $0.append(stream) } }
    backend.connect(port: 10) { stream in answers.streams.withLock { $0.append(stream) } }
    let asked = answers.asked.withLock { $0 }
    #expect(asked.map(\.port) == [9, 10])
    let (near, far) = try UnixSocket.pair()
    let host = Descriptor(owning: far)
    backend.answered(request: asked[1].request, Descriptor(owning: near))
    backend.answered(request: asked[0].request, nil)
    // An answer that nobody waits for.
    backend.answered(request: asked[0].request, nil)
    let streams = answers.streams.withLock { $0 }
    #expect(streams.count == 2 && streams[1] == nil)
    let stream = try #require(streams[0])
    #expect(Array("hi".utf8).withUnsafeBytes { stream.send($0) } == 2)
    #expect(try text(host) == "hi")
    stream.endSending()
    #expect(try text(host).isEmpty)
    stream.close()
  }
}
