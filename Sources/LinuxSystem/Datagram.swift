import CLinux
import Glibc

/// One end of a pair of connected sockets that keep message boundaries and carry descriptors (SOCK_SEQPACKET).
public struct DatagramSocket: ~Copyable, Sendable {
  public let descriptor: Descriptor

  /// What arrived: the bytes, and descriptors that now belong to the caller.
  public struct Datagram: Sendable {
    public let bytes: [UInt8]
    public let descriptors: [CInt]
  }

  /// Descriptors that one datagram carries at the most.
  public static let maximumDescriptors = Int(CLINUX_MAX_DESCRIPTORS)

  public init(owning descriptor: consuming Descriptor) { self.descriptor = descriptor }

  /// Two connected ends, both the caller's to own.
  public static func pair() throws(SystemError) -> (CInt, CInt) {
    var ends: [CInt] = [-1, -1]
    let type = CInt(SOCK_SEQPACKET.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
    try retrying("socketpair") { socketpair(AF_UNIX, type, 0, &ends) }
    return (ends[0], ends[1])
  }

  /// Sends one datagram with duplicates of the given descriptors.
  public borrowing func send(_ bytes: [UInt8], descriptors: [CInt] = []) throws(SystemError) {
    try Self.send(bytes, descriptors: descriptors, on: descriptor.raw)
  }

  /// Sends on a socket that somebody else owns.
  public static func send(_ bytes: [UInt8], descriptors: [CInt] = [], on socket: CInt) throws(SystemError) {
    try retrying("sendmsg") { clinux_send(socket, bytes, bytes.count, descriptors, CInt(descriptors.count)) }
  }

  /// Waits for a datagram of at most `limit` bytes; nil when the other end is closed.
  public borrowing func receive(limit: Int) throws(SystemError) -> Datagram? {
    let raw = descriptor.raw
    var descriptors = [CInt](repeating: -1, count: Int(CLINUX_MAX_DESCRIPTORS))
    var count: CInt = 0
    // A datagram is seldom as long as the longest, and there is only one reader: its length is asked for first.
    let length = try retrying("recv") { recv(raw, nil, 0, CInt(MSG_PEEK | MSG_TRUNC)) }
    guard length > 0 else { return nil }
    var bytes = [UInt8](repeating: 0, count: min(length, limit))
    let received: Int
    do throws(SystemError) {
      received = try retrying("recvmsg") { clinux_receive(raw, &bytes, bytes.count, &descriptors, &count) }
    } catch {
      for stray in descriptors.prefix(Int(count)) { close(stray) }
      throw error
    }
    guard received > 0 else { return nil }
    return Datagram(bytes: Array(bytes.prefix(received)), descriptors: Array(descriptors.prefix(Int(count))))
  }
}
