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
  var nextInBucket: UnsafeMutablePointer<Block>?
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
  var entries: UnsafeMutablePointer<UInt32>?
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
  private static let bucketBits: UInt64 = 17
  private static let bucketCount = 1 << Int(bucketBits)

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

  private let buckets: UnsafeMutablePointer<UnsafeMutablePointer<Block>?>
  private var pages: [UInt64: Page] = [:]
  /// The jump caches may still lead to them.
  private var dead: [UnsafeMutablePointer<Block>] = []
  private(set) var count = 0

  /// When there are more, all are dropped.
  private static let limit = 1 << 18
  /// So many dead ones are kept, since to free them the jump caches must be emptied.
  private static let deadLimit = 2048

  init() {
    buckets = .allocate(capacity: Self.bucketCount)
    buckets.initialize(repeating: nil, count: Self.bucketCount)
  }

  private func bucket(_ physical: UInt64) -> Int {
    // The multiplier is 2^64 divided by the golden ratio: neighbours end up far apart.
    Int(truncatingIfNeeded: (physical &* 0x9E37_79B9_7F4A_7C15) &>> (64 &- Self.bucketBits))
  }

  func find(physical: UInt64, mode: UInt8) -> UnsafeMutablePointer<Block>? {
    var candidate = buckets[bucket(physical)]
    while let block = candidate {
      if block.pointee.physical == physical, block.pointee.mode == mode { return block }
      candidate = block.pointee.nextInBucket
    }
    return nil
  }

  /// `host` is the page that the block begins in, `secondHost` the other one.
  mutating func insert(
    _ block: UnsafeMutablePointer<Block>, _ host: UnsafeMutableRawPointer, _ secondHost: UnsafeMutableRawPointer?
  ) {
    let bucket = bucket(block.pointee.physical)
    block.pointee.nextInBucket = buckets[bucket]
    buckets[bucket] = block
    count += 1
    add(block, to: block.pointee.physical, host, count: block.pointee.length)
    if let secondHost { add(block, to: block.pointee.secondPage, secondHost, count: block.pointee.tail) }
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
    if block.pointee.isEnteredFromOtherPages { TLB.startBranchEpoch(state) }
    dead.append(block)
    count -= 1
    let bucket = bucket(block.pointee.physical)
    if buckets[bucket] == block {
      buckets[bucket] = block.pointee.nextInBucket
      return
    }
    var previous = buckets[bucket]
    while let candidate = previous {
      if candidate.pointee.nextInBucket == block {
        candidate.pointee.nextInBucket = block.pointee.nextInBucket
        return
      }
      previous = candidate.pointee.nextInBucket
    }
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
    buckets.deallocate()
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
