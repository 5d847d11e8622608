import CSoftCPU
import X86

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// The block at RIP. `single`: of one instruction, and not kept; its caller frees it.
  func block(single: Bool) throws(Fault) -> UnsafeMutablePointer<Block> {
    let rip = pointee.rip
    let cs = segment(SegmentRegister.cs)
    var linear = rip
    if pointee.is64BitCode {
      guard isCanonical(rip) else { throw .protection }
    } else {
      guard rip <= UInt64(cs.pointee.limit) else { throw .protection }
      linear = (cs.pointee.linear_base &+ rip) & 0xFFFF_FFFF
    }
    let translation = try codePage(linear)
    let physical = translation.pointee.physical | linear & 0xFFF
    pointee.code_page = rip &- (linear & 0xFFF)
    if !single, let block = context.pointee.blocks.find(physical: physical, mode: pointee.mode) {
      if try isCurrent(block, linear) { return block }
      context.pointee.blocks.removePage(self, physical)
    }
    // Code cannot be executed from devices here.
    guard let host = translation.pointee.host else { throw .undefined }
    if context.pointee.blocks.isFull { context.pointee.blocks.removeAll(self) }
    while true {
      let block = try build(linear, physical, host + Int(linear & 0xFFF), single: single)
      if single { return block }
      watch(physical, block.pointee.length)
      if block.pointee.tail > 0 { watch(block.pointee.secondPage, block.pointee.tail) }
      // From here on writes are noticed; there may have been one before.
      if soft_equal(block.pointee.code, host + Int(linear & 0xFFF), block.pointee.length) != 0,
        block.pointee.tail == 0 || secondPageIsEqual(block)
      {
        let second = block.pointee.tail > 0 ? context.pointee.map.host(block.pointee.secondPage) : nil
        context.pointee.blocks.insert(block, host, second)
        return block
      }
      BlockCache.free(block)
    }
  }

  /// The page of an instruction fetch.
  private func codePage(_ linear: UInt64) throws(Fault) -> UnsafeMutablePointer<CodeTranslation> {
    let entry = CodeTLB.entry(self, linear)
    let tag = CodeTLB.tag(self, linear)
    if entry.pointee.tag == tag { return entry }
    let page = try self.page(linear & ~0xFFF, .execute)
    if let host = page.host { context.pointee.blocks.validate(self, page.physical, host) }
    entry.pointee = CodeTranslation(tag: tag, physical: page.physical, host: page.host)
    if !page.isGlobal, pointee.cpl != 3 { context.pointee.spaces.supervisorCodeIsLocal = true }
    return entry
  }

  /// Whether the part of a block that is on a second page is still what is there.
  private func isCurrent(_ block: UnsafeMutablePointer<Block>, _ linear: UInt64) throws(Fault) -> Bool {
    if block.pointee.secondPage == Block.noPage { return true }
    let second = try codePage(wrap((linear | 0xFFF) &+ 1))
    return second.pointee.physical == block.pointee.secondPage && secondPageIsEqual(block)
  }

  private func secondPageIsEqual(_ block: UnsafeMutablePointer<Block>) -> Bool {
    guard let host = context.pointee.map.host(block.pointee.secondPage) else { return false }
    return soft_equal(block.pointee.code + block.pointee.length, host, block.pointee.tail) != 0
  }

  /// What a block is decoded from: longer than any.
  private static var codeSize: Int { Block.maximum * 15 }

  private func build(
    _ linear: UInt64, _ physical: UInt64, _ host: UnsafeMutableRawPointer, single: Bool
  ) throws(Fault) -> UnsafeMutablePointer<Block> {
    let decodeMode: DecodeMode = pointee.mode & 3 == 2 ? .bits64 : pointee.mode & 3 == 1 ? .bits32 : .bits16
    var lowering = Lowering(mode: pointee.mode, start: linear & 0xFFF, hot: context.pointee.hot)
    var second: CodeTranslation?
    var instruction = Instruction()
    var ended = false
    var count = 0
    // A copy: other processors may write the code meanwhile.
    let code = context.pointee.code
    let onPage = min(4096 - Int(linear & 0xFFF), Self.codeSize)
    var available = onPage
    code.copyMemory(from: host, byteCount: onPage)
    while count < (single ? 1 : Block.maximum), Int(lowering.offset) < onPage {
      let offset = Int(lowering.offset)
      var status = context.pointee.decoder.decode(
        UnsafeRawBufferPointer(start: code + offset, count: min(15, available - offset)), mode: decodeMode,
        into: &instruction)
      if status == .needsMoreBytes, available == onPage {
        // It reaches into the next page: a block of its own.
        guard count == 0 else { break }
        let next = try codePage(wrap((linear | 0xFFF) &+ 1)).pointee
        guard let more = next.host else { throw .undefined }
        second = next
        (code + onPage).copyMemory(from: more, byteCount: 15)
        available += 15
        status = context.pointee.decoder.decode(
          UnsafeRawBufferPointer(start: code + offset, count: 15), mode: decodeMode, into: &instruction)
      }
      if status == .instruction {
        ended = lowering.add(instruction)
      } else {
        lowering.addFault(status == .undefined ? .undefined : .protection)
        ended = true
      }
      count += 1
      if ended || second != nil { break }
    }
    if !ended { lowering.finish() }
    let decoded = min(max(Int(lowering.offset), 1), available)
    return lowering.makeBlock(
      physical: physical, secondPage: second?.physical ?? Block.noPage, code: code,
      length: second == nil ? decoded : onPage, tail: second == nil ? 0 : 15)
  }

  /// Writes to these bytes must be noticed from now on.
  private func watch(_ physical: UInt64, _ count: Int) {
    guard let page = context.pointee.map.codePage(physical) else { return }
    let first = physical >> 6 & 63
    let last = min(63, (physical & 4095 &+ UInt64(count &- 1)) >> 6)
    _ = soft_or_64(&page.pointee.holders, context.pointee.bit)
    _ = soft_or_64(&page.pointee.lines, ((2 << (last &- first)) &- 1) << first)
    if let peers = context.pointee.peers { return peers.stopWriters(page, physical, self) }
    if soft_exchange_64(&page.pointee.writers, 0) != 0 { TLB.forbidWrites(self, page: physical) }
  }
}

extension Lowering {
  /// An instruction that is none.
  mutating func addFault(_ fault: Fault) {
    guard case .exception(let vector, let errorCode) = fault else { return }
    emit(softRaise) {
      $0.imm = Int64(vector)
      $0.aux = errorCode.map { UInt64($0) | 1 << 32 } ?? 0
    }
  }

  func makeBlock(
    physical: UInt64, secondPage: UInt64, code: UnsafeMutableRawPointer, length: Int, tail: Int
  ) -> UnsafeMutablePointer<Block> {
    // One piece of memory, so that what is executed together lies together: the block, its operations, the instructions
    // that some of them execute whole, and the copy of the code.
    let instructionsOffset =
      UnsafeMutablePointer<Block>.operationsOffset + operations.count * MemoryLayout<soft_op>.stride
    let codeOffset = instructionsOffset + instructions.count * MemoryLayout<Instruction>.stride
    let memory = UnsafeMutableRawPointer.allocate(byteCount: codeOffset + length + tail, alignment: 128)
    let copy = memory + codeOffset
    copy.copyMemory(from: code, byteCount: length + tail)
    let block = memory.bindMemory(to: Block.self, capacity: 1)
    block.initialize(
      to: Block(
        physical: physical, secondPage: secondPage, mode: mode, operationCount: operations.count, code: copy,
        length: length, tail: tail))
    let operations = (memory + UnsafeMutablePointer<Block>.operationsOffset)
      .bindMemory(to: soft_op.self, capacity: self.operations.count)
    for (index, op) in self.operations.enumerated() { (operations + index).initialize(to: op) }
    let copies = (memory + instructionsOffset).bindMemory(to: Instruction.self, capacity: instructions.count)
    for (index, instruction) in instructions.enumerated() { (copies + index).initialize(to: instruction) }
    var next = 0
    for index in self.operations.indices where isWhole(self.operations[index]) {
      operations[index].aux = UInt64(UInt(bitPattern: copies + next))
      next += 1
    }
    return block
  }

  private func isWhole(_ op: soft_op) -> Bool { op.dst == Lowering.wholeMark }
}

/// Raises exception `imm`; bit 32 of `aux`: with the error code below it.
@c func softRaise(_ state: State, _ op: MicroOp) {
  let code: UInt32? = op.pointee.aux >> 32 != 0 ? UInt32(truncatingIfNeeded: op.pointee.aux) : nil
  leave(state, op, .exception(UInt8(truncatingIfNeeded: op.pointee.imm), errorCode: code))
}
