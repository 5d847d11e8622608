import LinuxSystem
import MachineModel

/// How frames travel over a descriptor.
public enum Framing: UInt8, Sendable, WireCodable {
  /// A datagram for each frame.
  case datagram
  /// Datagrams to and from a network process. It takes bare frames with their checksums, also those that are to be cut;
  /// what it sends stands behind a `FrameHeader`.
  case networkProcess
  /// Each frame after its length in four bytes, most significant first.
  case stream
  /// A TAP queue whose frames carry a `virtio_net_hdr` of 10 bytes in little-endian order.
  case tap
  /// A TAP queue with bare frames.
  case bareTAP

  /// What a device may leave to the backend; what the other end does not do is done here in software.
  var offloads: NetworkOffloads {
    switch self {
    case .networkProcess, .tap: [.checksum, .tso4, .tso6, .ecn]
    case .datagram, .stream, .bareTAP: [.checksum, .tso4, .tso6, .ecn, .uso]
    }
  }
}

/// A frame in pieces, to be used during the call that it is given to.
// Safety: whoever makes one keeps the memory until that call returns.
struct FrameParts: @unchecked Sendable {
  let parts: UnsafeBufferPointer<UnsafeRawBufferPointer>
  init(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>) { self.parts = parts }
}

/// The sending half of a connection: frames go straight to the host, and what it does not take of one that was begun
/// waits here.
// Safety: the buffer belongs to the value and is freed with it.
struct FrameOutput: ~Copyable {
  private let framing: Framing
  private var connection: Descriptor?
  /// The connection's number; -1 while there is none.
  private(set) var descriptor: CInt
  /// Frames behind their length in four bytes, as a stream carries them.
  private let buffer: UnsafeMutableRawBufferPointer
  /// The frame that segments are cut from.
  private let scratch: UnsafeMutableRawBufferPointer
  private var pending = 0..<0
  /// A frame was refused: the device is to hear when there is room.
  private(set) var isRefused = false

  private static let lengthBytes = 4
  /// A longest frame in shortest segments with a kilobyte of headers between them all and their lengths.
  private static let capacity =
    FrameLength.maximum + (FrameLength.maximum / FrameCompletion.minimumSegment + 1) * (lengthBytes + 256)

  enum Result {
    case sent
    /// The host has no room and did not take the frame.
    case refused
    /// The other end is gone: the connection is closed and the frame is lost.
    case lost
  }

  init(_ framing: Framing, _ connection: consuming Descriptor?) {
    self.framing = framing
    descriptor = connection?.raw ?? -1
    self.connection = connection
    buffer = .allocate(byteCount: Self.capacity, alignment: 16)
    scratch = .allocate(byteCount: FrameLength.maximum, alignment: 16)
  }

  deinit {
    buffer.deallocate()
    scratch.deallocate()
  }

  var hasPending: Bool { !pending.isEmpty }
  var wantsRoom: Bool { hasPending || isRefused }

  mutating func connect(_ connection: consuming Descriptor) {
    descriptor = connection.raw
    self.connection = consume connection
  }

  mutating func disconnect() {
    connection = nil
    descriptor = -1
    pending = 0..<0
  }

  /// Whether the device was refused since the last call.
  mutating func takeRefusal() -> Bool {
    defer { isRefused = false }
    return isRefused
  }

  mutating func send(_ frame: FrameParts, _ header: FrameHeader) -> Result {
    let parts = frame.parts
    guard descriptor >= 0 else { return .lost }
    switch flush() {
    case .sent: break
    case .refused:
      isRefused = true
      return .refused
    case .lost: return .lost
    }
    var length = 0
    for part in parts { length += part.count }
    // What is no frame is lost, as on a cable.
    guard FrameLength.ethernetHeader...FrameLength.maximum ~= length else { return .sent }
    let isComplete = header.segmentation.kind == .none && !header.flags.contains(.needsChecksum)
    if framing != .tap, !isComplete || parts.count > FrameIO.maximumParts {
      guard prepare(parts, length, header) else { return .sent }
      // From here on the frame is taken: what the host does not take now waits.
      return flush() == .lost ? .lost : .sent
    }
    return sendDirectly(parts, length, header)
  }

  /// Sends what waits. `refused`: some of it still does.
  mutating func flush() -> Result {
    while !pending.isEmpty {
      guard descriptor >= 0 else { return .lost }
      let bytes: UnsafeRawBufferPointer
      if framing == .stream {
        bytes = UnsafeRawBufferPointer(rebasing: buffer[pending])
      } else {
        let length = Int(UInt32(bigEndian: buffer.loadUnaligned(fromByteOffset: pending.lowerBound, as: UInt32.self)))
        let start = pending.lowerBound + Self.lengthBytes
        bytes = UnsafeRawBufferPointer(rebasing: buffer[start..<start + length])
      }
      let socket = descriptor
      let result = withUnsafePointer(to: bytes) { part -> TransferResult in
        let parts = UnsafeBufferPointer(start: part, count: 1)
        let none = UnsafeRawBufferPointer(start: nil, count: 0)
        return framing == .bareTAP ? FrameIO.write(none, parts, to: socket) : FrameIO.send(none, parts, on: socket)
      }
      switch result {
      case .done(let count) where framing == .stream: pending = pending.lowerBound + count..<pending.upperBound
      case .again: return .refused
      case .closed:
        disconnect()
        return .lost
      case .failed where framing == .stream:
        disconnect()
        return .lost
      // A datagram that the host does not want is lost alone.
      case .done, .failed: pending = pending.lowerBound + Self.lengthBytes + bytes.count..<pending.upperBound
      }
    }
    return .sent
  }

  private mutating func sendDirectly(
    _ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ length: Int, _ header: FrameHeader
  ) -> Result {
    let (framing, socket) = (framing, descriptor)
    var prefix = (UInt32(0), UInt32(0), UInt16(0))
    let result = withUnsafeMutableBytes(of: &prefix) { prefix -> TransferResult in
      switch framing {
      case .stream:
        prefix.storeBytes(of: UInt32(truncatingIfNeeded: length).bigEndian, as: UInt32.self)
        return FrameIO.send(UnsafeRawBufferPointer(rebasing: prefix[..<Self.lengthBytes]), parts, on: socket)
      case .tap:
        header.encode(to: prefix)
        return FrameIO.write(UnsafeRawBufferPointer(rebasing: prefix[..<FrameHeader.size]), parts, to: socket)
      case .bareTAP: return FrameIO.write(UnsafeRawBufferPointer(start: nil, count: 0), parts, to: socket)
      case .datagram, .networkProcess:
        return FrameIO.send(UnsafeRawBufferPointer(start: nil, count: 0), parts, on: socket)
      }
    }
    switch result {
    case .done(let count):
      if framing == .stream, count < length + Self.lengthBytes { keep(parts, length, from: count) }
      return .sent
    case .again:
      isRefused = true
      return .refused
    case .closed:
      disconnect()
      return .lost
    case .failed:
      guard framing == .stream else { return .sent }
      disconnect()
      return .lost
    }
  }

  /// Keeps what a stream did not take of a frame and its length.
  private mutating func keep(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ length: Int, from sent: Int) {
    append(length)?.gather(parts)
    pending = sent..<pending.upperBound
  }

  /// Puts the frame, or the segments it is cut into, where `flush` takes them from. False: it makes no sense and is lost.
  private mutating func prepare(
    _ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ length: Int, _ header: FrameHeader
  ) -> Bool {
    pending = 0..<0
    if header.segmentation.kind == .none || framing == .networkProcess {
      guard let frame = append(length) else { return false }
      frame.gather(parts)
      if !FrameCompletion.fillChecksum(frame, header) { pending = 0..<0 }
      return hasPending
    }
    let frame = UnsafeMutableRawBufferPointer(rebasing: scratch[..<length])
    frame.gather(parts)
    let isCut = FrameCompletion.segment(UnsafeRawBufferPointer(frame), header) { append($0) }
    if !isCut { pending = 0..<0 }
    return isCut
  }

  /// Room for a frame of `length` bytes behind what waits; nil where there is none.
  private mutating func append(_ length: Int) -> UnsafeMutableRawBufferPointer? {
    if pending.isEmpty { pending = 0..<0 }
    let start = pending.upperBound + Self.lengthBytes
    guard length <= buffer.count - start else { return nil }
    buffer.storeBytes(
      of: UInt32(truncatingIfNeeded: length).bigEndian, toByteOffset: pending.upperBound, as: UInt32.self)
    pending = pending.lowerBound..<start + length
    return UnsafeMutableRawBufferPointer(rebasing: buffer[start..<start + length])
  }
}

extension UnsafeMutableRawBufferPointer {
  /// Copies the parts one after another to the start; there is room for them.
  fileprivate func gather(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>) {
    var position = 0
    for part in parts {
      UnsafeMutableRawBufferPointer(rebasing: self[position..<position + part.count]).copyMemory(from: part)
      position += part.count
    }
  }
}
