import LinuxSystem
import Synchronization

/// A file of frames in the classic pcap format with nanoseconds (pcap-savefile(5)), written as they pass. When it cannot
/// take a frame, capturing ends and the guest goes on.
public final class CaptureFile: Sendable {
  private struct State: ~Copyable {
    /// nil when capturing has ended.
    var file: Descriptor?
    /// Bytes written so far, in whole records.
    var size: UInt64
  }

  private let state: Mutex<State>
  private let id: String
  private let report: NetworkReport

  /// Magic number for nanoseconds, version 2.4, longest record, LINKTYPE_ETHERNET; in the host's byte order.
  static let header: [UInt32] = [0xA1B2_3C4D, 4 << 16 | 2, 0, 0, UInt32(262_144), 1]

  /// Makes or empties the file and writes the file header.
  public static func create(_ path: String) throws(SystemError) -> Descriptor {
    let file = try Descriptor.open(path, OpenFlags.writeCreateTruncate, mode: 0o666)
    let error = header.withUnsafeBytes { header -> SystemError? in
      do throws(SystemError) {
        return try file.write(header) == header.count ? nil : SystemError("write", path, errno: ErrorNumber.noSpace)
      } catch { return error }
    }
    if let error { throw error }
    return file
  }

  /// Takes over a file that `create` made.
  public init(_ file: consuming Descriptor, id: String, report: @escaping NetworkReport) {
    state = Mutex(State(file: file, size: UInt64(Self.header.count * 4)))
    self.id = id
    self.report = report
  }

  /// Adds a frame with the present time.
  func add(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>) {
    var length = 0
    for part in parts { length += part.count }
    let now = realtimeNanoseconds()
    var header = (
      UInt32(truncatingIfNeeded: now / 1_000_000_000), UInt32(truncatingIfNeeded: now % 1_000_000_000),
      UInt32(truncatingIfNeeded: length), UInt32(truncatingIfNeeded: length)
    )
    guard parts.count <= FrameIO.maximumParts else { return }
    let failure = withUnsafeBytes(of: &header) { header in
      state.withLock { state -> String? in
        guard let file = state.file?.raw else { return nil }
        let record = header.count + length
        let reason: String
        switch FrameIO.write(header, parts, to: file) {
        case .done(record):
          state.size += UInt64(record)
          return nil
        case .done: reason = "the file system is full"
        case .again: reason = "nobody reads it fast enough"
        case .closed: reason = "nobody reads it"
        case .failed(let errno): reason = SystemError("write", errno: errno).reason
        }
        // What is there stays a file of whole records; a pipe has no size.
        try? state.file?.truncate(to: state.size)
        state.file = nil
        return reason
      }
    }
    if let failure { report("\(id): capturing ends: \(failure)") }
  }
}

/// A network whose frames are copied to a file as they pass.
public final class CapturingNetwork: NetworkBackend {
  private let network: any NetworkBackend
  private let file: CaptureFile
  private let others: [CapturingNetwork]

  public convenience init(_ network: any NetworkBackend, to file: CaptureFile) {
    self.init(network, file, network.queuePairs.dropFirst().map { CapturingNetwork($0, file, []) })
  }

  private init(_ network: any NetworkBackend, _ file: CaptureFile, _ others: [CapturingNetwork]) {
    self.network = network
    self.file = file
    self.others = others
  }

  /// Copies what the device takes.
  private final class Receiver: NetworkReceiver {
    private let receiver: any NetworkReceiver
    private let file: CaptureFile

    init(_ receiver: any NetworkReceiver, _ file: CaptureFile) {
      self.receiver = receiver
      self.file = file
    }

    func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool {
      guard receiver.receive(frame, header) else { return false }
      withUnsafePointer(to: frame) { file.add(UnsafeBufferPointer(start: $0, count: 1)) }
      return true
    }
    func sendable() { receiver.sendable() }
    func linkChanged() { receiver.linkChanged() }
  }

  public var offloads: NetworkOffloads { network.offloads }
  public func setReceiveOffloads(_ offloads: NetworkOffloads) { network.setReceiveOffloads(offloads) }
  public var isLinkUp: Bool { network.isLinkUp }
  public var queuePairs: [any NetworkBackend] { [self] + others }
  public func setActive(_ isActive: Bool) { network.setActive(isActive) }
  public func start(_ receiver: any NetworkReceiver) { network.start(Receiver(receiver, file)) }
  public func send(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ header: FrameHeader) -> Bool {
    guard network.send(parts, header) else { return false }
    file.add(parts)
    return true
  }
  public func resume() { network.resume() }
  public func drain() { network.drain() }
}
