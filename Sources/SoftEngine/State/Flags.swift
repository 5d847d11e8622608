import CSoftCPU

/// RFLAGS (SDM vol. 1, 3.4.3).
enum RFLAGS {
  static let cf: UInt64 = 1 << 0
  static let fixed: UInt64 = 1 << 1
  static let pf: UInt64 = 1 << 2
  static let af: UInt64 = 1 << 4
  static let zf: UInt64 = 1 << 6
  static let sf: UInt64 = 1 << 7
  static let tf: UInt64 = 1 << 8
  static let `if`: UInt64 = 1 << 9
  static let df: UInt64 = 1 << 10
  static let of: UInt64 = 1 << 11
  static let iopl: UInt64 = 3 << 12
  static let nt: UInt64 = 1 << 14
  static let rf: UInt64 = 1 << 16
  static let vm: UInt64 = 1 << 17
  static let ac: UInt64 = 1 << 18
  static let vif: UInt64 = 1 << 19
  static let vip: UInt64 = 1 << 20
  static let id: UInt64 = 1 << 21
  static let arithmetic = cf | pf | af | zf | sf | of
  /// Those POPF and IRET can change beside the arithmetic ones.
  static let loadable = tf | `if` | df | iopl | nt | rf | ac | id
}

/// The arithmetic flags are not kept but derived: ZF, SF and PF from `result`, the last result sign-extended;
/// the others from `carries`, the carry out of each bit moved so that the operand's top bit is bit 63:
/// CF is bit 63, OF bit 63 ^ bit 62, AF bit 3. For flags that no result has, bit 0 inverts SF and bits 15:8 are
/// added to the byte whose parity is PF.
enum Carries {
  static let cf: UInt64 = 1 << 63
  static let cfAndOF: UInt64 = 3 << 62
  static let af: UInt64 = 1 << 3

  /// From the carries out of the bits of a `Value`.
  @inline(__always)
  static func vector<Value: FixedWidthInteger & UnsignedInteger>(_ carries: Value) -> UInt64 {
    let wide = UInt64(truncatingIfNeeded: carries)
    if MemoryLayout<Value>.size == 8 { return wide & (cfAndOF | af) }
    return wide << UInt64(64 &- Value.bitWidth) | wide & af
  }

  @inline(__always)
  static func flags(cf: Bool, of: Bool) -> UInt64 { (cf ? Carries.cf : 0) | (cf != of ? 1 << 62 : 0) }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  @inline(__always) var carry: Bool { Int64(bitPattern: pointee.carries) < 0 }
  @inline(__always) var zero: Bool { pointee.result == 0 }
  @inline(__always) var sign: Bool { UInt64(bitPattern: pointee.result) >> 63 ^ pointee.carries & 1 != 0 }
  @inline(__always) var overflow: Bool { (pointee.carries ^ pointee.carries &<< 1) >> 63 != 0 }
  @inline(__always) var adjust: Bool { pointee.carries & Carries.af != 0 }
  @inline(__always) var parity: Bool {
    UInt8(truncatingIfNeeded: UInt64(bitPattern: pointee.result) ^ pointee.carries &>> 8).nonzeroBitCount & 1 == 0
  }

  /// The flags of a result with the carry out of each of its bits.
  @inline(__always)
  func setFlags<Value: FixedWidthInteger & UnsignedInteger>(_ result: Value, carries: Value) {
    setFlags(result, vector: Carries.vector(carries))
  }

  @inline(__always)
  func setFlags<Value: FixedWidthInteger & UnsignedInteger>(_ result: Value, vector: UInt64) {
    let unused = Int64(64 &- Value.bitWidth)
    pointee.result = (Int64(truncatingIfNeeded: result) &<< unused) &>> unused
    pointee.carries = vector
  }

  /// CF, PF, AF, ZF, SF and OF where RFLAGS has them.
  var arithmeticFlags: UInt64 {
    get {
      (carry ? RFLAGS.cf : 0) | (parity ? RFLAGS.pf : 0) | (adjust ? RFLAGS.af : 0) | (zero ? RFLAGS.zf : 0)
        | (sign ? RFLAGS.sf : 0) | (overflow ? RFLAGS.of : 0)
    }
    nonmutating set {
      let isZero = newValue & RFLAGS.zf != 0
      pointee.result = isZero ? 0 : 1 << 8
      pointee.carries =
        Carries.flags(cf: newValue & RFLAGS.cf != 0, of: newValue & RFLAGS.of != 0)
        | (newValue & RFLAGS.af != 0 ? Carries.af : 0) | (newValue & RFLAGS.sf != 0 ? 1 : 0)
        | (newValue & RFLAGS.pf != 0 ? 0 : 1 << 8)
    }
  }

  var rflags: UInt64 { pointee.system_flags | RFLAGS.fixed | arithmeticFlags }

  @inline(__always)
  func setCarry(_ carry: Bool) {
    let of = overflow
    pointee.carries = pointee.carries & ~Carries.cfAndOF | Carries.flags(cf: carry, of: of)
  }
}

/// A condition of Jcc, SETcc and CMOVcc (SDM vol. 1, appendix B).
protocol Condition {
  static func holds(_ state: State) -> Bool
}

enum ConditionO: Condition { @inline(__always) static func holds(_ state: State) -> Bool { state.overflow } }
enum ConditionB: Condition { @inline(__always) static func holds(_ state: State) -> Bool { state.carry } }
enum ConditionZ: Condition { @inline(__always) static func holds(_ state: State) -> Bool { state.zero } }
enum ConditionBE: Condition {
  @inline(__always) static func holds(_ state: State) -> Bool { state.carry || state.zero }
}
enum ConditionS: Condition { @inline(__always) static func holds(_ state: State) -> Bool { state.sign } }
enum ConditionP: Condition { @inline(__always) static func holds(_ state: State) -> Bool { state.parity } }
enum ConditionL: Condition {
  @inline(__always) static func holds(_ state: State) -> Bool { state.sign != state.overflow }
}
enum ConditionLE: Condition {
  @inline(__always) static func holds(_ state: State) -> Bool { state.zero || state.sign != state.overflow }
}
enum Not<Other: Condition>: Condition {
  @inline(__always) static func holds(_ state: State) -> Bool { !Other.holds(state) }
}

/// Whether condition tttn (SDM vol. 2, B.1.4.7) holds.
@inline(__always)
func conditionHolds(_ number: UInt8, _ state: State) -> Bool {
  let holds =
    switch number >> 1 & 7 {
    case 0: state.overflow
    case 1: state.carry
    case 2: state.zero
    case 3: ConditionBE.holds(state)
    case 4: state.sign
    case 5: state.parity
    case 6: ConditionL.holds(state)
    default: ConditionLE.holds(state)
    }
  return holds != (number & 1 != 0)
}
