import CLinux

/// The processor's time-stamp counter: for bounding spins, not for telling time.
@inlinable @inline(__always)
public func timestamp() -> UInt64 { clinux_rdtsc() }
