/// A file that a machine is started with. Encoded as its description.
public enum BootFile: Sendable, Equatable, Encodable, LosslessStringConvertible {
  case path(String)
  case standardInput
  /// A descriptor that whoever started vmrun has opened.
  case descriptor(Int32)

  /// Parses what `--kernel` and `--initrd` take: a path, `-` or `fd:N`.
  public init?(_ description: String) {
    if description == "-" {
      self = .standardInput
    } else if description.hasPrefix("fd:") {
      guard let number = Int32(description.dropFirst(3)), number > 2 else { return nil }
      self = .descriptor(number)
    } else {
      guard !description.isEmpty, !description.utf8.contains(0) else { return nil }
      self = .path(description)
    }
  }

  public var description: String {
    switch self {
    case .path(let path): path
    case .standardInput: "-"
    case .descriptor(let number): "fd:\(number)"
    }
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

/// What is started in place of what firmware would find.
public struct BootSpec: Sendable, Encodable, Equatable {
  /// Nil: the kernel that the first disk's boot configuration names.
  public var kernel: BootFile?
  /// Initial ramdisks in the order in which the kernel gets them.
  public var ramdisks: [BootFile]
  /// The kernel's command line, or what is added to that of the boot configuration.
  public var arguments: String
  /// Name or number of an entry of the disk's boot configuration; nil: its default.
  public var entry: String?

  public init(
    kernel: BootFile? = nil, ramdisks: [BootFile] = [], arguments: String = "", entry: String? = nil
  ) {
    self.kernel = kernel
    self.ramdisks = ramdisks
    self.arguments = arguments
    self.entry = entry
  }

  /// Whether a file comes on standard input.
  public var readsStandardInput: Bool { ramdisks.contains(.standardInput) || kernel == .standardInput }

  /// Longest command line in bytes, whatever the kernel.
  public static let argumentsLimit = 0xFFFF
}
