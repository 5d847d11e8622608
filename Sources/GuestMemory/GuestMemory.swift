import LinuxSystem

/// A guest physical access that does not lie wholly in RAM.
public struct GuestMemoryError: Error, Equatable, Sendable {
  /// First guest physical address of the access.
  public let address: UInt64
  /// Its length in bytes.
  public let count: Int
}

/// A run of guest RAM and where it stands in this process.
public struct RAMRegion: @unchecked Sendable {
  /// Guest physical address of the first byte.
  public let guestAddress: UInt64
  public let count: Int
  /// Offset in the file that backs all RAM.
  public let fileOffset: UInt64
  // Safety: points to `count` mapped bytes for as long as the machine lives; only GuestMemory dereferences it.
  public let host: UnsafeMutableRawPointer

  public init(guestAddress: UInt64, count: Int, fileOffset: UInt64, host: UnsafeMutableRawPointer) {
    self.guestAddress = guestAddress
    self.count = count
    self.fileOffset = fileOffset
    self.host = host
  }
}

/// Guest physical memory as devices reach it: RAM only, every access bounds-checked.
///
/// The guest may write any byte at any time, so a value is copied out once and used from the copy.
/// Multi-byte values are little-endian; `load` and `store` of an aligned value are single accesses.
public struct GuestMemory: Sendable {
  /// Regions in ascending order, none overlapping.
  public let regions: [RAMRegion]

  public init(_ regions: [RAMRegion]) { self.regions = regions.sorted { $0.guestAddress < $1.guestAddress } }

  /// Bytes of RAM in all regions.
  public var totalSize: UInt64 { regions.reduce(0) { $0 + UInt64($1.count) } }

  /// The host address of `count` bytes that lie in one region, or nil. It stays valid as long as the machine lives.
  @inlinable
  public func pointer(_ address: UInt64, _ count: Int) -> UnsafeMutableRawPointer? {
    for region in regions where address >= region.guestAddress {
      let offset = address - region.guestAddress
      // Both sides are below 2^63: count is an Int and region.count too.
      if offset < UInt64(region.count), UInt64(count) <= UInt64(region.count) - offset {
        return region.host + Int(offset)
      }
    }
    return nil
  }

  /// The longest run of host memory behind a guest address, of at most `count` bytes; nil where there is no RAM.
  /// It stays valid as long as the machine lives.
  @inlinable
  public func run(at address: UInt64, upTo count: Int) -> UnsafeMutableRawBufferPointer? {
    guard count > 0 else { return nil }
    for region in regions where address >= region.guestAddress {
      let offset = address - region.guestAddress
      guard offset < UInt64(region.count) else { continue }
      return UnsafeMutableRawBufferPointer(
        start: region.host + Int(offset), count: min(count, region.count - Int(offset)))
    }
    return nil
  }

  /// Calls `body` for each run of host memory behind the guest range, in order.
  /// Throws before the first call unless all of it is RAM. Runs are valid as long as the machine lives.
  public func forEachSegment(
    _ address: UInt64, _ count: Int, _ body: (UnsafeMutableRawBufferPointer) -> Void
  ) throws(GuestMemoryError) {
    for segment in try segments(address, count) { body(segment) }
  }

  /// The runs of host memory behind a guest range, in order; they stay valid as long as the machine lives.
  public func segments(_ address: UInt64, _ count: Int) throws(GuestMemoryError) -> [UnsafeMutableRawBufferPointer] {
    guard count > 0 else {
      if count == 0 { return [] }
      throw GuestMemoryError(address: address, count: count)
    }
    if let start = pointer(address, count) { return [UnsafeMutableRawBufferPointer(start: start, count: count)] }
    var result: [UnsafeMutableRawBufferPointer] = []
    var next = address
    var left = count
    for region in regions where left > 0 && next >= region.guestAddress {
      let offset = next - region.guestAddress
      guard offset < UInt64(region.count) else { continue }
      let run = min(left, region.count - Int(offset))
      result.append(UnsafeMutableRawBufferPointer(start: region.host + Int(offset), count: run))
      left -= run
      next = next &+ UInt64(run)
    }
    guard left == 0 else { throw GuestMemoryError(address: address, count: count) }
    return result
  }

  /// Gives the pages of the range back to the host, as `discard(_ run:)` does; nothing where any of it is not RAM.
  public func discard(_ address: UInt64, _ count: Int) throws(GuestMemoryError) {
    for run in try segments(address, count) { discard(run) }
  }

  /// Gives the whole 4 KiB pages in a run of RAM back to the host: they read as zeros until they are written again.
  /// Where the host cannot take them, they keep what is in them.
  public func discard(_ run: UnsafeMutableRawBufferPointer) { discardPages(of: run) }

  /// Copies guest memory into `buffer`.
  public func read(_ address: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(GuestMemoryError) {
    if let start = pointer(address, buffer.count) {
      buffer.copyMemory(from: UnsafeRawBufferPointer(start: start, count: buffer.count))
      return
    }
    var done = 0
    for segment in try segments(address, buffer.count) {
      UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + segment.count]).copyMemory(
        from: UnsafeRawBufferPointer(segment))
      done += segment.count
    }
  }

  /// Copies `buffer` into guest memory; nothing is written when any of the range is not RAM.
  public func write(_ address: UInt64, from buffer: UnsafeRawBufferPointer) throws(GuestMemoryError) {
    if let start = pointer(address, buffer.count) {
      UnsafeMutableRawBufferPointer(start: start, count: buffer.count).copyMemory(from: buffer)
      return
    }
    var done = 0
    for segment in try segments(address, buffer.count) {
      segment.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[done..<done + segment.count]))
      done += segment.count
    }
  }

  /// `count` bytes of guest memory as an array.
  public func bytes(_ address: UInt64, _ count: Int) throws(GuestMemoryError) -> [UInt8] {
    let runs = try segments(address, count)
    var result: [UInt8] = []
    result.reserveCapacity(count)
    for run in runs { result.append(contentsOf: run) }
    return result
  }

  public func write(_ address: UInt64, _ bytes: [UInt8]) throws(GuestMemoryError) {
    // The rethrow of a typed error out of a generic closure needs a Result here.
    try bytes.withUnsafeBytes { buffer in Result { () throws(GuestMemoryError) in try write(address, from: buffer) } }
      .get()
  }

  /// Reads a little-endian integer.
  @inlinable
  public func load<Value: FixedWidthInteger>(_ address: UInt64, as type: Value.Type) throws(GuestMemoryError) -> Value {
    if let start = pointer(address, MemoryLayout<Value>.size) {
      return Value(littleEndian: start.loadUnaligned(as: Value.self))
    }
    var value: Value = 0
    try withUnsafeMutableBytes(of: &value) { buffer in
      Result { () throws(GuestMemoryError) in try read(address, into: buffer) }
    }.get()
    return Value(littleEndian: value)
  }

  /// Writes a little-endian integer.
  @inlinable
  public func store<Value: FixedWidthInteger>(_ value: Value, at address: UInt64) throws(GuestMemoryError) {
    if let start = pointer(address, MemoryLayout<Value>.size) {
      start.storeBytes(of: value.littleEndian, as: Value.self)
      return
    }
    try withUnsafeBytes(of: value.littleEndian) { buffer in
      Result { () throws(GuestMemoryError) in try write(address, from: buffer) }
    }.get()
  }
}
