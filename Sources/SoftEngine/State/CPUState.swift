import CSoftCPU
import X86

/// The state of one virtual processor.
// Safety: it lives as long as its SoftVCPU, and only that vCPU's thread uses it, but for `attention`.
typealias State = UnsafeMutablePointer<soft_cpu>
typealias MicroOp = UnsafePointer<soft_op>

/// Why handlers returned to the outer loop.
enum LeaveReason {
  /// `rip` says where to go on; the block there is not at hand.
  static let dispatch: UInt32 = 0
  /// `raise` was called; `rip` is the instruction's.
  static let exception: UInt32 = 1
  /// A device must answer: `device_*`. The instruction is executed anew with the answer.
  static let deviceRead: UInt32 = 2
  static let deviceWrite: UInt32 = 3
  static let portIn: UInt32 = 4
  static let portOut: UInt32 = 5
  static let halt: UInt32 = 6
  static let tripleFault: UInt32 = 7
  /// The operation is executed anew while all other processors stand still.
  static let alone: UInt32 = 8
}

/// Byte offsets in the state that micro-operations name.
enum Slot {
  static let temporary0: UInt8 = 128
  static let temporary1: UInt8 = 136
  static let zero: UInt8 = 160
  static let sink: UInt8 = 168
  static let codePage: UInt8 = 152

  @inline(__always)
  static func general(_ number: UInt8) -> UInt8 { (number & 15) &* 8 }
}

enum SegmentRegister {
  static let es = 0
  static let cs = 1
  static let ss = 2
  static let ds = 3
  static let fs = 4
  static let gs = 5
  static let ldtr = 6
  static let tr = 7
}

/// General registers by number.
enum General {
  static let rax: UInt8 = 0
  static let rcx: UInt8 = 1
  static let rdx: UInt8 = 2
  static let rbx: UInt8 = 3
  static let rsp: UInt8 = 4
  static let rbp: UInt8 = 5
  static let rsi: UInt8 = 6
  static let rdi: UInt8 = 7
}

enum CR0 {
  static let pe: UInt64 = 1 << 0
  static let mp: UInt64 = 1 << 1
  static let em: UInt64 = 1 << 2
  static let ts: UInt64 = 1 << 3
  static let et: UInt64 = 1 << 4
  static let ne: UInt64 = 1 << 5
  static let wp: UInt64 = 1 << 16
  static let am: UInt64 = 1 << 18
  static let nw: UInt64 = 1 << 29
  static let cd: UInt64 = 1 << 30
  static let pg: UInt64 = 1 << 31
  static let defined = pe | mp | em | ts | et | ne | wp | am | nw | cd | pg
}

enum CR4 {
  static let vme: UInt64 = 1 << 0
  static let pvi: UInt64 = 1 << 1
  static let tsd: UInt64 = 1 << 2
  static let de: UInt64 = 1 << 3
  static let pse: UInt64 = 1 << 4
  static let pae: UInt64 = 1 << 5
  static let mce: UInt64 = 1 << 6
  static let pge: UInt64 = 1 << 7
  static let pce: UInt64 = 1 << 8
  static let osfxsr: UInt64 = 1 << 9
  static let osxmmexcpt: UInt64 = 1 << 10
  static let umip: UInt64 = 1 << 11
  static let fsgsbase: UInt64 = 1 << 16
  static let pcide: UInt64 = 1 << 17
  static let osxsave: UInt64 = 1 << 18
  static let smep: UInt64 = 1 << 20
  static let smap: UInt64 = 1 << 21

  /// What can be set: a bit is reserved where its feature is missing.
  static func permitted(by model: CPUModel) -> UInt64 {
    let features: [(CPUFeature, UInt64)] = [
      (.tsc, tsd), (.de, de), (.pse, pse), (.pae, pae), (.mce, mce), (.pge, pge), (.fxsr, osfxsr), (.sse, osxmmexcpt),
      (.umip, umip), (.fsgsbase, fsgsbase), (.pcid, pcide), (.xsave, osxsave), (.smep, smep), (.smap, smap),
    ]
    return features.reduce(pce) { model.has($1.0) ? $0 | $1.1 : $0 }
  }
}

enum EFER {
  static let sce: UInt64 = 1 << 0
  static let lme: UInt64 = 1 << 8
  static let lma: UInt64 = 1 << 10
  static let nxe: UInt64 = 1 << 11
}

/// Exception vectors (SDM vol. 3, table 6-1).
enum Vector {
  static let divideError: UInt8 = 0
  static let debug: UInt8 = 1
  static let nmi: UInt8 = 2
  static let breakpoint: UInt8 = 3
  static let overflow: UInt8 = 4
  static let boundRange: UInt8 = 5
  static let invalidOpcode: UInt8 = 6
  static let deviceNotAvailable: UInt8 = 7
  static let doubleFault: UInt8 = 8
  static let invalidTSS: UInt8 = 10
  static let segmentNotPresent: UInt8 = 11
  static let stackFault: UInt8 = 12
  static let generalProtection: UInt8 = 13
  static let pageFault: UInt8 = 14
  static let floatingPoint: UInt8 = 16
  static let alignmentCheck: UInt8 = 17
}

/// What ends an operation before it is done.
enum Fault: Error {
  case exception(UInt8, errorCode: UInt32?)
  /// A device must answer first; `leave` in the state says what.
  case device
  /// The instruction is executed anew after the next interrupt.
  case waitForInterrupt

  static let undefined = Fault.exception(Vector.invalidOpcode, errorCode: nil)
  static let protection = Fault.exception(Vector.generalProtection, errorCode: 0)

  static func protection(_ selector: UInt16) -> Fault {
    .exception(Vector.generalProtection, errorCode: UInt32(selector & 0xFFFC))
  }
}

extension soft_cpu {
  var isProtected: Bool { cr0 & CR0.pe != 0 }
  var isVirtual8086: Bool { system_flags & RFLAGS.vm != 0 }
  var isLongMode: Bool { efer & EFER.lma != 0 }
  var is64BitCode: Bool { mode & 3 == 2 }
  /// Real-address or virtual-8086 mode: a segment's base is its selector times 16.
  var hasRealSegments: Bool { !isProtected || isVirtual8086 }
}

/// A register operand by its byte offset.
// Safety: offsets come from `Slot` and the lowering, and lie with their width inside the state's first 176 bytes.
@inline(__always)
func register<Value: FixedWidthInteger>(_ state: State, _ offset: UInt8, as type: Value.Type)
  -> UnsafeMutablePointer<Value>
{
  (UnsafeMutableRawPointer(state) + Int(offset)).assumingMemoryBound(to: Value.self)
}

/// Writes a general register as the mode of operation demands: 32-bit results clear the upper half.
@inline(__always)
func setRegister<Value: FixedWidthInteger>(_ state: State, _ offset: UInt8, _ value: Value) {
  if MemoryLayout<Value>.size == 4 {
    register(state, offset, as: UInt64.self).pointee = UInt64(truncatingIfNeeded: value)
  } else {
    register(state, offset, as: Value.self).pointee = value
  }
}
