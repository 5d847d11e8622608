import Glibc

/// Ends the process with this status, running exit handlers.
public func endProcess(_ status: UInt8) -> Never { exit(CInt(status)) }
