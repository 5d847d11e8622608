import Glibc

/// Makes or empties a file and writes it.
public func replaceFile(_ path: String, with bytes: [UInt8]) throws(SystemError) {
  let file = try Descriptor.open(path, OpenFlags.writeCreateTruncate, mode: 0o666)
  var rest = bytes[...]
  while !rest.isEmpty {
    let buffer = rest
    rest = rest.dropFirst(
      try buffer.withUnsafeBytes { bytes in Result { () throws(SystemError) in try file.write(bytes) } }.get())
  }
}

extension Descriptor {
  /// The whole file from its start, whatever the file offset is; EFBIG beyond `limit` bytes.
  public borrowing func contents(limit: Int) throws(SystemError) -> [UInt8] {
    var bytes: [UInt8] = []
    let chunk = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)
    defer { chunk.deallocate() }
    let number = raw
    while true {
      let offset = off_t(bytes.count)
      let count = try retrying("pread") { pread(number, chunk.baseAddress, chunk.count, offset) }
      if count == 0 { return bytes }
      guard bytes.count + count <= limit else { throw SystemError("pread", errno: EFBIG) }
      bytes.append(contentsOf: chunk[..<count])
    }
  }
}
