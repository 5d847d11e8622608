import LinuxSystem

/// Frames that a network process has for the device process: each becomes a datagram, behind its `FrameHeader`. TCP
/// segments that follow one another become one frame.
// Safety: the buffer belongs to the value and is freed with it.
public struct FrameQueue: ~Copyable {
  /// Records as `FrameIO.sendDatagrams` takes them.
  private let buffer: UnsafeMutableRawBufferPointer
  private var used = 0..<0
  /// The last frame, where more may be joined to it.
  private var train: SegmentTrain?
  /// Where the last frame's record starts, and the frame's bytes.
  private var last = (record: 0, frame: 0..<0)

  private static let lengthBytes = 8
  private static let capacity = 8 << 20

  public init() { buffer = .allocate(byteCount: Self.capacity, alignment: 16) }
  deinit { buffer.deallocate() }

  public var isEmpty: Bool { used.isEmpty }
  /// Bytes that wait.
  public var count: Int { used.count }

  /// Adds a whole frame with a right checksum; where there is no room it is lost, as by a full router.
  public mutating func append(_ frame: UnsafeRawBufferPointer) {
    guard FrameLength.ethernetHeader...FrameLength.maximum ~= frame.count, !join(frame) else { return }
    closeTrain()
    if used.isEmpty { used = 0..<0 }
    // A whole train has room behind every frame.
    if room < FrameLength.maximum, used.lowerBound > 0 {
      buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[used]))
      used = 0..<used.count
    }
    guard room >= FrameLength.maximum else { return }
    let start = used.upperBound + Self.lengthBytes + FrameHeader.size
    last = (used.upperBound, start..<start + frame.count)
    UnsafeMutableRawBufferPointer(rebasing: buffer[last.frame]).copyMemory(from: frame)
    train = SegmentTrain(frame)
    endRecord()
    FrameHeader(flags: .dataValid).encode(to: header)
  }

  private var room: Int { buffer.count - used.upperBound - Self.lengthBytes - FrameHeader.size - 8 }

  private var header: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(rebasing: buffer[last.frame.lowerBound - FrameHeader.size..<last.frame.lowerBound])
  }

  /// Adds the frame's payload to the last frame. False: it is no continuation.
  private mutating func join(_ frame: UnsafeRawBufferPointer) -> Bool {
    let joined = UnsafeRawBufferPointer(rebasing: buffer[last.frame])
    guard let payload = train?.payload(of: frame, after: joined) else { return false }
    let end = last.frame.upperBound
    UnsafeMutableRawBufferPointer(rebasing: buffer[end..<end + payload.count]).copyMemory(from: payload)
    last.frame = last.frame.lowerBound..<end + payload.count
    endRecord()
    return true
  }

  private mutating func endRecord() {
    let length = FrameHeader.size + last.frame.count
    buffer.storeBytes(of: length, toByteOffset: last.record, as: Int.self)
    used = used.lowerBound..<last.record + Self.lengthBytes + (length + 7) & ~7
  }

  private mutating func closeTrain() {
    if let train, train.count > 1 {
      train.finish(UnsafeMutableRawBufferPointer(rebasing: buffer[last.frame])).encode(to: header)
    }
    train = nil
  }

  /// Sends what the socket takes; false: nobody receives any more.
  public mutating func send(on socket: CInt) -> Bool {
    closeTrain()
    while !used.isEmpty {
      switch FrameIO.sendDatagrams(UnsafeRawBufferPointer(rebasing: buffer[used]), on: socket) {
      case .done(0): used = 0..<0
      case .done(let count): used = used.lowerBound + count..<used.upperBound
      case .again: return true
      case .closed, .failed: return false
      }
    }
    return true
  }
}
