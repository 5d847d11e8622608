import DeviceKit

/// The selector, data and DMA logic of QEMU's firmware configuration device ("QEMU Firmware Configuration
/// (fw_cfg) Device", docs/specs/fw_cfg). Every item is read-only.
struct FWCfg: Sendable {
  /// Selector keys (fw_cfg §Firmware Configuration Items).
  enum Key {
    static let signature: UInt16 = 0x0000
    /// Revision and feature bitmap.
    static let identifier: UInt16 = 0x0001
    static let fileDirectory: UInt16 = 0x0019
    static let firstFile: UInt16 = 0x0020
    /// Bits that number an item; bit 15 names the architecture's own items, bit 14 asks for write mode and is ignored.
    static let numberMask: UInt16 = 0x3FFF
    static let architecture: UInt16 = 0x8000
  }

  /// Bits of the feature bitmap (§Revision / feature bitmap).
  enum Feature {
    static let traditional: UInt32 = 1 << 0
    static let dma: UInt32 = 1 << 1
  }

  /// The control field of a DMA descriptor (§Guest-side DMA Interface); its upper half is a selector key.
  struct DMAControl: OptionSet, Sendable {
    let rawValue: UInt32
    static let error = DMAControl(rawValue: 1 << 0)
    static let read = DMAControl(rawValue: 1 << 1)
    static let skip = DMAControl(rawValue: 1 << 2)
    static let select = DMAControl(rawValue: 1 << 3)
    static let write = DMAControl(rawValue: 1 << 4)

    var key: UInt16 { UInt16(truncatingIfNeeded: rawValue >> 16) }
  }

  /// What a DMA descriptor asks for.
  enum Transfer: Equatable, Sendable {
    /// Copy this many bytes to the guest, those beyond the item's end as zero.
    case read(count: Int)
    /// Nothing to move.
    case none
    /// The operation is not allowed: set the error bit.
    case refused
  }

  static let signature = [UInt8]("QEMU".utf8)
  /// What the DMA address register reads as (§Detecting the DMA interface): "QEMU CFG" as a big-endian number.
  static let dmaSignature: UInt64 = 0x5145_4D55_2043_4647
  /// Bytes of a file's name in the directory, with its terminating zero.
  static let nameSize = 56

  private var items: [UInt16: [UInt8]]
  private let sources: [UInt16: FirmwareSource]
  private var item: [UInt8] = []
  /// The selected item, where it is one of `sources`.
  private var source: FirmwareSource?
  private var offset = 0
  private var count: Int { source?.count ?? item.count }

  /// `items` and `sources` by key, `files` by name. A name that does not fit the directory is left out.
  init(
    items: [UInt16: [UInt8]] = [:], sources: [UInt16: FirmwareSource] = [:], files: [String: [UInt8]] = [:]
  ) {
    self.items = items
    self.sources = sources
    self.items[Key.signature] = Self.signature
    self.items[Key.identifier] = Self.littleEndian(Feature.traditional | Feature.dma)
    let named = files.filter { $0.key.utf8.count < Self.nameSize && $0.value.count <= Int(UInt32.max) }
      .sorted { $0.key < $1.key }
      .prefix(Int(Key.numberMask - Key.firstFile) + 1)
    // The directory (§File Directory) is big-endian: a count, then size, key, two reserved bytes and the name of each.
    var directory = Self.bigEndian(UInt32(named.count))
    for (index, file) in named.enumerated() {
      let key = Key.firstFile + UInt16(index)
      self.items[key] = file.value
      directory += Self.bigEndian(UInt32(file.value.count))
      directory += [UInt8(truncatingIfNeeded: key >> 8), UInt8(truncatingIfNeeded: key), 0, 0]
      directory += file.key.utf8
      directory += [UInt8](repeating: 0, count: Self.nameSize - file.key.utf8.count)
    }
    self.items[Key.fileDirectory] = directory
    select(Key.signature)
  }

  /// A write of the selector register: the item's first byte is next. An item that does not exist is empty.
  mutating func select(_ key: UInt16) {
    let key = key & (Key.numberMask | Key.architecture)
    source = sources[key]
    item = items[key] ?? []
    offset = 0
  }

  /// A read of the data register: the next byte of the selected item, zero beyond its end.
  mutating func readByte() -> UInt8 {
    guard offset < count else { return 0 }
    defer { offset += 1 }
    guard let source else { return item[offset] }
    var byte: UInt8 = 0
    _ = withUnsafeMutableBytes(of: &byte) { source.read(offset, $0) }
    return byte
  }

  /// `buffer.count` reads of the data register. False: the host could not read the item.
  mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    let count = min(buffer.count, count - offset)
    let target = UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
    var isRead = true
    if let source {
      if count > 0 { isRead = source.read(offset, target) }
    } else {
      item[offset..<offset + count].withUnsafeBytes { target.copyMemory(from: $0) }
    }
    offset += count
    UnsafeMutableRawBufferPointer(rebasing: buffer[count...]).initializeMemory(as: UInt8.self, repeating: 0)
    return isRead
  }

  /// Carries out the select and skip of a DMA descriptor and says what is left to move.
  mutating func begin(_ control: DMAControl, length: UInt32) -> Transfer {
    if control.contains(.select) { select(control.key) }
    guard length > 0 else { return .none }
    // Read wins over write and write over skip where a guest sets several.
    if control.contains(.read) { return .read(count: Int(length)) }
    if control.contains(.write) { return .refused }
    if control.contains(.skip) { offset += min(Int(length), count - offset) }
    return .none
  }

  /// `width` bytes at `offset` of the DMA address register as it reads, most significant byte first.
  static func dmaSignature(at offset: Int, bytes width: Int) -> UInt64 {
    var value: UInt64 = 0
    for index in 0..<width {
      let byte = offset + index < 8 ? dmaSignature >> UInt64((7 - offset - index) * 8) & 0xFF : 0xFF
      value |= byte << UInt64(index * 8)
    }
    return value
  }

  private static func littleEndian(_ value: UInt32) -> [UInt8] { withUnsafeBytes(of: value.littleEndian, Array.init) }
  private static func bigEndian(_ value: UInt32) -> [UInt8] { withUnsafeBytes(of: value.bigEndian, Array.init) }
}
