import CSoftCPU

/// What a micro-operation is to the translator: those that have host code of their own. Sizes are in bytes.
enum Template {
  case block
  case nothing
  case move(size: Int)
  case moveImmediate(size: Int)
  case extend(signed: Bool, from: Int, to: Int)
  case address(size: Int)
  case load(Access)
  case loadForWrite(Access)
  case store(Access)
  case push
  case pop
  case binary(BinaryKind, size: Int, immediate: Bool)
  /// ADC and SBB of 4 and 8 bytes.
  case withCarry(CarryKind, size: Int, immediate: Bool)
  case negate(size: Int)
  case byteSwap(size: Int)
  case step(by: Int32, size: Int)
  case shift(HostShift, size: Int)
  case complement(size: Int)
  /// By a register, without flags.
  case shiftFreely(HostShift, size: Int)
  /// ROL and ROR whose flags nothing asks for, by an immediate.
  case rotate(HostRotation, size: Int)
  /// IMUL by a register or an immediate.
  case multiply(size: Int, immediate: Bool)
  /// MUL and DIV of 4 and 8 bytes.
  case multiplyWide(size: Int)
  case divideWide(size: Int)
  /// dst = instruction(dst, src) of vector registers: a number of `soft_vector_code_at`.
  case vector(Int)
  case vectorMove
  /// PMOVMSKB.
  case moveMask
  case loadVector(VectorAccess)
  case storeVector(VectorAccess)
  case setIf
  case moveIf(size: Int)
  case branch(UInt8)
  case jump
  case jumpIndirect
  case returnPlace

  struct Access: Hashable {
    let size: Int
    let isFlat: Bool
  }

  /// Flat, of 4, 8 or 16 bytes; those that are aligned have 16.
  struct VectorAccess: Hashable {
    let size: Int
    var isAligned = false

    static let all = [4, 8, 16].map { VectorAccess(size: $0) } + [VectorAccess(size: 16, isAligned: true)]
  }

  enum BinaryKind: Int, CaseIterable {
    case add, or, and, sub, xor, cmp, test

    var writes: Bool { self != .cmp && self != .test }
  }

  enum CarryKind: Int, CaseIterable { case add, subtract }

  /// Of a micro-operation; nil: its handler is called.
  static func of(_ op: soft_op) -> Template? {
    guard let template = table.find(address(op.handler)) else { return nil }
    switch template {
    // By CL, which may be 0 and leave the flags alone.
    case .shift(_, let size), .rotate(_, let size):
      guard op.src == Slot.zero, (1..<UInt8(8 * size)).contains(shiftCount(op, size: size)) else { return nil }
    // 16-bit targets wrap within the segment.
    case .branch, .jump, .returnPlace: if op.shift == 2 { return nil }
    default: break
    }
    return template
  }

  /// By how many bits an immediate shifts.
  static func shiftCount(_ op: soft_op, size: Int) -> UInt8 {
    UInt8(truncatingIfNeeded: op.imm) & (size == 8 ? 63 : 31)
  }

  static func address(_ handler: soft_handler) -> UInt { unsafeBitCast(handler, to: UInt.self) }

  /// What routines call to have a page translated.
  typealias Fill = @convention(c) (State, _ width: Int, _ isWrite: Bool) -> Bool

  static func address(_ fill: Fill) -> UInt { unsafeBitCast(fill, to: UInt.self) }

  private static let sizes = [1, 2, 4, 8]

  private static func list(_ handlers: (soft_handler, soft_handler, soft_handler, soft_handler)) -> [soft_handler] {
    [handlers.0, handlers.1, handlers.2, handlers.3]
  }

  private static let table = makeTable()

  /// By the handler's address. Asked for each operation that is translated, so its hash is cheap.
  private struct Table: Sendable {
    private static let bits: UInt = 10
    private var keys = [UInt](repeating: 0, count: 1 << Int(bits))
    private var templates = [Template](repeating: .nothing, count: 1 << Int(bits))

    private static func home(_ address: UInt) -> Int {
      // 2^64 divided by the golden ratio.
      Int(truncatingIfNeeded: (address &* 0x9E37_79B9_7F4A_7C15) &>> (64 &- bits))
    }

    func find(_ address: UInt) -> Template? {
      var place = Self.home(address)
      while keys[place] != address {
        if keys[place] == 0 { return nil }
        place = (place &+ 1) & (keys.count &- 1)
      }
      return templates[place]
    }

    /// At most as many as leave a place free.
    mutating func add(_ address: UInt, _ template: Template) {
      var place = Self.home(address)
      while keys[place] != 0, keys[place] != address { place = (place &+ 1) & (keys.count &- 1) }
      (keys[place], templates[place]) = (address, template)
    }
  }

  private static func makeTable() -> Table {
    var table = Table()
    func add(_ handler: soft_handler, _ template: Template) { table.add(address(handler), template) }
    func add(_ handlers: SizedHandlers, _ template: (Int) -> Template) {
      for (handler, size) in zip(list(handlers.handlers), sizes) { add(handler, template(size)) }
    }
    add(softBlock, .block)
    add(softNop, .nothing)
    add(.moveRegister) { .move(size: $0) }
    add(.moveImmediate) { .moveImmediate(size: $0) }
    for (from, to) in [(1, 2), (1, 4), (1, 8), (2, 4), (2, 8), (4, 8)] {
      for signed in [false, true] {
        guard let handler = extensionHandler(signed: signed, from: UInt8(from), to: UInt8(to)) else { continue }
        add(handler, .extend(signed: signed, from: from, to: to))
      }
    }
    add(softAddress32, .address(size: 4))
    add(softAddress64, .address(size: 8))
    add(.loadFlat) { .load(Access(size: $0, isFlat: true)) }
    add(.loadSegmented) { .load(Access(size: $0, isFlat: false)) }
    add(.loadForWriteFlat) { .loadForWrite(Access(size: $0, isFlat: true)) }
    add(.loadForWriteSegmented) { .loadForWrite(Access(size: $0, isFlat: false)) }
    add(.storeFlat) { .store(Access(size: $0, isFlat: true)) }
    add(.storeSegmented) { .store(Access(size: $0, isFlat: false)) }
    add(softPushFlat64, .push)
    add(softPopFlat64, .pop)
    let binaries: [(BinaryHandlers, BinaryKind)] = [
      (.add, .add), (.or, .or), (.and, .and), (.sub, .sub), (.xor, .xor), (.cmp, .cmp), (.test, .test),
    ]
    for (handlers, kind) in binaries {
      for (handler, size) in zip(list(handlers.register), sizes) {
        add(handler, .binary(kind, size: size, immediate: false))
      }
      for (handler, size) in zip(list(handlers.immediate), sizes) {
        add(handler, .binary(kind, size: size, immediate: true))
      }
    }
    for (handlers, kind) in [(BinaryHandlers.adc, CarryKind.add), (.sbb, .subtract)] {
      for (four, eight, immediate) in [
        (handlers.register.2, handlers.register.3, false), (handlers.immediate.2, handlers.immediate.3, true),
      ] {
        add(four, .withCarry(kind, size: 4, immediate: immediate))
        add(eight, .withCarry(kind, size: 8, immediate: immediate))
      }
    }
    add(SizedHandlers.neg) { .negate(size: $0) }
    add(softByteSwap32, .byteSwap(size: 4))
    add(softByteSwap64, .byteSwap(size: 8))
    for (handlers, change) in [(SizedHandlers.inc, Int32(1)), (.dec, -1)] {
      add(handlers.handlers.2, .step(by: change, size: 4))
      add(handlers.handlers.3, .step(by: change, size: 8))
    }
    add(SizedHandlers.not.handlers.2, .complement(size: 4))
    add(SizedHandlers.not.handlers.3, .complement(size: 8))
    add(.shl) { .shift(.shl, size: $0) }
    add(.shr) { .shift(.shr, size: $0) }
    add(.sar) { .shift(.sar, size: $0) }
    for (handlers, shift) in [(SizedHandlers.rol, HostRotation.rol), (.ror, .ror)] {
      add(handlers.handlers.2, .rotate(shift, size: 4))
      add(handlers.handlers.3, .rotate(shift, size: 8))
    }
    for (handlers, immediate) in [(SizedHandlers.multiply, false), (.multiplyImmediate, true)] {
      add(handlers.handlers.2, .multiply(size: 4, immediate: immediate))
      add(handlers.handlers.3, .multiply(size: 8, immediate: immediate))
    }
    add(softMultiplyWide32, .multiplyWide(size: 4))
    add(softMultiplyWide64, .multiplyWide(size: 8))
    add(softDivide32, .divideWide(size: 4))
    add(softDivide64, .divideWide(size: 8))
    let free: [(soft_handler, HostShift, Int)] = [
      (softSHLX32, .shl, 4), (softSHLX64, .shl, 8), (softSHRX32, .shr, 4), (softSHRX64, .shr, 8),
      (softSARX32, .sar, 4), (softSARX64, .sar, 8),
    ]
    for (handler, kind, size) in free { add(handler, .shiftFreely(kind, size: size)) }
    for index in 0..<soft_vector_code_count() {
      add(soft_vector_code_at(index).pointee.handler, .vector(index))
    }
    add(soft_xmm_move, .vectorMove)
    add(soft_pmovmskb, .moveMask)
    let accesses: [(soft_handler, soft_handler)] = [
      (softLoadVectorFlat32, softStoreVectorFlat32), (softLoadVectorFlat64, softStoreVectorFlat64),
      (softLoadVectorFlat128, softStoreVectorFlat128), (softLoadAlignedFlat, softStoreAlignedFlat),
    ]
    for (access, (load, store)) in zip(VectorAccess.all, accesses) {
      add(load, .loadVector(access))
      add(store, .storeVector(access))
    }
    add(softSetIf, .setIf)
    for (handler, size) in zip(list(SizedHandlers.moveIf.handlers), sizes).dropFirst() {
      add(handler, .moveIf(size: size))
    }
    for condition in 0..<16 as Range<UInt8> { add(branchHandler(condition), .branch(condition)) }
    add(softJump, .jump)
    add(softJumpIndirect, .jumpIndirect)
    add(softReturnPlace, .returnPlace)
    return table
  }
}
