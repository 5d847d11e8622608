import Backends
import Glibc
import LinuxSystem
import Synchronization
import Testing

/// A device that takes as many frames as it has room for.
final class FrameReceiver: NetworkReceiver {
  struct Frame: Equatable {
    let bytes: [UInt8]
    let header: FrameHeader
  }
  private struct State {
    var frames: [Frame] = []
    var room: Int
    var refusals = 0
    var sendables = 0
    var linkChanges = 0
  }
  private let state: Mutex<State>
  init(room: Int = .max) { state = Mutex(State(room: room)) }

  func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool {
    state.withLock { state in
      guard state.room > 0 else {
        state.refusals += 1
        return false
      }
      if state.room != .max { state.room -= 1 }
      state.frames.append(Frame(bytes: Array(frame), header: header))
      return true
    }
  }
  func sendable() { state.withLock { $0.sendables += 1 } }
  func linkChanged() { state.withLock { $0.linkChanges += 1 } }
  func setRoom(_ room: Int) { state.withLock { $0.room = room } }
  var frames: [Frame] { state.withLock { $0.frames } }
  var bytes: [[UInt8]] { frames.map(\.bytes) }
  var sendables: Int { state.withLock { $0.sendables } }
  var refusals: Int { state.withLock { $0.refusals } }
  var linkChanges: Int { state.withLock { $0.linkChanges } }
}

/// An open descriptor on the host's side of a test.
final class Peer: Sendable {
  let raw: CInt
  init(owning raw: CInt) { self.raw = raw }
  deinit { close(raw) }
}

/// A connected pair of Unix sockets that do not wait; the near one is the caller's to own.
func socketPair(_ type: __socket_type) -> (near: CInt, far: Peer) {
  var ends: [CInt] = [-1, -1]
  #expect(socketpair(AF_UNIX, CInt(type.rawValue) | CInt(SOCK_NONBLOCK.rawValue), 0, &ends) == 0)
  return (ends[0], Peer(owning: ends[1]))
}

/// What is there to read, waiting a moment for it.
func readSome(_ raw: CInt, limit: Int = 1 << 17) -> [UInt8] {
  var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
  guard poll(&entry, 1, 2000) == 1 else { return [] }
  var bytes = [UInt8](repeating: 0, count: limit)
  let count = read(raw, &bytes, limit)
  return Array(bytes.prefix(max(count, 0)))
}

func writeAll(_ raw: CInt, _ bytes: [UInt8]) { #expect(write(raw, bytes, bytes.count) == bytes.count) }

/// The frame as a stream carries it.
func onStream(_ frame: [UInt8]) -> [UInt8] { bigEndian(frame.count, 4) + frame }

func bigEndian(_ value: Int, _ bytes: Int) -> [UInt8] {
  (0..<bytes).map { UInt8(truncatingIfNeeded: value >> ((bytes - 1 - $0) * 8)) }
}

/// A frame that can be told from others.
func frame(_ number: Int, count: Int = 60) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ number) }
}

extension NetworkBackend {
  /// Sends a frame in parts.
  func send(_ parts: [[UInt8]], _ header: FrameHeader = FrameHeader()) -> Bool {
    let flat = parts.flatMap { $0 }
    return flat.withUnsafeBytes { bytes in
      var start = 0
      let pieces = parts.map { part in
        defer { start += part.count }
        return UnsafeRawBufferPointer(rebasing: bytes[start..<start + part.count])
      }
      return pieces.withUnsafeBufferPointer { send($0, header) }
    }
  }
}

// MARK: Packets, built and checked after the RFCs and not by the code under test

/// RFC 1071 over 16-bit words in network order.
func referenceChecksum(_ bytes: [UInt8]) -> Int {
  var sum = 0
  for index in stride(from: 0, to: bytes.count, by: 2) {
    sum += Int(bytes[index]) << 8 | (index + 1 < bytes.count ? Int(bytes[index + 1]) : 0)
  }
  while sum > 0xFFFF { sum = sum >> 16 + sum & 0xFFFF }
  return ~sum & 0xFFFF
}

/// A TCP or UDP packet in a frame.
struct Packet {
  var isIPv6 = false
  var isTCP = true
  var tags: [UInt8] = []
  var ipOptions: [UInt8] = []
  var tcpOptions: [UInt8] = []
  var identification = 0x1234
  var sequence = 0xFFFF_FFF0
  var flags: UInt8 = 0x18
  var payload: [UInt8] = []

  var addresses: [UInt8] {
    isIPv6
      ? (0..<32).map { UInt8($0 + 1) } : [10, 0, 2, 15, 10, 0, 2, 2]
  }
  var networkStart: Int { 14 + tags.count }
  var transportStart: Int { networkStart + (isIPv6 ? 40 : 20 + ipOptions.count) }
  var checksumOffset: Int { isTCP ? 16 : 6 }

  func pseudoHeader(_ transportLength: Int) -> [UInt8] {
    let kind: UInt8 = isTCP ? 6 : 17
    let length = bigEndian(transportLength, isIPv6 ? 4 : 2)
    let rest: [UInt8] = isIPv6 ? length + [0, 0, 0, kind] : [0, kind] + length
    return addresses + rest
  }

  /// The frame with a right transport checksum.
  var bytes: [UInt8] {
    var transport: [UInt8] = bigEndian(1024, 2)
    if isTCP {
      let words = UInt8(5 + tcpOptions.count / 4)
      transport += bigEndian(80, 2)
      transport += bigEndian(sequence, 4)
      transport += bigEndian(77, 4)
      transport += [words << 4, flags]
      transport += bigEndian(8192, 2)
      transport += [0, 0, 0, 0]
      transport += tcpOptions
    } else {
      transport += bigEndian(53, 2)
      transport += bigEndian(8 + payload.count, 2)
      transport += [0, 0]
    }
    transport += payload
    var sum = referenceChecksum(pseudoHeader(transport.count) + transport)
    if sum == 0, !isTCP { sum = 0xFFFF }
    transport.replaceSubrange(checksumOffset..<checksumOffset + 2, with: bigEndian(sum, 2))
    let kind: UInt8 = isTCP ? 6 : 17
    var network: [UInt8]
    if isIPv6 {
      network = [0x60, 0, 0, 0]
      network += bigEndian(transport.count, 2)
      network += [kind, 64]
      network += addresses
    } else {
      network = [0x45 + UInt8(ipOptions.count / 4), 0]
      network += bigEndian(20 + ipOptions.count + transport.count, 2)
      network += bigEndian(identification, 2)
      network += [0x40, 0, 64, kind, 0, 0]
      network += addresses
      network += ipOptions
      network.replaceSubrange(10..<12, with: bigEndian(referenceChecksum(network), 2))
    }
    let ethernet: [UInt8] = [0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 1, 2, 3] + tags
    let type: [UInt8] = isIPv6 ? [0x86, 0xDD] : [8, 0]
    return ethernet + type + network + transport
  }

  /// The frame as a guest leaves it that wants its checksum filled in: the field holds the pseudo-header's sum.
  var unfinished: [UInt8] {
    var frame = bytes
    let sum = ~referenceChecksum(pseudoHeader(frame.count - transportStart)) & 0xFFFF
    frame.replaceSubrange(
      transportStart + checksumOffset..<transportStart + checksumOffset + 2, with: bigEndian(sum, 2))
    return frame
  }

  var header: FrameHeader {
    FrameHeader(
      flags: .needsChecksum, checksumStart: UInt16(transportStart), checksumOffset: UInt16(checksumOffset))
  }

  func header(segments size: Int) -> FrameHeader {
    var header = header
    header.segmentation = isTCP ? (isIPv6 ? .tcp6 : .tcp4) : .udpL4
    header.segmentSize = UInt16(size)
    return header
  }

  /// What the packet becomes in segments.
  func segments(of size: Int) -> [[UInt8]] {
    stride(from: 0, to: payload.count, by: size).enumerated().map { index, offset in
      var part = self
      let isLast = offset + size >= payload.count
      part.payload = Array(payload[offset..<min(offset + size, payload.count)])
      part.sequence = (sequence + offset) & 0xFFFF_FFFF
      part.identification = (identification + index) & 0xFFFF
      if !isLast { part.flags &= ~0x09 }
      if index > 0 { part.flags &= ~0x80 }
      return part.bytes
    }
  }
}
