import LinuxSystem

/// Why a socket cannot be bound to a path, and what to do.
struct SocketPathError: Error, CustomStringConvertible {
  let description: String
}

/// Names of Unix sockets in the file system.
enum SocketPath {
  /// Binds a socket to a path that is free, or that a process which is gone has left behind.
  static func bind(
    _ path: String, _ make: (String) throws(SystemError) -> Descriptor
  ) throws(SocketPathError) -> Descriptor {
    guard path.utf8.count <= UnixSocket.maximumPathLength else {
      throw SocketPathError(
        description: "\(path): a socket path has at most \(UnixSocket.maximumPathLength) bytes; "
          + "give a shorter or relative one")
    }
    do {
      return try make(path)
    } catch {
      guard error.errno == ErrorNumber.addressInUse else { throw refusal(path, error) }
    }
    do {
      try removeStale(path)
      return try make(path)
    } catch { throw refusal(path, error) }
  }

  private static func refusal(_ path: String, _ error: SystemError) -> SocketPathError {
    let description =
      switch error.errno {
      case ErrorNumber.addressInUse: "\(path) is in use by another process; give another path"
      case ErrorNumber.exists: "\(path) exists and is not a socket; remove it or give another path"
      default: "cannot listen at \(path): \(error.reason)"
      }
    return SocketPathError(description: description)
  }

  /// Removes a socket file whose process is gone. Anything else at the path stays.
  private static func removeStale(_ path: String) throws(SystemError) {
    do throws(SystemError) {
      guard try UnixSocket.isSocket(path) else { throw SystemError("bind", path, errno: ErrorNumber.exists) }
      _ = try UnixSocket.connect(to: path)
    } catch {
      switch error.errno {
      case ErrorNumber.noSuchFile: return
      case ErrorNumber.connectionRefused: return try removeFile(path)
      // A socket of another type answers.
      case ErrorNumber.wrongProtocol: break
      default: throw error
      }
    }
    throw SystemError("bind", path, errno: ErrorNumber.addressInUse)
  }
}
