/// The script of `etc/table-loader` that makes firmware place tables, join them and sum them up (the interface of
/// QEMU's bios-linker-loader). Each command takes 128 bytes; numbers are little-endian.
struct TableLoader: Sendable {
  enum Zone: UInt8, Sendable {
    /// Anywhere below 4 GiB.
    case high = 1
    /// The segment at 0xF0000, where an RSDP is looked for.
    case fSegment = 2
  }

  private enum Command: UInt32 {
    case allocate = 1
    case addPointer = 2
    case addChecksum = 3
  }

  private static let commandSize = 128
  private static let nameSize = 56

  private(set) var bytes: [UInt8] = []

  /// Loads a fw_cfg file at a multiple of `alignment`, a power of two. Comes before every other use of the file.
  mutating func allocate(_ file: String, alignment: UInt32, zone: Zone) {
    append(.allocate, Self.name(file) + alignment.littleEndianBytes + [zone.rawValue])
  }

  /// Adds the address that `source` was loaded at to the `size` bytes at `offset` of `file`.
  mutating func addPointer(in file: String, at offset: Int, size: UInt8, to source: String) {
    append(
      .addPointer, Self.name(file) + Self.name(source) + UInt32(truncatingIfNeeded: offset).littleEndianBytes + [size])
  }

  /// Makes the bytes of `range` of `file` add up to zero by the byte at `offset`, which is zero before.
  mutating func addChecksum(in file: String, at offset: Int, over range: Range<Int>) {
    append(
      .addChecksum,
      Self.name(file) + UInt32(truncatingIfNeeded: offset).littleEndianBytes
        + UInt32(truncatingIfNeeded: range.lowerBound).littleEndianBytes
        + UInt32(truncatingIfNeeded: range.count).littleEndianBytes)
  }

  private mutating func append(_ command: Command, _ body: [UInt8]) {
    let used = command.rawValue.littleEndianBytes + body
    bytes += used + [UInt8](repeating: 0, count: Self.commandSize - used.count)
  }

  private static func name(_ file: String) -> [UInt8] {
    let characters = file.utf8.prefix(nameSize - 1)
    return Array(characters) + [UInt8](repeating: 0, count: nameSize - characters.count)
  }
}
