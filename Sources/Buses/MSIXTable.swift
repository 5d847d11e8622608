/// The MSI-X table and pending bit array of a function (PCI 3.0 §6.8.2), without what its vectors are connected to.
public struct MSIXTable: Sendable {
  /// Capability ID (§6.8.2.1).
  public static let capabilityID: UInt8 = 0x11
  /// Vectors that a function can have (§6.8.2.3).
  public static let maximumVectors = 2048

  /// Bits of Message Control (§6.8.2.3).
  public struct Control: OptionSet, Sendable {
    public let rawValue: UInt16
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    public static let functionMask = Control(rawValue: 1 << 14)
    public static let enable = Control(rawValue: 1 << 15)
  }

  private struct Entry: Sendable {
    var words: InlineArray<4, UInt32> = [0, 0, 0, Entry.mask]
    var isPending = false
    /// Vector Control bit 0; the others are reserved (§6.8.2.9).
    static let mask: UInt32 = 1
    var isMasked: Bool { words[3] & Self.mask != 0 }
  }

  public static let entrySize = 16
  private var entries: [Entry]
  /// Message Control as the guest last wrote it.
  public var control: Control = []
  /// Whether the function may write to memory: messages are such writes.
  public var isBusMaster = false

  /// `vectors` is 1 to `maximumVectors`.
  public init(vectors: Int) { entries = Array(repeating: Entry(), count: vectors) }

  public var vectors: Int { entries.count }
  /// Where the pending bits start in a BAR that holds the table at 0: behind the table, and at a 2 KiB boundary at least.
  public var pendingOffset: UInt64 {
    var offset: UInt64 = 0x800
    while offset < UInt64(vectors * Self.entrySize) { offset <<= 1 }
    return offset
  }
  /// Bytes of that BAR.
  public var size: UInt64 { pendingOffset * 2 }

  /// Power-on state: every vector masked, none pending (§6.8.2.9).
  public mutating func reset() { self = MSIXTable(vectors: vectors) }

  /// What the vector sends now.
  public func message(_ vector: Int) -> MSIMessage {
    let words = entries[vector].words
    return MSIMessage(address: UInt64(words[0]) | UInt64(words[1]) << 32, data: words[2])
  }

  /// Whether the vector may send its message.
  public func isOpen(_ vector: Int) -> Bool {
    control.contains(.enable) && !control.contains(.functionMask) && isBusMaster && !entries[vector].isMasked
  }

  public func isPending(_ vector: Int) -> Bool { entries[vector].isPending }

  /// Remembers an interrupt of a vector that may not send (§6.8.2.10); without MSI-X it is lost.
  public mutating func setPending(_ vector: Int) { entries[vector].isPending = control.contains(.enable) }

  /// Whether a message was waiting; it no longer is.
  public mutating func takePending(_ vector: Int) -> Bool {
    defer { entries[vector].isPending = false }
    return entries[vector].isPending
  }

  /// Reads the BAR. Accesses other than aligned dwords and qwords are undefined (§6.8.2); they read zero here.
  public func read(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
    guard width.bytes >= 4, offset & UInt64(width.bytes - 1) == 0 else { return 0 }
    let low = UInt64(word(offset))
    return width == .qword ? low | UInt64(word(offset &+ 4)) << 32 : low
  }

  /// Writes the table; the pending bits are read-only. Returns the vector that may have changed.
  public mutating func write(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) -> Int? {
    guard width.bytes >= 4, offset & UInt64(width.bytes - 1) == 0,
      offset < UInt64(vectors * Self.entrySize)
    else { return nil }
    let vector = Int(offset) / Self.entrySize
    let first = Int(offset) % Self.entrySize / 4
    set(vector, first, UInt32(truncatingIfNeeded: value))
    if width == .qword { set(vector, first + 1, UInt32(truncatingIfNeeded: value >> 32)) }
    return vector
  }

  private mutating func set(_ vector: Int, _ word: Int, _ value: UInt32) {
    // A message address is dword-aligned (§6.8.2.7).
    let writable: UInt32 = word == 0 ? ~3 : word == 3 ? Entry.mask : .max
    entries[vector].words[word] = value & writable
  }

  private func word(_ offset: UInt64) -> UInt32 {
    if offset < UInt64(vectors * Self.entrySize) {
      return entries[Int(offset) / Self.entrySize].words[Int(offset) % Self.entrySize / 4]
    }
    guard offset >= pendingOffset, offset < size else { return 0 }
    let first = Int(offset - pendingOffset) * 8
    var bits: UInt32 = 0
    for bit in 0..<32 where first + bit < vectors && entries[first + bit].isPending { bits |= 1 << UInt32(bit) }
    return bits
  }
}
