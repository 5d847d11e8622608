import LinuxSystem
import Synchronization

/// Input that was read from the host and not yet taken by the device.
final class InputHold: Sendable {
  private struct State {
    var receiver: (any CharacterReceiver)?
    /// The receiver took less than it was offered and has not asked for more.
    var paused = false
    var size: (columns: UInt16, rows: UInt16)?
  }

  private let state = Mutex(State())

  /// Connects the receiver.
  func attach(_ receiver: any CharacterReceiver) {
    let size = state.withLock { state in
      state.receiver = receiver
      return state.size
    }
    if let size { receiver.resized(columns: size.columns, rows: size.rows) }
  }

  /// Tells the receiver, now or when it comes, how large the terminal is.
  func resize(columns: UInt16, rows: UInt16) {
    let receiver = state.withLock { state in
      state.size = (columns, rows)
      return state.receiver
    }
    receiver?.resized(columns: columns, rows: rows)
  }

  /// Returns whether a reader waits for this.
  func resume() -> Bool {
    state.withLock { state in
      defer { state.paused = false }
      return state.paused
    }
  }

  var isOpen: Bool { state.withLock { $0.receiver != nil && !$0.paused } }
  var receiver: (any CharacterReceiver)? { state.withLock { $0.receiver } }

  /// Offers bytes to the receiver and returns how many it took. No lock is held meanwhile: the receiver may be
  /// waiting in `send` with its own.
  func offer(_ bytes: UnsafeRawBufferPointer) -> Int {
    // Paused first: a `resume` that comes between the receiver's refusal and our return is then not lost.
    let receiver = state.withLock { state -> (any CharacterReceiver)? in
      guard let receiver = state.receiver, !state.paused else { return nil }
      state.paused = true
      return receiver
    }
    guard let receiver else { return 0 }
    let taken = min(max(receiver.receive(bytes), 0), bytes.count)
    if taken == bytes.count { state.withLock { $0.paused = false } }
    return taken
  }
}
