/// Why an image, or a part of it, cannot be booted from. Says what was found, for the user.
public struct BootImageError: Error, Equatable, Sendable, CustomStringConvertible {
  public enum Kind: Sendable, Equatable {
    /// A file, directory or entry is not there.
    case notFound
    /// What is there contradicts itself or its format.
    case damaged
    /// It may be right, but this reader does not know it.
    case unsupported
    /// It is longer, deeper or more work than this reader allows.
    case limit
    /// The image could not be read.
    case unreadable
  }

  public let kind: Kind
  public let description: String

  public init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}
