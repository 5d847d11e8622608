import CSoftCPU
import X86

/// Loading and asking about segments.
extension Executor {
  /// Loads a data segment register or SS (SDM vol. 2, MOV).
  func loadSegment(_ index: Int, _ selector: UInt16) throws(Fault) {
    if state.pointee.hasRealSegments { return state.setRealSegment(index, selector) }
    let cpl = state.pointee.cpl
    let rpl = UInt8(selector & 3)
    if selector & 0xFFFC == 0 {
      if index == SegmentRegister.ss, !(state.pointee.is64BitCode && cpl != 3 && rpl == cpl) { throw .protection }
      let attributes: UInt16 = index == SegmentRegister.ss ? 0xC013 | UInt16(cpl) << 5 | 0x80 : 0
      return state.setSegment(index, selector: selector, base: 0, limit: 0, attributes: attributes)
    }
    let descriptor = try state.descriptor(selector)
    if index == SegmentRegister.ss {
      guard descriptor.isWritableData, rpl == cpl, descriptor.dpl == cpl else { throw .protection(selector) }
      guard descriptor.isPresent else { throw .stack(selector) }
    } else {
      guard descriptor.isReadable, descriptor.isConforming || max(rpl, cpl) <= descriptor.dpl else {
        throw .protection(selector)
      }
      guard descriptor.isPresent else { throw .notPresent(selector) }
    }
    try state.markAccessed(selector, descriptor)
    state.setSegment(index, selector: selector, descriptor)
  }

  /// LLDT and LTR.
  func loadSystemSegment() throws(Fault) {
    let selector = UInt16(truncatingIfNeeded: try read(0))
    let isTask = i.operation == .ltr
    let index = isTask ? SegmentRegister.tr : SegmentRegister.ldtr
    if selector & 0xFFFC == 0 {
      guard !isTask else { throw .protection }
      return state.setSegment(index, selector: selector, base: 0, limit: 0, attributes: 0)
    }
    guard selector & 4 == 0 else { throw .protection(selector) }
    let isLong = state.pointee.isLongMode
    let descriptor = try state.descriptor(selector)
    let isRight = isTask ? descriptor.type == 9 || descriptor.type == 1 && !isLong : descriptor.type == 2
    guard descriptor.isSystem, isRight else { throw .protection(selector) }
    let high = isLong ? try state.descriptorHigh(selector) : 0
    guard high >> 40 & 0x1F == 0 else { throw .protection(selector) }
    guard descriptor.isPresent else { throw .notPresent(selector) }
    let base = descriptor.base | high << 32
    guard state.isCanonical(base) else { throw .protection(selector) }
    if isTask { try state.changeDescriptorType(selector, set: 2) }
    state.setSegment(
      index, selector: selector, base: base, limit: descriptor.limit,
      attributes: descriptor.attributes | (isTask ? 2 : 0))
  }

  private func setZeroFlag(_ isSet: Bool) {
    let flags = state.arithmeticFlags
    state.arithmeticFlags = isSet ? flags | RFLAGS.zf : flags & ~RFLAGS.zf
  }

  /// The descriptor of a selector that LAR, LSL, VERR and VERW may see.
  private func visibleDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor? {
    guard let descriptor = try state.findDescriptor(selector) else { return nil }
    let level = max(state.pointee.cpl, UInt8(selector & 3))
    return descriptor.isConforming || descriptor.dpl >= level ? descriptor : nil
  }

  private static let limitTypes: Set<UInt16> = [1, 2, 3, 9, 11]
  private static let rightsTypes: Set<UInt16> = [1, 2, 3, 4, 5, 9, 11, 12]
  private static let longLimitTypes: Set<UInt16> = [2, 9, 11]
  private static let longRightsTypes: Set<UInt16> = [2, 9, 11, 12]

  /// LAR and LSL.
  func loadAccessRightsOrLimit() throws(Fault) {
    let selector = UInt16(truncatingIfNeeded: try read(1))
    let isLimit = i.operation == .lsl
    let isLong = state.pointee.isLongMode
    let types =
      isLimit
      ? (isLong ? Self.longLimitTypes : Self.limitTypes) : (isLong ? Self.longRightsTypes : Self.rightsTypes)
    guard let descriptor = try visibleDescriptor(selector),
      !descriptor.isSystem || types.contains(descriptor.type)
    else { return setZeroFlag(false) }
    setGeneral(
      i.operands[0].number, isLimit ? UInt64(descriptor.limit) : descriptor.low >> 32 & 0x00F0_FF00, size: size)
    setZeroFlag(true)
  }

  /// VERR and VERW.
  func verifySegment() throws(Fault) {
    let selector = UInt16(truncatingIfNeeded: try read(0))
    guard let descriptor = try visibleDescriptor(selector) else { return setZeroFlag(false) }
    setZeroFlag(i.operation == .verr ? descriptor.isReadable : descriptor.isWritableData)
  }

  func adjustRequestedPrivilege() throws(Fault) {
    let destination = try read(0, forWrite: true)
    let source = try read(1)
    let isLower = destination & 3 < source & 3
    try write(0, isLower ? destination & ~3 | source & 3 : destination)
    setZeroFlag(isLower)
  }

  /// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
  func accessSegmentBase() throws(Fault) {
    guard state.pointee.cr4 & CR4.fsgsbase != 0 else { throw .undefined }
    let isFS = i.operation == .rdfsbase || i.operation == .wrfsbase
    let index = isFS ? SegmentRegister.fs : SegmentRegister.gs
    if i.operation == .rdfsbase || i.operation == .rdgsbase {
      return setGeneral(i.operands[0].number, state.segment(index).pointee.base, size: size)
    }
    let value = general(i.operands[0].number) & mask(size)
    guard state.isCanonical(value) else { throw .protection }
    state.setBase(index, value)
  }
}
