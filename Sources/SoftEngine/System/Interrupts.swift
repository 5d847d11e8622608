import CSoftCPU

/// What an interrupt or exception comes from, which decides about checks and error codes.
enum EventSource {
  /// INT n, INT3, INTO: the gate's privilege level counts.
  case software
  /// Exceptions, ICEBP and external interrupts.
  case hardware
}

/// Delivery of exceptions and interrupts (SDM vol. 3, chapter 6).
extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Delivers what `record` noted; false: a triple fault.
  func deliverException() -> Bool {
    // A task switch may end with an exception of the new task, and that with another.
    for _ in 0..<8 {
      pointee.leave = LeaveReason.dispatch
      guard deliverRecorded() else { return false }
      if pointee.leave != LeaveReason.exception { return true }
    }
    return false
  }

  private func deliverRecorded() -> Bool {
    var vector = pointee.vector
    var code: UInt32? = pointee.has_error_code != 0 ? pointee.error_code : nil
    let rip = pointee.rip
    for _ in 0..<3 {
      do throws(Fault) {
        if vector == Vector.debug { pointee.dr.7 &= ~DR7.generalDetect }
        try enterGate(vector, errorCode: code, rip: rip, .hardware, isFault: isFault(vector))
        return true
      } catch {
        // A device cannot be asked here: stacks and tables in device memory shut the processor down.
        guard case .exception(let second, let secondCode) = error, vector != Vector.doubleFault else { return false }
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

  /// Whether RF is set in the flags that are pushed, so that the instruction does not meet its breakpoint again.
  private func isFault(_ vector: UInt8) -> Bool {
    vector != Vector.debug && vector != Vector.nmi && vector != Vector.breakpoint && vector != Vector.overflow
      && vector != Vector.doubleFault
  }

  /// Delivers an external interrupt; a fault on the way is delivered in its place.
  func deliverInterrupt(_ vector: UInt8) {
    if vector == Vector.nmi { pointee.nmi_blocked = 1 }
    do throws(Fault) {
      pointee.leave = LeaveReason.dispatch
      try enterGate(vector, errorCode: nil, rip: pointee.rip, .hardware)
      guard pointee.leave == LeaveReason.exception, !deliverException() else { return }
    } catch {
      record(self, error)
      if case .exception = error {
        context.pointee.trace?.exception(self)
        if deliverException() { return }
      }
    }
    pointee.leave = LeaveReason.tripleFault
  }

  /// Enters the handler of a vector. Nothing is changed when it throws.
  func enterGate(
    _ vector: UInt8, errorCode: UInt32?, rip: UInt64, _ source: EventSource, isFault: Bool = false
  ) throws(Fault) {
    if !pointee.isProtected { return try enterRealVector(vector, rip: rip) }
    guard source == .hardware else {
      return try enterProtectedGate(vector, errorCode: errorCode, rip: rip, source, isFault: isFault)
    }
    do throws(Fault) {
      try enterProtectedGate(vector, errorCode: errorCode, rip: rip, source, isFault: isFault)
    } catch {
      // EXT: the event was not a software interrupt.
      guard case .exception(let second, let code?) = error, (10...13).contains(second) else { throw error }
      throw .exception(second, errorCode: code | 1)
    }
  }

  private func enterProtectedGate(
    _ vector: UInt8, errorCode: UInt32?, rip: UInt64, _ source: EventSource, isFault: Bool
  ) throws(Fault) {
    let isLong = pointee.isLongMode
    let gateError = Fault.exception(Vector.generalProtection, errorCode: UInt32(vector) << 3 | 2)
    let size = isLong ? 16 : 8
    guard Int(vector) * size + size - 1 <= Int(pointee.idtr.limit) else { throw gateError }
    let address = wrap(pointee.idtr.base &+ UInt64(Int(vector) * size))
    let low = try read(address, width: 8, .supervisor)
    let high = isLong ? try read(wrap(address &+ 8), width: 8, .supervisor) : 0
    let type = low >> 40 & 15
    let isTask = type == 5 && !isLong
    guard type == 14 || type == 15 || isTask || !isLong && (type == 6 || type == 7), low >> 44 & 1 == 0 else {
      throw gateError
    }
    if source == .software, UInt8(low >> 45 & 3) < pointee.cpl { throw gateError }
    guard low >> 47 & 1 != 0 else {
      throw .exception(Vector.segmentNotPresent, errorCode: UInt32(vector) << 3 | 2)
    }
    let selector = UInt16(truncatingIfNeeded: low >> 16)
    if isTask {
      pointee.rip = rip
      return try switchTask(to: selector, .gate, errorCode: errorCode, setsResumeFlag: isFault)
    }
    guard selector & 0xFFFC != 0 else { throw .protection }
    let code = try descriptor(selector)
    guard code.isCode, code.dpl <= pointee.cpl else { throw .protection(selector) }
    guard !isLong || code.attributes & (SegmentAttributes.long | SegmentAttributes.big) == SegmentAttributes.long else {
      throw .protection(selector)
    }
    guard code.isPresent else { throw .notPresent(selector) }
    let level: UInt8 = code.isConforming ? pointee.cpl : code.dpl
    let isVirtual = pointee.isVirtual8086
    if isVirtual, level != 0 { throw .protection(selector) }
    let isInner = level < pointee.cpl
    let target = low & 0xFFFF | (type < 8 ? 0 : low >> 32 & 0xFFFF_0000) | high << 32
    guard isLong ? isCanonical(target) : target <= UInt64(code.limit) else { throw .protection }

    let width = isLong ? 8 : type >= 14 ? 4 : 2
    var stack = currentStack()
    if isLong {
      let table = low >> 32 & 7
      let selector = stack.selector
      if isInner || table != 0 {
        stack = try longModeStack(level, table: table)
        if !isInner { stack.selector = selector }
      }
      stack.pointer &= ~15
      stack.base = 0
      stack.mask = .max
      (stack.low, stack.high) = (0, .max)
    } else if isInner {
      stack = try innerStack(level)
    }
    stack.privilege = level == 3 ? .current : .supervisor
    if isVirtual {
      for index in [SegmentRegister.gs, SegmentRegister.fs, SegmentRegister.ds, SegmentRegister.es] {
        try stack.push(self, UInt64(segment(index).pointee.selector), width: width)
      }
    }
    if isInner || isLong {
      try stack.push(self, UInt64(segment(SegmentRegister.ss).pointee.selector), width: width)
      try stack.push(self, register(self, Slot.general(General.rsp), as: UInt64.self).pointee, width: width)
    }
    try stack.push(self, rflags | (isFault ? RFLAGS.rf : 0), width: width)
    try stack.push(self, UInt64(segment(SegmentRegister.cs).pointee.selector), width: width)
    try stack.push(self, rip, width: width)
    if let errorCode { try stack.push(self, UInt64(errorCode), width: width) }
    try markAccessed(selector, code)

    pointee.system_flags &= ~(RFLAGS.tf | RFLAGS.nt | RFLAGS.rf | RFLAGS.vm)
    if type & 1 == 0 { pointee.system_flags &= ~RFLAGS.if }
    pointee.cpl = level
    setSegment(SegmentRegister.cs, selector: selector & 0xFFFC | UInt16(level), code)
    if isInner {
      take(stack)
    } else {
      register(self, Slot.general(General.rsp), as: UInt64.self).pointee = stack.pointer
    }
    if isVirtual {
      for index in [SegmentRegister.gs, SegmentRegister.fs, SegmentRegister.ds, SegmentRegister.es] {
        setSegment(index, selector: 0, base: 0, limit: 0, attributes: 0)
      }
    }
    pointee.rip = target
    pointee.step_suppressed = 1
    TLB.select(self)
  }

  private func enterRealVector(_ vector: UInt8, rip: UInt64) throws(Fault) {
    let entry = UInt64(vector) &* 4
    guard entry &+ 3 <= UInt64(pointee.idtr.limit) else { throw .protection }
    let vectorValue = try read(wrap(pointee.idtr.base &+ entry), width: 4)
    var stack = currentStack()
    try stack.push(self, rflags, width: 2)
    try stack.push(self, UInt64(segment(SegmentRegister.cs).pointee.selector), width: 2)
    try stack.push(self, rip, width: 2)
    register(self, Slot.general(General.rsp), as: UInt64.self).pointee = stack.pointer
    pointee.system_flags &= ~(RFLAGS.if | RFLAGS.tf | RFLAGS.rf | RFLAGS.ac)
    setRealSegment(SegmentRegister.cs, UInt16(truncatingIfNeeded: vectorValue >> 16))
    pointee.rip = vectorValue & 0xFFFF
    pointee.step_suppressed = 1
    TLB.select(self)
  }
}
