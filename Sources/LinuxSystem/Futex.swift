import CLinux
import Synchronization

/// Waiting on a 32-bit word that may be shared between processes (futex(2), not private).
// Safety: `Atomic<UInt32>` is a plain 32-bit word in memory, so its address is what the kernel compares.
public enum Futex {
  /// Sleeps while the word is `expected`; returns at once when it is not, and also without reason.
  public static func wait(
    _ word: UnsafeMutablePointer<Atomic<UInt32>>, while expected: UInt32, nanoseconds: Int64 = -1
  ) {
    _ = clinux_futex_wait(word, expected, nanoseconds)
  }

  public static func wake(_ word: UnsafeMutablePointer<Atomic<UInt32>>, count: CInt = 1) {
    clinux_futex_wake(word, count)
  }
}

/// Tells the processor that this is a spin loop.
@inlinable @inline(__always)
public func spinHint() { clinux_cpu_relax() }
