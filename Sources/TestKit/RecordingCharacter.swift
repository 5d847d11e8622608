import Backends
import Synchronization

/// A character connection that a test plays the host's part of: it keeps output, bounded on request, and offers
/// input when the test says so.
public final class RecordingCharacter: CharacterBackend {
  private struct State {
    var output: [UInt8] = []
    var input: [UInt8] = []
    var room: Int
    var refused = false
    var resumes = 0
    var receiver: (any CharacterReceiver)?
  }

  private let state: Mutex<State>

  /// `room`: bytes of output that are taken before `send` refuses.
  public init(room: Int = .max) { state = Mutex(State(room: room)) }

  /// Output since the last call.
  public func takeOutput() -> [UInt8] {
    state.withLock { state in
      defer { state.output = [] }
      return state.output
    }
  }

  /// Output since the last call, as text.
  public func takeText() -> String { String(decoding: takeOutput(), as: UTF8.self) }

  /// Gives `send` this much room, and says so to a receiver that was refused.
  public func setRoom(_ room: Int) {
    let heard = state.withLock { state -> (any CharacterReceiver)? in
      state.room = room
      guard state.refused, room > 0 else { return nil }
      state.refused = false
      return state.receiver
    }
    heard?.sendable()
  }

  /// Offers bytes to the receiver. What it has no room for waits for `resumeInput` and `deliver`.
  public func type(_ bytes: [UInt8]) {
    state.withLock { $0.input += bytes }
    deliver()
  }

  public func type(_ text: String) { type(Array(text.utf8)) }

  /// Offers what waits once more.
  public func deliver() {
    let (bytes, receiver) = state.withLock { ($0.input, $0.receiver) }
    guard let receiver, !bytes.isEmpty else { return }
    let taken = bytes.withUnsafeBytes { receiver.receive($0) }
    state.withLock { $0.input.removeFirst(taken) }
  }

  /// Whoever is connected.
  public var attached: (any CharacterReceiver)? { state.withLock { $0.receiver } }

  /// Bytes of input that the receiver has not taken.
  public var waiting: Int { state.withLock { $0.input.count } }
  /// How often the receiver said that it has room again.
  public var resumes: Int { state.withLock { $0.resumes } }

  public func attach(_ receiver: any CharacterReceiver) { state.withLock { $0.receiver = receiver } }

  public func send(_ bytes: UnsafeRawBufferPointer) -> Int {
    state.withLock { state in
      let taken = min(bytes.count, state.room)
      state.output += bytes[0..<taken]
      if state.room != .max { state.room -= taken }
      if taken < bytes.count { state.refused = true }
      return taken
    }
  }

  public func resumeInput() { state.withLock { $0.resumes += 1 } }
  public func drain(nanoseconds: UInt64) {}
}
