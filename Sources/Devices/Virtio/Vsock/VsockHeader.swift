/// The header of every packet (virtio 1.2 §5.10.6): 44 bytes, little-endian.
struct VsockHeader: Sendable, Equatable {
  static let size = 44
  /// `VIRTIO_VSOCK_TYPE_STREAM`.
  static let stream: UInt16 = 1

  enum Operation {
    static let request: UInt16 = 1
    static let response: UInt16 = 2
    static let reset: UInt16 = 3
    static let shutdown: UInt16 = 4
    static let data: UInt16 = 5
    static let creditUpdate: UInt16 = 6
    static let creditRequest: UInt16 = 7
  }

  /// Flags of `shutdown`: the sender receives no more, or sends no more.
  enum Shutdown {
    static let receive: UInt32 = 1
    static let send: UInt32 = 2
    static let both: UInt32 = 3
  }

  var source: UInt64 = 0
  var destination: UInt64 = 0
  var sourcePort: UInt32 = 0
  var destinationPort: UInt32 = 0
  /// Bytes of data behind the header.
  var length: UInt32 = 0
  var type = VsockHeader.stream
  var operation: UInt16 = 0
  var flags: UInt32 = 0
  /// Bytes of buffer that the sender has for the connection.
  var bufferSize: UInt32 = 0
  /// Bytes that have left that buffer since the connection was made, modulo 2^32.
  var forwarded: UInt32 = 0

  init() {}

  /// nil: the driver's packet is too short.
  init?(_ chain: DescriptorChain) {
    guard chain.readableCount >= Self.size else { return nil }
    var words: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0)
    withUnsafeMutableBytes(of: &words) { bytes in
      _ = chain.read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<Self.size]))
    }
    source = words.0
    destination = words.1
    sourcePort = UInt32(truncatingIfNeeded: words.2)
    destinationPort = UInt32(truncatingIfNeeded: words.2 >> 32)
    length = UInt32(truncatingIfNeeded: words.3)
    type = UInt16(truncatingIfNeeded: words.3 >> 32)
    operation = UInt16(truncatingIfNeeded: words.3 >> 48)
    flags = UInt32(truncatingIfNeeded: words.4)
    bufferSize = UInt32(truncatingIfNeeded: words.4 >> 32)
    forwarded = UInt32(truncatingIfNeeded: words.5)
  }

  /// Puts the header at the start of the driver's buffer.
  func write(to chain: DescriptorChain) {
    let words = (
      source, destination, UInt64(sourcePort) | UInt64(destinationPort) << 32,
      UInt64(length) | UInt64(type) << 32 | UInt64(operation) << 48, UInt64(flags) | UInt64(bufferSize) << 32,
      UInt64(forwarded)
    )
    withUnsafeBytes(of: words) { bytes in _ = chain.write(UnsafeRawBufferPointer(rebasing: bytes[..<Self.size])) }
  }
}
