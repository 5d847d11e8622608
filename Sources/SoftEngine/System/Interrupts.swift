import CSoftCPU

/// Delivery of exceptions and interrupts (SDM vol. 3, chapter 6).
extension UnsafeMutablePointer where Pointee == soft_cpu {
  func descriptor(_ selector: UInt16) throws(Fault) -> Descriptor {
    let isLocal = selector & 4 != 0
    let ldtr = segment(SegmentRegister.ldtr).pointee
    let base = isLocal ? ldtr.base : pointee.gdtr.base
    let limit =
      isLocal ? (ldtr.attributes & SegmentAttributes.present != 0 ? UInt64(ldtr.limit) : 0) : UInt64(pointee.gdtr.limit)
    guard UInt64(selector | 7) <= limit else { throw .protection(selector) }
    return Descriptor(low: try read(wrap(base &+ UInt64(selector & 0xFFF8)), width: 8, .supervisor))
  }

  func markAccessed(_ selector: UInt16, _ descriptor: Descriptor) throws(Fault) {
    guard descriptor.attributes & SegmentAttributes.accessed == 0 else { return }
    let base = selector & 4 != 0 ? segment(SegmentRegister.ldtr).pointee.base : pointee.gdtr.base
    try write(
      wrap(base &+ UInt64(selector & 0xFFF8) &+ 5), UInt64(descriptor.attributes & 0xFF | 1), width: 1, .supervisor)
  }

  /// Delivers what `record` noted; false: a triple fault.
  func deliverException() -> Bool {
    var vector = pointee.vector
    var code: UInt32? = pointee.has_error_code != 0 ? pointee.error_code : nil
    let rip = pointee.rip
    for _ in 0..<3 {
      do throws(Fault) {
        try enterGate(vector, errorCode: code, rip: rip, isSoftware: false)
        return true
      } catch {
        guard case .exception(let second, let secondCode) = error else { return false }
        if vector == Vector.doubleFault { return false }
        // SDM vol. 3, table 6-5.
        let isContributory = { (vector: UInt8) in vector == 0 || (vector >= 10 && vector <= 13) }
        if isContributory(vector) && isContributory(second)
          || vector == Vector.pageFault && (second == Vector.pageFault || isContributory(second))
        {
          (vector, code) = (Vector.doubleFault, 0)
        } else {
          (vector, code) = (second, secondCode)
        }
      }
    }
    return false
  }

  /// Delivers an external interrupt; a fault on the way is delivered in its place.
  func deliverInterrupt(_ vector: UInt8) {
    if vector == Vector.nmi { pointee.nmi_blocked = 1 }
    do throws(Fault) {
      try enterGate(vector, errorCode: nil, rip: pointee.rip, isSoftware: false)
    } catch {
      record(self, error)
      if !deliverException() { pointee.halted = 1 }
    }
  }

  func enterGate(_ vector: UInt8, errorCode: UInt32?, rip: UInt64, isSoftware: Bool) throws(Fault) {
    if !pointee.isProtected { return try enterRealVector(vector, rip: rip) }
    let isLong = pointee.isLongMode
    let selectorCode = UInt32(vector) << 3 | 2 | (isSoftware ? 0 : 1)
    let size = isLong ? 16 : 8
    guard Int(vector) * size + size - 1 <= Int(pointee.idtr.limit) else {
      throw .exception(Vector.generalProtection, errorCode: selectorCode)
    }
    let address = wrap(pointee.idtr.base &+ UInt64(Int(vector) * size))
    let low = try read(address, width: 8, .supervisor)
    let high = isLong ? try read(address &+ 8, width: 8, .supervisor) : 0
    let type = low >> 40 & 15
    guard type == 14 || type == 15 || !isLong && (type == 6 || type == 7), low >> 44 & 1 == 0 else {
      throw .exception(Vector.generalProtection, errorCode: selectorCode)
    }
    if isSoftware, UInt8(low >> 45 & 3) < pointee.cpl {
      throw .exception(Vector.generalProtection, errorCode: selectorCode)
    }
    guard low >> 47 & 1 != 0 else { throw .exception(Vector.segmentNotPresent, errorCode: selectorCode) }
    let selector = UInt16(truncatingIfNeeded: low >> 16)
    guard selector & 0xFFFC != 0 else { throw .exception(Vector.generalProtection, errorCode: 0) }
    let code = try descriptor(selector)
    guard code.isCode, code.dpl <= pointee.cpl else { throw .protection(selector) }
    guard code.isPresent else { throw .exception(Vector.segmentNotPresent, errorCode: UInt32(selector & 0xFFFC)) }
    guard !isLong || code.attributes & SegmentAttributes.long != 0 else { throw .protection(selector) }
    let target = low & 0xFFFF | (type < 8 ? 0 : low >> 32 & 0xFFFF_0000) | high << 32
    let cpl: UInt8 = code.isConforming ? pointee.cpl : code.dpl
    let isInner = cpl < pointee.cpl

    let old = (
      ss: segment(SegmentRegister.ss).pointee.selector,
      rsp: register(self, Slot.general(General.rsp), as: UInt64.self).pointee,
      cs: segment(SegmentRegister.cs).pointee.selector, flags: rflags
    )
    let width = isLong ? 8 : type >= 14 ? 4 : 2
    var stack = InnerStack(base: 0, mask: .max, pointer: old.rsp, selector: UInt16(cpl), descriptor: nil)
    let ist = isLong ? low >> 32 & 7 : 0
    if isLong {
      if ist != 0 {
        stack.pointer = try taskWord(36 + UInt64(ist - 1) * 8, width: 8)
      } else if isInner {
        stack.pointer = try taskWord(4 + UInt64(cpl) * 8, width: 8)
      }
      stack.pointer &= ~15
    } else if isInner {
      stack = try innerStack(cpl)
    } else {
      let ss = segment(SegmentRegister.ss).pointee
      stack = InnerStack(
        base: ss.base, mask: pointee.stack_mask, pointer: old.rsp, selector: ss.selector, descriptor: nil)
    }

    var words: [UInt64] = isInner || isLong ? [UInt64(old.ss), old.rsp] : []
    words += [old.flags, UInt64(old.cs), rip]
    if let errorCode { words.append(UInt64(errorCode)) }
    let privilege: Privilege = cpl == 3 ? .current : .supervisor
    var pointer = stack.pointer
    for word in words {
      pointer = pointer &- UInt64(width)
      try write(
        isLong ? pointer : (stack.base &+ pointer & stack.mask) & 0xFFFF_FFFF, word, width: width,
        segment: SegmentRegister.ss, privilege)
    }

    pointee.cpl = cpl
    pointee.system_flags &= ~(RFLAGS.tf | RFLAGS.nt | RFLAGS.rf | RFLAGS.vm)
    if type & 1 == 0 { pointee.system_flags &= ~RFLAGS.if }
    setSegment(SegmentRegister.cs, selector: selector & 0xFFFC | UInt16(cpl), code)
    if isInner {
      if isLong {
        setSegment(
          SegmentRegister.ss, selector: UInt16(cpl), base: 0, limit: .max, attributes: 0xC093 | UInt16(cpl) << 5)
      } else if let descriptor = stack.descriptor {
        setSegment(SegmentRegister.ss, selector: stack.selector, descriptor)
      }
    }
    let slot = register(self, Slot.general(General.rsp), as: UInt64.self)
    slot.pointee = isLong ? pointer : slot.pointee & ~stack.mask | pointer & stack.mask
    pointee.rip = target
    TLB.select(self)
  }

  private struct InnerStack {
    var base: UInt64
    var mask: UInt64
    var pointer: UInt64
    var selector: UInt16
    var descriptor: Descriptor?
  }

  private func taskWord(_ offset: UInt64, width: Int) throws(Fault) -> UInt64 {
    let tr = segment(SegmentRegister.tr).pointee
    guard offset &+ UInt64(width &- 1) <= UInt64(tr.limit) else {
      throw .exception(Vector.invalidTSS, errorCode: UInt32(tr.selector & 0xFFFC))
    }
    return try read(tr.base &+ offset, width: width, .supervisor)
  }

  /// SS:ESP of an inner level from the task state segment.
  private func innerStack(_ cpl: UInt8) throws(Fault) -> InnerStack {
    let is32 = segment(SegmentRegister.tr).pointee.attributes & 8 != 0
    let pointer = try is32 ? taskWord(4 + UInt64(cpl) * 8, width: 4) : taskWord(2 + UInt64(cpl) * 4, width: 2)
    let selector = UInt16(
      truncatingIfNeeded: try is32 ? taskWord(8 + UInt64(cpl) * 8, width: 2) : taskWord(4 + UInt64(cpl) * 4, width: 2))
    let descriptor = try self.descriptor(selector)
    guard !descriptor.isSystem, !descriptor.isCode, descriptor.attributes & SegmentAttributes.writable != 0,
      descriptor.dpl == cpl, UInt8(selector & 3) == cpl, descriptor.isPresent
    else { throw .exception(Vector.invalidTSS, errorCode: UInt32(selector & 0xFFFC)) }
    let mask: UInt64 = descriptor.attributes & SegmentAttributes.big != 0 ? 0xFFFF_FFFF : 0xFFFF
    return InnerStack(base: descriptor.base, mask: mask, pointer: pointer, selector: selector, descriptor: descriptor)
  }

  private func enterRealVector(_ vector: UInt8, rip: UInt64) throws(Fault) {
    let entry = UInt64(vector) * 4
    guard entry + 3 <= UInt64(pointee.idtr.limit) else { throw .protection }
    let pointerValue = try read(pointee.idtr.base &+ entry, width: 4)
    let ss = segment(SegmentRegister.ss).pointee
    let slot = register(self, Slot.general(General.rsp), as: UInt64.self)
    let words = [rflags & 0xFFFF, UInt64(segment(SegmentRegister.cs).pointee.selector), rip]
    var pointer = slot.pointee
    for word in words {
      pointer = pointer &- 2
      try write(ss.base &+ pointer & pointee.stack_mask, word & 0xFFFF, width: 2)
    }
    slot.pointee = slot.pointee & ~pointee.stack_mask | pointer & pointee.stack_mask
    pointee.system_flags &= ~(RFLAGS.if | RFLAGS.tf | RFLAGS.rf | RFLAGS.ac)
    setRealSegment(SegmentRegister.cs, UInt16(truncatingIfNeeded: pointerValue >> 16))
    pointee.rip = pointerValue & 0xFFFF
  }

  /// RETF and IRET to an outer level, or to any with SS:RSP in 64-bit mode.
  func returnOutward(_ cs: UInt16, _ target: UInt64, _ ss: UInt16, _ rsp: UInt64, size: Int) throws(Fault) {
    guard cs & 0xFFFC != 0 else { throw .protection }
    let code = try descriptor(cs)
    let level = UInt8(cs & 3)
    guard code.isCode, level >= pointee.cpl, code.isConforming ? code.dpl <= level : code.dpl == level else {
      throw .protection(cs)
    }
    guard code.isPresent else { throw .exception(Vector.segmentNotPresent, errorCode: UInt32(cs & 0xFFFC)) }
    let is64 = pointee.isLongMode && code.attributes & SegmentAttributes.long != 0
    guard is64 ? isCanonical(target) : target <= UInt64(code.limit) else { throw .protection }
    var stack: Descriptor?
    if ss & 0xFFFC == 0 {
      guard is64, level != 3, UInt8(ss & 3) == level else { throw .protection }
    } else {
      let descriptor = try self.descriptor(ss)
      guard !descriptor.isSystem, !descriptor.isCode, descriptor.attributes & SegmentAttributes.writable != 0,
        descriptor.dpl == level, UInt8(ss & 3) == level
      else { throw .protection(ss) }
      guard descriptor.isPresent else { throw .exception(Vector.stackFault, errorCode: UInt32(ss & 0xFFFC)) }
      stack = descriptor
    }
    let goesOutward = level > pointee.cpl
    pointee.cpl = level
    setSegment(SegmentRegister.cs, selector: cs, code)
    if let stack {
      setSegment(SegmentRegister.ss, selector: ss, stack)
    } else {
      setSegment(SegmentRegister.ss, selector: ss, base: 0, limit: .max, attributes: 0xC093 | UInt16(level) << 5)
    }
    let slot = register(self, Slot.general(General.rsp), as: UInt64.self)
    slot.pointee = size == 8 ? rsp : slot.pointee & ~pointee.stack_mask | rsp & pointee.stack_mask
    pointee.rip = target
    TLB.select(self)
    guard goesOutward else { return }
    // Data segments that the outer level may not use become null (SDM vol. 2, RET).
    for index in [SegmentRegister.es, SegmentRegister.ds, SegmentRegister.fs, SegmentRegister.gs] {
      let register = segment(index).pointee
      let isConforming = register.attributes & 0xC == 0xC
      if register.attributes & SegmentAttributes.present != 0, SegmentAttributes.dpl(register.attributes) < level,
        !isConforming
      {
        setSegment(index, selector: 0, base: register.base, limit: 0, attributes: 0)
      }
    }
  }
}
