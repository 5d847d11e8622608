/// A value that one process of vmrun gives to another as bytes.
///
/// Both are the same program, so the bytes say nothing of names, types or versions. Written by hand and not derived from
/// `Codable`, whose conformances Swift looks up at run time: that took a tenth of vmrun's start.
public protocol WireCodable {
  func write(to wire: inout WireWriter)
  init(from wire: inout WireReader) throws(WireError)
}

extension WireCodable {
  public var wireBytes: [UInt8] {
    var wire = WireWriter()
    write(to: &wire)
    return wire.bytes
  }

  /// Reads a value that fills the bytes.
  public init(wireBytes bytes: [UInt8]) throws(WireError) {
    var wire = WireReader(bytes)
    self = try wire.get()
    guard wire.isAtEnd else { throw WireError() }
  }
}

/// The bytes are not those of such a value.
public struct WireError: Error, Equatable, Sendable, CustomStringConvertible {
  public init() {}
  public var description: String { "a message between vmrun's processes is damaged" }
}

/// Collects the bytes of values, one behind the other.
public struct WireWriter {
  public private(set) var bytes: [UInt8] = []

  public mutating func put<each Value: WireCodable>(_ value: repeat each Value) {
    repeat (each value).write(to: &self)
  }

  mutating func put(bytes more: some Collection<UInt8>) { bytes += more }
}

/// Takes values out of bytes in the order in which they were written. Throws `WireError` where there are too few.
public struct WireReader {
  private var rest: ArraySlice<UInt8>

  init(_ bytes: [UInt8]) { rest = bytes[...] }

  var isAtEnd: Bool { rest.isEmpty }

  public mutating func get<Value: WireCodable>() throws(WireError) -> Value { try Value(from: &self) }

  mutating func bytes(_ count: Int) throws(WireError) -> ArraySlice<UInt8> {
    guard count >= 0, count <= rest.count else { throw WireError() }
    defer { rest = rest.dropFirst(count) }
    return rest.prefix(count)
  }

  /// The number of items that follow, each of a byte at least.
  mutating func count() throws(WireError) -> Int {
    let count = Int(try get() as UInt32)
    guard count <= rest.count else { throw WireError() }
    return count
  }
}

// MARK: Numbers, text and collections

extension FixedWidthInteger where Self: WireCodable {
  public func write(to wire: inout WireWriter) {
    for index in 0..<Self.bitWidth / 8 {
      wire.put(bytes: CollectionOfOne(UInt8(truncatingIfNeeded: self >> (index * 8))))
    }
  }

  public init(from wire: inout WireReader) throws(WireError) {
    self = try wire.bytes(Self.bitWidth / 8).reversed().reduce(0) { $0 << 8 | Self($1) }
  }
}

extension UInt32: WireCodable {}
extension UInt64: WireCodable {}
extension Int32: WireCodable {}
extension Int: WireCodable {}

extension UInt8: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(bytes: CollectionOfOne(self)) }

  public init(from wire: inout WireReader) throws(WireError) {
    guard let byte = try wire.bytes(1).first else { throw WireError() }
    self = byte
  }
}

extension Bool: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(self ? 1 : 0 as UInt8) }
  public init(from wire: inout WireReader) throws(WireError) { self = try wire.get() as UInt8 != 0 }
}

extension String: WireCodable {
  public func write(to wire: inout WireWriter) {
    wire.put(UInt32(utf8.count))
    wire.put(bytes: utf8)
  }

  public init(from wire: inout WireReader) throws(WireError) {
    self.init(decoding: try wire.bytes(wire.count()), as: UTF8.self)
  }
}

extension Optional: WireCodable where Wrapped: WireCodable {
  public func write(to wire: inout WireWriter) {
    wire.put(self != nil)
    if let self { wire.put(self) }
  }

  public init(from wire: inout WireReader) throws(WireError) {
    self = try wire.get() as Bool ? try wire.get() as Wrapped : nil
  }
}

extension Array: WireCodable where Element: WireCodable {
  public func write(to wire: inout WireWriter) {
    wire.put(UInt32(count))
    for element in self { wire.put(element) }
  }

  public init(from wire: inout WireReader) throws(WireError) {
    self = []
    for _ in 0..<(try wire.count()) { append(try wire.get()) }
  }
}

extension Dictionary: WireCodable where Key == String, Value: WireCodable {
  public func write(to wire: inout WireWriter) {
    wire.put(UInt32(count))
    for (key, value) in self { wire.put(key, value) }
  }

  public init(from wire: inout WireReader) throws(WireError) {
    self = [:]
    for _ in 0..<(try wire.count()) {
      let key: String = try wire.get()
      self[key] = try wire.get() as Value
    }
  }
}

extension RawRepresentable where Self: WireCodable, RawValue: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(rawValue) }

  public init(from wire: inout WireReader) throws(WireError) {
    guard let value = Self(rawValue: try wire.get()) else { throw WireError() }
    self = value
  }
}

/// What is known by its description.
extension LosslessStringConvertible where Self: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(description) }

  public init(from wire: inout WireReader) throws(WireError) {
    guard let value = Self(try wire.get() as String) else { throw WireError() }
    self = value
  }
}
