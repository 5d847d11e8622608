import CSoftCPU

/// Where a descriptor stands.
struct DescriptorPlace {
  var linear: UInt64
  var descriptor: Descriptor
}

// Descriptor tables (SDM vol. 3, 3.5).
extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// The linear address of a selector's descriptor of `size` bytes; nil: beyond the table's limit.
  private func descriptorAddress(_ selector: UInt16, size: UInt64 = 8) -> UInt64? {
    let offset = UInt64(selector & 0xFFF8)
    let last = offset &+ size &- 1
    if selector & 4 == 0 {
      guard last <= UInt64(pointee.gdtr.limit) else { return nil }
      return wrap(pointee.gdtr.base &+ offset)
    }
    let ldtr = segment(SegmentRegister.ldtr).pointee
    guard ldtr.attributes & SegmentAttributes.present != 0, last <= UInt64(ldtr.limit) else { return nil }
    return wrap(ldtr.base &+ offset)
  }

  /// Nil: null, or beyond the table's limit.
  func findDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor? {
    guard selector & 0xFFFC != 0, let linear = descriptorAddress(selector) else { return nil }
    return Descriptor(low: try read(linear, width: 8, .supervisor))
  }

  /// The descriptor of a selector that is not null; beyond the limit `vector` is raised.
  func descriptor(_ selector: UInt16, _ vector: UInt8 = Vector.generalProtection) throws(Fault) -> Descriptor {
    guard let linear = descriptorAddress(selector) else {
      throw .exception(vector, errorCode: UInt32(selector & 0xFFFC))
    }
    return Descriptor(low: try read(linear, width: 8, .supervisor))
  }

  /// The second half of a 16-byte descriptor of long mode.
  func descriptorHigh(_ selector: UInt16, _ vector: UInt8 = Vector.generalProtection) throws(Fault) -> UInt64 {
    guard let linear = descriptorAddress(selector, size: 16) else {
      throw .exception(vector, errorCode: UInt32(selector & 0xFFFC))
    }
    return try read(wrap(linear &+ 8), width: 8, .supervisor)
  }

  /// Sets or clears bits of a descriptor's type, for all processors at once.
  func changeDescriptorType(_ selector: UInt16, set: UInt8, clear: UInt8 = 0) throws(Fault) {
    guard let linear = descriptorAddress(selector) else { return }
    let byte = wrap(linear &+ 5)
    let old = UInt8(truncatingIfNeeded: try read(byte, width: 1, .supervisor, forWrite: true))
    let new = old & ~clear | set
    guard new != old else { return }
    let page = try self.page(byte, .write, .supervisor)
    guard let host = page.host else { return try write(byte, UInt64(new), width: 1, .supervisor) }
    defer { context.pointee.blocks.didWrite(self, page.physical, 1) }
    var expected = old
    while true {
      let seen = soft_compare_exchange_8(host, expected, expected & ~clear | set)
      if seen == expected { return }
      expected = seen
    }
  }

  func markAccessed(_ selector: UInt16, _ descriptor: Descriptor) throws(Fault) {
    guard descriptor.attributes & SegmentAttributes.accessed == 0 else { return }
    try changeDescriptorType(selector, set: 1)
  }
}

/// Errors that name a selector.
extension Fault {
  static func selector(_ vector: UInt8, _ selector: UInt16) -> Fault {
    .exception(vector, errorCode: UInt32(selector & 0xFFFC))
  }
  static func notPresent(_ selector: UInt16) -> Fault { .selector(Vector.segmentNotPresent, selector) }
  static func invalidTSS(_ selector: UInt16) -> Fault { .selector(Vector.invalidTSS, selector) }
  static func stack(_ selector: UInt16) -> Fault { .selector(Vector.stackFault, selector) }
}
