import MachineModel

/// A 48-bit Ethernet address as a card compares it: the byte that is sent first in bits 0–7.
struct EthernetAddress: Sendable, Equatable, Hashable {
  let bits: UInt64

  init(bits: UInt64) { self.bits = bits & 0xFFFF_FFFF_FFFF }

  /// The address at `offset` of a frame that is long enough.
  init(_ frame: UnsafeRawBufferPointer, at offset: Int = 0) {
    let low = UInt64(frame.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    let high = UInt64(frame.loadUnaligned(fromByteOffset: offset + 4, as: UInt16.self))
    bits = low | high << 32
  }

  init(_ address: MACAddress) {
    bits = address.octets.enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64($1.offset * 8) }
  }

  static let broadcast = EthernetAddress(bits: 0xFFFF_FFFF_FFFF)

  /// A group address: multicast or broadcast (IEEE 802.3 §3.2.3).
  var isGroup: Bool { bits & 1 != 0 }
  var isBroadcast: Bool { self == .broadcast }

  /// Byte 0–5 in the order of the wire.
  subscript(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: bits >> UInt64(index * 8)) }

  /// Word 0–2, the byte that is sent first in its low half, as EEPROMs of network cards hold it.
  func word(_ index: Int) -> UInt16 { UInt16(truncatingIfNeeded: bits >> UInt64(index * 16)) }
}

/// Sizes and field offsets of Ethernet frames (IEEE 802.3 §3.1.1, IEEE 802.1Q §9.3).
enum Ethernet {
  static let headerSize = 14
  static let typeOffset = 12
  static let tagSize = 4
  static let fcsSize = 4
  /// Shortest and longest frame without FCS.
  static let minimumSize = 60
  static let maximumSize = 1514

  static let typeIPv4: UInt16 = 0x0800
  static let typeIPv6: UInt16 = 0x86DD
  static let typeVLAN: UInt16 = 0x8100
}

extension UnsafeRawBufferPointer {
  /// The big-endian 16-bit number at `offset`, which must lie inside.
  @inline(__always)
  func bigEndian16(_ offset: Int) -> UInt16 {
    UInt16(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
  }
}

extension UnsafeMutableRawBufferPointer {
  @inline(__always)
  func bigEndian16(_ offset: Int) -> UInt16 { UnsafeRawBufferPointer(self).bigEndian16(offset) }
  /// Stores a big-endian number at `offset`, which must lie inside.
  @inline(__always)
  func setBigEndian16(_ offset: Int, _ value: UInt16) {
    storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
  }
}
