import Synchronization

/// One register that processors access themselves, as its device declares it.
public struct SharedRegister: Sendable, Equatable {
  /// What a read does.
  public enum Read: UInt8, Sendable {
    /// The device answers.
    case device
    /// A value; the device answers while that does not fit the register, as where a read changes it.
    case value
    /// All causes, which are cleared by it.
    case takeCauses
    case mask
    /// All causes, which stay.
    case causes
  }

  /// What a write does.
  public enum Write: UInt8, Sendable {
    /// The device performs it, and it may change any shared register: they wait for it.
    case device
    /// The device performs it, and no shared register changes by it.
    case unrelated
    case value
    case setCauses
    case setMask
    case clearMask
    /// Clears causes where it leaves none; otherwise the device performs it, which may have to interrupt again.
    case clearCauses
  }

  /// From the start of the claim.
  public let offset: UInt32
  public let width: AccessWidth
  public let read: Read
  public let write: Write
  /// Which value; of no meaning to causes and mask.
  public let index: Int
  /// What a write can change.
  public let writable: UInt32

  public init(
    _ offset: Int, _ width: AccessWidth = .dword, read: Read = .device, write: Write = .device, index: Int = 0,
    writable: UInt32 = .max
  ) {
    self.offset = UInt32(truncatingIfNeeded: offset)
    self.width = width
    self.read = read
    self.write = write
    self.index = index
    self.writable = writable
  }
}

/// Registers of a device in memory that it shares with the threads of processors, which read and write them there and do
/// not wait for the device: plain values, and the interrupt causes and mask of a level-triggered source.
///
/// The device raises the source's pin while a cause passes the mask; it falls in the same step in which the last of them
/// is cleared or masked, whoever does that. So no level is kept anywhere that could be out of date. Where the device has
/// to act on a write, its doorbell is rung.
// Safety: the memory outlives the object, and all of it is atomic. The other process may write anything into it: each
// word is read once, and none leads anywhere but to words of the same block.
public final class SharedRegisters: @unchecked Sendable {
  /// Plain values of a block.
  public static let valueCount = 8
  /// Registers of a block.
  public static let registerCount = 16
  /// Bytes of a block.
  public static let stride = 512
  /// Writes that a processor may post at most before they are performed, and so while it reads shared registers that they
  /// have not changed yet.
  public static let postedWrites = 64

  /// Causes in the low half, the mask in the high one, and the pin where a mask has no bit.
  private struct Interrupt: Equatable {
    static let pinBit: UInt64 = 1 << 63
    static let maskBits: UInt32 = 0x7FFF_FFFF

    var bits: UInt64
    var causes: UInt32 {
      get { UInt32(truncatingIfNeeded: bits) }
      set { bits = bits & ~0xFFFF_FFFF | UInt64(newValue) }
    }
    var mask: UInt32 {
      get { UInt32(truncatingIfNeeded: bits >> 32) & Self.maskBits }
      set { bits = bits & (Self.pinBit | 0xFFFF_FFFF) | UInt64(newValue & Self.maskBits) << 32 }
    }
    var pin: Bool {
      get { bits & Self.pinBit != 0 }
      set { bits = newValue ? bits | Self.pinBit : bits & ~Self.pinBit }
    }
    /// A cause passes the mask.
    var isPending: Bool { causes & mask != 0 }
  }

  private struct Block: ~Copyable {
    let interrupt = Atomic<UInt64>(0)
    /// The interrupt input that the pin drives, plus one; 0: none.
    let input = Atomic<UInt32>(0)
    /// Values whose writes ring the doorbell, a bit each.
    let awaited = Atomic<UInt32>(0)
    /// Registers: what `code` makes of them, 0 where there is none, and which bits can be written.
    let codes = InlineArray<16, Atomic<UInt64>> { _ in Atomic(0) }
    let writable = InlineArray<16, Atomic<UInt32>> { _ in Atomic(0) }
    let values = InlineArray<8, Atomic<UInt32>> { _ in Atomic(0) }
  }

  private let block: UnsafeMutablePointer<Block>
  private let isOwner: Bool
  /// The block's number in memory that processors reach; nil: all accesses come to the device.
  public let index: Int?

  /// A block that only its device has.
  public init() {
    block = .allocate(capacity: 1)
    block.initialize(to: Block())
    isOwner = true
    index = nil
  }

  /// A block of `stride` bytes at a multiple of 64, zeroed shared memory at first, which outlives this.
  public init(_ memory: UnsafeMutableRawPointer, index: Int) {
    // Safety: zeroed memory is a block's first value.
    block = memory.bindMemory(to: Block.self, capacity: 1)
    isOwner = false
    self.index = index
  }

  deinit { if isOwner { block.deinitialize(count: 1).deallocate() } }

  /// Changes the interrupt word, and lowers the pin where nothing is pending any more. nil: others keep changing it.
  @inline(__always)
  private func change<Result>(_ body: (inout Interrupt) -> Result) -> Result? {
    var old = Interrupt(bits: block.pointee.interrupt.load(ordering: .relaxed))
    for _ in 0..<1000 {
      var new = old
      let result = body(&new)
      if !new.isPending { new.pin = false }
      if new == old {
        // What is there already counts only if it is still there when all that was written before can be seen: whoever
        // takes it looks for that next.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let current = block.pointee.interrupt.load(ordering: .relaxed)
        if current == old.bits { return result }
        old.bits = current
        continue
      }
      let (isDone, current) = block.pointee.interrupt.compareExchange(
        expected: old.bits, desired: new.bits, ordering: .sequentiallyConsistent)
      if isDone { return result }
      old.bits = current
    }
    return nil
  }

  private var interrupt: Interrupt { Interrupt(bits: block.pointee.interrupt.load(ordering: .sequentiallyConsistent)) }

  // MARK: The device's side

  /// Says which registers there are; once, before the claim.
  public func declare(_ registers: [SharedRegister]) {
    for (slot, register) in registers.prefix(Self.registerCount).enumerated() {
      block.pointee.writable[slot].store(register.writable, ordering: .relaxed)
      block.pointee.codes[slot].store(Self.code(register), ordering: .releasing)
    }
  }

  private static func code(_ register: SharedRegister) -> UInt64 {
    UInt64(register.offset) | UInt64(register.width.rawValue) << 32 | UInt64(register.read.rawValue) << 40
      | UInt64(register.write.rawValue) << 48 | UInt64(register.index & 7) << 56
  }

  public var causes: UInt32 { interrupt.causes }
  public var mask: UInt32 { interrupt.mask }
  /// Whether the source asserts its interrupt.
  public var isAsserted: Bool { interrupt.pin }
  /// Whether the pin may be raised: something is pending, and it is low.
  public var wantsPin: Bool {
    let interrupt = interrupt
    return interrupt.isPending && !interrupt.pin
  }

  /// Returns the causes that there were.
  @discardableResult
  public func setCauses(_ bits: UInt32) -> UInt32 {
    while true {
      if let causes = change({ interrupt in
        defer { interrupt.causes |= bits }
        return interrupt.causes
      }) {
        return causes
      }
    }
  }
  /// Returns the causes that are left.
  @discardableResult
  public func clearCauses(_ bits: UInt32) -> UInt32 {
    while true {
      if let causes = change({ interrupt in
        interrupt.causes &= ~bits
        return interrupt.causes
      }) {
        return causes
      }
    }
  }
  public func setMask(_ bits: UInt32) { while change({ $0.mask |= bits }) == nil {} }
  public func clearMask(_ bits: UInt32) { while change({ $0.mask &= ~bits }) == nil {} }
  /// Clears all causes and returns them.
  public func takeCauses() -> UInt32 {
    while true {
      if let causes = change({ interrupt in
        defer { interrupt.causes = 0 }
        return interrupt.causes
      }) {
        return causes
      }
    }
  }

  /// Raises the pin where something is pending; true: it was low.
  public func raisePin() -> Bool {
    while true {
      if let isRaised = change({ interrupt in
        guard interrupt.isPending, !interrupt.pin else { return false }
        interrupt.pin = true
        return true
      }) {
        return isRaised
      }
    }
  }

  public func value(_ index: Int) -> UInt32 { block.pointee.values[index].load(ordering: .sequentiallyConsistent) }
  public func setValue(_ index: Int, _ value: UInt32) {
    block.pointee.values[index].store(value, ordering: .sequentiallyConsistent)
  }

  /// Whether writes of the value ring the doorbell. One that came before rang nothing: the value is to be looked at anew.
  public func setAwaited(_ index: Int, _ isAwaited: Bool) {
    if isAwaited {
      block.pointee.awaited.bitwiseOr(1 << UInt32(index), ordering: .sequentiallyConsistent)
    } else {
      block.pointee.awaited.bitwiseAnd(~(1 << UInt32(index)), ordering: .sequentiallyConsistent)
    }
  }

  /// No causes, no mask, all values zero.
  public func reset() {
    block.pointee.interrupt.store(0, ordering: .sequentiallyConsistent)
    for index in 0..<Self.valueCount { setValue(index, 0) }
  }

  /// The interrupt input that the pin drives.
  func setInput(_ input: Int?) {
    block.pointee.input.store(input.map { UInt32(truncatingIfNeeded: $0) + 1 } ?? 0, ordering: .sequentiallyConsistent)
  }

  // MARK: The processors' side

  /// Whether the source drives the input and asserts it.
  public func asserts(_ input: Int) -> Bool {
    block.pointee.input.load(ordering: .sequentiallyConsistent) == UInt32(truncatingIfNeeded: input) &+ 1 && isAsserted
  }

  /// A register as a processor has found it.
  public struct Access: Sendable {
    let slot: Int
    let code: UInt64

    /// A read that need not go to the device.
    public var isRead: Bool { read != .device }
    fileprivate var read: SharedRegister.Read {
      SharedRegister.Read(rawValue: UInt8(truncatingIfNeeded: code >> 40)) ?? .device
    }
    public var write: SharedRegister.Write {
      SharedRegister.Write(rawValue: UInt8(truncatingIfNeeded: code >> 48)) ?? .device
    }
    fileprivate var index: Int { Int(code >> 56 & 7) }
    fileprivate var width: UInt64 { code >> 32 & 0xFF }
  }

  /// The register at an offset that takes accesses of `width` bytes; nil: there is none.
  public func find(_ offset: UInt64, width: Int) -> Access? {
    for slot in 0..<Self.registerCount {
      let code = block.pointee.codes[slot].load(ordering: .acquiring)
      if code == 0 { return nil }
      if UInt64(UInt32(truncatingIfNeeded: code)) == offset, Int(code >> 32 & 0xFF) == width {
        return Access(slot: slot, code: code)
      }
    }
    return nil
  }

  /// Reads the register; nil: the device is to be asked.
  public func read(_ access: Access) -> UInt32? {
    switch access.read {
    case .value: whole(value(access.index), width: access.width)
    case .mask: mask
    case .causes: causes
    case .takeCauses:
      change { interrupt in
        defer { interrupt.causes = 0 }
        return interrupt.causes
      }
    case .device: nil
    }
  }

  private func whole(_ value: UInt32, width: UInt64) -> UInt32? { UInt64(value) >> (8 * width) == 0 ? value : nil }

  /// Writes the register. Whether the device's doorbell is to be rung; nil: the device is to perform the write.
  public func write(_ access: Access, _ value: UInt32) -> Bool? {
    let writable = block.pointee.writable[access.slot].load(ordering: .relaxed)
    let bits = value & writable
    switch access.write {
    case .value:
      setValue(access.index, bits)
      return block.pointee.awaited.load(ordering: .sequentiallyConsistent) >> UInt32(access.index) & 1 != 0
    case .setCauses: return changed { $0.causes |= bits }
    case .setMask: return changed { $0.mask |= bits }
    case .clearMask: return changed { $0.mask &= ~bits }
    case .clearCauses:
      let isDone = change { interrupt in
        guard interrupt.causes & ~bits == 0 else { return false }
        interrupt.causes = 0
        return true
      }
      return isDone == true ? false : nil
    case .device, .unrelated: return nil
    }
  }

  private func changed(_ body: (inout Interrupt) -> Void) -> Bool? {
    change { interrupt in
      body(&interrupt)
      return interrupt.isPending && !interrupt.pin
    }
  }
}
