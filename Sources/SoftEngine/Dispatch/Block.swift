import CSoftCPU
import X86

/// Straight-line code as micro-operations: up to a branch, the page's end or `maximum` instructions. It does not depend on
/// where the page is mapped.
// Safety: blocks are allocated and freed by BlockCache only; a dead one is freed when no operation is being executed and
// no jump cache leads to it.
struct Block {
  static let maximum = 64
  /// Entered so often, it is translated: code that is executed a few times is not worth it.
  static let hot: UInt8 = 16

  // What a search looks at comes first, and all fits a line of the host's cache; the operations stand behind it.
  let physical: UInt64
  /// Physical address of the second page that its last instruction reaches into, or `noPage`.
  let secondPage: UInt64
  let mode: UInt8
  var isDead = false
  /// Translated code of other pages may lead to it for as long as the epoch is what it is.
  var isEnteredFromOtherPages = false
  private let storedTail: UInt8
  private let storedLength: UInt16
  private let storedOperationCount: UInt16
  /// Where its translation is in `NativeCode`, or `notTranslated`.
  var native = Self.notTranslated
  /// Where in the translation each operation begins.
  var entries: UnsafeMutablePointer<NativeEntry>?
  /// A copy of the code it was made from.
  let code: UnsafeMutableRawPointer

  init(
    physical: UInt64, secondPage: UInt64, mode: UInt8, operationCount: Int, code: UnsafeMutableRawPointer, length: Int,
    tail: Int
  ) {
    self.physical = physical
    self.secondPage = secondPage
    self.mode = mode
    storedOperationCount = UInt16(clamping: operationCount)
    self.code = code
    storedLength = UInt16(clamping: length)
    storedTail = UInt8(clamping: tail)
  }

  var operationCount: Int { Int(storedOperationCount) }
  /// Bytes of `code` on the first page, and on the second.
  var length: Int { Int(storedLength) }
  var tail: Int { Int(storedTail) }

  /// The block whose first operation this is.
  @inline(__always)
  static func of(_ operations: UnsafePointer<soft_op>) -> UnsafeMutablePointer<Block> {
    let start = UnsafeRawPointer(operations) - UnsafeMutablePointer<Block>.operationsOffset
    return UnsafeMutableRawPointer(mutating: start).assumingMemoryBound(to: Block.self)
  }

  static let noPage = UInt64.max
  static let notTranslated: Int32 = -1
}

extension UnsafeMutablePointer where Pointee == Block {
  /// Where the operations are from the block on: at the next line of the host's cache.
  static var operationsOffset: Int { (MemoryLayout<Block>.size + 63) & ~63 }

  // Safety: `Lowering.makeBlock` allocates both together.
  @inline(__always) var operations: UnsafeMutablePointer<soft_op> {
    (UnsafeMutableRawPointer(self) + Self.operationsOffset).assumingMemoryBound(to: soft_op.self)
  }
}

/// The predecoded code of one vCPU, by physical address and mode.
struct BlockCache {

  /// The blocks made from a page of guest memory.
  private struct Page {
    var blocks: [UnsafeMutablePointer<Block>] = []
    /// What the page held when they were made, and which 64 bytes of it they are made from.
    let copy = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    var lines: UInt64 = 0

    /// Adds bytes that a block is made from.
    mutating func add(_ host: UnsafeMutableRawPointer, offset: Int, count: Int) {
      let first = offset >> 6
      let last = min(63, (offset + max(count, 1) - 1) >> 6)
      for line in first...last where lines >> UInt64(line) & 1 == 0 {
        (copy + line * 64).copyMemory(from: host + line * 64, byteCount: 64)
        lines |= 1 << UInt64(line)
      }
    }
  }

  /// Where a block is found, from its key's place on: its address and above it 16 bits of the key, so that the host's
  /// cache misses the block that is looked for and no other. 0: nothing, where a search ends.
  private var table: UnsafeMutablePointer<UInt64>
  /// The table has 2 to the power of so many places, at least twice as many as there are blocks.
  private var placeBits = fewestPlaceBits
  private static let fewestPlaceBits: UInt64 = 14
  private var placeCount: Int { 1 << Int(placeBits) }
  private var placeMask: Int { placeCount - 1 }
  private var pages: [UInt64: Page] = [:]
  /// The jump caches may still lead to them.
  private var dead: [UnsafeMutablePointer<Block>] = []
  private(set) var count = 0

  /// When there are more, all are dropped.
  private static let limit = 1 << 18
  /// So many dead ones are kept, since to free them the jump caches must be emptied.
  private static let deadLimit = 2048

  init() { table = soft_make_block_table(1 << Int(Self.fewestPlaceBits)) }

  /// The multiplier is 2^64 divided by the golden ratio: neighbours end up far apart.
  private static func hash(_ physical: UInt64, _ mode: UInt8) -> UInt64 {
    (physical &<< 8 | UInt64(mode)) &* 0x9E37_79B9_7F4A_7C15
  }

  private func home(_ hash: UInt64) -> Int { Int(truncatingIfNeeded: hash &>> (64 &- placeBits)) }

  private static func entry(_ block: UnsafeMutablePointer<Block>) -> UInt64 {
    let hash = hash(block.pointee.physical, block.pointee.mode)
    return UInt64(UInt(bitPattern: block)) | (hash &>> 16) &<< 48
  }

  private static func block(_ entry: UInt64) -> UnsafeMutablePointer<Block>? {
    UnsafeMutablePointer(bitPattern: UInt(entry & 0xFFFF_FFFF_FFFF))
  }

  func find(physical: UInt64, mode: UInt8) -> UnsafeMutablePointer<Block>? {
    let hash = Self.hash(physical, mode)
    var place = home(hash)
    while let block = Self.block(table[place]) {
      if table[place] &>> 48 == (hash &>> 16) & 0xFFFF, block.pointee.physical == physical, block.pointee.mode == mode {
        return block
      }
      place = (place &+ 1) & placeMask
    }
    return nil
  }

  /// `host` is the page that the block begins in, `secondHost` the other one.
  mutating func insert(
    _ block: UnsafeMutablePointer<Block>, _ host: UnsafeMutableRawPointer, _ secondHost: UnsafeMutableRawPointer?
  ) {
    count += 1
    if count * 2 > placeCount { grow() }
    enter(block)
    add(block, to: block.pointee.physical, host, count: block.pointee.length)
    if let secondHost { add(block, to: block.pointee.secondPage, secondHost, count: block.pointee.tail) }
  }

  private func enter(_ block: UnsafeMutablePointer<Block>) {
    var place = home(Self.hash(block.pointee.physical, block.pointee.mode))
    while table[place] != 0 { place = (place &+ 1) & placeMask }
    table[place] = Self.entry(block)
  }

  private mutating func grow() {
    let (old, oldCount) = (table, placeCount)
    placeBits += 1
    table = soft_make_block_table(placeCount)
    for index in 0..<oldCount {
      if let block = Self.block(old[index]) { enter(block) }
    }
    soft_free_block_table(old, oldCount)
  }

  private mutating func add(
    _ block: UnsafeMutablePointer<Block>, to physical: UInt64, _ host: UnsafeMutableRawPointer, count: Int
  ) {
    pages[physical >> 12, default: Page()].blocks.append(block)
    pages[physical >> 12]?.add(host, offset: Int(physical & 4095), count: count)
  }

  var isFull: Bool { count >= Self.limit }

  /// Memory has been written: blocks made from it die, other processors' too.
  func didWrite(_ state: State, _ physical: UInt64, _ width: Int) {
    guard let page = state.context.pointee.map.codePage(physical) else { return }
    let lines = soft_load_64(&page.pointee.lines)
    guard lines != 0 else { return }
    let first = physical >> 6 & 63
    let last = min(63, (physical & 4095 &+ UInt64(width &- 1)) >> 6)
    guard lines >> first & ((2 << (last &- first)) &- 1) != 0 else { return }
    // Emptied after the write: whoever decodes from now on sees what was written.
    _ = soft_exchange_64(&page.pointee.lines, 0)
    let holders = soft_exchange_64(&page.pointee.holders, 0)
    state.context.pointee.blocks.removePage(state, physical)
    let others = holders & ~state.context.pointee.bit
    if others != 0 { state.context.pointee.peers?.codeChanged(physical, on: others) }
  }

  /// Drops the blocks made from a page.
  mutating func removePage(_ state: State, _ physical: UInt64) {
    guard let page = pages.removeValue(forKey: physical >> 12) else { return }
    for block in page.blocks where !block.pointee.isDead { remove(state, block) }
    page.copy.deallocate()
    state.pointee.code_changed = 1
    soft_request_attention(state, Attention.code)
  }

  /// Drops the page's blocks if it no longer holds the code they were made from: a device may have written it.
  mutating func validate(_ state: State, _ physical: UInt64, _ host: UnsafeMutableRawPointer) {
    guard let page = pages[physical >> 12] else { return }
    if soft_equal_lines(page.copy, host, page.lines) == 0 { removePage(state, physical) }
  }

  private mutating func remove(_ state: State, _ block: UnsafeMutablePointer<Block>) {
    block.pointee.isDead = true
    block.operations[0].handler = softDeadBlock
    state.context.pointee.native?.remove(block)
    dead.append(block)
    count -= 1
    forget(block)
  }

  /// Takes a block out of the table. What follows moves up, so that no search ends before it.
  private func forget(_ block: UnsafeMutablePointer<Block>) {
    var hole = home(Self.hash(block.pointee.physical, block.pointee.mode))
    while Self.block(table[hole]) != block {
      guard table[hole] != 0 else { return }
      hole = (hole &+ 1) & placeMask
    }
    var place = hole
    while true {
      place = (place &+ 1) & placeMask
      guard let next = Self.block(table[place]) else { break }
      let wanted = home(Self.hash(next.pointee.physical, next.pointee.mode))
      guard (place &- wanted) & placeMask >= (place &- hole) & placeMask else { continue }
      table[hole] = table[place]
      hole = place
    }
    table[hole] = 0
  }

  /// Drops all blocks.
  mutating func removeAll(_ state: State) {
    for page in Array(pages.keys) { removePage(state, page << 12) }
    TLB.flushAllJumps(state)
  }

  /// Frees dead blocks if there are many; none is being executed.
  mutating func freeDead(_ state: State) {
    guard dead.count >= Self.deadLimit else { return }
    TLB.flushAllJumps(state)
    freeAllDead()
  }

  /// Where all have been dropped and no jump cache leads to any.
  mutating func releaseMemory() {
    freeAllDead()
    dead = []
    pages = [:]
    soft_free_block_table(table, placeCount)
    placeBits = Self.fewestPlaceBits
    table = soft_make_block_table(placeCount)
  }

  private mutating func freeAllDead() {
    // A block of two pages is listed in both; the other list still names it.
    for block in dead where block.pointee.secondPage != Block.noPage {
      for page in [block.pointee.physical, block.pointee.secondPage] {
        pages[page >> 12]?.blocks.removeAll { $0 == block }
      }
    }
    for block in dead { Self.free(block) }
    dead.removeAll(keepingCapacity: true)
  }

  static func free(_ block: UnsafeMutablePointer<Block>) {
    block.pointee.entries?.deallocate()
    UnsafeMutableRawPointer(block).deallocate()
  }

  mutating func deallocate(_ state: State) {
    removeAll(state)
    freeAllDead()
    soft_free_block_table(table, placeCount)
  }
}

/// Bits of `soft_cpu.attention`.
enum Attention {
  /// Blocks died, or are to die because another processor wrote their code.
  static let code: UInt32 = 1
  /// `kick`.
  static let kick: UInt32 = 2
  /// An interrupt controller has something for this vCPU.
  static let interrupt: UInt32 = 4
  /// The memory map changed.
  static let map: UInt32 = 8
  /// Another processor makes code of a page: no page is to be written unnoticed.
  static let writes: UInt32 = 16
  /// Another processor executes an instruction alone: this one stands still until it is done.
  static let pause: UInt32 = 32
  /// The vCPU's thread sleeps; whoever asks for attention wakes it.
  static let asleep: UInt32 = 1 << 31

  /// What is done before the guest goes on, even in the middle of an instruction.
  static let urgent = code | map | writes
}
