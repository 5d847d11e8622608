import LinuxSystem

/// Why a disk image cannot be used, and what to do: one line.
public struct ImageError: Error, Equatable, Sendable, CustomStringConvertible {
  public enum Reason: Sendable, Equatable {
    case missing
    case directory
    /// A pipe, socket or character device.
    case notAnImage
    case forbidden
    case readOnlyFileSystem
    case empty
    /// Another process writes to the image, or reads it and may not see it change.
    case locked
    /// The file system or the image's size does not allow `cache=none`.
    case noDirectAccess
    case noOverlay
    /// The format's rules are broken, or it needs what vmrun does not have.
    case badFormat
    /// The image needs a file behind it that was not given, or was given one that it does not have.
    case backing
    case host(errno: CInt)
  }

  public let path: String
  public let reason: Reason
  public let description: String

  init(_ path: String, _ reason: Reason, _ text: String) {
    self.path = path
    self.reason = reason
    description = "\(path): \(text)"
  }

  /// What `open` says about the image.
  init(opening spec: BlockSpecAccess, _ error: SystemError) {
    let path = spec.path
    if error.isMissing {
      self.init(path, .missing, "there is no such file: check the path, or make one with truncate -s 8G")
    } else if error.isDirectory {
      self.init(path, .directory, "this is a directory, not a disk image")
    } else if error.isReadOnly {
      self.init(path, .readOnlyFileSystem, "the file system is read-only: add readonly=on, or use --snapshot")
    } else if error.isForbidden {
      self.init(
        path, .forbidden,
        spec.writable
          ? "no permission to write to it: add readonly=on, use --snapshot, or change its owner or mode"
          : "no permission to read it: change its owner or mode")
    } else if spec.direct, error.isInvalid {
      self.init(path, .noDirectAccess, "the file system does not allow cache=none: use cache=writeback")
    } else {
      self.init(path, .host(errno: error.errno), "cannot be opened: \(error.reason)")
    }
  }

  /// What a layer says of the open image.
  init(using path: String, _ error: LayerError) {
    switch error {
    case .host(let error): self.init(using: path, error)
    default: self.init(path, .badFormat, "\(error)")
    }
  }

  /// What a call on the open image says.
  init(using path: String, _ error: SystemError) {
    self.init(path, .host(errno: error.errno), "\(error.call): \(error.reason)")
  }
}

/// How a spec wants its image opened.
struct BlockSpecAccess {
  let path: String
  let writable: Bool
  let direct: Bool
}
