import CSoftCPU
import X86

/// DR6 (SDM vol. 3, 18.2.3).
enum DR6 {
  static let access: UInt64 = 1 << 13
  static let singleStep: UInt64 = 1 << 14
  static let taskSwitch: UInt64 = 1 << 15
  static let fixed: UInt64 = 0xFFFF_0FF0
  static let writable: UInt64 = 0xE00F
}

/// DR7 (SDM vol. 3, 18.2.4).
enum DR7 {
  static let generalDetect: UInt64 = 1 << 13
  static let fixed: UInt64 = 1 << 10
  static let writable: UInt64 = 0xFFFF_23FF
}

/// What a breakpoint waits for.
private enum BreakpointKind: UInt64 {
  case execution = 0
  case write = 1
  case port = 2
  case readOrWrite = 3
}

private struct Breakpoint {
  var linear: UInt64
  var length: UInt64
  var kind: BreakpointKind

  func meets(_ address: UInt64, _ width: Int) -> Bool {
    let start = linear & ~(length &- 1)
    return address &- start < length || start &- address < UInt64(width)
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  private func debugRegister(_ number: Int) -> UInt64 {
    withUnsafeBytes(of: &pointee.dr) { $0.load(fromByteOffset: (number & 7) * 8, as: UInt64.self) }
  }

  /// Breakpoint `number` if DR7 enables it.
  private func breakpoint(_ number: Int) -> Breakpoint? {
    let control = pointee.dr.7
    guard control >> UInt64(2 * number) & 3 != 0 else { return nil }
    guard let kind = BreakpointKind(rawValue: control >> UInt64(16 + 4 * number) & 3) else { return nil }
    // I/O breakpoints need CR4.DE.
    if kind == .port, pointee.cr4 & CR4.de == 0 { return nil }
    let lengths: [UInt64] = [1, 2, 8, 4]
    let length = kind == .execution ? 1 : lengths[Int(control >> UInt64(18 + 4 * number) & 3)]
    return Breakpoint(linear: debugRegister(number), length: length, kind: kind)
  }

  /// Derives how code is executed from the enabled breakpoints.
  func updateBreakpoints() {
    var stepping: UInt8 = 0
    var executing: UInt8 = 0
    for number in 0..<4 {
      guard let breakpoint = breakpoint(number) else { continue }
      if breakpoint.kind == .execution { executing = 1 } else { stepping = 1 }
    }
    if executing != pointee.code_breakpoints || executing != 0 { TLB.flushAllJumps(self) }
    // The next block is the outer loop's to enter, which executes it one instruction at a time.
    if stepping != 0 { soft_request_attention(self, Attention.code) }
    pointee.data_breakpoints = stepping
    pointee.code_breakpoints = executing
    TLB.select(self)
  }

  /// Bits of DR6 for an access; they raise #DB when the instruction is done.
  func noteAccess(_ linear: UInt64, _ width: Int, isWrite: Bool) {
    for number in 0..<4 {
      guard let breakpoint = breakpoint(number), breakpoint.meets(linear, width) else { continue }
      if breakpoint.kind == .readOrWrite || breakpoint.kind == .write && isWrite {
        pointee.pending_debug |= 1 << UInt64(number)
      }
    }
  }

  func notePort(_ port: UInt16, _ width: Int) {
    guard pointee.data_breakpoints != 0 else { return }
    for number in 0..<4 {
      guard let breakpoint = breakpoint(number), breakpoint.kind == .port, breakpoint.meets(UInt64(port), width) else {
        continue
      }
      pointee.pending_debug |= 1 << UInt64(number)
    }
  }

  /// The linear address of RIP.
  private var linearRIP: UInt64 {
    let base = segment(SegmentRegister.cs).pointee.linear_base
    return pointee.is64BitCode ? pointee.rip : (base &+ pointee.rip) & 0xFFFF_FFFF
  }

  /// Whether code is executed one instruction at a time here: a breakpoint is in its page, or watches data.
  var needsSingleSteps: Bool {
    if pointee.data_breakpoints != 0 { return true }
    guard pointee.code_breakpoints != 0 else { return false }
    let page = linearRIP >> 12
    for number in 0..<4 {
      if let breakpoint = breakpoint(number), breakpoint.kind == .execution, breakpoint.linear >> 12 == page {
        return true
      }
    }
    return false
  }

  /// Records the fault of an instruction breakpoint at RIP, unless RF holds it off.
  func meetsInstructionBreakpoint(resumes: Bool) -> Bool {
    guard pointee.code_breakpoints != 0, !resumes else { return false }
    var hits: UInt64 = 0
    for number in 0..<4 {
      if let breakpoint = breakpoint(number), breakpoint.kind == .execution, breakpoint.linear == linearRIP {
        hits |= 1 << UInt64(number)
      }
    }
    guard hits != 0 else { return false }
    raiseDebug(hits)
    return true
  }

  /// Raises the traps that the instruction just done has caused.
  func raiseDebugTraps(steps: Bool) {
    var bits = pointee.pending_debug
    pointee.pending_debug = 0
    if steps, pointee.step_suppressed == 0 { bits |= DR6.singleStep }
    if bits != 0 { raiseDebug(bits) }
  }

  private func raiseDebug(_ bits: UInt64) {
    pointee.dr.6 |= bits
    record(self, .exception(Vector.debug, errorCode: nil))
  }
}

extension Executor {
  /// MOV to and from debug registers.
  func moveDebugRegister() throws(Fault) {
    let (to, from) = (i.operands[0], i.operands[1])
    let writes = to.registerClass == .debug
    var number = writes ? to.number : from.number
    guard number < 8 else { throw .undefined }
    if number == 4 || number == 5 {
      guard state.pointee.cr4 & CR4.de == 0 else { throw .undefined }
      number += 2
    }
    if state.pointee.dr.7 & DR7.generalDetect != 0 {
      state.pointee.dr.6 |= DR6.access
      throw .exception(Vector.debug, errorCode: nil)
    }
    let size = state.pointee.is64BitCode ? 8 : 4
    guard writes else {
      let value = withUnsafeBytes(of: &state.pointee.dr) {
        $0.load(fromByteOffset: Int(number) * 8, as: UInt64.self)
      }
      return setGeneral(to.number, value, size: size)
    }
    var value = general(from.number) & mask(size)
    if number >= 6 {
      guard value >> 32 == 0 else { throw .protection }
      value = number == 6 ? value & DR6.writable | DR6.fixed : value & DR7.writable | DR7.fixed
    }
    withUnsafeMutableBytes(of: &state.pointee.dr) {
      $0.storeBytes(of: value, toByteOffset: Int(number) * 8, as: UInt64.self)
    }
    state.updateBreakpoints()
  }
}
