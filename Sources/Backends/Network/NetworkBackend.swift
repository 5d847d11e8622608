/// What one side of a connection leaves to the other: work on frames that virtio 1.2 §5.1.3 has feature bits for.
public struct NetworkOffloads: OptionSet, Sendable {
  public let rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// A TCP or UDP checksum may be left to `FrameHeader.checksumStart`; every other bit needs this one.
  public static let checksum = NetworkOffloads(rawValue: 1 << 0)
  /// TCP over IPv4 may come in one frame of up to 65535 bytes of IP, to be cut into segments.
  public static let tso4 = NetworkOffloads(rawValue: 1 << 1)
  /// The same over IPv6.
  public static let tso6 = NetworkOffloads(rawValue: 1 << 2)
  /// Such frames may carry TCP's ECN bits.
  public static let ecn = NetworkOffloads(rawValue: 1 << 3)
  /// UDP over IPv4 or IPv6 may come as one frame, to be cut into datagrams.
  public static let uso = NetworkOffloads(rawValue: 1 << 4)
}

/// What a frame's bytes do not say: the fields of `struct virtio_net_hdr` (virtio 1.2 §5.1.6), in the host's byte order.
/// All zero for a complete frame. A guest's values are as it wrote them: a backend checks them against the frame.
public struct FrameHeader: Sendable, Equatable {
  public struct Flags: OptionSet, Sendable, Equatable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// The checksum from `checksumStart` on is still to be put at `checksumOffset` behind it.
    public static let needsChecksum = Flags(rawValue: 1)
    /// The checksum has been found right.
    public static let dataValid = Flags(rawValue: 2)
  }

  /// How the frame is to be cut; bit 7 (ECN) may be added.
  public struct Segmentation: RawRepresentable, Sendable, Equatable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let none = Segmentation(rawValue: 0)
    public static let tcp4 = Segmentation(rawValue: 1)
    public static let udp = Segmentation(rawValue: 3)
    public static let tcp6 = Segmentation(rawValue: 4)
    public static let udpL4 = Segmentation(rawValue: 5)
    public static let ecn: UInt8 = 0x80
    /// Without the ECN bit.
    public var kind: Segmentation { Segmentation(rawValue: rawValue & ~Segmentation.ecn) }
  }

  public var flags: Flags
  public var segmentation: Segmentation
  /// Bytes of Ethernet, IP and transport headers: a hint.
  public var headerLength: UInt16
  /// Most bytes of payload in a segment.
  public var segmentSize: UInt16
  public var checksumStart: UInt16
  public var checksumOffset: UInt16

  public init(
    flags: Flags = [], segmentation: Segmentation = .none, headerLength: UInt16 = 0, segmentSize: UInt16 = 0,
    checksumStart: UInt16 = 0, checksumOffset: UInt16 = 0
  ) {
    self.flags = flags
    self.segmentation = segmentation
    self.headerLength = headerLength
    self.segmentSize = segmentSize
    self.checksumStart = checksumStart
    self.checksumOffset = checksumOffset
  }
}

extension FrameHeader {
  /// Bytes of `struct virtio_net_hdr` without the number of buffers.
  public static let size = 10

  /// Writes the little-endian form; there is room for `size` bytes.
  public func encode(to bytes: UnsafeMutableRawBufferPointer) {
    bytes[0] = flags.rawValue
    bytes[1] = segmentation.rawValue
    func put(_ field: UInt16, _ offset: Int) {
      bytes.storeBytes(of: field.littleEndian, toByteOffset: offset, as: UInt16.self)
    }
    put(headerLength, 2)
    put(segmentSize, 4)
    put(checksumStart, 6)
    put(checksumOffset, 8)
  }

  /// Reads the little-endian form from at least `size` bytes.
  public init(decoding bytes: UnsafeRawBufferPointer) {
    func field(_ offset: Int) -> UInt16 {
      UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }
    self.init(
      flags: Flags(rawValue: bytes[0]), segmentation: Segmentation(rawValue: bytes[1]), headerLength: field(2),
      segmentSize: field(4), checksumStart: field(6), checksumOffset: field(8))
  }
}

/// Lengths of frames, without the four bytes of the frame check sequence, which nobody carries.
public enum FrameLength {
  /// Destination, source and type.
  public static let ethernetHeader = 14
  /// The longest IP packet.
  static let maximumPacket = 65535
  /// The largest frame that a backend takes or hands over: IP behind an Ethernet header with a VLAN tag.
  public static let maximum = maximumPacket + 18
}

/// The device's side of a connection. Calls come on threads of the backend, never from within a call that the device
/// makes to the backend.
public protocol NetworkReceiver: AnyObject, Sendable {
  /// Takes a whole frame from the host, valid during the call. False: there is no room; the backend keeps the frame and
  /// offers it again after `NetworkBackend.resume()`. A device that does not want a frame takes it and drops it.
  func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool
  /// The backend has room again after `send` was false.
  func sendable()
  /// The other end has come or gone: `NetworkBackend.isLinkUp` has changed.
  func linkChanged()
}

extension NetworkReceiver {
  public func sendable() {}
  public func linkChanged() {}
}

/// A connection that carries Ethernet frames to and from the host: one pair of queues. It knows nothing of the device
/// that drives it.
public protocol NetworkBackend: AnyObject, Sendable {
  /// What a device may leave to the backend in frames that it sends.
  var offloads: NetworkOffloads { get }
  /// What a device's guest is ready to do for frames that it receives; nothing until it is set. Called before `start` or
  /// while the guest renegotiates.
  func setReceiveOffloads(_ offloads: NetworkOffloads)
  /// Whether the other end is there. Frames sent without link are lost, as on a cable.
  var isLinkUp: Bool { get }
  /// Every pair of queues of the connection, this one first. The others are off until they are made active.
  var queuePairs: [any NetworkBackend] { get }
  /// Whether the host may spread frames over this pair of queues. The first one always is.
  func setActive(_ isActive: Bool)

  /// Connects the one receiver; frames from the host are held back until then.
  func start(_ receiver: any NetworkReceiver)
  /// Takes a whole frame, in parts that are valid during the call, at most `FrameLength.maximum` bytes. Never blocks and
  /// may be called on any thread, one at a time. False: the host has no room; the frame was not taken, and `sendable()`
  /// follows. A device may drop it.
  func send(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ header: FrameHeader) -> Bool
  /// The receiver has room again after `receive` was false.
  func resume()
  /// Gives the host what is still queued.
  func drain()
}

extension NetworkBackend {
  public var queuePairs: [any NetworkBackend] { [self] }
  public func setActive(_ isActive: Bool) {}

  /// Sends a frame that lies in one piece.
  public func send(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader = FrameHeader()) -> Bool {
    withUnsafePointer(to: frame) { send(UnsafeBufferPointer(start: $0, count: 1), header) }
  }
}
