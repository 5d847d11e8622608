import CSoftCPU
import LinuxSystem

/// Memory for code of the host: one file mapped twice, so that nothing is writable and executable at the same address.
// Safety: the vCPU's thread alone uses it.
final class NativeCode {
  /// Bytes. What has been translated is dropped when they are used up.
  static let capacity = 32 << 20

  private let writable: Mapping
  private let executable: Mapping
  /// What blocks call; made with the first block that is translated.
  private(set) var routines: Routines?
  /// Where the next block goes, and what of it is rarely executed.
  private(set) var cursor: Int
  private(set) var coldCursor = coldStart
  /// Where the first block goes.
  private var start: Int
  private static let coldStart = capacity / 8 * 5
  /// A block did not fit.
  private(set) var isFull = false
  /// Handlers that code jumps to, by address: where in the table their pointer stands.
  private var pointers: [UInt: Int] = [:]

  /// The table of pointers comes first.
  private static let pointerCount = 512
  /// Where the routine is that fills `RegisterCache.registers` and goes on.
  static let resume = pointerCount * 8

  /// Nil: the host does not permit it, or has no memory.
  init?() {
    guard let file = try? LinuxSystem.Descriptor.memory(named: "vmrun-code", size: UInt64(Self.capacity)),
      let writable = try? Mapping(sharing: file, count: Self.capacity),
      let executable = try? Mapping(executing: file, count: Self.capacity)
    else { return nil }
    self.writable = writable
    self.executable = executable
    cursor = Self.pointerCount * 8
    start = cursor
  }

  /// The routines, which many a short run does without.
  func makeRoutines() -> Routines {
    if let routines { return routines }
    var assembler = Assembler()
    let made = Routines(at: cursor, &assembler) { address in
      let slot = pointers.count * 8
      pointers[address] = slot
      writable.base.storeBytes(of: address, toByteOffset: slot, as: UInt.self)
      return slot
    }
    _ = append(assembler.bytes)
    start = cursor
    routines = made
    return made
  }

  /// Where the pointer to a handler stands; nil: the table is full.
  func pointer(_ handler: soft_handler) -> Int? {
    let address = Template.address(handler)
    if let slot = pointers[address] { return slot }
    guard pointers.count < Self.pointerCount else { return nil }
    let slot = pointers.count * 8
    writable.base.storeBytes(of: address, toByteOffset: slot, as: UInt.self)
    pointers[address] = slot
    return slot
  }

  /// Puts code at the cursors; false: it does not fit.
  func append(_ bytes: [UInt8], cold: [UInt8] = []) -> Bool {
    guard bytes.count <= Self.coldStart - cursor, cold.count <= Self.capacity - coldCursor else {
      isFull = true
      return false
    }
    cursor = put(bytes, at: cursor)
    coldCursor = put(cold, at: coldCursor)
    return true
  }

  /// Where the next goes.
  private func put(_ bytes: [UInt8], at place: Int) -> Int {
    bytes.withUnsafeBytes { source in
      guard let from = source.baseAddress else { return }
      (writable.base + place).copyMemory(from: from, byteCount: source.count)
    }
    let end = place + bytes.count
    let next = (end + 15) & ~15
    for offset in end..<next {
      writable.base.storeBytes(of: Assembler.breakpoint, toByteOffset: offset, as: UInt8.self)
    }
    return next
  }

  /// Bytes before a block's code that look for a notice first. They are on every way round a loop: whatever comes from
  /// behind enters there, and what finds blocks by their addresses.
  static let prologueSize = 16

  /// Where a jump from `place` enters a block whose code is at `native`.
  static func entry(of native: Int, from place: Int) -> Int { native <= place ? native - prologueSize : native }

  /// What translated code jumps to that found a block in the jump cache; nil while there is no such code.
  func entry(of block: UnsafeMutablePointer<Block>) -> UnsafeMutableRawPointer? {
    guard let routines else { return nil }
    let native = block.pointee.native
    return base + (native == Block.notTranslated ? routines.enter : Int(native) - Self.prologueSize)
  }

  /// Has a direct branch, whose distance ends at `end`, go to a block of the same page, if that is translated.
  // Safety: the distance is aligned, so it is fetched as it was or as it will be, and either is right.
  func connect(branchEndingAt end: Int, to target: UnsafeMutablePointer<Block>) {
    guard target.pointee.native != Block.notTranslated, !target.pointee.isDead else { return }
    let distance = Int32(truncatingIfNeeded: Self.entry(of: Int(target.pointee.native), from: end) - end)
    writable.base.storeBytes(of: distance, toByteOffset: end - 4, as: Int32.self)
  }

  /// What is between the end of an epoch and the end of the distance of a branch into another page.
  static let epochDistance = 24

  /// Has a direct branch into another page go to a block while the epoch is this one.
  // Safety: the epoch is stored last, so whoever finds it finds the distance; the old one does not come again.
  func connect(branchEndingAt end: Int, to target: UnsafeMutablePointer<Block>, epoch: UInt32) {
    guard target.pointee.native != Block.notTranslated, !target.pointee.isDead else { return }
    target.pointee.isEnteredFromOtherPages = true
    connect(branchEndingAt: end, to: target)
    writable.base.storeBytes(of: epoch, toByteOffset: end - Self.epochDistance - 4, as: UInt32.self)
  }

  /// Has a dead block's code leave for `softDeadBlock`: it begins with RSI = its operations, 10 bytes of which the last
  /// two are 0, and what follows makes room for a jump.
  // Safety: one aligned store; whoever is about to enter the block may enter it as it was, as another processor may.
  func remove(_ block: UnsafeMutablePointer<Block>) {
    guard let routines, block.pointee.native != Block.notTranslated else { return }
    let at = Int(block.pointee.native) + 8
    let distance = UInt64(UInt32(truncatingIfNeeded: routines.dead - (at + 8)))
    writable.base.storeBytes(of: distance << 32 | 0x25FF_0000, toByteOffset: at, as: UInt64.self)
  }

  /// Has all blocks dropped before the next one is entered.
  func fill() { isFull = true }

  /// Drops all blocks' code; none is being executed.
  func removeAll() {
    cursor = start
    coldCursor = Self.coldStart
    isFull = false
  }

  /// Gives back the pages behind the cursors.
  func releaseMemory() {
    discardPages(of: UnsafeMutableRawBufferPointer(rebasing: writable.bytes[cursor..<Self.coldStart]))
    discardPages(of: UnsafeMutableRawBufferPointer(rebasing: writable.bytes[coldCursor...]))
  }

  /// Where offset 0 is executed.
  var base: UnsafeMutableRawPointer { executable.base }

  /// Code at an offset, as what a micro-operation has.
  func handler(at offset: Int) -> soft_handler { Self.handler(base + offset) }

  // Safety: the address is one that code was put at; it is called as a handler only while that code is there.
  @inline(__always)
  static func handler(_ address: UnsafeMutableRawPointer) -> soft_handler {
    unsafeBitCast(address, to: soft_handler.self)
  }
}
