import LinuxSystem
import Synchronization

/// Stops all vCPU threads at a safe point and lets them go on, reset or end.
final class VCPUGate: Sendable {
  enum Command: UInt32 {
    case run
    /// Finish the access under way and wait.
    case pause
    /// As `pause`, then put the vCPU into its power-on state.
    case reset
    /// Leave the thread.
    case stop
  }

  private struct Words: ~Copyable {
    /// A sequence number in the upper 30 bits, the command in the lower two.
    let command = Atomic<UInt32>(0)
    /// vCPUs that have carried out the present command.
    let arrived = Atomic<UInt32>(0)
  }

  // Safety: allocated once and never freed: vCPU threads may look at it until the process ends.
  private nonisolated(unsafe) let words: UnsafeMutablePointer<Words>
  private let count: UInt32

  /// `count` threads will pass through.
  init(count: Int) {
    words = .allocate(capacity: 1)
    words.initialize(to: Words())
    self.count = UInt32(count)
  }

  /// The present command as one word, to be compared later.
  @inline(__always)
  var word: UInt32 { words.pointee.command.load(ordering: .acquiring) }

  static func command(in word: UInt32) -> Command { Command(rawValue: word & 3) ?? .stop }

  private var commandWord: UnsafeMutablePointer<Atomic<UInt32>> {
    // Safety: `command` is the first field.
    UnsafeMutableRawPointer(words).assumingMemoryBound(to: Atomic<UInt32>.self)
  }

  private var arrivedWord: UnsafeMutablePointer<Atomic<UInt32>> {
    // Safety: `arrived` follows `command` without padding: both are 32-bit words.
    (UnsafeMutableRawPointer(words) + 4).assumingMemoryBound(to: Atomic<UInt32>.self)
  }

  /// Control side: gives a command; `kick` makes every vCPU look at it.
  func issue(_ command: Command, kick: () -> Void) {
    words.pointee.arrived.store(0, ordering: .relaxed)
    let sequence = words.pointee.command.load(ordering: .relaxed) >> 2
    words.pointee.command.store((sequence &+ 1) << 2 | command.rawValue, ordering: .releasing)
    Futex.wake(commandWord, count: .max)
    kick()
  }

  /// Control side: whether all threads have carried out the command within `nanoseconds`.
  func awaitAll(nanoseconds: UInt64) -> Bool {
    let end = monotonicNanoseconds() + nanoseconds
    while true {
      let arrived = words.pointee.arrived.load(ordering: .acquiring)
      if arrived >= count { return true }
      let now = monotonicNanoseconds()
      guard now < end else { return false }
      Futex.wait(arrivedWord, while: arrived, nanoseconds: Int64(end - now))
    }
  }

  /// vCPU side: the command in `word` has been carried out; returns when there is another one.
  func arrive(_ word: UInt32) {
    words.pointee.arrived.add(1, ordering: .acquiringAndReleasing)
    Futex.wake(arrivedWord)
    wait(while: word)
  }

  /// vCPU side: returns when there is another command than that in `word`.
  func wait(while word: UInt32) { while self.word == word { Futex.wait(commandWord, while: word) } }
}
