import CSoftCPU
import X86

// Instructions on the x87 and SSE state as a whole.
extension Executor {
  /// False: not one of these.
  func executeVector() throws(Fault) -> Bool {
    switch i.operation {
    case .fninit, .fnclex, .fnstenv, .fnsave:
      try state.checkX87(waits: false)
      try controlX87()
      state.lowerFloatingPointError()
      state.updateMode()
    case .fldenv, .frstor:
      try state.checkX87(waits: true)
      try controlX87()
      state.updateMode()
    case .ldmxcsr:
      try state.checkSSE()
      let value = UInt32(truncatingIfNeeded: try read(0))
      guard value & ~MXCSR.implemented == 0 else { throw .protection }
      soft_set_mxcsr(state, value)
      state.updateMode()
    case .stmxcsr:
      try state.checkSSE()
      try write(0, UInt64(soft_mxcsr(state)))
    case .fxsave, .fxrstor:
      if state.pointee.cr0 & (CR0.em | CR0.ts) != 0 {
        throw .exception(Vector.deviceNotAvailable, errorCode: nil)
      }
      if i.operation == .fxsave { try saveFX() } else { try restoreFX() }
      state.lowerFloatingPointError()
    case .xsave, .xsaveopt, .xsavec, .xsaves: try saveExtended()
    case .xrstor, .xrstors:
      try restoreExtended()
      state.lowerFloatingPointError()
    case .xgetbv:
      try requireOSXSAVE()
      let value: UInt64
      switch general(General.rcx) & 0xFFFF_FFFF {
      case 0: value = state.pointee.xcr0
      case 1: value = state.pointee.xcr0 & componentsInUse()
      default: throw .protection
      }
      setGeneral(General.rax, value & 0xFFFF_FFFF)
      setGeneral(General.rdx, value >> 32)
    case .xsetbv:
      try requireOSXSAVE()
      let value = general(General.rdx) << 32 | general(General.rax) & 0xFFFF_FFFF
      // The x87 state cannot be left out.
      guard general(General.rcx) & 0xFFFF_FFFF == 0, value & ~XCR0.implemented == 0, value & XCR0.x87 != 0 else {
        throw .protection
      }
      state.pointee.xcr0 = value
    case .maskmovq, .maskmovdqu: try storeMasked()
    default: return false
    }
    return true
  }

  func requireOSXSAVE() throws(Fault) { if state.pointee.cr4 & CR4.osxsave == 0 { throw .undefined } }

  // MARK: Memory images

  /// Reads the memory operand, which has more bytes than a register.
  func readImage(_ count: Int) throws(Fault) -> StateImage {
    let linear = try linear(Int(i.segment), offset, count, write: false)
    var image = StateImage(byteCount: count)
    if let host = try state.hostMemory(linear, count: count, .read) {
      image.set(0, UnsafeRawBufferPointer(start: host, count: count))
      return image
    }
    var place = 0
    while place < count {
      let width = Self.chunk(count &- place)
      image.set(
        place, try state.read(state.wrap(linear &+ UInt64(place)), width: width, segment: Int(i.segment)), width)
      place &+= width
    }
    return image
  }

  /// Writes parts of the memory operand, of which `count` bytes may be written. Nothing is written if that faults.
  func writeImage(_ image: StateImage, _ parts: [Range<Int>], count: Int) throws(Fault) {
    let linear = try linear(Int(i.segment), offset, count, write: true)
    if let host = try state.hostMemory(linear, count: count, .write) {
      let target = UnsafeMutableRawBufferPointer(start: host, count: count)
      for part in parts { image.copy(part.lowerBound, to: UnsafeMutableRawBufferPointer(rebasing: target[part])) }
      return
    }
    try state.probe(linear, count, segment: Int(i.segment))
    for part in parts {
      var place = part.lowerBound
      while place < part.upperBound {
        let width = Self.chunk(part.upperBound &- place)
        try state.write(
          state.wrap(linear &+ UInt64(place)), image.value(place, width), width: width, segment: Int(i.segment))
        place &+= width
      }
    }
  }

  private static func chunk(_ count: Int) -> Int { count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1 }

  // MARK: x87 environment

  private func controlX87() throws(Fault) {
    switch i.operation {
    case .fninit: initializeX87()
    case .fnclex: state.pointee.x87.status &= 0x7F00
    case .fnstenv:
      try writeImage(x87Environment(), [0..<environmentSize], count: environmentSize)
      state.pointee.x87.control |= VectorChecks.x87Masks
      normalizeX87()
    case .fnsave:
      var image = x87Environment()
      withUnsafeBytes(of: &state.pointee.x87.registers) { image.set(environmentSize, $0) }
      let size = environmentSize + 80
      try writeImage(image, [0..<size], count: size)
      initializeX87()
    case .fldenv:
      setX87Environment(try readImage(environmentSize))
      normalizeX87()
    case .frstor:
      let image = try readImage(environmentSize + 80)
      setX87Environment(image)
      withUnsafeMutableBytes(of: &state.pointee.x87.registers) { image.copy(environmentSize, to: $0) }
      normalizeX87()
    default: break
    }
  }

  private var environmentSize: Int { i.operandSize == 2 ? 14 : 28 }

  func initializeX87() {
    soft_x87_unload(state)
    state.pointee.x87.control = X87.initialControl
    soft_x87_set_status(state, 0)
    state.pointee.x87.tag = 0xFFFF
    state.pointee.x87_instruction = 0
    state.pointee.x87_data = 0
    state.pointee.x87_opcode = 0
    state.pointee.x87_selector = 0
  }

  /// Lets the host derive what it derives: tags, the error summary, reserved bits.
  func normalizeX87() { state.normalizeX87() }

  /// SDM vol. 1, figures 8-9 to 8-12.
  private func x87Environment() -> StateImage {
    normalizeX87()
    var image = StateImage(byteCount: 108)
    let x87 = state.pointee.x87
    let isReal = state.pointee.hasRealSegments
    let selector = state.pointee.x87_selector
    let ip = isReal ? UInt64(selector) << 4 &+ state.pointee.x87_instruction : state.pointee.x87_instruction
    let dp = state.pointee.x87_data
    let opcode = UInt64(state.pointee.x87_opcode)
    if i.operandSize == 2 {
      image.set(0, UInt64(x87.control), 2)
      image.set(2, UInt64(x87.status), 2)
      image.set(4, UInt64(x87.tag), 2)
      image.set(6, ip, 2)
      image.set(8, isReal ? ip >> 4 & 0xF000 | opcode : 0, 2)
      image.set(10, dp, 2)
      image.set(12, isReal ? dp >> 4 & 0xF000 : 0, 2)
      return image
    }
    image.set(0, UInt64(x87.control) | 0xFFFF_0000, 4)
    image.set(4, UInt64(x87.status) | 0xFFFF_0000, 4)
    image.set(8, UInt64(x87.tag) | 0xFFFF_0000, 4)
    if isReal {
      image.set(12, ip & 0xFFFF | 0xFFFF_0000, 4)
      image.set(16, ip >> 4 & 0xFFF_F000 | opcode, 4)
      image.set(20, dp & 0xFFFF | 0xFFFF_0000, 4)
      image.set(24, dp >> 4 & 0xFFF_F000, 4)
    } else {
      image.set(12, ip, 4)
      image.set(16, opcode << 16, 4)
      image.set(20, dp, 4)
      image.set(24, 0xFFFF_0000, 4)
    }
    return image
  }

  private func setX87Environment(_ image: StateImage) {
    let is16 = i.operandSize == 2
    let step = is16 ? 2 : 4
    func word(_ index: Int) -> UInt64 { image.value(index * step, step) }
    state.pointee.x87.control = UInt16(truncatingIfNeeded: word(0))
    soft_x87_set_status(state, UInt16(truncatingIfNeeded: word(1)))
    state.pointee.x87.tag = UInt16(truncatingIfNeeded: word(2))
    state.pointee.x87_selector = 0
    if state.pointee.hasRealSegments {
      state.pointee.x87_instruction = word(3) & 0xFFFF | (word(4) & (is16 ? 0xF000 : 0xFFF_F000)) << 4
      state.pointee.x87_data = word(5) & 0xFFFF | (word(6) & (is16 ? 0xF000 : 0xFFF_F000)) << 4
      state.pointee.x87_opcode = UInt16(truncatingIfNeeded: word(4) & 0x7FF)
    } else {
      state.pointee.x87_instruction = word(3)
      state.pointee.x87_data = word(5)
      state.pointee.x87_opcode = is16 ? 0 : UInt16(truncatingIfNeeded: word(4) >> 16 & 0x7FF)
    }
  }

  // MARK: MASKMOV

  /// Stores the bytes of the first operand whose byte in the second has bit 7 set, at rDI.
  private func storeMasked() throws(Fault) {
    let isMMX = i.operation == .maskmovq
    if isMMX { try state.checkMMX() } else { try state.checkSSE() }
    let count = isMMX ? 8 : 16
    var data = StateImage(byteCount: 16)
    var mask = StateImage(byteCount: 16)
    if isMMX {
      soft_mmx_begin(state)
      withUnsafeBytes(of: &state.pointee.x87.registers) {
        data.set(0, UnsafeRawBufferPointer(rebasing: $0[Int(i.operands[0].number & 7) * 10..<$0.count].prefix(8)))
        mask.set(0, UnsafeRawBufferPointer(rebasing: $0[Int(i.operands[1].number & 7) * 10..<$0.count].prefix(8)))
      }
    } else {
      data.set(0, UnsafeRawBufferPointer(start: vectorRegister(state, Slot.xmm(i.operands[0].number)), count: 16))
      mask.set(0, UnsafeRawBufferPointer(start: vectorRegister(state, Slot.xmm(i.operands[1].number)), count: 16))
    }
    let start = general(General.rdi) & self.mask(Int(i.addressSize))
    let chosen = (0..<count).filter { mask.value($0, 1) & 0x80 != 0 }
    guard let first = chosen.first, let last = chosen.last else { return }
    let low = (start &+ UInt64(first)) & self.mask(Int(i.addressSize))
    let linear = try linear(Int(i.segment), low, last &- first &+ 1, write: true)
    try state.probe(linear, last &- first &+ 1, segment: Int(i.segment))
    for index in chosen {
      try state.write(
        state.wrap(linear &+ UInt64(index &- first)), data.value(index, 1), width: 1, segment: Int(i.segment))
    }
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  func normalizeX87() {
    soft_x87_load(self)
    soft_x87_unload(self)
  }
}

/// Bits of MXCSR (SDM vol. 1, 10.2.3).
enum MXCSR {
  static let initial: UInt32 = 0x1F80
  static let implemented: UInt32 = 0xFFFF
  static let underflow: UInt32 = 1 << 4
  static let underflowMask: UInt32 = 1 << 11
  /// Invalid operation, denormal, divide-by-zero.
  static let beforeOperation: UInt32 = 0b111
}

enum XCR0 {
  static let x87: UInt64 = 1 << 0
  static let sse: UInt64 = 1 << 1
  static let implemented = x87 | sse
}

/// A state image in memory, little-endian. Reads beyond its end yield zeros, and writes there are lost.
struct StateImage {
  private(set) var bytes: [UInt8]

  init(byteCount: Int) { bytes = [UInt8](repeating: 0, count: byteCount) }
  init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// How many of `count` bytes at `offset` there are.
  private func available(_ offset: Int, _ count: Int) -> Int { max(0, min(count, bytes.count - offset)) }

  /// `width`: 1 to 8.
  func value(_ offset: Int, _ width: Int) -> UInt64 {
    var value: UInt64 = 0
    withUnsafeMutableBytes(of: &value) { copy(offset, to: UnsafeMutableRawBufferPointer(rebasing: $0[..<width])) }
    return value
  }

  /// `width`: 1 to 8.
  mutating func set(_ offset: Int, _ value: UInt64, _ width: Int) {
    withUnsafeBytes(of: value) { set(offset, UnsafeRawBufferPointer(rebasing: $0[..<width])) }
  }

  mutating func set(_ offset: Int, _ source: UnsafeRawBufferPointer) {
    let count = available(offset, source.count)
    guard count > 0 else { return }
    bytes.withUnsafeMutableBytes {
      UnsafeMutableRawBufferPointer(rebasing: $0[offset..<offset + count])
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[..<count]))
    }
  }

  func copy(_ offset: Int, to target: UnsafeMutableRawBufferPointer) {
    let count = available(offset, target.count)
    guard count > 0 else { return }
    bytes.withUnsafeBytes {
      target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[offset..<offset + count]))
    }
  }
}
