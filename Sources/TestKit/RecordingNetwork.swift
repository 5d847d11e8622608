import Backends
import Synchronization

/// A network that a test plays the host's part of: it keeps what the device sends and hands it frames when the test
/// says so.
public final class RecordingNetwork: NetworkBackend {
  /// A frame and what its bytes do not say.
  public struct Frame: Sendable, Equatable {
    public let bytes: [UInt8]
    public let header: FrameHeader

    public init(_ bytes: [UInt8], _ header: FrameHeader = FrameHeader()) {
      self.bytes = bytes
      self.header = header
    }
  }

  private struct State {
    var sent: [Frame] = []
    var waiting: [Frame] = []
    var room = Int.max
    var isRefused = false
    var resumes = 0
    var isLinkUp = true
    var isActive: Bool
    var receiveOffloads: NetworkOffloads = []
    var receiver: (any NetworkReceiver)?
  }

  public let offloads: NetworkOffloads
  private let others: [RecordingNetwork]
  private let state: Mutex<State>

  /// `queuePairs`: how many there are in all.
  public convenience init(offloads: NetworkOffloads = [], queuePairs: Int = 1) {
    let others = (1..<max(queuePairs, 1)).map { _ in RecordingNetwork(offloads, [], isActive: false) }
    self.init(offloads, others, isActive: true)
  }

  private init(_ offloads: NetworkOffloads, _ others: [RecordingNetwork], isActive: Bool) {
    self.offloads = offloads
    self.others = others
    state = Mutex(State(isActive: isActive))
  }

  /// Frames that the device sent since the last call.
  public func takeSent() -> [Frame] {
    state.withLock { state in
      defer { state.sent = [] }
      return state.sent
    }
  }

  /// Hands the device a frame. What it has no room for waits for `resume` and `deliver`.
  public func inject(_ bytes: [UInt8], _ header: FrameHeader = FrameHeader()) {
    state.withLock { $0.waiting.append(Frame(bytes, header)) }
    deliver()
  }

  /// `send` takes this many more frames, and says so to a device that was refused.
  public func setRoom(_ frames: Int) {
    let heard = state.withLock { state -> (any NetworkReceiver)? in
      state.room = frames
      guard state.isRefused, frames > 0 else { return nil }
      state.isRefused = false
      return state.receiver
    }
    heard?.sendable()
  }

  public func setLink(_ isUp: Bool) {
    state.withLock { state -> (any NetworkReceiver)? in
      state.isLinkUp = isUp
      return state.receiver
    }?.linkChanged()
  }

  /// Frames that the device has not taken.
  public var waiting: Int { state.withLock { $0.waiting.count } }
  /// How often the device said that it has room again.
  public var resumes: Int { state.withLock { $0.resumes } }
  /// Whoever hears of its frames.
  public var attached: (any NetworkReceiver)? { state.withLock { $0.receiver } }
  public var receiveOffloads: NetworkOffloads { state.withLock { $0.receiveOffloads } }
  public var isActive: Bool { state.withLock { $0.isActive } }

  public var isLinkUp: Bool { state.withLock { $0.isLinkUp } }
  public var queuePairs: [any NetworkBackend] { [self] + others }
  public func setActive(_ isActive: Bool) { state.withLock { $0.isActive = isActive } }
  public func setReceiveOffloads(_ offloads: NetworkOffloads) { state.withLock { $0.receiveOffloads = offloads } }

  public func start(_ receiver: any NetworkReceiver) { state.withLock { $0.receiver = receiver } }

  public func send(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ header: FrameHeader) -> Bool {
    state.withLock { state in
      guard state.room > 0 else {
        state.isRefused = true
        return false
      }
      if state.room != .max { state.room -= 1 }
      state.sent.append(Frame(parts.flatMap { Array($0) }, header))
      return true
    }
  }

  public func resume() { state.withLock { $0.resumes += 1 } }
  public func drain() {}

  /// Offers what waits once more.
  public func deliver() {
    while let (frame, receiver) = next() {
      guard frame.bytes.withUnsafeBytes({ receiver.receive($0, frame.header) }) else {
        state.withLock { $0.waiting.insert(frame, at: 0) }
        return
      }
    }
  }

  private func next() -> (Frame, any NetworkReceiver)? {
    state.withLock { state in
      guard let receiver = state.receiver, !state.waiting.isEmpty else { return nil }
      return (state.waiting.removeFirst(), receiver)
    }
  }
}
