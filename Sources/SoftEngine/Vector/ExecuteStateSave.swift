import CSoftCPU
import X86

// FXSAVE and the XSAVE family (SDM vol. 1, 10.5 and chapter 13).
extension Executor {
  private enum Area {
    static let legacy = 512
    static let mxcsr = 24
    static let x87Registers = 32
    static let xmm = 160
    static let header = 512
    static let end = 576
    /// What FXSAVE and XSAVE write of the x87 state.
    static let x87: [Range<Int>] = [0..<24, 32..<160]
  }

  /// Only XMM0 to XMM7 are there outside 64-bit mode.
  private var xmmCount: Int { state.pointee.is64BitCode ? 16 : 8 }

  private func requireAlignment(_ alignment: UInt64) throws(Fault) {
    let linear = try linear(Int(i.segment), offset, 1, write: false)
    if linear & (alignment &- 1) != 0 { throw .protection }
  }

  /// - Parameter hasX87: the x87 state is in it.
  private func legacyImage(hasX87: Bool = true) -> StateImage {
    var image = StateImage(byteCount: Area.end)
    image.set(Area.mxcsr, UInt64(soft_mxcsr(state)), 4)
    image.set(Area.mxcsr + 4, UInt64(MXCSR.implemented), 4)
    image.set(
      Area.xmm, UnsafeRawBufferPointer(start: vectorRegister(state, Slot.xmm(0)), count: 16 * xmmCount))
    if hasX87 { setX87(&image) }
    return image
  }

  private func setX87(_ image: inout StateImage) {
    normalizeX87()
    let x87 = state.pointee.x87
    image.set(0, UInt64(x87.control), 2)
    image.set(2, UInt64(x87.status), 2)
    var abridged: UInt64 = 0
    for index in 0..<8 where x87.tag >> UInt16(2 * index) & 3 != 3 { abridged |= 1 << UInt64(index) }
    image.set(4, abridged, 1)
    image.set(6, UInt64(state.pointee.x87_opcode), 2)
    let isWide = i.operandSize == 8
    image.set(8, state.pointee.x87_instruction, isWide ? 8 : 4)
    image.set(16, state.pointee.x87_data, isWide ? 8 : 4)
    withUnsafeBytes(of: &state.pointee.x87.registers) {
      for index in 0..<8 {
        image.set(Area.x87Registers + 16 * index, UnsafeRawBufferPointer(rebasing: $0[10 * index..<10 * index + 10]))
      }
    }
  }

  /// What 64-bit FXSAVE writes.
  func legacyArea() -> StateImage {
    var image = legacyImage()
    image.set(Area.xmm, UnsafeRawBufferPointer(start: vectorRegister(state, Slot.xmm(0)), count: 256))
    return StateImage(Array(image.bytes.prefix(Area.legacy)))
  }

  /// What 64-bit FXRSTOR reads; reserved bits of MXCSR are left out.
  func loadLegacyArea(_ image: StateImage) {
    loadX87(image)
    image.copy(Area.xmm, to: UnsafeMutableRawBufferPointer(start: vectorRegister(state, Slot.xmm(0)), count: 256))
    soft_set_mxcsr(state, UInt32(truncatingIfNeeded: image.value(Area.mxcsr, 4)) & MXCSR.implemented)
  }

  func saveFX() throws(Fault) {
    try requireAlignment(16)
    try writeImage(legacyImage(), [0..<Area.xmm + 16 * xmmCount], count: Area.legacy)
  }

  func restoreFX() throws(Fault) {
    try requireAlignment(16)
    let image = try readImage(Area.legacy)
    let mxcsr = UInt32(truncatingIfNeeded: image.value(Area.mxcsr, 4))
    guard mxcsr & ~MXCSR.implemented == 0 else { throw .protection }
    loadX87(image)
    loadXMM(image)
    soft_set_mxcsr(state, mxcsr)
    state.updateMode()
  }

  private func loadX87(_ image: StateImage) {
    soft_x87_unload(state)
    state.pointee.x87.control = UInt16(truncatingIfNeeded: image.value(0, 2))
    state.pointee.x87.status = UInt16(truncatingIfNeeded: image.value(2, 2))
    let abridged = image.value(4, 1)
    var tag: UInt16 = 0
    for index in 0..<8 where abridged >> UInt64(index) & 1 == 0 { tag |= 3 << UInt16(2 * index) }
    state.pointee.x87.tag = tag
    state.pointee.x87_opcode = UInt16(truncatingIfNeeded: image.value(6, 2) & 0x7FF)
    let width = i.operandSize == 8 ? 8 : 4
    state.pointee.x87_instruction = image.value(8, width)
    state.pointee.x87_data = image.value(16, width)
    state.pointee.x87_selector = 0
    withUnsafeMutableBytes(of: &state.pointee.x87.registers) {
      for index in 0..<8 {
        let place = Area.x87Registers + 16 * index
        image.copy(place, to: UnsafeMutableRawBufferPointer(rebasing: $0[10 * index..<10 * index + 10]))
      }
    }
    normalizeX87()
  }

  private func loadXMM(_ image: StateImage) {
    image.copy(
      Area.xmm, to: UnsafeMutableRawBufferPointer(start: vectorRegister(state, Slot.xmm(0)), count: 16 * xmmCount))
  }

  private func checkExtended() throws(Fault) {
    try requireOSXSAVE()
    if state.pointee.cr0 & CR0.ts != 0 { throw .exception(Vector.deviceNotAvailable, errorCode: nil) }
    try requireAlignment(64)
  }

  private var requested: UInt64 {
    (general(General.rdx) << 32 | general(General.rax) & 0xFFFF_FFFF) & state.pointee.xcr0
  }

  /// XINUSE: components that are not in their initial configuration.
  func componentsInUse() -> UInt64 {
    soft_x87_unload(state)
    let x87 = state.pointee.x87
    var isInitial =
      x87.control == X87.initialControl && x87.status == 0 && x87.tag == 0xFFFF && state.pointee.x87_opcode == 0
      && state.pointee.x87_instruction == 0 && state.pointee.x87_data == 0
    withUnsafeBytes(of: &state.pointee.x87.registers) { isInitial = isInitial && Self.isZero($0) }
    var inUse: UInt64 = isInitial ? 0 : XCR0.x87
    let xmm = UnsafeRawBufferPointer(start: vectorRegister(state, Slot.xmm(0)), count: 16 * xmmCount)
    if !Self.isZero(xmm) { inUse |= XCR0.sse }
    return inUse
  }

  /// Of whole quadwords.
  private static func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var all: UInt64 = 0
    for place in stride(from: 0, to: bytes.count, by: 8) {
      all |= bytes.loadUnaligned(fromByteOffset: place, as: UInt64.self)
    }
    return all == 0
  }

  func saveExtended() throws(Fault) {
    try checkExtended()
    let requested = requested
    let isCompacted = i.operation == .xsavec || i.operation == .xsaves
    var inUse = componentsInUse()
    if isCompacted, soft_mxcsr(state) != MXCSR.initial { inUse |= XCR0.sse }
    let saved = i.operation == .xsave ? requested : requested & inUse
    var image = legacyImage(hasX87: saved & XCR0.x87 != 0)
    var parts: [Range<Int>] = []
    if saved & XCR0.x87 != 0 { parts += Area.x87 }
    if (isCompacted ? saved : requested) & XCR0.sse != 0 { parts.append(Area.mxcsr..<Area.mxcsr + 8) }
    if saved & XCR0.sse != 0 { parts.append(Area.xmm..<Area.xmm + 16 * xmmCount) }
    if isCompacted {
      image.set(Area.header, requested & inUse, 8)
      image.set(Area.header + 8, requested | 1 << 63, 8)
      parts.append(Area.header..<Area.end)
    } else {
      let header = try readMemory(Int(i.segment), (offset &+ 512) & mask(Int(i.addressSize)), 8)
      image.set(Area.header, header & ~requested | requested & inUse, 8)
      parts.append(Area.header..<Area.header + 8)
    }
    try writeImage(image, parts, count: Area.end)
  }

  func restoreExtended() throws(Fault) {
    try checkExtended()
    let requested = requested
    let image = try readImage(Area.end)
    let present = image.value(Area.header, 8)
    let compaction = image.value(Area.header + 8, 8)
    let isCompacted = compaction >> 63 != 0
    if i.operation == .xrstors, !isCompacted { throw .protection }
    for place in stride(from: Area.header + 16, to: isCompacted ? Area.end : Area.header + 24, by: 8)
    where image.value(place, 8) != 0 { throw .protection }
    if isCompacted {
      let components = compaction & ~(1 << 63)
      guard components & ~state.pointee.xcr0 == 0, present & ~components == 0 else { throw .protection }
    } else {
      guard compaction == 0, present & ~state.pointee.xcr0 == 0 else { throw .protection }
    }
    if requested & XCR0.sse != 0 {
      // The standard form holds MXCSR whatever XSTATE_BV says.
      var mxcsr = MXCSR.initial
      if !isCompacted || present & XCR0.sse != 0 {
        mxcsr = UInt32(truncatingIfNeeded: image.value(Area.mxcsr, 4))
        guard mxcsr & ~MXCSR.implemented == 0 else { throw .protection }
      }
      soft_set_mxcsr(state, mxcsr)
      loadXMM(present & XCR0.sse != 0 ? image : StateImage(byteCount: Area.end))
    }
    if requested & XCR0.x87 != 0 {
      if present & XCR0.x87 != 0 {
        loadX87(image)
      } else {
        initializeX87()
        let empty = StateImage(byteCount: 80)
        withUnsafeMutableBytes(of: &state.pointee.x87.registers) { empty.copy(0, to: $0) }
      }
    }
    state.updateMode()
  }
}
