import CZlib
import CZstd

/// Unpacks a raw deflate stream (RFC 1951) that fills `target`; what follows it is passed over. False: it does not.
public func inflateRaw(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
  var stream = z_stream()
  // Safety: zlib reads the source and writes the target, within the counts that it is given.
  stream.next_in = UnsafeMutablePointer(mutating: source.bindMemory(to: UInt8.self).baseAddress)
  stream.avail_in = UInt32(clamping: source.count)
  stream.next_out = target.bindMemory(to: UInt8.self).baseAddress
  stream.avail_out = UInt32(clamping: target.count)
  // Negative: no header and checksum. The window is at most 32 KiB.
  guard inflateInit2_(&stream, -15, ZLIB_VERSION, CInt(MemoryLayout<z_stream>.size)) == Z_OK else { return false }
  defer { inflateEnd(&stream) }
  let status = inflate(&stream, Z_FINISH)
  return (status == Z_STREAM_END || status == Z_BUF_ERROR || status == Z_OK) && stream.avail_out == 0
}

/// Unpacks a Zstandard frame (RFC 8878) that fills `target`; what follows it is passed over. False: it does not.
public func decompressZstandard(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
  unpackZstandard(source, into: target)?.written == target.count
}

/// Unpacks the Zstandard frame at the start of `source`. Nil: it is damaged, or has more than `target` takes.
func unpackZstandard(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer)
  -> (read: Int, written: Int)?
{
  // Safety: zstd reads the source and writes the target, within the counts that it is given. In one call it needs no
  // window of its own, whose size the frame would choose.
  let count = ZSTD_findFrameCompressedSize(source.baseAddress, source.count)
  guard ZSTD_isError(count) == 0, count <= source.count else { return nil }
  let written = ZSTD_decompress(target.baseAddress, target.count, source.baseAddress, count)
  return ZSTD_isError(written) == 0 ? (count, written) : nil
}
