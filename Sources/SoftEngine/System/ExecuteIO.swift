import CSoftCPU
import X86

extension Executor {
  /// Throws unless IOPL or the I/O permission bitmap lets the program at the port (SDM vol. 1, 19.5).
  func checkPort(_ port: UInt16, _ width: Int) throws(Fault) {
    guard state.pointee.isProtected else { return }
    let iopl = UInt8(truncatingIfNeeded: state.pointee.system_flags >> 12 & 3)
    guard state.pointee.cpl > iopl || state.pointee.isVirtual8086 else { return }
    let tr = state.segment(SegmentRegister.tr).pointee
    guard tr.attributes & SegmentAttributes.present != 0, tr.attributes & 9 == 9, tr.limit >= 103 else {
      throw .protection
    }
    let map = try state.read(state.wrap(tr.base &+ 102), width: 2, .supervisor)
    let byte = map &+ UInt64(port >> 3)
    guard byte &+ 1 <= UInt64(tr.limit) else { throw .protection }
    let bits = try state.read(state.wrap(tr.base &+ byte), width: 2, .supervisor)
    if bits >> UInt64(port & 7) & ((1 << UInt64(width)) &- 1) != 0 { throw .protection }
  }

  func portIn(_ port: UInt16, _ width: Int) throws(Fault) -> UInt64 {
    state.notePort(port, width)
    if let controllers = state.context.pointee.controllers, controllers.handles(port: port) {
      let value = UInt64(controllers.readPort(port, width: width))
      state.context.pointee.trace?.access(state, LeaveReason.portIn, UInt64(port), width, value)
      return value
    }
    if let value = state.answer() { return value & mask(width) }
    throw state.ask(LeaveReason.portIn, UInt64(port), 0, width)
  }

  func portOut(_ port: UInt16, _ value: UInt64, _ width: Int) throws(Fault) {
    state.notePort(port, width)
    if let controllers = state.context.pointee.controllers, controllers.handles(port: port) {
      state.context.pointee.trace?.access(state, LeaveReason.portOut, UInt64(port), width, value)
      return controllers.writePort(port, UInt32(truncatingIfNeeded: value), width: width)
    }
    if state.answer() != nil { return }
    throw state.ask(LeaveReason.portOut, UInt64(port), value & mask(width), width)
  }

  /// Reads several items of a device's port; they stand at the result until the next exit.
  func portIn(_ port: UInt16, _ width: Int, _ items: Int) throws(Fault) -> UnsafeMutableRawPointer {
    if state.answer() != nil { return state.context.pointee.transfer }
    throw state.ask(LeaveReason.portIn, UInt64(port), 0, width, items)
  }

  /// Writes several items, together at most `CPUContext.transferSize` bytes, to a device's port.
  func portOut(_ port: UInt16, _ width: Int, _ items: Int, _ item: (Int) throws(Fault) -> UInt64) throws(Fault) {
    if state.answer() != nil { return }
    let data = state.context.pointee.transfer
    for index in 0..<items {
      let value = try item(index)
      switch width {
      case 1: data.storeBytes(of: UInt8(truncatingIfNeeded: value), toByteOffset: index, as: UInt8.self)
      case 2: data.storeBytes(of: UInt16(truncatingIfNeeded: value), toByteOffset: index &* 2, as: UInt16.self)
      default: data.storeBytes(of: UInt32(truncatingIfNeeded: value), toByteOffset: index &* 4, as: UInt32.self)
      }
    }
    throw state.ask(LeaveReason.portOut, UInt64(port), 0, width, items)
  }

  func executeIO() throws(Fault) {
    let isIn = i.operation == .in
    let portOperand = i.operands[isIn ? 1 : 0]
    let port = UInt16(
      truncatingIfNeeded: portOperand.kind == .immediate ? UInt64(bitPattern: i.immediate) & 0xFF : general(General.rdx)
    )
    let width = Int(i.operands[isIn ? 0 : 1].size)
    try checkPort(port, width)
    if isIn {
      setGeneral(General.rax, try portIn(port, width), size: width)
    } else {
      try portOut(port, general(General.rax) & mask(width), width)
    }
  }
}
