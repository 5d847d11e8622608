import Glibc
import LinuxSystem
import MachineModel
import TestKit
import Testing
import UserNetwork

/// A user network without its process: the stack on a thread, and a guest on the other end of its socket.
private final class Network {
  let guest: GuestStack
  private let near: Descriptor
  private let channel: Descriptor
  private let thread: HostThread

  init(_ forwards: [String] = []) throws {
    let (near, far) = try DatagramSocket.pair()
    let (control, theirs) = try DatagramSocket.pair()
    self.near = Descriptor(owning: near)
    channel = Descriptor(owning: control)
    guest = GuestStack(link: near)
    try UserNetworkStack.load()
    let listeners = try forwards.map { try #require(PortForward($0)) }
    let failure = Failure()
    let started = try SharedEvent()
    thread = try HostThread("stack") {
      do {
        let stack = try UserNetworkStack(link: far)
        for listener in listeners { try stack.forward(listener) }
        _ = signalEvent(started.raw)
        stack.run(channel: theirs)
      } catch {
        failure.error = error as? UserNetworkError
        _ = signalEvent(started.raw)
      }
      close(far)
      close(theirs)
    }
    started.event.wait(milliseconds: 60_000)
    if let error = failure.error { throw error }
  }

  // Safety: written before the event that the reader waits for.
  private final class Failure: @unchecked Sendable { var error: UserNetworkError? }

  deinit {
    shutdown(channel.raw, CInt(SHUT_RDWR))
    thread.join()
  }
}

/// A listening or bound socket of the host, on a port that it chose.
private struct HostSocket: ~Copyable {
  let socket: Descriptor
  let port: Int

  init(_ type: __socket_type) throws {
    socket = Descriptor(owning: Glibc.socket(AF_INET, CInt(type.rawValue), 0))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let raw = socket.raw
    let result = withUnsafeMutablePointer(to: &address) { address in
      address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        bind(raw, address, size) == 0 && (type != SOCK_STREAM || listen(raw, 5) == 0)
          && getsockname(raw, address, &size) == 0
      }
    }
    #expect(result)
    port = Int(UInt16(bigEndian: address.sin_port))
    var limit = timeval(tv_sec: 5, tv_usec: 0)
    setsockopt(raw, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  /// Connects to a port of this host.
  static func connect(_ port: Int, _ type: __socket_type) throws -> Descriptor {
    let socket = Descriptor(owning: Glibc.socket(AF_INET, CInt(type.rawValue), 0))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    address.sin_port = UInt16(port).bigEndian
    let raw = socket.raw
    let result = withUnsafePointer(to: &address) { address in
      address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(raw, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard result == 0 else { throw SystemError("connect") }
    var limit = timeval(tv_sec: 5, tv_usec: 0)
    setsockopt(raw, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    return socket
  }
}

private func readUntilEnd(_ raw: CInt, limit: Int = .max) -> [UInt8] {
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 1 << 16)
  while bytes.count < limit {
    let count = read(raw, &buffer, buffer.count)
    guard count > 0 else { break }
    bytes += buffer[..<count]
  }
  return bytes
}

private let isInstalled = (try? UserNetworkStack.load()) != nil
private let host: [UInt8] = [10, 0, 2, 2]

@Suite(.enabled(if: isInstalled, "libslirp0 is not installed"), .serialized) struct UserNetworkTests {
  @Test func aGuestGetsItsAddressRouterAndNameServerByDHCP() throws {
    let network = try Network()
    let lease = network.guest.configure()
    #expect(lease == .init(address: [10, 0, 2, 15], router: [10, 0, 2, 2], nameServer: [10, 0, 2, 3]))
    #expect(network.guest.resolve(host) == [0x52, 0x55, 10, 0, 2, 2])
  }

  @Test func aGuestReachesAServerOfTheHost() throws {
    let network = try Network()
    _ = network.guest.configure()
    let server = try HostSocket(SOCK_STREAM)
    var connection = try #require(network.guest.connect(host, port: server.port))
    let accepted = Descriptor(owning: accept(server.socket.raw, nil, nil))
    network.guest.send(Array("GET /\r\n".utf8), on: &connection)
    #expect(readUntilEnd(accepted.raw, limit: 7) == Array("GET /\r\n".utf8))
    let answer = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    let writer = try HostThread("server") { [raw = accepted.raw] in
      #expect(write(raw, answer, answer.count) == answer.count)
      shutdown(raw, CInt(SHUT_WR))
    }
    #expect(network.guest.receive(.max, on: &connection) == answer)
    writer.join()
  }

  /// As a guest with segmentation offload sends it.
  @Test func aSegmentOfSixtyKilobytesArrivesWhole() throws {
    let network = try Network()
    _ = network.guest.configure()
    let server = try HostSocket(SOCK_STREAM)
    var connection = try #require(network.guest.connect(host, port: server.port))
    let accepted = Descriptor(owning: accept(server.socket.raw, nil, nil))
    let bytes = (0..<60_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    network.guest.send(bytes, on: &connection)
    #expect(readUntilEnd(accepted.raw, limit: bytes.count) == bytes)
  }

  @Test func aPortThatNobodyListensOnRefuses() throws {
    let network = try Network()
    _ = network.guest.configure()
    let port = try HostSocket(SOCK_STREAM).port
    #expect(network.guest.connect(host, port: port) == nil)
  }

  @Test func datagramsGoBothWays() throws {
    let network = try Network()
    _ = network.guest.configure()
    let server = try HostSocket(SOCK_DGRAM)
    let echo = try HostThread("echo") { [raw = server.socket.raw] in
      var buffer = [UInt8](repeating: 0, count: 2048)
      var address = sockaddr()
      var size = socklen_t(MemoryLayout<sockaddr>.size)
      let count = recvfrom(raw, &buffer, buffer.count, 0, &address, &size)
      _ = sendto(raw, Array(buffer[..<max(count, 0)].reversed()), max(count, 0), 0, &address, size)
    }
    #expect(network.guest.ask(host, port: server.port, [1, 2, 3]) == [3, 2, 1])
    echo.join()
  }

  @Test func aForwardedPortLeadsIntoTheGuest() throws {
    let free = try HostSocket(SOCK_STREAM).port
    let network = try Network(["tcp:127.0.0.1:\(free)-:22"])
    _ = network.guest.configure()
    let client = try HostSocket.connect(free, SOCK_STREAM)
    var connection = try #require(network.guest.accept(port: 22))
    network.guest.send(Array("SSH-2.0".utf8), on: &connection)
    #expect(readUntilEnd(client.raw, limit: 7) == Array("SSH-2.0".utf8))
    #expect(write(client.raw, "hello", 5) == 5)
    #expect(network.guest.receive(5, on: &connection) == Array("hello".utf8))
  }

  @Test func aForwardedDatagramReachesTheGuest() throws {
    let free = try HostSocket(SOCK_DGRAM).port
    let network = try Network(["udp:127.0.0.1:\(free)-:53"])
    _ = network.guest.configure()
    let client = try HostSocket.connect(free, SOCK_DGRAM)
    #expect(write(client.raw, "query", 5) == 5)
    let found = network.guest.receive { frame in
      frame.count >= 47 && frame[23] == 17 && frame.suffix(5) == Array("query".utf8)[...] ? true : nil
    }
    #expect(found == true)
  }

  @Test func aTakenPortIsOneLineThatSaysWhatToDo() throws {
    let server = try HostSocket(SOCK_STREAM)
    let error = #expect(throws: UserNetworkError.self) { _ = try Network(["tcp:127.0.0.1:\(server.port)-:22"]) }
    #expect(
      error?.description
        == "hostfwd=tcp:127.0.0.1:\(server.port)-:22: Address already in use; give another port or end "
        + "the program that has it")
    let foreign = #expect(throws: UserNetworkError.self) { _ = try Network(["udp:192.0.2.1:4000-:22"]) }
    #expect(foreign?.description.contains("give an address that this host has") == true)
  }

  @Test func aGuestThatDoesNotReadStopsTheServerAndNotTheNetwork() throws {
    let network = try Network()
    _ = network.guest.configure()
    let server = try HostSocket(SOCK_STREAM)
    let connection = try #require(network.guest.connect(host, port: server.port))
    let accepted = Descriptor(owning: accept(server.socket.raw, nil, nil))
    _ = fcntl(accepted.raw, F_SETFL, O_NONBLOCK)
    let chunk = [UInt8](repeating: 1, count: 1 << 16)
    var written = 0
    for _ in 0..<200 {
      let count = write(accepted.raw, chunk, chunk.count)
      if count > 0 { written += count } else { usleep(2000) }
    }
    #expect(written < 200 << 16)
    // The network still answers.
    #expect(network.guest.resolve(host) != nil)
    withExtendedLifetime(connection) {}
  }

  @Test func anyFrameIsSurvived() throws {
    let network = try Network()
    _ = network.guest.configure()
    var random = SystemRandomNumberGenerator()
    for _ in 0..<5000 {
      var frame: [UInt8] = (0..<Int.random(in: 1...200)).map { _ in UInt8.random(in: 0...255, using: &random) }
      if frame.count > 34, Bool.random() {
        frame.replaceSubrange(12..<15, with: [8, 0, 0x45])
        frame[23] = [1, 6, 17][Int.random(in: 0..<3)]
      }
      network.guest.send(frame)
    }
    #expect(network.guest.resolve(host) != nil)
  }
}
