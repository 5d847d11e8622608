import CSoftCPU

/// Turns a block's micro-operations into code of the host. Those that have a template become code; the others' handlers
/// are called as ever. The state in memory is the same after each of them as if handlers had executed it: so any of them
/// may fault, wait for a device or be executed anew.
struct Translator {
  private var a = Assembler()
  /// Where the block will stand in the code.
  private var origin = 0
  /// The host has the guest's arithmetic flags.
  private var flagsAreInHost = false
  /// Direct branches whose targets are reached from behind the block, and their jumps there.
  private var departures: [Departure] = []
  /// Pushes or pops that are done one by one behind the block where they are not on one page of the TLB.
  private var stackRuns: [StackRun] = []
  /// Every routine that was asked for exists.
  private var isComplete = true
  private let operations: UnsafeMutablePointer<soft_op>
  private let count: Int
  /// `code_page`; 0: it is not the supervisor's.
  private let supervisorPage: UInt64
  private var templates: [Template?]
  private let routines: Routines

  private struct Departure {
    let index: Int
    let skips: [Int]
    /// For another page, to be connected until the epoch changes.
    let leavesPage: Bool
  }

  private struct StackRun {
    let operations: Range<Int>
    let skip: Int
    /// Where the block goes on.
    let end: Int
  }

  private init(_ code: NativeCode, _ block: UnsafeMutablePointer<Block>, _ state: State) {
    routines = code.routines
    supervisorPage = state.pointee.branch_epoch != BranchEpoch.user ? state.pointee.code_page : 0
    origin = code.cursor
    let operations = block.operations
    self.operations = operations
    count = block.pointee.operationCount
    templates = (0..<count).map { Template.of(operations[$0]) }
    for index in 0..<count {
      switch templates[index] {
      case .rotate: if !flagsAreDead(after: index) { templates[index] = nil }
      default: break
      }
    }
  }

  /// Translates a block that is being entered, whose operations lead into the code from then on; false: it stays as it
  /// is.
  static func translate(_ block: UnsafeMutablePointer<Block>, _ code: NativeCode, _ state: State) -> Bool {
    var translator = Translator(code, block, state)
    return translator.translate(block, code)
  }

  private mutating func translate(_ block: UnsafeMutablePointer<Block>, _ code: NativeCode) -> Bool {
    // Where handlers do most of the work, going in and out only costs.
    guard templates.count(where: { $0 != nil }) * 2 > count else { return false }
    let entries = UnsafeMutablePointer<UInt32>.allocate(capacity: count + 1)
    /// Operations that are not entered by `softNativeContinue`, with where they are.
    var handlers: [(index: Int, handler: soft_handler)] = []
    var continuations: [(index: Int, offset: Int)] = []
    var index = 0
    while index < count {
      defer { index += 1 }
      let followsHandler = index > 0 && templates[index - 1] == nil
      guard templates[index] != nil else {
        handlers.append((index, operations[index].handler))
        entries[index] = UInt32(a.count)
        // Handler to handler it goes as without translation.
        if followsHandler { continue }
        guard let pointer = code.pointer(operations[index].handler) else {
          entries.deallocate()
          return false
        }
        emitHandler(index, pointerAt: pointer)
        continue
      }
      if followsHandler {
        continuations.append((index, a.count))
        a.loadAddress(.rsi, .rsi, -Int32(index * MemoryLayout<soft_op>.stride))
        flagsAreInHost = false
      }
      let stackCount = stackOperations(from: index)
      if stackCount > 1 {
        emitStack(index, stackCount)
        index += stackCount - 1
        continue
      }
      entries[index] = UInt32(a.count)
      emit(index)
    }
    entries[count] = UInt32(a.count)
    for run in stackRuns {
      a.land(run.skip)
      for each in run.operations {
        entries[each] = UInt32(a.count)
        emit(each)
      }
      a.jump(to: run.end)
    }
    for departure in departures {
      for skip in departure.skips { a.land(skip) }
      if departure.leavesPage {
        emitHandler(departure.index, pointerAt: routines.leavePage)
      } else {
        emitFollow(departure.index)
      }
    }
    guard isComplete, code.append(a.bytes) else {
      entries.deallocate()
      return false
    }
    block.pointee.entries = entries
    block.pointee.native = Int32(truncatingIfNeeded: origin)
    for index in 1..<count { operations[index].handler = softNativeContinue }
    for (index, handler) in handlers { operations[index].handler = handler }
    for (index, offset) in continuations { operations[index].handler = code.handler(at: origin + offset) }
    operations[0].handler = code.handler(at: origin)
    return true
  }

  /// Goes to an operation's handler, or another for the same operation.
  private mutating func emitHandler(_ index: Int, pointerAt pointer: Int) {
    a.store(.rsi, NativeState.block)
    if index > 0 { a.loadAddress(.rsi, .rsi, Int32(index * MemoryLayout<soft_op>.stride)) }
    a.jump(throughPointerAt: pointer - origin)
  }

  private mutating func call(_ routine: Int?) {
    guard let routine else {
      isComplete = false
      return
    }
    a.call(routine - origin)
  }

  private func place(_ slot: UInt8) -> HostAddress { NativeState.slot(slot) }

  /// Writes a register operand from RAX, whose upper half is clear if it has 4 bytes.
  private mutating func setRegister(_ slot: UInt8, size: Int) {
    a.store(.rax, place(slot), size: size == 4 ? 8 : size)
  }

  /// Emits the code of an operation that has a template.
  private mutating func emit(_ index: Int) {
    guard let template = templates[index] else { return }
    let op = operations[index]
    switch template {
    case .block:
      // `NativeCode.remove` changes these 16 bytes.
      a.move(.rsi, quadword: UInt64(UInt(bitPattern: operations)))
      a.calculate(.cmp, NativeState.attention, immediate: 0, size: 4)
      a.jump(if: HostCondition.notEqual, to: routines.attend - origin)
    case .nothing: break
    case .move(let size):
      a.load(.rax, place(op.src), size: size)
      setRegister(op.dst, size: size)
    case .moveImmediate(let size):
      if size == 8, let value = Int32(exactly: op.imm) {
        a.store(immediate: value, place(op.dst))
      } else {
        a.move(.rax, immediate: Self.immediate(op, size: size))
        setRegister(op.dst, size: size)
      }
    case .extend(let signed, let from, let to):
      if signed {
        a.loadSigned(.rax, place(op.src), size: from)
        if to == 4 { a.move(.rax, .rax, size: 4) }
      } else {
        a.load(.rax, place(op.src), size: from)
      }
      setRegister(op.dst, size: to)
    case .address(let size):
      emitOffset(op)
      emitMask(size == 4 ? op.aux & 0xFFFF_FFFF : op.aux)
      setRegister(op.dst, size: size)
    case .load(let access):
      emitAddress(op, access)
      call(routines.load[access])
      setRegister(op.dst, size: access.size)
    case .loadForWrite(let access):
      emitAddress(op, access)
      call(routines.loadForWrite[access])
      setRegister(op.dst, size: access.size)
    case .store(let access):
      emitAddress(op, access)
      a.load(.rdx, place(op.src), size: access.size)
      call(routines.store[access])
    case .push:
      flagsAreInHost = false
      a.load(.rdx, place(op.src))
      call(routines.push)
    case .pop:
      flagsAreInHost = false
      call(routines.pop)
      setRegister(op.dst, size: 8)
    case .binary(let kind, let size, let immediate): emitBinary(index, kind, size, immediate)
    case .step(let change, let size):
      a.load(.rax, place(op.dst), size: size)
      call(routines.step[.init(key: change, size: size)])
      flagsAreInHost = false
      setRegister(op.dst, size: size)
    case .complement(let size):
      a.load(.rax, place(op.dst), size: size)
      a.complement(.rax, size: size)
      setRegister(op.dst, size: size)
    case .shift(let kind, let size): emitShift(index, kind, size)
    case .shiftFreely(let kind, let size):
      a.load(.rax, place(op.src), size: size)
      a.load(.rcx, place(op.base), size: 4)
      a.shiftByCL(kind, .rax, size: size)
      flagsAreInHost = false
      setRegister(op.dst, size: size)
    case .rotate(let kind, let size):
      a.load(.rax, place(op.dst), size: size)
      a.rotate(kind, .rax, by: Template.shiftCount(op, size: size), size: size)
      flagsAreInHost = false
      setRegister(op.dst, size: size)
    case .multiply(let size, let immediate):
      if immediate {
        a.move(.rax, immediate: Self.immediate(op, size: size))
      } else {
        a.load(.rax, place(op.dst), size: size)
      }
      a.load(.rcx, place(op.src), size: size)
      a.multiply(.rax, .rcx, size: size)
      flagsAreInHost = false
      if !flagsAreDead(after: index) {
        // CF is OF.
        a.spreadCarry(.rdx)
        a.shift(.shl, .rdx, by: 63)
        a.store(.rdx, NativeState.carries)
        a.move(.r9, .rax)
        if size == 4 { a.signExtend(.r9, size: 4) }
        a.store(.r9, NativeState.result)
      }
      setRegister(op.dst, size: size)
    case .setIf: a.set(hostCondition(op.base), place(op.dst))
    case .moveIf(let size):
      let condition = hostCondition(op.base)
      a.load(.rax, place(op.dst), size: size)
      a.load(.rcx, place(op.src), size: size)
      a.moveIf(condition, .rax, .rcx)
      setRegister(op.dst, size: size)
    case .branch(let condition):
      emitBranch(index, if: hostCondition(condition))
    case .jump: emitBranch(index, if: nil)
    case .jumpIndirect:
      a.load(.rax, place(op.src))
      emitMask(op.aux)
      emitFind()
    }
  }

  /// Cuts RAX; flags stay.
  private mutating func emitMask(_ mask: UInt64) {
    switch mask {
    case .max: break
    case 0xFFFF_FFFF: a.move(.rax, .rax, size: 4)
    default: a.zeroExtend16(.rax)
    }
  }

  /// RAX = base + index << scale + displacement; flags stay.
  private mutating func emitOffset(_ op: soft_op) {
    let hasBase = op.base != Slot.zero
    let hasIndex = op.index != Slot.zero
    let displacement = Int32(exactly: op.imm)
    if hasBase {
      a.load(.rax, place(op.base))
      if displacement == nil {
        a.move(.rcx, immediate: UInt64(bitPattern: op.imm))
        a.loadAddress(.rax, .rax, .rcx, scale: 0, 0)
      }
    } else {
      a.move(.rax, immediate: UInt64(bitPattern: op.imm))
    }
    let rest = hasBase ? displacement ?? 0 : 0
    if hasIndex {
      a.load(.rcx, place(op.index))
      a.loadAddress(.rax, .rax, .rcx, scale: op.shift & 3, rest)
    } else if rest != 0 {
      a.loadAddress(.rax, .rax, rest)
    }
  }

  /// What a memory routine wants.
  private mutating func emitAddress(_ op: soft_op, _ access: Template.Access) {
    emitOffset(op)
    flagsAreInHost = false
    if access.isFlat { return }
    emitMask(op.aux)
    let offset = Int(soft_segment_offset) + Int(op.segment & 7) * MemoryLayout<soft_segment>.stride
    a.move(.r9, immediate: UInt64(offset))
  }

  /// How many pushes, or pops, stand here that can be done together: RSP itself is not an operand.
  private func stackOperations(from index: Int) -> Int {
    let stackPointer = Slot.general(General.rsp)
    var end = index
    switch templates[index] {
    case .push: while end < count, case .push = templates[end], operations[end].src != stackPointer { end += 1 }
    case .pop: while end < count, case .pop = templates[end], operations[end].dst != stackPointer { end += 1 }
    default: break
    }
    // Displacements stay small.
    return min(end - index, 15)
  }

  /// Pushes or pops that are on one page, as functions begin and end with them.
  private mutating func emitStack(_ index: Int, _ count: Int) {
    let isPush = if case .push = templates[index] { true } else { false }
    let size = Int32(8 * count)
    flagsAreInHost = false
    a.move(.rax, immediate: UInt64(size))
    call(isPush ? routines.below : routines.above)
    let skip = a.skip(if: HostCondition.notEqual)
    for each in 0..<count {
      let op = operations[index + each]
      let displacement = Int32(8 * each)
      if isPush {
        a.load(.rdx, place(op.src))
        a.store(.rdx, HostAddress(.r8, size - 8 - displacement))
      } else {
        a.load(.rdx, HostAddress(.r8, displacement))
        a.store(.rdx, place(op.dst))
      }
    }
    if !isPush { a.loadAddress(.rax, .rax, size) }
    a.store(.rax, NativeState.stackPointer)
    stackRuns.append(StackRun(operations: index..<index + count, skip: skip, end: a.count))
  }

  private mutating func emitBinary(_ index: Int, _ kind: Template.BinaryKind, _ size: Int, _ immediate: Bool) {
    let op = operations[index]
    if flagsAreDead(after: index) {
      guard kind.writes else { return }
    }
    a.load(.rax, place(op.dst), size: size)
    if immediate {
      a.move(.rcx, immediate: Self.immediate(op, size: size))
    } else {
      a.load(.rcx, place(op.src), size: size)
    }
    if flagsAreDead(after: index), let operation = Self.hostOperation(kind) {
      a.calculate(operation, .rax, .rcx, size: max(4, size))
      flagsAreInHost = false
    } else {
      call(routines.binary[.init(key: kind, size: size)])
      flagsAreInHost = true
    }
    if kind.writes { setRegister(op.dst, size: size) }
  }

  /// The immediate operand, cut to its size.
  private static func immediate(_ op: soft_op, size: Int) -> UInt64 {
    UInt64(bitPattern: op.imm) & (.max >> UInt64(64 - 8 * size))
  }

  private static func hostOperation(_ kind: Template.BinaryKind) -> HostOperation? {
    switch kind {
    case .add: .add
    case .or: .or
    case .and: .and
    case .sub: .sub
    case .xor: .xor
    case .cmp, .test: nil
    }
  }

  /// Whether an operation that replaces all arithmetic flags follows before one that may look at them or fault.
  private func flagsAreDead(after index: Int) -> Bool {
    var next = index + 1
    while next < count {
      switch templates[next] {
      case .nothing, .move, .moveImmediate, .extend, .address, .complement, .shiftFreely, .rotate: next += 1
      case .binary, .multiply: return true
      default: return false
      }
    }
    return false
  }

  private mutating func emitShift(_ index: Int, _ kind: HostShift, _ size: Int) {
    let op = operations[index]
    let count = Template.shiftCount(op, size: size)
    a.load(.rax, place(op.dst), size: size)
    if flagsAreDead(after: index), size >= 4 {
      a.shift(kind, .rax, by: count, size: size)
    } else {
      a.move(.rcx, immediate: UInt64(count))
      call(routines.shift[.init(key: kind, size: size)])
    }
    flagsAreInHost = false
    setRegister(op.dst, size: size)
  }

  /// Emits what gives the host flags by which a condition of the guest can be told, and says by which of the host's.
  private mutating func hostCondition(_ condition: UInt8) -> UInt8 {
    if flagsAreInHost { return condition }
    switch condition >> 1 {
    case HostCondition.equal >> 1:
      a.calculate(.cmp, NativeState.result, immediate: 0)
      return condition
    case HostCondition.below >> 1:
      // CF is the sign of the carries.
      a.calculate(.cmp, NativeState.carries, immediate: 0)
      return HostCondition.less | condition & 1
    default:
      call(routines.flags)
      flagsAreInHost = true
      return condition
    }
  }

  /// Goes where a direct branch goes.
  private mutating func emitBranch(_ index: Int, if condition: UInt8?) {
    let op = operations[index]
    if op.aux > Link.never, let target = MicroOp(bitPattern: UInt(op.aux)) {
      // Safety: a block of the same page, which dies with this one.
      let native = target == UnsafePointer(operations) ? origin : Int(Block.of(target).pointee.native)
      if native != Int(Block.notTranslated) {
        if let condition { return a.jump(if: condition, to: native - origin) }
        return a.jump(to: native - origin)
      }
    }
    if condition == nil, op.aux == Link.never {
      if let pages = supervisorPages(op) { return emitLeavePage(index, from: pages.from, to: pages.to) }
      return emitFollow(index)
    }
    departures.append(Departure(index: index, skips: [a.skip(if: condition, aligned: true)], leavesPage: false))
  }

  /// `code_page` now and at the target of a branch into another page, if both are in the supervisor's code.
  private func supervisorPages(_ op: soft_op) -> (from: Int32, to: Int32)? {
    guard supervisorPage != 0, op.shift == 8 else { return nil }
    let target = supervisorPage &+ UInt64(bitPattern: op.imm)
    guard let from = Self.supervisorPage(supervisorPage), let to = Self.supervisorPage(target & ~0xFFF) else {
      return nil
    }
    return (from, to)
  }

  /// In the highest 2 GiB, where kernels are: as an immediate, sign-extended.
  static func supervisorPage(_ linear: UInt64) -> Int32? {
    Int32(exactly: Int64(bitPattern: linear)).flatMap { $0 < 0 ? $0 : nil }
  }

  /// Goes to another page: directly while the epoch is that of the last time (`NativeCode.connect`) and this code is
  /// where it was when it was translated.
  private mutating func emitLeavePage(_ index: Int, from: Int32, to: Int32) {
    a.align(1)
    a.calculate(.cmp, NativeState.codePage, longImmediate: from)
    let elsewhere = a.skip(if: HostCondition.notEqual)
    a.calculate(.cmp, NativeState.branchEpoch, longImmediate: Int32(bitPattern: BranchEpoch.none), size: 4)
    let epoch = a.count
    let changed = a.skip(if: HostCondition.notEqual)
    a.store(immediate: to, NativeState.codePage)
    let jump = a.skip(if: nil, aligned: true)
    assert(jump - epoch == NativeCode.epochDistance && epoch & 3 == 0)
    departures.append(Departure(index: index, skips: [elsewhere, changed, jump], leavesPage: true))
  }

  /// Goes where a direct branch goes that does not lead to translated code.
  private mutating func emitFollow(_ index: Int) {
    let op = operations[index]
    guard op.aux == Link.never else { return emitHandler(index, pointerAt: routines.follow) }
    a.load(.rax, NativeState.codePage)
    if let distance = Int32(exactly: op.imm) {
      a.loadAddress(.rax, .rax, distance)
    } else {
      a.move(.rcx, immediate: UInt64(bitPattern: op.imm))
      a.loadAddress(.rax, .rax, .rcx, scale: 0, 0)
    }
    if op.shift == 4 { a.move(.rax, .rax, size: 4) }
    emitFind()
  }

  /// Goes to the block at RIP, which is in RAX.
  private mutating func emitFind() {
    call(routines.find)
    a.jump(through: HostAddress(.rcx, soft_jump_native_offset))
  }
}
