import CSoftCPU
import X86

/// Registers that only RDMSR and WRMSR know; the others stand in the C state.
struct ModelSpecificState {
  var tscAdjust: UInt64 = 0
  var speculationControl: UInt64 = 0
  var mcgStatus: UInt64 = 0
  var ranges = MemoryTypeRanges()
  var clock = ParavirtualClock()
  var stealTime = StealTime()
  var sharedEOI = SharedEOI()
  var pollControl = PollControl()

  /// RESET; the counter and what was added to it go on.
  mutating func reset() {
    let adjust = tscAdjust
    self = ModelSpecificState()
    tscAdjust = adjust
  }
}

/// Numbers of model-specific registers (SDM vol. 4).
enum MSR {
  static let tsc: UInt32 = 0x10
  static let platformID: UInt32 = 0x17
  static let apicBase: UInt32 = 0x1B
  static let featureControl: UInt32 = 0x3A
  static let tscAdjust: UInt32 = 0x3B
  static let speculationControl: UInt32 = 0x48
  static let predictionCommand: UInt32 = 0x49
  static let microcodeUpdate: UInt32 = 0x79
  static let microcodeRevision: UInt32 = 0x8B
  static let platformInformation: UInt32 = 0xCE
  static let mtrrCapability: UInt32 = 0xFE
  static let architecturalCapabilities: UInt32 = 0x10A
  static let sysenterCS: UInt32 = 0x174
  static let sysenterESP: UInt32 = 0x175
  static let sysenterEIP: UInt32 = 0x176
  static let mcgCapability: UInt32 = 0x179
  static let mcgStatus: UInt32 = 0x17A
  static let performanceStatus: UInt32 = 0x198
  static let miscEnable: UInt32 = 0x1A0
  static let debugControl: UInt32 = 0x1D9
  static let pat: UInt32 = 0x277
  static let tscDeadline: UInt32 = 0x6E0
  static let xss: UInt32 = 0xDA0
  static let efer: UInt32 = 0xC000_0080
  static let star: UInt32 = 0xC000_0081
  static let lstar: UInt32 = 0xC000_0082
  static let cstar: UInt32 = 0xC000_0083
  static let sfmask: UInt32 = 0xC000_0084
  static let fsBase: UInt32 = 0xC000_0100
  static let gsBase: UInt32 = 0xC000_0101
  static let kernelGSBase: UInt32 = 0xC000_0102
  static let tscAux: UInt32 = 0xC000_0103
}

extension MSR {
  /// Registers that `ProcessorState` holds.
  static func isInState(_ number: UInt32) -> Bool {
    switch number {
    case sysenterCS, sysenterESP, sysenterEIP, efer, star, lstar, cstar, sfmask, fsBase, gsBase, kernelGSBase, tscAux:
      true
    default: false
    }
  }
}

/// IA32_ARCH_CAPABILITIES (SDM vol. 4): none of these attacks works on guest code here, whose predictions are the
/// interpreter's. Bits 0, 1, 3–6, 8, 13–15, 20, 24, 26, 27, 62.
private let architecturalCapabilities: UInt64 = 0x4000_0000_0D10_E17B

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Moves the counter by `delta`.
  func adjustTimeStampCounter(_ delta: UInt64) {
    pointee.tsc_offset = pointee.tsc_offset &+ delta
    context.pointee.msr.tscAdjust = context.pointee.msr.tscAdjust &+ delta
    context.pointee.controllers?.tscChanged(of: context.pointee.index, tsc: timeStampCounter)
    context.pointee.msr.clock.update(&context.pointee.map, tscOffset: pointee.tsc_offset)
  }
}

extension Executor {
  private func require(_ feature: CPUFeature) throws(Fault) {
    guard state.context.pointee.model.has(feature) else { throw .protection }
  }

  func readMSR(_ number: UInt32) throws(Fault) -> UInt64 {
    let context = state.context
    if let processor = context.pointee.interpreted, !MSR.isInState(number) {
      guard let value = processor.readMSR(number) else { throw .protection }
      return value
    }
    if number == MSR.tscDeadline { try require(.tscDeadline) }
    if let controllers = context.pointee.controllers, InterruptControllers.handles(msr: number) {
      if number != MSR.tscDeadline { state.settleEOI() }
      do { return try controllers.readMSR(of: context.pointee.index, number) } catch { throw .protection }
    }
    switch number {
    case MSR.tsc: return state.timeStampCounter
    case MSR.platformID, MSR.mcgCapability, MSR.performanceStatus, MSR.debugControl: return 0
    case MSR.apicBase: return 0xFEE0_0800 | (context.pointee.index == 0 ? 0x100 : 0)
    case MSR.featureControl: return 1
    case MSR.tscAdjust:
      try require(.tscAdjust)
      return context.pointee.msr.tscAdjust
    case MSR.speculationControl:
      try require(.speculationControl)
      return context.pointee.msr.speculationControl
    case MSR.microcodeRevision: return 0x1F << 32
    // Bits 15:8: the counter's rate in units of 133 MHz.
    case MSR.platformInformation: return (SoftMachine.tscFrequency / 133_333_333 & 0xFF) << 8
    case MSR.mtrrCapability:
      try require(.mtrr)
      return MemoryTypeRanges.capability
    case MSR.architecturalCapabilities:
      try require(.architecturalCapabilities)
      return architecturalCapabilities
    case MSR.sysenterCS: return state.pointee.sysenter_cs
    case MSR.sysenterESP: return state.pointee.sysenter_esp
    case MSR.sysenterEIP: return state.pointee.sysenter_eip
    case MSR.mcgStatus: return context.pointee.msr.mcgStatus
    // Fast strings; no branch trace, no precise events.
    case MSR.miscEnable: return state.pointee.misc_enable | 0x1800
    case MSR.pat: return state.pointee.pat
    case MSR.xss:
      try require(.xsaves)
      return 0
    case MSR.efer: return state.pointee.efer
    case MSR.star: return state.pointee.star
    case MSR.lstar: return state.pointee.lstar
    case MSR.cstar: return state.pointee.cstar
    case MSR.sfmask: return state.pointee.sfmask
    case MSR.fsBase: return state.segment(SegmentRegister.fs).pointee.base
    case MSR.gsBase: return state.segment(SegmentRegister.gs).pointee.base
    case MSR.kernelGSBase: return state.pointee.kernel_gs_base
    case MSR.tscAux:
      guard context.pointee.model.has(.rdtscp) || context.pointee.model.has(.rdpid) else { throw .protection }
      return state.pointee.tsc_aux
    case ParavirtualClock.MSR.systemTime, ParavirtualClock.MSR.oldSystemTime:
      try require(.hypervisor)
      return context.pointee.msr.clock.systemTime
    case ParavirtualClock.MSR.wallClock, ParavirtualClock.MSR.oldWallClock:
      try require(.hypervisor)
      return context.pointee.msr.clock.wallClock
    case StealTime.register:
      try require(.hypervisor)
      return context.pointee.msr.stealTime.value
    case SharedEOI.register:
      try require(.hypervisor)
      return context.pointee.msr.sharedEOI.value
    case PollControl.register:
      try require(.hypervisor)
      return context.pointee.msr.pollControl.value
    default:
      if MemoryTypeRanges.handles(number) {
        try require(.mtrr)
        return context.pointee.msr.ranges.read(number)
      }
      throw .protection
    }
  }

  func writeMSR(_ number: UInt32, _ value: UInt64) throws(Fault) {
    let context = state.context
    if let processor = context.pointee.interpreted, !MSR.isInState(number) {
      guard processor.writeMSR(number, value) else { throw .protection }
      return
    }
    if number == MSR.tscDeadline { try require(.tscDeadline) }
    if let controllers = context.pointee.controllers, InterruptControllers.handles(msr: number) {
      if number != MSR.tscDeadline { state.settleEOI() }
      do {
        try controllers.writeMSR(of: context.pointee.index, number, value, tsc: state.timeStampCounter)
      } catch { throw .protection }
      return soft_request_attention(state, Attention.interrupt)
    }
    switch number {
    case MSR.tsc: state.adjustTimeStampCounter(value &- state.timeStampCounter)
    case MSR.tscAdjust:
      try require(.tscAdjust)
      state.adjustTimeStampCounter(value &- context.pointee.msr.tscAdjust)
    case MSR.speculationControl:
      try require(.speculationControl)
      // IBRS, STIBP and BHI_DIS_S.
      let permitted: UInt64 = context.pointee.model.has(.branchHistoryControl) ? 0x403 : 3
      guard value & ~permitted == 0 else { throw .protection }
      context.pointee.msr.speculationControl = value
    case MSR.predictionCommand:
      try require(.speculationControl)
      guard value & ~1 == 0 else { throw .protection }
    // Revision 0 before CPUID asks for the revision; there are no updates.
    case MSR.microcodeUpdate, MSR.microcodeRevision: break
    case MSR.debugControl: guard value == 0 else { throw .protection }
    case MSR.sysenterCS: state.pointee.sysenter_cs = value & 0xFFFF_FFFF
    case MSR.sysenterESP, MSR.sysenterEIP:
      guard state.isCanonical(value) else { throw .protection }
      if number == MSR.sysenterESP { state.pointee.sysenter_esp = value } else { state.pointee.sysenter_eip = value }
    case MSR.mcgStatus:
      guard value == 0 else { throw .protection }
      context.pointee.msr.mcgStatus = value
    case MSR.miscEnable: state.pointee.misc_enable = value & 1
    case MSR.pat:
      guard (0..<8).allSatisfy({ [0, 1, 4, 5, 6, 7].contains(value >> UInt64(8 * $0) & 0xFF) }) else {
        throw .protection
      }
      state.pointee.pat = value
    case MSR.xss:
      try require(.xsaves)
      guard value == 0 else { throw .protection }
    case MSR.efer: try writeEFER(value)
    case MSR.star: state.pointee.star = value
    case MSR.lstar, MSR.cstar, MSR.kernelGSBase, MSR.fsBase, MSR.gsBase: try writeAddress(number, value)
    case MSR.sfmask: state.pointee.sfmask = value & 0xFFFF_FFFF
    case MSR.tscAux:
      guard context.pointee.model.has(.rdtscp) || context.pointee.model.has(.rdpid), value >> 32 == 0 else {
        throw .protection
      }
      state.pointee.tsc_aux = value
    case ParavirtualClock.MSR.systemTime, ParavirtualClock.MSR.oldSystemTime:
      try require(.hypervisor)
      context.pointee.msr.clock.systemTime = value
      context.pointee.msr.clock.update(&context.pointee.map, tscOffset: state.pointee.tsc_offset)
    case ParavirtualClock.MSR.wallClock, ParavirtualClock.MSR.oldWallClock:
      try require(.hypervisor)
      context.pointee.msr.clock.wallClock = value
      context.pointee.msr.clock.writeWallClock(&context.pointee.map, guestTime: context.pointee.clock())
    case StealTime.register:
      try require(.hypervisor)
      guard context.pointee.msr.stealTime.set(value, &context.pointee.map) else { throw .protection }
    case SharedEOI.register:
      try require(.hypervisor)
      state.settleEOI()
      guard context.pointee.msr.sharedEOI.set(value) else { throw .protection }
    case PollControl.register:
      try require(.hypervisor)
      guard value & ~1 == 0 else { throw .protection }
      context.pointee.msr.pollControl.value = value
    default:
      guard MemoryTypeRanges.handles(number) else { throw .protection }
      try require(.mtrr)
      guard
        context.pointee.msr.ranges.write(number, value, physicalAddressBits: CPUIdentity.physicalAddressBits)
      else { throw .protection }
    }
  }

  private func writeEFER(_ value: UInt64) throws(Fault) {
    let model = state.context.pointee.model
    // Another engine's processor may have more.
    var permitted = EFER.lma | (state.context.pointee.interpreted == nil ? 0 : state.pointee.efer)
    if model.has(.syscall) { permitted |= EFER.sce }
    if model.has(.lm) { permitted |= EFER.lme }
    if model.has(.nx) { permitted |= EFER.nxe }
    guard value & ~permitted == 0 else { throw .protection }
    let old = state.pointee.efer
    if state.pointee.cr0 & CR0.pg != 0, (value ^ old) & EFER.lme != 0 { throw .protection }
    state.pointee.efer = value & ~EFER.lma | old & EFER.lma
    if (value ^ old) & EFER.nxe != 0 { TLB.flush(state) }
  }

  private func writeAddress(_ number: UInt32, _ value: UInt64) throws(Fault) {
    guard state.isCanonical(value) else { throw .protection }
    switch number {
    case MSR.lstar: state.pointee.lstar = value
    case MSR.cstar: state.pointee.cstar = value
    case MSR.kernelGSBase: state.pointee.kernel_gs_base = value
    default: state.setBase(number == MSR.fsBase ? SegmentRegister.fs : SegmentRegister.gs, value)
    }
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Sets the base of FS or GS alone.
  func setBase(_ index: Int, _ value: UInt64) {
    let register = segment(index)
    register.pointee.base = value
    register.pointee.linear_base = value
  }
}
