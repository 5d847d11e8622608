import CSoftCPU

/// What a task switch comes from (SDM vol. 3, 7.3).
enum TaskSwitchSource {
  case jump, call, gate, interruptReturn
}

/// Layout of a task state segment (SDM vol. 3, 7.2.1 and 7.6).
private struct TaskLayout {
  let is32: Bool

  var width: Int { is32 ? 4 : 2 }
  var lowestLimit: UInt32 { is32 ? 0x67 : 0x2B }
  var instructionPointer: UInt64 { is32 ? 0x20 : 0x0E }
  var flags: UInt64 { is32 ? 0x24 : 0x10 }
  var registers: UInt64 { is32 ? 0x28 : 0x12 }
  var segments: UInt64 { is32 ? 0x48 : 0x22 }
  /// ES, CS, SS and DS; a 32-bit one has FS and GS too.
  var segmentCount: Int { is32 ? 6 : 4 }
  var localTable: UInt64 { is32 ? 0x60 : 0x2A }
}

/// A task's state as its segment holds it.
private struct TaskState {
  var cr3: UInt64 = 0
  var rip: UInt64 = 0
  var flags: UInt64 = 0
  var registers = InlineArray<8, UInt64>(repeating: 0)
  var segments = InlineArray<6, UInt16>(repeating: 0)
  var localTable: UInt16 = 0
  var traps = false
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Switches to the task of a TSS selector. It throws while the old task is intact; an exception of the new one is
  /// recorded instead.
  func switchTask(
    to selector: UInt16, _ source: TaskSwitchSource, errorCode: UInt32? = nil, setsResumeFlag: Bool = false
  ) throws(Fault) {
    let isReturn = source == .interruptReturn
    let vector = isReturn ? Vector.invalidTSS : Vector.generalProtection
    guard selector & 0xFFFC != 0, selector & 4 == 0 else { throw .selector(vector, selector) }
    let descriptor = try self.descriptor(selector, vector)
    guard descriptor.isSystem, descriptor.type & ~8 == (isReturn ? 3 : 1) else { throw .selector(vector, selector) }
    guard descriptor.isPresent else { throw .notPresent(selector) }
    let layout = TaskLayout(is32: descriptor.type & 8 != 0)
    guard descriptor.limit >= layout.lowestLimit else { throw .invalidTSS(selector) }
    let new = try readTask(descriptor.base, layout)
    let old = segment(SegmentRegister.tr).pointee
    var flags = rflags | (setsResumeFlag ? RFLAGS.rf : 0)
    if isReturn { flags &= ~RFLAGS.nt }
    try saveTask(old.base, TaskLayout(is32: old.attributes & 8 != 0), flags)
    let isNested = source == .call || source == .gate
    if isNested { try write(wrap(descriptor.base), UInt64(old.selector), width: 2, .supervisor) }
    if !isNested { try changeDescriptorType(old.selector, set: 0, clear: 2) }
    if !isReturn { try changeDescriptorType(selector, set: 2) }

    setSegment(
      SegmentRegister.tr, selector: selector, base: descriptor.base, limit: descriptor.limit,
      attributes: descriptor.attributes | 2)
    pointee.cr0 |= CR0.ts
    // The local breakpoints are the old task's.
    pointee.dr.7 &= ~0x155
    updateBreakpoints()
    pointee.step_suppressed = 1
    do throws(Fault) {
      try enter(new, layout, isNested: isNested)
      if let errorCode {
        var stack = currentStack()
        try stack.push(self, UInt64(errorCode), width: layout.width)
        register(self, Slot.general(General.rsp), as: UInt64.self).pointee = stack.pointer
      }
      guard pointee.rip <= UInt64(segment(SegmentRegister.cs).pointee.limit) else { throw .protection }
      if new.traps {
        pointee.dr.6 |= DR6.taskSwitch
        throw .exception(Vector.debug, errorCode: nil)
      }
    } catch {
      record(self, error)
    }
  }

  private func readTask(_ base: UInt64, _ layout: TaskLayout) throws(Fault) -> TaskState {
    var task = TaskState()
    let read = { (offset: UInt64, width: Int) throws(Fault) -> UInt64 in
      try self.read(wrap(base &+ offset), width: width, .supervisor)
    }
    if layout.is32 {
      task.cr3 = try read(0x1C, 4)
      task.traps = try read(0x64, 2) & 1 != 0
    }
    task.rip = try read(layout.instructionPointer, layout.width)
    task.flags = try read(layout.flags, layout.width)
    for number in 0..<8 {
      task.registers[number] = try read(layout.registers &+ UInt64(number * layout.width), layout.width)
    }
    for index in 0..<layout.segmentCount {
      task.segments[index] = UInt16(
        truncatingIfNeeded: try read(layout.segments &+ UInt64(index * layout.width), 2))
    }
    task.localTable = UInt16(truncatingIfNeeded: try read(layout.localTable, 2))
    return task
  }

  private func saveTask(_ base: UInt64, _ layout: TaskLayout, _ flags: UInt64) throws(Fault) {
    let save = { (offset: UInt64, value: UInt64, width: Int) throws(Fault) -> Void in
      try self.write(wrap(base &+ offset), value, width: width, .supervisor)
    }
    try save(layout.instructionPointer, pointee.rip, layout.width)
    try save(layout.flags, flags, layout.width)
    for number in 0..<8 {
      let value = register(self, Slot.general(UInt8(number)), as: UInt64.self).pointee
      try save(layout.registers &+ UInt64(number * layout.width), value, layout.width)
    }
    for index in 0..<layout.segmentCount {
      try save(layout.segments &+ UInt64(index * layout.width), UInt64(segment(index).pointee.selector), 2)
    }
  }

  private func enter(_ task: TaskState, _ layout: TaskLayout, isNested: Bool) throws(Fault) {
    for number in 0..<8 {
      setRegister(self, Slot.general(UInt8(number)), UInt32(truncatingIfNeeded: task.registers[number]))
    }
    pointee.rip = task.rip
    let permitted = RFLAGS.loadable | RFLAGS.vm
    let flags = task.flags | (isNested ? RFLAGS.nt : 0)
    pointee.system_flags = flags & (layout.is32 ? permitted : permitted & 0xFFFF)
    arithmeticFlags = flags
    // Selectors are in place before descriptors are looked at, as a handler would see them.
    for index in 0..<6 { segment(index).pointee.selector = task.segments[index] }
    setSegment(SegmentRegister.ldtr, selector: task.localTable, base: 0, limit: 0, attributes: 0)
    if layout.is32, pointee.cr0 & CR0.pg != 0 { try loadControlRegister3(task.cr3) }
    for index in 0..<6 {
      setSegment(index, selector: task.segments[index], base: 0, limit: 0, attributes: 0)
    }
    pointee.cpl = pointee.isVirtual8086 ? 3 : UInt8(task.segments[SegmentRegister.cs] & 3)
    if task.localTable & 0xFFFC != 0 {
      guard task.localTable & 4 == 0 else { throw .invalidTSS(task.localTable) }
      let table = try descriptor(task.localTable, Vector.invalidTSS)
      guard table.isSystem, table.type == 2, table.isPresent else { throw .invalidTSS(task.localTable) }
      setSegment(SegmentRegister.ldtr, selector: task.localTable, table)
    }
    if pointee.isVirtual8086 {
      for index in 0..<6 { setRealSegment(index, task.segments[index]) }
      updateMode()
      return flagsChanged()
    }
    try enterCodeSegment(task.segments[SegmentRegister.cs])
    try enterStackSegment(task.segments[SegmentRegister.ss])
    for index in [SegmentRegister.ds, SegmentRegister.es, SegmentRegister.fs, SegmentRegister.gs] {
      try enterDataSegment(index, task.segments[index])
    }
    updateMode()
    flagsChanged()
  }

  private func enterCodeSegment(_ selector: UInt16) throws(Fault) {
    guard selector & 0xFFFC != 0 else { throw .invalidTSS(selector) }
    let code = try descriptor(selector, Vector.invalidTSS)
    let level = UInt8(selector & 3)
    guard code.isCode, code.isConforming ? code.dpl <= level : code.dpl == level else { throw .invalidTSS(selector) }
    guard code.isPresent else { throw .notPresent(selector) }
    try markAccessed(selector, code)
    setSegment(SegmentRegister.cs, selector: selector, code)
  }

  private func enterStackSegment(_ selector: UInt16) throws(Fault) {
    guard selector & 0xFFFC != 0 else { throw .invalidTSS(selector) }
    let stack = try descriptor(selector, Vector.invalidTSS)
    guard stack.isWritableData, stack.dpl == pointee.cpl, UInt8(selector & 3) == pointee.cpl else {
      throw .invalidTSS(selector)
    }
    guard stack.isPresent else { throw .stack(selector) }
    try markAccessed(selector, stack)
    setSegment(SegmentRegister.ss, selector: selector, stack)
  }

  private func enterDataSegment(_ index: Int, _ selector: UInt16) throws(Fault) {
    guard selector & 0xFFFC != 0 else { return }
    let data = try descriptor(selector, Vector.invalidTSS)
    guard data.isReadable, data.isConforming || data.dpl >= max(pointee.cpl, UInt8(selector & 3)) else {
      throw .invalidTSS(selector)
    }
    guard data.isPresent else { throw .notPresent(selector) }
    try markAccessed(selector, data)
    setSegment(index, selector: selector, data)
  }
}
