import CLinux
import Glibc

/// What became of an attempt to send or receive without waiting.
public enum TransferResult: Sendable, Equatable {
  /// Bytes sent or received, or datagrams received.
  case done(Int)
  /// The host has no room, or nothing has come.
  case again
  /// The other end is gone.
  case closed
  case failed(errno: CInt)
}

/// Sends and receives frames on sockets and TAP queues that somebody else owns, without waiting.
public enum FrameIO {
  /// Datagrams that `receiveDatagrams` takes at the most.
  public static let batch = Int(CLINUX_FRAME_BATCH)
  /// Parts that one frame may have; a frame in more is gathered first.
  public static let maximumParts = 64

  /// Sends `prefix`, unless it is empty, and the parts as one datagram or as a stretch of a stream.
  /// - Parameter parts: at most `maximumParts`.
  public static func send(
    _ prefix: UnsafeRawBufferPointer, _ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, on socket: CInt
  ) -> TransferResult {
    withVectors(prefix, parts) { vectors in
      result { clinux_send_parts(socket, vectors.baseAddress, CInt(vectors.count)) }
    }
  }

  /// Writes `prefix` and the parts to a TAP queue as one frame.
  public static func write(
    _ prefix: UnsafeRawBufferPointer, _ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, to descriptor: CInt
  ) -> TransferResult {
    withVectors(prefix, parts) { vectors in
      result { writev(descriptor, vectors.baseAddress, CInt(vectors.count)) }
    }
  }

  /// Reads from a stream, or one frame from a TAP queue; no bytes are the end of a stream.
  public static func read(into buffer: UnsafeMutableRawBufferPointer, from descriptor: CInt) -> TransferResult {
    let outcome = result { Glibc.read(descriptor, buffer.baseAddress, buffer.count) }
    return outcome == .done(0) ? .closed : outcome
  }

  /// Receives at most `batch` datagrams, each to a multiple of `stride` in `buffer`. `lengths` gets their real lengths:
  /// one that is more than `stride` was cut. A datagram of no bytes is also what a closed SOCK_SEQPACKET gives.
  public static func receiveDatagrams(
    into buffer: UnsafeMutableRawBufferPointer, stride: Int, lengths: UnsafeMutableBufferPointer<UInt32>,
    from socket: CInt
  ) -> TransferResult {
    let count = min(lengths.count, buffer.count / stride, batch)
    return result {
      Int(clinux_receive_frames(socket, buffer.baseAddress, stride, CUnsignedInt(count), lengths.baseAddress))
    }
  }

  /// Sends as many as the socket takes of frames that stand behind their length in eight bytes and are padded to a
  /// multiple of eight: `done` says how many bytes of `frames` are dealt with.
  public static func sendDatagrams(_ frames: UnsafeRawBufferPointer, on socket: CInt) -> TransferResult {
    result { clinux_send_frames(socket, frames.baseAddress, frames.count) }
  }

  private static func withVectors(
    _ prefix: UnsafeRawBufferPointer, _ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>,
    _ body: (UnsafeMutableBufferPointer<iovec>) -> TransferResult
  ) -> TransferResult {
    withUnsafeTemporaryAllocation(of: iovec.self, capacity: maximumParts + 1) { vectors in
      var count = 0
      func add(_ bytes: UnsafeRawBufferPointer) {
        vectors.initializeElement(
          at: count, to: iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count))
        count += 1
      }
      if !prefix.isEmpty { add(prefix) }
      for part in parts.prefix(maximumParts) { add(part) }
      return body(UnsafeMutableBufferPointer(rebasing: vectors[..<count]))
    }
  }

  private static func result(_ call: () -> Int) -> TransferResult {
    while true {
      let count = call()
      if count >= 0 { return .done(count) }
      switch errno {
      case EINTR: continue
      // ENOBUFS: a TAP interface's queue is full; ETOOMANYREFS does not occur without descriptors.
      case EAGAIN, ENOBUFS: return .again
      case EPIPE, ECONNRESET, ENOTCONN, ECONNREFUSED, ENOENT: return .closed
      case let error: return .failed(errno: error)
      }
    }
  }
}

extension UnixSocket {
  /// A non-blocking datagram socket bound to `path`, or to an address that the host chooses.
  public static func datagram(at path: String?) throws(SystemError) -> Descriptor {
    let socket = Descriptor(owning: try retrying("socket") { clinux_unix_datagram_socket() })
    let raw = socket.raw
    if let path {
      try retrying("bind", path) { clinux_unix_address(raw, path, 1) }
    } else {
      try retrying("bind") { clinux_unix_autobind(raw) }
    }
    return socket
  }

  /// Gives a datagram socket its peer.
  public static func connect(_ socket: CInt, to path: String) throws(SystemError) {
    try retrying("connect", path) { clinux_unix_address(socket, path, 0) }
  }
}

/// Queues of TAP interfaces whose frames carry a `virtio_net_hdr` of 10 bytes.
public enum TAP {
  /// Attaches a new queue to the interface, which is made where it does not exist.
  public static func open(_ name: String, severalQueues: Bool) throws(SystemError) -> Descriptor {
    let queue = Descriptor(
      owning: try retrying("ioctl(TUNSETIFF)", name) { clinux_tap_open(name, severalQueues ? 1 : 0) })
    try useHeader(queue.raw, name)
    return queue
  }

  /// A queue that somebody else opened.
  public struct Adopted: ~Copyable {
    public let queue: Descriptor
    /// Whether its frames carry the header.
    public let hasHeader: Bool

    public consuming func takeQueue() -> Descriptor { queue }
  }

  /// Takes a duplicate of a queue that is open already; nil where it is a descriptor of another kind.
  public static func adopt(_ number: CInt) throws(SystemError) -> Adopted? {
    let queue = Descriptor(
      owning: try retrying("fcntl(F_DUPFD_CLOEXEC)") { clinux_fcntl_int(number, F_DUPFD_CLOEXEC, 3) })
    let raw = queue.raw
    let flags = clinux_tap_flags(raw)
    guard flags >= 0, flags & clinux_tap_flag_tap != 0, flags & clinux_tap_flag_no_information != 0 else { return nil }
    try retrying("fcntl(F_SETFL)") { clinux_fcntl_int(raw, F_SETFL, O_NONBLOCK) }
    let hasHeader = flags & clinux_tap_flag_header != 0
    if hasHeader { try useHeader(raw, "fd=\(number)") }
    return Adopted(queue: queue, hasHeader: hasHeader)
  }

  /// What the guest does for frames that it receives, as the bits of `NetworkOffloads`.
  public static func setOffloads(_ queue: CInt, _ bits: UInt32) throws(SystemError) {
    try retrying("ioctl(TUNSETOFFLOAD)") { clinux_tap_set_offloads(queue, bits) }
  }

  /// Lets the host spread frames over the queue or not; of a queue that is the only one nothing can be changed.
  public static func setActive(_ queue: CInt, _ isActive: Bool) throws(SystemError) {
    try retrying("ioctl(TUNSETQUEUE)") { clinux_tap_set_active(queue, isActive ? 1 : 0) }
  }

  private static func useHeader(_ queue: CInt, _ name: String) throws(SystemError) {
    try retrying("ioctl(TUNSETVNETHDRSZ)", name) { clinux_tap_use_header(queue) }
  }
}
