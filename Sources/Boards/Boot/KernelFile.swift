/// A kernel's or an initial ramdisk's bytes: a descriptor, a file inside a disk image, memory. Read at any place, never
/// trusted.
public struct KernelFile: Sendable {
  /// Fills the buffer from `offset`, or throws. It is asked for nothing beyond the end.
  public typealias Read =
    @Sendable (
      _ offset: UInt64, _ buffer: UnsafeMutableRawBufferPointer
    ) throws(BootError) -> Void

  /// What messages call it: a path.
  public let name: String
  /// Bytes in the file.
  public let count: UInt64
  private let fill: Read

  public init(name: String, count: UInt64, read: @escaping Read) {
    self.name = name
    self.count = count
    fill = read
  }

  public init(_ bytes: [UInt8], name: String = "kernel") {
    self.init(name: name, count: UInt64(bytes.count)) { (offset, buffer) in
      buffer.copyBytes(from: bytes[Int(offset)..<Int(offset) + buffer.count])
    }
  }

  /// Fills the buffer with what stands at `offset`.
  public func read(_ offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BootError) {
    let (end, overflow) = offset.addingReportingOverflow(UInt64(buffer.count))
    guard !overflow, end <= count else { throw BootError("the file is cut short: it has only \(count) bytes") }
    if buffer.count > 0 { try fill(offset, buffer) }
  }

  /// The bytes of a structure that must be there whole; `what` names it for the user.
  func bytes(_ offset: UInt64, _ count: Int, _ what: String) throws(BootError) -> Fields {
    let (end, overflow) = offset.addingReportingOverflow(UInt64(count))
    guard !overflow, end <= self.count else { throw BootError("the kernel is cut short: its \(what) is missing") }
    var bytes = [UInt8](repeating: 0, count: count)
    // The rethrow of a typed error out of the closure needs a Result here.
    try bytes.withUnsafeMutableBytes { buffer in Result { () throws(BootError) in try read(offset, into: buffer) } }
      .get()
    return Fields(bytes: bytes)
  }

  /// At most `limit` bytes from the start.
  func prefix(_ limit: Int) throws(BootError) -> Fields {
    try bytes(0, Int(min(count, UInt64(limit))), "start")
  }
}

/// Why a kernel cannot be started: a sentence that says what to change.
public struct BootError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}

/// Little-endian fields of a structure. What lies beyond its end reads as 0.
struct Fields: Sendable {
  let bytes: [UInt8]

  var count: Int { bytes.count }

  func integer<Value: FixedWidthInteger>(_ offset: Int, as type: Value.Type = Value.self) -> Value {
    var value: Value = 0
    for index in 0..<MemoryLayout<Value>.size where offset >= 0 && offset < bytes.count - index {
      value |= Value(truncatingIfNeeded: bytes[offset + index]) << Value(index * 8)
    }
    return value
  }

  /// Whether `text` stands at the offset.
  func has(_ text: String, at offset: Int = 0) -> Bool { has(Array(text.utf8), at: offset) }

  func has(_ magic: [UInt8], at offset: Int = 0) -> Bool {
    offset >= 0 && magic.count <= count - offset && magic.elementsEqual(bytes[offset..<offset + magic.count])
  }
}
