import CLz4
import CLzma
import CZlib
import CZstd

/// How the code of a Linux kernel may be packed, where there is a library for it.
public enum Compression: Sendable, Equatable, CaseIterable {
  /// gzip(1): RFC 1952.
  case gzip
  /// xz(1): the .xz file format.
  case xz
  /// lzma(1): the older .lzma format.
  case lzma
  /// lz4 -l: the legacy frame.
  case lz4
  /// RFC 8878.
  case zstd

  /// What the first bytes say; nil: nothing that is known.
  public init?(_ start: [UInt8]) {
    switch start {
    case let start where start.starts(with: [0x1F, 0x8B]): self = .gzip
    case let start where start.starts(with: [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00]): self = .xz
    case let start where start.starts(with: [0x5D, 0x00, 0x00]): self = .lzma
    case let start where start.starts(with: [0x02, 0x21, 0x4C, 0x18]): self = .lz4
    case let start where start.starts(with: [0x28, 0xB5, 0x2F, 0xFD]): self = .zstd
    default: return nil
    }
  }

  /// Unpacks the stream at the start of `source`. Nil: it is damaged, or has more than `target` takes; what `target`
  /// then has is undefined.
  /// - Returns: the stream's length, as far as it was needed to fill `target`, and the bytes that were unpacked.
  public func unpack(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer)
    -> (read: Int, written: Int)?
  {
    switch self {
    case .gzip: Self.gunzip(source, target)
    case .xz: Self.unpackXZ(source, target)
    case .lzma: Self.unpackLZMA(source, target)
    case .lz4: Self.unpackLZ4(source, target)
    case .zstd: unpackZstandard(source, into: target)
    }
  }

  private static func gunzip(_ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer)
    -> (read: Int, written: Int)?
  {
    guard source.count <= Int(UInt32.max), target.count <= Int(UInt32.max) else { return nil }
    var stream = z_stream()
    // Safety: zlib reads the source and writes the target, within the counts that it is given.
    stream.next_in = UnsafeMutablePointer(mutating: source.bindMemory(to: UInt8.self).baseAddress)
    stream.avail_in = UInt32(source.count)
    stream.next_out = target.bindMemory(to: UInt8.self).baseAddress
    stream.avail_out = UInt32(target.count)
    // 16: a gzip header, and a checksum at the end.
    guard inflateInit2_(&stream, 16 + 15, ZLIB_VERSION, CInt(MemoryLayout<z_stream>.size)) == Z_OK else { return nil }
    defer { inflateEnd(&stream) }
    guard inflate(&stream, Z_FINISH) == Z_STREAM_END else { return nil }
    return (source.count - Int(stream.avail_in), target.count - Int(stream.avail_out))
  }

  /// The decoder may take this much memory, most of it for the dictionary, whose size the stream chooses.
  private static let memoryLimit: UInt64 = 256 << 20

  private static func unpackXZ(_ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer)
    -> (read: Int, written: Int)?
  {
    var limit = memoryLimit
    var (read, written) = (0, 0)
    // Safety: liblzma reads the source and writes the target, within the counts that it is given.
    let status = lzma_stream_buffer_decode(
      &limit, 0, nil, source.bindMemory(to: UInt8.self).baseAddress, &read, source.count,
      target.bindMemory(to: UInt8.self).baseAddress, &written, target.count)
    return status == LZMA_OK ? (read, written) : nil
  }

  private static func unpackLZMA(_ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer)
    -> (read: Int, written: Int)?
  {
    var stream = lzma_stream()
    guard lzma_alone_decoder(&stream, memoryLimit) == LZMA_OK else { return nil }
    defer { lzma_end(&stream) }
    // Safety: as above.
    stream.next_in = source.bindMemory(to: UInt8.self).baseAddress
    stream.avail_in = source.count
    stream.next_out = target.bindMemory(to: UInt8.self).baseAddress
    stream.avail_out = target.count
    let status = lzma_code(&stream, LZMA_FINISH)
    // A stream without its length may go on where `target` is full.
    guard status == LZMA_STREAM_END || (status == LZMA_OK && stream.avail_out == 0) else { return nil }
    return (source.count - stream.avail_in, target.count - stream.avail_out)
  }

  /// Blocks of at most 8 MiB unpacked, each behind its packed size, up to a size that is none
  /// (lz4_Frame_format.md, "Legacy frame").
  private static func unpackLZ4(_ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer)
    -> (read: Int, written: Int)?
  {
    var (position, written) = (4, 0)
    while written < target.count, position <= source.count - 4 {
      let size = Int(UInt32(littleEndian: source.loadUnaligned(fromByteOffset: position, as: UInt32.self)))
      guard size > 0, size <= source.count - position - 4 else { break }
      position += 4
      let room = min(target.count - written, 8 << 20)
      guard size <= Int(CInt.max), let base = source.baseAddress, let out = target.baseAddress else { return nil }
      // Safety: lz4 reads `size` bytes of the source and writes at most `room` of the target.
      let count = LZ4_decompress_safe(
        (base + position).assumingMemoryBound(to: CChar.self), (out + written).assumingMemoryBound(to: CChar.self),
        CInt(size), CInt(room))
      guard count > 0 else { return nil }
      position += size
      written += Int(count)
    }
    return (position, written)
  }
}
