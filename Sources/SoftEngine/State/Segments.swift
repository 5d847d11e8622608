import CSoftCPU

/// Bits of `soft_segment.attributes` (SDM vol. 3, 3.4.5).
enum SegmentAttributes {
  static let accessed: UInt16 = 1 << 0
  /// Data: writable. Code: readable.
  static let writable: UInt16 = 1 << 1
  /// Data: expand-down. Code: conforming.
  static let expandDown: UInt16 = 1 << 2
  static let code: UInt16 = 1 << 3
  /// Code or data, not a system segment.
  static let s: UInt16 = 1 << 4
  static let present: UInt16 = 1 << 7
  static let long: UInt16 = 1 << 13
  static let big: UInt16 = 1 << 14
  static let granular: UInt16 = 1 << 15

  static func dpl(_ attributes: UInt16) -> UInt8 { UInt8(truncatingIfNeeded: attributes >> 5 & 3) }
}

/// A segment descriptor.
struct Descriptor {
  var low: UInt64

  var base: UInt64 { low >> 16 & 0xFF_FFFF | low >> 32 & 0xFF00_0000 }
  var attributes: UInt16 { UInt16(truncatingIfNeeded: low >> 40) & 0xF0FF }
  var limit: UInt32 {
    let raw = UInt32(truncatingIfNeeded: low & 0xFFFF | low >> 32 & 0xF_0000)
    return attributes & SegmentAttributes.granular != 0 ? raw << 12 | 0xFFF : raw
  }
  var dpl: UInt8 { SegmentAttributes.dpl(attributes) }
  var isPresent: Bool { attributes & SegmentAttributes.present != 0 }
  var isSystem: Bool { attributes & SegmentAttributes.s == 0 }
  var isCode: Bool { !isSystem && attributes & SegmentAttributes.code != 0 }
  var isConforming: Bool { isCode && attributes & SegmentAttributes.expandDown != 0 }
  /// The type field of a system descriptor.
  var type: UInt16 { attributes & 15 }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  func setSegment(_ index: Int, selector: UInt16, base: UInt64, limit: UInt32, attributes: UInt16) {
    let register = segment(index)
    register.pointee.selector = selector
    register.pointee.base = base
    register.pointee.limit = limit
    register.pointee.attributes = attributes
    update(index)
    if index == SegmentRegister.cs || index == SegmentRegister.ss { updateMode() }
  }

  func setSegment(_ index: Int, selector: UInt16, _ descriptor: Descriptor) {
    setSegment(
      index, selector: selector, base: descriptor.base, limit: descriptor.limit, attributes: descriptor.attributes)
  }

  /// A segment of real-address and virtual-8086 mode; limit and attributes stay in real-address mode.
  func setRealSegment(_ index: Int, _ selector: UInt16) {
    let register = segment(index).pointee
    let isVirtual = pointee.isVirtual8086
    setSegment(
      index, selector: selector, base: UInt64(selector) << 4, limit: isVirtual ? 0xFFFF : register.limit,
      attributes: isVirtual ? 0xF3 : register.attributes | 0x93)
  }

  /// Derives the offsets a segment permits.
  private func update(_ index: Int) {
    let register = segment(index)
    let attributes = register.pointee.attributes
    register.pointee.linear_base = register.pointee.base
    (register.pointee.read_low, register.pointee.read_high) = (1, 0)
    (register.pointee.write_low, register.pointee.write_high) = (1, 0)
    guard index < 6 else { return }
    if pointee.is64BitCode {
      if index < SegmentRegister.fs { register.pointee.linear_base = 0 }
      (register.pointee.read_low, register.pointee.read_high) = (0, .max)
      (register.pointee.write_low, register.pointee.write_high) = (0, .max)
      return
    }
    let limit = UInt64(register.pointee.limit)
    guard attributes & SegmentAttributes.present != 0 else { return }
    let isCode = attributes & SegmentAttributes.code != 0
    var (low, high) = (UInt64(0), limit)
    if !isCode, attributes & SegmentAttributes.expandDown != 0 {
      (low, high) = (limit &+ 1, attributes & SegmentAttributes.big != 0 ? 0xFFFF_FFFF : 0xFFFF)
    }
    if !isCode || attributes & SegmentAttributes.writable != 0 || pointee.hasRealSegments {
      (register.pointee.read_low, register.pointee.read_high) = (low, high)
    }
    if !isCode && attributes & SegmentAttributes.writable != 0 || pointee.hasRealSegments {
      (register.pointee.write_low, register.pointee.write_high) = (low, high)
    }
  }

  /// Derives `mode` and what depends on it, after CS, SS, CR0, CR4, EFER, RFLAGS.VM or floating-point masks changed.
  func updateMode() {
    let cs = segment(SegmentRegister.cs).pointee.attributes
    let ss = segment(SegmentRegister.ss).pointee.attributes
    let is64 = pointee.isLongMode && cs & SegmentAttributes.long != 0
    var mode: UInt8 = is64 ? 2 : cs & SegmentAttributes.big != 0 && !pointee.isVirtual8086 ? 1 : 0
    if !is64, ss & SegmentAttributes.big != 0, !pointee.isVirtual8086 { mode |= 4 }
    mode |= VectorChecks.needed(self)
    let changes64 = (pointee.mode & 3 == 2) != is64
    pointee.mode = mode
    pointee.stack_mask = is64 ? .max : mode & 4 != 0 ? 0xFFFF_FFFF : 0xFFFF
    pointee.linear_mask = is64 ? .max : 0xFFFF_FFFF
    if changes64 { updateSegments() }
    TLB.select(self)
  }

  /// Derives all segments' offsets anew.
  func updateSegments() { for index in 0..<6 { update(index) } }

  func setPrivilege(_ level: UInt8) {
    pointee.cpl = level
    TLB.select(self)
  }
}
