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
    let page = try self.page(linear, .execute)
    if !single, let block = context.pointee.blocks.find(rip: rip, physical: page.physical, mode: pointee.mode) {
      if block.pointee.secondPage == Block.noPage { return block }
      if try self.page((linear | 0xFFF) &+ 1, .execute).physical == block.pointee.secondPage { return block }
      context.pointee.blocks.removePage(self, page.physical)
    }
    return try build(rip, linear, page, single: single)
  }

  private func build(_ rip: UInt64, _ linear: UInt64, _ page: Page, single: Bool) throws(Fault)
    -> UnsafeMutablePointer<Block>
  {
    // Code cannot be executed from devices here.
    guard let host = page.host else { throw .exception(Vector.invalidOpcode, errorCode: nil) }
    if context.pointee.blocks.isFull { context.pointee.blocks.removeAll(self) }
    let available = 4096 - Int(linear & 0xFFF)
    let decodeMode: DecodeMode = pointee.mode & 3 == 2 ? .bits64 : pointee.mode & 3 == 1 ? .bits32 : .bits16
    var lowering = Lowering(mode: pointee.mode, rip: rip)
    var secondPage = Block.noPage
    var instruction = Instruction()
    var ended = false
    var count = 0
    while count < (single ? 1 : Block.maximum), Int(lowering.offset) < available {
      let offset = Int(lowering.offset)
      let bytes = UnsafeRawBufferPointer(start: host + offset, count: min(15, available - offset))
      var status = context.pointee.decoder.decode(bytes, mode: decodeMode, into: &instruction)
      if status == .needsMoreBytes {
        // It reaches into the next page: a block of its own.
        guard count == 0 else { break }
        (status, secondPage) = try decodeAcrossPages(bytes, (linear | 0xFFF) &+ 1, decodeMode, &instruction)
      }
      switch status {
      case .instruction: ended = lowering.add(instruction)
      default:
        lowering.addFault(status == .undefined ? .undefined : .protection)
        ended = true
      }
      count += 1
      if ended || secondPage != Block.noPage { break }
    }
    if !ended { lowering.finish() }
    let block = lowering.makeBlock(physical: page.physical, secondPage: secondPage)
    if !single {
      markCode(page.physical, min(max(Int(lowering.offset), 1), available))
      if secondPage != Block.noPage { markCode(secondPage, 15) }
      context.pointee.blocks.insert(block)
    }
    return block
  }

  private func decodeAcrossPages(
    _ head: UnsafeRawBufferPointer, _ next: UInt64, _ mode: DecodeMode, _ instruction: inout Instruction
  ) throws(Fault) -> (DecodeStatus, UInt64) {
    let second = try self.page(wrap(next), .execute)
    guard let host = second.host else { throw .undefined }
    var buffer = InlineArray<15, UInt8>(repeating: 0)
    for index in 0..<15 {
      buffer[index] = index < head.count ? head[index] : host.load(fromByteOffset: index - head.count, as: UInt8.self)
    }
    let status = withUnsafeBytes(of: &buffer) {
      context.pointee.decoder.decode($0, mode: mode, into: &instruction)
    }
    return (status, second.physical)
  }

  /// Writes to these bytes must be noticed from now on.
  private func markCode(_ physical: UInt64, _ count: Int) {
    guard let lines = context.pointee.map.codeLines(physical) else { return }
    if lines.pointee == 0 { TLB.flush(self) }
    let first = physical >> 6 & 63
    let last = min(63, (physical & 4095 &+ UInt64(count &- 1)) >> 6)
    lines.pointee |= ((2 << (last &- first)) &- 1) << first
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

  func makeBlock(physical: UInt64, secondPage: UInt64) -> UnsafeMutablePointer<Block> {
    let operations = UnsafeMutablePointer<soft_op>.allocate(capacity: self.operations.count)
    for (index, op) in self.operations.enumerated() { (operations + index).initialize(to: op) }
    var instructions: UnsafeMutablePointer<Instruction>?
    if !self.instructions.isEmpty {
      let copies = UnsafeMutablePointer<Instruction>.allocate(capacity: self.instructions.count)
      for (index, instruction) in self.instructions.enumerated() { (copies + index).initialize(to: instruction) }
      var next = 0
      for index in self.operations.indices where isWhole(self.operations[index]) {
        operations[index].aux = UInt64(UInt(bitPattern: copies + next))
        next += 1
      }
      instructions = copies
    }
    let block = UnsafeMutablePointer<Block>.allocate(capacity: 1)
    block.initialize(
      to: Block(
        rip: rip, physical: physical, secondPage: secondPage, mode: mode, operations: operations,
        operationCount: self.operations.count, instructions: instructions))
    operations[0].aux = UInt64(UInt(bitPattern: block))
    return block
  }

  private func isWhole(_ op: soft_op) -> Bool { op.dst == Lowering.wholeMark }
}

/// Raises exception `imm`; bit 32 of `aux`: with the error code below it.
@c func softRaise(_ state: State, _ op: MicroOp) {
  let code: UInt32? = op.pointee.aux >> 32 != 0 ? UInt32(truncatingIfNeeded: op.pointee.aux) : nil
  leave(state, op, .exception(UInt8(truncatingIfNeeded: op.pointee.imm), errorCode: code))
}
