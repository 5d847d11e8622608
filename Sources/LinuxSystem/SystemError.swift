import Glibc

/// A system call that failed: which, on what, and why.
public struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The call's name, as in the manual: `open`, `mmap`.
  public let call: String
  /// `errno` as the call left it.
  public let errno: CInt
  /// The file or thing it was called on; empty where there is none.
  public let subject: String

  public init(_ call: String, _ subject: String = "", errno: CInt = Glibc.errno) {
    self.call = call
    self.errno = errno
    self.subject = subject
  }

  /// The host's words for `errno`, such as "No such file or directory".
  public var reason: String { String(cString: strerror(errno)) }

  public var description: String {
    subject.isEmpty ? "\(call): \(reason)" : "\(subject): \(call): \(reason)"
  }
}

/// Calls `body` until it is not interrupted by a signal; -1 becomes a `SystemError`.
@discardableResult
@inlinable
public func retrying<Result: SignedInteger>(
  _ call: String, _ subject: @autoclosure () -> String = "", _ body: () -> Result
) throws(SystemError) -> Result {
  while true {
    let result = body()
    if result != -1 { return result }
    let error = currentErrno
    if error != EINTR { throw SystemError(call, subject(), errno: error) }
  }
}

/// This thread's `errno`.
public var currentErrno: CInt { Glibc.errno }
