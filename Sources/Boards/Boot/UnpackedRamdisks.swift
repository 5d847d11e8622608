import LinuxSystem

/// Initial ramdisks, unpacked before the guest starts (Documentation/driver-api/early-userspace/buffer-format.rst): cpio
/// archives, packed or not, with zeroes between them.
enum UnpackedRamdisks {
  /// Puts what is in the files into `target`, one behind the other. Nil: there is nothing, something is damaged or unknown,
  /// or it does not fit; what `target` then has is undefined.
  /// - Returns: bytes from the start of `target` to the last one's end.
  static func load(_ files: [KernelFile], into target: UnsafeMutableRawBufferPointer) -> Int? {
    var end = 0
    for file in files {
      guard 1..<UInt64(target.count) ~= file.count, let packed = try? Mapping(anonymous: Int(file.count)),
        (try? file.read(0, into: packed.bytes)) != nil,
        let next = unpack(UnsafeRawBufferPointer(packed.bytes), into: target, from: end)
      else { return nil }
      end = next
    }
    return end > 0 ? end : nil
  }

  private static func unpack(
    _ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer, from start: Int
  ) -> Int? {
    var (position, written) = (0, start)
    while let begin = source[position...].firstIndex(where: { $0 != 0 }) {
      let rest = UnsafeRawBufferPointer(rebasing: source[begin...])
      // An archive's headers are on multiples of four.
      let aligned = (written + 3) & ~3
      guard aligned < target.count else { return nil }
      for gap in written..<aligned { target[gap] = 0 }
      let room = UnsafeMutableRawBufferPointer(rebasing: target[aligned...])
      if let compression = Compression(Array(rest.prefix(6))) {
        guard let part = compression.unpack(rest, into: room), part.written < room.count else { return nil }
        position = begin + part.read
        written = aligned + part.written
      } else {
        guard let size = CPIOArchive.size(rest), size < room.count else { return nil }
        room.copyMemory(from: UnsafeRawBufferPointer(rebasing: rest.prefix(size)))
        position = begin + size
        written = aligned + size
      }
    }
    return written
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
