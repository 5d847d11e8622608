import LinuxSystem

/// What is in an initial ramdisk, unpacked before the guest starts
/// (Documentation/driver-api/early-userspace/buffer-format.rst): cpio archives, packed or not, with zeroes between them.
final class UnpackedRamdisk: Sendable {
  private let memory: Mapping
  let count: Int

  /// Nil: nothing in it is packed, something is damaged or unknown, or all of it is more than `limit` bytes. The kernel
  /// takes it as it is then.
  init?(_ file: KernelFile, limit: UInt64) {
    guard 0..<limit ~= file.count, limit <= UInt64(Int.max), let packed = try? Mapping(anonymous: Int(file.count)),
      let memory = try? Mapping(anonymous: Int(limit)), (try? file.read(0, into: packed.bytes)) != nil
    else { return nil }
    guard let count = Self.unpack(UnsafeRawBufferPointer(packed.bytes), into: memory.bytes) else { return nil }
    self.count = count
    self.memory = memory
  }

  /// The same ramdisk for a loader.
  func file(named name: String) -> KernelFile {
    KernelFile(name: name, count: UInt64(count)) { (offset, buffer) in
      buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: self.memory.bytes[Int(offset)...].prefix(buffer.count)))
    }
  }

  private static func unpack(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Int? {
    var (position, written) = (0, 0)
    var isPacked = false
    while let start = source[position...].firstIndex(where: { $0 != 0 }) {
      let rest = UnsafeRawBufferPointer(rebasing: source[start...])
      // An archive's headers are on multiples of four.
      let room = UnsafeMutableRawBufferPointer(rebasing: target.dropFirst((written + 3) & ~3))
      if let compression = Compression(Array(rest.prefix(6))) {
        guard let part = compression.unpack(rest, into: room), part.written < room.count else { return nil }
        isPacked = true
        position = start + part.read
        written = target.count - room.count + part.written
      } else {
        guard let size = CPIOArchive.size(rest), size < room.count else { return nil }
        room.copyMemory(from: UnsafeRawBufferPointer(rebasing: rest.prefix(size)))
        position = start + size
        written = target.count - room.count + size
      }
    }
    return isPacked ? written : nil
  }
}

/// A cpio archive in the "new ASCII" format, as far as is needed to find its end (buffer-format.rst).
enum CPIOArchive {
  private static let headerSize = 110
  private static let fileSizeOffset = 54
  private static let nameSizeOffset = 94
  private static let lastName = Array("TRAILER!!!\0".utf8)

  /// Bytes from the first header to the end of the last; nil: it is no archive, or has no end.
  static func size(_ bytes: UnsafeRawBufferPointer) -> Int? {
    var position = 0
    while position <= bytes.count - headerSize {
      let header = bytes[position..<position + headerSize]
      guard header.starts(with: Array("07070".utf8)), let fileSize = number(header.dropFirst(fileSizeOffset)),
        let nameSize = number(header.dropFirst(nameSizeOffset)), nameSize <= bytes.count - header.endIndex
      else { return nil }
      let isLast = bytes[header.endIndex...].prefix(nameSize).elementsEqual(lastName)
      let contents = (header.endIndex + nameSize + 3) & ~3
      if isLast { return min(contents, bytes.count) }
      guard fileSize <= bytes.count - contents else { return nil }
      position = (contents + fileSize + 3) & ~3
    }
    return nil
  }

  /// Eight hexadecimal digits.
  private static func number(_ digits: Slice<UnsafeRawBufferPointer>) -> Int? {
    Int(String(decoding: digits.prefix(8), as: UTF8.self), radix: 16).flatMap { $0 < 0 ? nil : $0 }
  }
}
