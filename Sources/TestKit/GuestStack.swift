import Backends
import LinuxSystem

/// What a guest's network stack does, in a test's hands and over the device process's socket to a network
/// process: enough of DHCP, ARP, UDP and TCP to talk to a user network. Every call waits for its answer, at most two seconds.
public final class GuestStack {
  public struct Lease: Equatable, Sendable {
    public var address: [UInt8] = []
    public var router: [UInt8] = []
    public var nameServer: [UInt8] = []

    public init(address: [UInt8] = [], router: [UInt8] = [], nameServer: [UInt8] = []) {
      (self.address, self.router, self.nameServer) = (address, router, nameServer)
    }
  }

  /// A TCP connection from the guest's side.
  public struct Connection: Sendable {
    let peer: [UInt8]
    let peerPort: Int
    let port: Int
    var sequence: Int
    var acknowledgement: Int
  }

  private let link: CInt
  public let mac: [UInt8] = [0x52, 0x54, 0, 0x12, 0x34, 0x56]
  public private(set) var address: [UInt8] = [0, 0, 0, 0]
  private var router: [UInt8] = [0x52, 0x55, 10, 0, 2, 2]
  private var nextPort = 40_000

  /// `link` stays the caller's.
  public init(link: CInt) { self.link = link }

  // MARK: Frames

  public func send(_ frame: [UInt8]) {
    _ = try? DatagramSocket.send(frame, on: link)
  }

  /// The next frame that `match` takes; requests for the guest's hardware address are answered meanwhile.
  public func receive<Result>(milliseconds: UInt64 = 2000, _ match: ([UInt8]) -> Result?) -> Result? {
    let end = monotonicNanoseconds() + milliseconds * 1_000_000
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 17, alignment: 16)
    defer { buffer.deallocate() }
    while true {
      let now = monotonicNanoseconds()
      guard now < end else { return nil }
      var entries = [PollEntry(link, .readable)]
      waitForDescriptors(&entries, milliseconds: pollMilliseconds(end - now))
      guard !entries[0].ready.isEmpty else { continue }
      guard case .done(let count) = FrameIO.read(into: buffer, from: link) else { return nil }
      guard count >= FrameHeader.size else { continue }
      let frame = Array(buffer[FrameHeader.size..<count])
      if isQuestion(frame) {
        send(Array(frame[6..<12]) + mac + [8, 6, 0, 1, 8, 0, 6, 4, 0, 2] + mac + address + Array(frame[22..<32]))
        continue
      }
      if let result = match(frame) { return result }
    }
  }

  /// An ARP request (RFC 826) for the guest's address.
  private func isQuestion(_ frame: [UInt8]) -> Bool {
    frame.count >= 42 && Array(frame[12..<14]) == [8, 6] && frame[21] == 1 && Array(frame[38..<42]) == address
  }

  /// The hardware address of an IPv4 address.
  public func resolve(_ target: [UInt8]) -> [UInt8]? {
    let broadcast = [UInt8](repeating: 0xFF, count: 6)
    send(broadcast + mac + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + mac + address + [0, 0, 0, 0, 0, 0] + target)
    return receive { frame in
      guard frame.count >= 42, Array(frame[12..<14]) == [8, 6], frame[21] == 2, Array(frame[28..<32]) == target else {
        return nil
      }
      return Array(frame[22..<28])
    }
  }

  // MARK: IPv4 and UDP

  private func ipv4(_ transport: UInt8, to target: [UInt8], _ payload: [UInt8], mac destination: [UInt8]? = nil)
    -> [UInt8]
  {
    var header: [UInt8] =
      [0x45, 0] + word(20 + payload.count) + [0, 0, 0x40, 0, 64, transport, 0, 0] + address + target
    header.replaceSubrange(10..<12, with: word(checksum(header)))
    return (destination ?? router) + mac + [8, 0] + header + payload
  }

  private func pseudoHeader(_ transport: UInt8, _ target: [UInt8], _ count: Int) -> [UInt8] {
    address + target + [0, transport] + word(count)
  }

  private func datagram(_ source: Int, _ port: Int, to target: [UInt8], _ payload: [UInt8]) -> [UInt8] {
    var udp = word(source) + word(port) + word(8 + payload.count) + [0, 0] + payload
    udp.replaceSubrange(6..<8, with: word(checksum(pseudoHeader(17, target, udp.count) + udp)))
    return udp
  }

  /// Sends a datagram and returns the answer's payload.
  public func ask(_ target: [UInt8], port: Int, _ payload: [UInt8]) -> [UInt8]? {
    let source = takePort()
    send(ipv4(17, to: target, datagram(source, port, to: target, payload)))
    return receive { frame in
      guard let (transport, peer, bytes) = Self.packet(frame), transport == 17, peer == target, bytes.count >= 8,
        Self.number(bytes, 0) == port, Self.number(bytes, 2) == source
      else { return nil }
      return Array(bytes[8...])
    }
  }

  private func takePort() -> Int {
    nextPort += 1
    return nextPort
  }

  // MARK: DHCP (RFC 2131)

  /// Asks for an address and takes it.
  public func configure() -> Lease? {
    guard let offer = dhcp([53, 1, 1]), offer.kind == 2 else { return nil }
    guard let answer = dhcp([53, 1, 3, 50, 4] + offer.lease.address), answer.kind == 5 else { return nil }
    address = answer.lease.address
    return answer.lease
  }

  private func dhcp(_ options: [UInt8]) -> (kind: UInt8, lease: Lease)? {
    let broadcast = [UInt8](repeating: 0xFF, count: 6)
    var message: [UInt8] = [1, 1, 6, 0, 0xCA, 0xFE, 0, 1] + [UInt8](repeating: 0, count: 20) + mac
    message += [UInt8](repeating: 0, count: 10 + 64 + 128) + [0x63, 0x82, 0x53, 0x63] + options + [255]
    let everybody: [UInt8] = [255, 255, 255, 255]
    send(ipv4(17, to: everybody, datagram(68, 67, to: everybody, message), mac: broadcast))
    return receive { frame in
      guard let (transport, _, bytes) = Self.packet(frame), transport == 17, Self.number(bytes, 2) == 68,
        bytes.count > 248, Array(bytes[12..<16]) == [0xCA, 0xFE, 0, 1]
      else { return nil }
      var kind: UInt8 = 0
      var lease = Lease(address: Array(bytes[24..<28]))
      var position = 248
      while position + 1 < bytes.count, bytes[position] != 255 {
        let value = Array(
          bytes[min(position + 2, bytes.count)..<min(position + 2 + Int(bytes[position + 1]), bytes.count)])
        switch bytes[position] {
        case 53: kind = value.first ?? 0
        case 3: lease.router = value
        case 6: lease.nameServer = value
        default: break
        }
        position += 2 + Int(bytes[position + 1])
      }
      return (kind, lease)
    }
  }

  // MARK: TCP (RFC 9293), without loss

  private func segment(_ connection: Connection, flags: UInt8, _ payload: [UInt8] = [], options: [UInt8] = [])
    -> [UInt8]
  {
    let sequence = word(connection.sequence >> 16) + word(connection.sequence)
    let acknowledgement = word(connection.acknowledgement >> 16) + word(connection.acknowledgement)
    var tcp = word(connection.port) + word(connection.peerPort) + sequence + acknowledgement
    tcp += [UInt8(5 + options.count / 4) << 4, flags, 0xFF, 0xFF, 0, 0, 0, 0] + options + payload
    tcp.replaceSubrange(16..<18, with: word(checksum(pseudoHeader(6, connection.peer, tcp.count) + tcp)))
    return ipv4(6, to: connection.peer, tcp)
  }

  /// Connects to a port; nil where it is refused.
  public func connect(_ target: [UInt8], port: Int) -> Connection? {
    var connection = Connection(peer: target, peerPort: port, port: takePort(), sequence: 1000, acknowledgement: 0)
    send(segment(connection, flags: 0x02, options: [2, 4, 5, 0xB4]))
    connection.sequence += 1
    guard let answer = receive({ frame in tcp(frame, connection) }), answer.flags & 0x17 == 0x12 else { return nil }
    connection.acknowledgement = answer.sequence + 1
    send(segment(connection, flags: 0x10))
    return connection
  }

  /// Waits for a connection from the outside to a port.
  public func accept(port: Int) -> Connection? {
    let found: (peer: [UInt8], port: Int, sequence: Int)? = receive { frame in
      guard let (transport, peer, bytes) = Self.packet(frame), transport == 6, bytes.count >= 20,
        Self.number(bytes, 2) == port, bytes[13] & 0x12 == 2
      else { return nil }
      return (peer, Self.number(bytes, 0), Self.number(bytes, 4) << 16 | Self.number(bytes, 6))
    }
    guard let found else { return nil }
    var connection = Connection(
      peer: found.peer, peerPort: found.port, port: port, sequence: 5000, acknowledgement: found.sequence + 1)
    send(segment(connection, flags: 0x12))
    connection.sequence += 1
    return connection
  }

  /// Sends bytes in one segment, which may be far longer than a frame of Ethernet.
  public func send(_ bytes: [UInt8], on connection: inout Connection) {
    send(segment(connection, flags: 0x18, bytes))
    connection.sequence += bytes.count
  }

  /// Takes bytes until there are `count` or the peer closes its end.
  public func receive(_ count: Int, on connection: inout Connection) -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < count {
      let current = connection
      guard let part = receive({ frame in tcp(frame, current) }) else { return bytes }
      guard part.sequence == connection.acknowledgement else { continue }
      bytes += part.payload
      connection.acknowledgement += part.payload.count + (part.flags & 1 == 1 ? 1 : 0)
      if !part.payload.isEmpty || part.flags & 1 == 1 { send(segment(connection, flags: 0x10)) }
      if part.flags & 1 == 1 { return bytes }
    }
    return bytes
  }

  private func tcp(_ frame: [UInt8], _ connection: Connection) -> (flags: UInt8, sequence: Int, payload: [UInt8])? {
    guard let (transport, peer, bytes) = Self.packet(frame), transport == 6, peer == connection.peer, bytes.count >= 20,
      Self.number(bytes, 0) == connection.peerPort, Self.number(bytes, 2) == connection.port
    else { return nil }
    let start = min(Int(bytes[12] >> 4) * 4, bytes.count)
    return (bytes[13], Self.number(bytes, 4) << 16 | Self.number(bytes, 6), Array(bytes[start...]))
  }

  /// Transport, sender and payload of an IPv4 packet.
  private static func packet(_ frame: [UInt8]) -> (UInt8, [UInt8], [UInt8])? {
    guard frame.count >= 34, Array(frame[12..<14]) == [8, 0] else { return nil }
    let end = min(14 + number(frame, 16), frame.count)
    let start = 14 + Int(frame[14] & 0xF) * 4
    guard start <= end else { return nil }
    return (frame[23], Array(frame[26..<30]), Array(frame[start..<end]))
  }

  private static func number(_ bytes: [UInt8], _ offset: Int) -> Int {
    Int(bytes[offset]) << 8 | Int(bytes[offset + 1])
  }
}

private func word(_ value: Int) -> [UInt8] {
  [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]
}

/// RFC 1071.
private func checksum(_ bytes: [UInt8]) -> Int {
  var sum = 0
  for index in stride(from: 0, to: bytes.count, by: 2) {
    sum += Int(bytes[index]) << 8 | (index + 1 < bytes.count ? Int(bytes[index + 1]) : 0)
  }
  while sum > 0xFFFF { sum = sum >> 16 + sum & 0xFFFF }
  return ~sum & 0xFFFF
}
