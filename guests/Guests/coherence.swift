import CPU

/// Memory as several processors see it: locked instructions, the order of loads and stores, code that another processor
/// changes, translations that another processor takes away.
@main enum Coherence: Guest {
  static let name: StaticString = "coherence"
  static let jobVector: UInt8 = 0x31
  static let stopVector: UInt8 = 0x32
  static let flushVector: UInt8 = 0x33

  // What the processors share, each word in a cache line of its own.
  static let arrived = Memory.a
  static let generation = Memory.a + 0x40
  static let participants = Memory.a + 0x80
  static let ready = Memory.a + 0xC0
  static let done = Memory.a + 0x100
  static let failed = Memory.a + 0x140
  static let sum = Memory.a + 0x180
  static let counter = Memory.a + 0x1C0
  static let isOver = Memory.a + 0x200
  static let go = Memory.a + 0x240
  static let stopped = Memory.a + 0x280
  static let executed = Memory.a + 0x2C0
  static let result = Memory.a + 0x300
  static let flushed = Memory.a + 0x340
  /// A page of memory for each test.
  static let table = Memory.a + 0x1000
  static let scratch = Memory.b
  static let code = Memory.c

  nonisolated(unsafe) static var job = Job.pairs
  nonisolated(unsafe) static var others: UInt32 = 0
  /// Ring 0 is not interpreted one instruction at a time by a KVM without VT-x and AMD-V, whose locked instructions are
  /// not atomic across cache lines.
  nonisolated(unsafe) static var isFast = false

  /// Where they are more than the host may have, each round takes the host's time slices.
  static var rounds: UInt32 { isFast ? (others == 1 ? 300 : 40) : 20 }

  static func run() {
    let processors = FirmwareConfig.processors
    say("\(processors) processors")
    guard check(processors >= 2, "there are at least two") else { return }
    others = processors - 1
    Memory.clear(Memory.a, bytes: 4096)
    Window.open(table)
    Interrupts.handler = { vector in
      if vector == Coherence.stopVector { CrossModification.stand() }
      if vector == Coherence.flushVector { ShootDown.flush() }
    }
    startProcessors(others) { load32(arrived) }
    guard check(load32(arrived) == others, "the others have started") else { return }
    isFast = (0..<3).contains { _ in loopMicroseconds() < 1000 }
    if !isFast { say("ring 0 is interpreted here: fewer rounds, and no locked access across cache lines") }
    for operation in LockedOperation.allCases {
      for place in Place.allCases where isFast || place.isWithinLine { Atomicity.test(operation, place) }
    }
    Atomicity.testPairs()
    MemoryOrder.test()
    CrossModification.test()
    ShootDown.test()
  }

  /// 10,000 instructions.
  private static func loopMicroseconds() -> UInt64 {
    var watch = Stopwatch()
    for _ in 0..<2000 { _ = load8(scratch) }
    return watch.microseconds()
  }

  /// Does a job on `count` processors, this one included, and waits until all are done with it.
  static func together(_ new: Job, _ count: UInt32 = .max) {
    job = new
    let count = min(count, others + 1)
    store32(participants, count)
    store32(ready, 0)
    store32(done, 0)
    store32(failed, 0)
    store64(sum, 0)
    store32(isOver, 0)
    store32(generation, load32(generation) + 1)
    LocalAPIC.send(0xC4000 | UInt32(jobVector))
    perform(0)
    guard eventually(30_000, { load32(done) == others }) else {
      check(false, "\(others - load32(done)) processors did not come back")
      finish()
    }
  }

  /// What a participant does.
  static func perform(_ index: UInt32) {
    switch job {
    case .atomicity(let operation, let place): Atomicity.take(operation, place, index)
    case .pairs: Atomicity.takePairs()
    case .storeBuffer(let barrier): MemoryOrder.take(barrier, index)
    case .messages: MemoryOrder.takeMessages(index)
    case .stopsByInterrupt: CrossModification.takeInterrupts(index)
    case .waitsForFlag: CrossModification.takeFlags(index)
    case .shootDown: ShootDown.take(index)
    }
  }

  /// Returns when all participants have come here.
  static func meet() {
    _ = atomic_increment(ready)
    while load32(ready) < load32(participants) { pause() }
  }

  static func map(_ page: UInt64, _ address: UInt64) {
    store64(table + 8 * page, address | Window.present | Window.writable)
    invlpg(Window.base + page << 12)
  }
}

/// Where start.s leaves a processor: 64-bit mode, a stack of its own, interrupts off.
@c(ap_main)
func applicationProcessor(_ ticket: UInt32) {
  LocalAPIC.start()
  // Participant 0 is the bootstrap processor.
  let index = ticket + 1
  var seen = load32(Coherence.generation)
  _ = atomic_increment(Coherence.arrived)
  while true {
    cli()
    if load32(Coherence.generation) == seen {
      sti_hlt()
      continue
    }
    sti()
    seen = load32(Coherence.generation)
    if index < load32(Coherence.participants) { Coherence.perform(index) }
    _ = atomic_increment(Coherence.done)
  }
}

/// What the processors do together.
enum Job {
  case atomicity(LockedOperation, Place)
  case pairs
  case storeBuffer(MemoryOrder.Barrier)
  case messages, stopsByInterrupt, waitsForFlag
  case shootDown
}

/// Where an operand of 8 bytes lies.
enum Place: UInt8, CaseIterable {
  case aligned, withinLine, acrossLines, acrossPages

  var isWithinLine: Bool { self == .aligned || self == .withinLine }

  var address: UInt64 {
    switch self {
    case .aligned: return Coherence.scratch + 0x40
    case .withinLine: return Coherence.scratch + 0x43
    case .acrossLines: return Coherence.scratch + 0x7D
    case .acrossPages: return Window.base + 0x1FFD
    }
  }

  func write() {
    switch self {
    case .aligned: Console.write("aligned")
    case .withinLine: Console.write("misaligned within a cache line")
    case .acrossLines: Console.write("across cache lines")
    case .acrossPages: Console.write("across pages")
    }
  }
}

enum LockedOperation: UInt8, CaseIterable {
  case inc, dec, add, xadd, cmpxchg, bts, xchg, cmpxchg8b

  func write() {
    switch self {
    case .inc: Console.write("INC")
    case .dec: Console.write("DEC")
    case .add: Console.write("ADD")
    case .xadd: Console.write("XADD")
    case .cmpxchg: Console.write("CMPXCHG")
    case .bts: Console.write("BTS and BTR as a lock")
    case .xchg: Console.write("XCHG")
    case .cmpxchg8b: Console.write("CMPXCHG8B")
    }
  }
}

/// All processors change one operand.
enum Atomicity {
  /// What the operand holds at first: a carry into the bytes on the other side of a boundary is not far.
  private static let start: UInt64 = 0xFFFF_FE00
  /// Changes every byte.
  private static let step: UInt64 = 0x0123_4567_89AB_CDEF

  static func test(_ operation: LockedOperation, _ place: Place) {
    let address = place.address
    // Pages that are not neighbours.
    Coherence.map(1, Coherence.scratch + 0x4000)
    Coherence.map(2, Coherence.scratch + 0x2000)
    store64(address, operation == .bts ? 0 : operation == .xchg ? pattern(0xFF) : start)
    store64(Coherence.counter, 0)
    Coherence.together(.atomicity(operation, place))
    let total = count(place) * UInt64(Coherence.others + 1)
    let value = load64(address)
    var isRight = load32(Coherence.failed) == 0
    switch operation {
    case .inc, .cmpxchg8b: isRight = isRight && value == start &+ total
    case .dec: isRight = isRight && value == start &- total
    case .add, .cmpxchg: isRight = isRight && value == start &+ total &* step
    case .xadd: isRight = isRight && value == start &+ total && load64(Coherence.sum) == total * (total - 1) / 2
    case .bts: isRight = isRight && load64(Coherence.counter) == total
    // Each value is still somewhere: with a processor, or in memory.
    case .xchg:
      var all = pattern(0xFF)
      for index in 0...Coherence.others { all ^= pattern(index) }
      isRight = isRight && load64(Coherence.sum) ^ value == all
    }
    check(isRight, "\(operation) \(place), \(total) times by \(Coherence.others + 1) processors")
  }

  /// A byte eight times: a torn one shows.
  private static func pattern(_ number: UInt32) -> UInt64 { UInt64(number & 0xFF) &* 0x0101_0101_0101_0101 }

  private static func count(_ place: Place) -> UInt64 {
    Coherence.isFast ? (place.isWithinLine ? 20_000 : 2000) : 100
  }

  static func take(_ operation: LockedOperation, _ place: Place, _ index: UInt32) {
    let address = place.address
    invlpg(Window.base + 0x1000)
    invlpg(Window.base + 0x2000)
    var value = pattern(index)
    var sum: UInt64 = 0
    Coherence.meet()
    for _ in 0..<count(place) {
      switch operation {
      case .inc: lock_inc(address)
      case .dec: lock_dec(address)
      case .add: lock_add(address, step)
      case .xadd: sum &+= lock_xadd(address, 1) &- start
      case .cmpxchg, .cmpxchg8b:
        let step = operation == .cmpxchg ? step : 1
        var old = load64(address)
        while true {
          let found =
            operation == .cmpxchg
            ? lock_cmpxchg(address, old, old &+ step) : lock_cmpxchg8b(address, old, old &+ step)
          if found == old { break }
          old = found
        }
      case .bts:
        while lock_bts(address) != 0 { pause() }
        store64(Coherence.counter, load64(Coherence.counter) + 1)
        lock_btr(address)
      case .xchg:
        value = xchg(address, value)
        if value != pattern(UInt32(truncatingIfNeeded: value)) { store32(Coherence.failed, 1) }
      }
    }
    if operation == .xadd { lock_add(Coherence.sum, sum) }
    if operation == .xchg {
      var old = load64(Coherence.sum)
      while true {
        let found = lock_cmpxchg(Coherence.sum, old, old ^ value)
        if found == old { break }
        old = found
      }
    }
  }

  /// Both halves of 16 bytes count, in opposite directions.
  static func testPairs() {
    guard cpuid(1, 0).ecx & 1 << 13 != 0 else { return say("no CMPXCHG16B") }
    store64(pair, 0)
    store64(pair + 8, .max)
    Coherence.together(.pairs)
    let total = pairs * UInt64(Coherence.others + 1)
    check(
      load64(pair) == total && load64(pair + 8) == ~total,
      "CMPXCHG16B, \(total) times by \(Coherence.others + 1) processors")
  }

  private static let pair = Coherence.scratch
  private static var pairs: UInt64 { Coherence.isFast ? 5000 : 20 }

  static func takePairs() {
    Coherence.meet()
    for _ in 0..<pairs {
      var low = load64(pair)
      while compare_exchange_16(pair, low, ~low, low &+ 1, ~(low &+ 1)) == 0 { low = load64(pair) }
    }
  }
}

/// SDM vol. 3, 9.2.
enum MemoryOrder {
  private static let words: UInt64 = 256
  private static let x = Memory.b + 0x8000
  private static let y = Memory.b + 0x10000
  private static let seen = Memory.b + 0x18000
  enum Barrier { case none, fence, exchange }

  static func test() {
    let unordered = storeBuffer(.none)
    say("without a fence both processors read 0 \(unordered) times")
    check(storeBuffer(.fence) == 0, "never with MFENCE between store and load")
    check(storeBuffer(.exchange) == 0, "never when the store is XCHG")
    messages()
  }

  /// How often neither of two processors sees what the other stored.
  private static func storeBuffer(_ barrier: Barrier) -> UInt32 {
    var both: UInt32 = 0
    for _ in 0..<(Coherence.isFast ? 100 : 2) {
      Memory.clear(x, bytes: 64 * words)
      Memory.clear(y, bytes: 64 * words)
      Coherence.together(.storeBuffer(barrier), 2)
      for word in 0..<words where load32(seen + 4 * word) == 0 && load32(seen + 4096 + 4 * word) == 0 { both += 1 }
    }
    return both
  }

  static func take(_ barrier: Barrier, _ index: UInt32) {
    let (own, other) = index == 0 ? (x, y) : (y, x)
    Coherence.meet()
    for word in 0..<words {
      let value =
        switch barrier {
        case .none: store_then_load(own + 64 * word, other + 64 * word)
        case .fence: store_fence_load(own + 64 * word, other + 64 * word)
        case .exchange: exchange_then_load(own + 64 * word, other + 64 * word)
        }
      store32(seen + UInt64(index) * 4096 + 4 * word, value)
    }
  }

  /// One processor stores data and then a flag; whoever sees the flag sees the data.
  private static func messages() {
    Memory.clear(x, bytes: 64)
    Memory.clear(y, bytes: 64)
    Coherence.together(.messages, 2)
    check(load32(Coherence.failed) == 0, "stores are seen in their order, and loads made in theirs")
  }

  static func takeMessages(_ index: UInt32) {
    let last: UInt32 = Coherence.isFast ? 20_000 : 500
    Coherence.meet()
    if index == 0 {
      for value in 1...last {
        store32(x, value)
        store32(y, value)
      }
    } else {
      var flag: UInt32 = 0
      while flag < last {
        flag = load32(y)
        if load32(x) < flag { store32(Coherence.failed, 1) }
        pause()
      }
    }
  }
}

/// One processor changes code that another executes (SDM vol. 3, 9.1.3).
enum CrossModification {
  /// `mov eax, value; ret`, the value aligned.
  private static let entry = Coherence.code + 3

  private static var rounds: UInt32 { Coherence.rounds }

  static func test() {
    store8(entry, 0xB8)
    store8(entry + 5, 0xC3)
    stopsByInterrupt()
    waitsForFlag()
  }

  private static func change(_ value: UInt32) { store32(entry + 1, value) }

  private static func call() -> UInt32 { UInt32(truncatingIfNeeded: call_code(entry)) }

  /// The other executes the code all the time but while an interrupt holds it.
  private static func stopsByInterrupt() {
    change(0)
    store32(Coherence.go, 0)
    store32(Coherence.stopped, 0)
    store32(Coherence.executed, 0)
    Coherence.together(.stopsByInterrupt, 2)
    check(load32(Coherence.failed) == 0, "code changed while an interrupt holds the other processor, \(rounds) times")
  }

  static func takeInterrupts(_ index: UInt32) {
    Coherence.meet()
    guard index == 0 else {
      while load32(Coherence.isOver) == 0 {
        store32(Coherence.result, call())
        store32(Coherence.executed, load32(Coherence.executed) &+ 1)
      }
      return
    }
    for round in 1...rounds {
      LocalAPIC.send(0xC4000 | UInt32(Coherence.stopVector))
      wait(Coherence.stopped, Coherence.others * round)
      change(round)
      store32(Coherence.go, round)
      // The second result from now on is one of a call that began after the change.
      wait(Coherence.executed, load32(Coherence.executed) &+ 2)
      if load32(Coherence.result) != round { store32(Coherence.failed, 1) }
    }
    store32(Coherence.isOver, 1)
  }

  private static func wait(_ word: UInt64, _ value: UInt32) {
    while Int32(bitPattern: load32(word) &- value) < 0 { pause() }
  }

  /// In the interrupt of the processors that do not change the code.
  static func stand() {
    let round = load32(Coherence.go) &+ 1
    _ = atomic_increment(Coherence.stopped)
    wait(Coherence.go, round)
    serialise()
  }

  /// The other waits for a word in memory, serialises and executes the new code.
  private static func waitsForFlag() {
    change(0)
    store32(Coherence.go, 0)
    store32(Coherence.executed, 0)
    Coherence.together(.waitsForFlag, 2)
    check(load32(Coherence.failed) == 0, "code changed while the other waits for a flag, \(rounds) times")
  }

  static func takeFlags(_ index: UInt32) {
    Coherence.meet()
    for round in 1...rounds {
      if index == 0 {
        change(round)
        store32(Coherence.go, round)
        wait(Coherence.executed, round)
      } else {
        wait(Coherence.go, round)
        serialise()
        if call() != round { store32(Coherence.failed, 1) }
        store32(Coherence.executed, round)
      }
    }
  }
}

/// A page's translation changes, and an interrupt tells the others to flush it (SDM vol. 3, 4.10.5).
enum ShootDown {
  private static let page: UInt64 = 5
  private static var linear: UInt64 { Window.base + page << 12 }
  private static let poison: UInt32 = 0xDEAD

  /// Two physical pages take turns. Each holds a number at 0, a word to write at 0x100, code at 0x200.
  private static func physical(_ round: UInt32) -> UInt64 { Memory.c + 0x10000 + UInt64(round & 1) << 13 }

  private static func fill(_ round: UInt32, _ value: UInt32) {
    store32(physical(round), value)
    store8(physical(round) + 0x203, 0xB8)
    store32(physical(round) + 0x204, value)
    store8(physical(round) + 0x208, 0xC3)
  }

  private static var rounds: UInt32 { Coherence.rounds }

  /// In the interrupt.
  static func flush() {
    invlpg(linear)
    _ = atomic_increment(Coherence.flushed)
  }

  static func test() {
    store32(Coherence.flushed, 0)
    store32(Coherence.executed, 0)
    fill(0, 1)
    Coherence.map(page, physical(0))
    Coherence.together(.shootDown)
    let failed = load32(Coherence.failed)
    check(failed != 1, "no load by a translation that was taken away, \(rounds) times")
    check(failed != 2, "no code")
    check(failed != 3, "and no store")
  }

  static func take(_ index: UInt32) {
    Coherence.meet()
    guard index == 0 else {
      while load32(Coherence.isOver) == 0 {
        if load32(linear) == poison { store32(Coherence.failed, 1) }
        if UInt32(truncatingIfNeeded: call_code(linear + 0x203)) == poison { store32(Coherence.failed, 2) }
        store32(linear + 0x100 + 4 * UInt64(index), 1)
        _ = atomic_increment(Coherence.executed)
      }
      return
    }
    for round in 1...rounds {
      let before = load32(Coherence.executed)
      fill(round, round + 1)
      Coherence.map(page, physical(round))
      LocalAPIC.send(0xC4000 | UInt32(Coherence.flushVector))
      while load32(Coherence.flushed) < Coherence.others * round { pause() }
      // From here on nobody may use the page that was there.
      let old = physical(round &- 1)
      fill(round &- 1, poison)
      Memory.clear(old + 0x100, bytes: 256)
      while load32(Coherence.executed) &- before < 2 * Coherence.others { pause() }
      for word in 0..<64 where load32(old + 0x100 + 4 * UInt64(word)) != 0 { store32(Coherence.failed, 3) }
    }
    store32(Coherence.isOver, 1)
  }
}

extension Text.Interpolation {
  func appendInterpolation(_ place: Place) { place.write() }
  func appendInterpolation(_ operation: LockedOperation) { operation.write() }
}
