import Glibc

/// Ends the process with this status, running exit handlers.
public func endProcess(_ status: UInt8) -> Never { exit(CInt(status)) }

/// Ends the process at once, without exit handlers: for one that has other threads at work.
public func endProcessNow(_ status: UInt8) -> Never { _exit(CInt(status)) }
