import CSoftCPU

/// Translates a block that has been executed often, and executes it.
@inline(never) @c func softTranslate(_ state: State, _ op: MicroOp) {
  if translate(state) { return goto(state, op) }
  return next(state, op)
}

@inline(never)
private func translate(_ state: State) -> Bool {
  guard let block = currentBlock(state), block.pointee.native == Block.notTranslated,
    let code = state.context.pointee.native
  else { return false }
  // The runtime's own calculations may set flags of MXCSR, which are not the guest's.
  soft_leave_guest(state)
  defer { soft_enter_guest(state) }
  if Translator.translate(block, code, state) { return true }
  // The outer loop makes room.
  if code.isFull { soft_request_attention(state, Attention.code) }
  return false
}

/// Continues a translated block behind an operation that a handler has done, or at one that is to be done anew.
@c func softNativeContinue(_ state: State, _ op: MicroOp) {
  guard let block = currentBlock(state), let entries = block.pointee.entries,
    let base = state.context.pointee.nativeBase
  else { return }
  let first = UnsafePointer(block.operations)
  let entry = entries[op - first]
  let code = base + (Int(block.pointee.native) &+ entry.offset)
  let contents = entry.contents
  if contents.isEmpty { return tail(state, first, NativeCode.handler(code)) }
  fill(state, contents)
  state.pointee.native_target = UnsafeRawPointer(code)
  return tail(state, first, NativeCode.handler(base + NativeCode.resume))
}

/// Has the host's registers get what translated code expects in them.
@inline(__always)
private func fill(_ state: State, _ contents: RegisterCache.Contents) {
  for index in 0..<7 {
    guard let slot = contents.slot(index) else { continue }
    let value = register(state, slot, as: UInt64.self).pointee
    UnsafeMutableRawPointer(state).storeBytes(
      of: value, toByteOffset: Int(soft_native_registers_offset) &+ index &* 8, as: UInt64.self)
  }
}

/// Goes where a direct branch of translated code goes. Where translated code stands, too, the branch goes there itself
/// from now on.
@c func softNativeFollow(_ state: State, _ op: MicroOp) {
  guard op.pointee.aux > Link.never, let target = MicroOp(bitPattern: UInt(op.pointee.aux)) else {
    return tail(state, op, softFollow)
  }
  connect(state, op, target)
  return goto(state, target)
}

@inline(never)
private func connect(_ state: State, _ op: MicroOp, _ target: MicroOp) {
  guard let end = branchEnd(state, op) else { return }
  state.context.pointee.native?.connect(branchEndingAt: end, to: Block.of(target))
}

/// Where in the translation a direct branch ends.
@inline(__always)
private func branchEnd(_ state: State, _ op: MicroOp) -> Int? {
  guard let block = currentBlock(state), let entries = block.pointee.entries else { return nil }
  return Int(block.pointee.native) &+ entries[op - UnsafePointer(block.operations) + 1].offset
}

/// Goes where a direct branch of translated supervisor code goes in another page. Where translated code stands, too, the
/// branch goes there itself until the epoch changes.
@c func softNativeLeavePage(_ state: State, _ op: MicroOp) {
  let rip = codeAddress(state, op)
  if let entry = JumpCache.find(state, rip), let target = entry.pointee.target {
    state.pointee.code_page = entry.pointee.code_page
    connectPages(state, op, target)
    return goto(state, target)
  }
  state.pointee.rip = rip
  return tail(state, op, softFindBlock)
}

@inline(never)
private func connectPages(_ state: State, _ op: MicroOp, _ target: MicroOp) {
  let epoch = state.pointee.branch_epoch
  guard epoch != BranchEpoch.user, let end = branchEnd(state, op) else { return }
  state.context.pointee.native?.connect(branchEndingAt: end, to: Block.of(target), epoch: epoch)
}

@inline(__always)
private func currentBlock(_ state: State) -> UnsafeMutablePointer<Block>? {
  // Safety: set whenever a handler is entered whose block is another, which lives until it has been left.
  state.pointee.block.map(Block.of)
}

/// The operation whose code called a routine: the one that begins last before the call's return address. The state gets
/// the flags that are deferred there.
@inline(never)
private func callingOperation(_ state: State) -> MicroOp? {
  guard let block = currentBlock(state), let entries = block.pointee.entries,
    let base = state.context.pointee.nativeBase
  else { return nil }
  let returned = Int(truncatingIfNeeded: state.pointee.native_return) &- Int(bitPattern: base)
  let offset = returned &- Int(block.pointee.native)
  let count = block.pointee.operationCount
  // Both what is always executed and what stands apart stands in order; operations without code begin at the end.
  let end = entries[count].offset
  var found = 0
  if offset > end {
    for index in 0..<count where entries[index].offset > end {
      if entries[index].offset >= offset { break }
      found = index
    }
  } else {
    var (low, high) = (0, count)
    while high &- low > 1 {
      let middle = (low &+ high) >> 1
      var index = middle
      while index > low, entries[index].offset > end { index &-= 1 }
      if index > low, entries[index].offset >= offset {
        high = index
      } else {
        if index > low { found = index }
        low = middle
      }
    }
  }
  let op = UnsafePointer(block.operations + found)
  let distance = entries[found].flagsDistance
  if distance != 0 { DeferredFlags.materialise(state, op - distance) }
  return op
}

/// Translates the page at `linear` for a routine, which tries its access again when this is true.
@c func softNativeFill(_ state: State, _ width: Int, _ isWrite: Bool) -> Bool {
  fillTLB(state, width: width, isWrite ? .write : .read)
}

/// Goes to a handler's slow path for the operation that called a routine.
@inline(__always)
private func miss(_ state: State, _ handler: soft_handler) {
  guard let op = callingOperation(state) else { return }
  return tail(state, op, handler)
}

/// The same for one that stores: memory may not have the temporary yet.
@inline(__always)
private func missStored(_ state: State, _ handler: soft_handler) {
  guard let op = callingOperation(state) else { return }
  if RegisterCache.isTemporary(op.pointee.src) {
    register(state, op.pointee.src, as: UInt64.self).pointee = state.pointee.native_value
  }
  return tail(state, op, handler)
}

// What routines go to when the TLB cannot permit an access; `linear` says which.

@c func softNativeLoadMiss(_ state: State, _ op: MicroOp) { return miss(state, softLoadSlowly) }
@c func softNativeLoadForWriteMiss(_ state: State, _ op: MicroOp) { return miss(state, softLoadForWriteSlowly) }
@c func softNativeStoreMiss(_ state: State, _ op: MicroOp) { return missStored(state, softStoreSlowly) }
@c func softNativePushMiss(_ state: State, _ op: MicroOp) { return missStored(state, softPushSlowly) }
@c func softNativePopMiss(_ state: State, _ op: MicroOp) { return miss(state, softPopSlowly) }
@c func softNativeLoadVectorMiss32(_ state: State, _ op: MicroOp) { return miss(state, softLoadVectorSlow32) }
@c func softNativeLoadVectorMiss64(_ state: State, _ op: MicroOp) { return miss(state, softLoadVectorSlow64) }
@c func softNativeLoadVectorMiss128(_ state: State, _ op: MicroOp) { return miss(state, softLoadVectorSlow128) }
@c func softNativeLoadAlignedMiss(_ state: State, _ op: MicroOp) { return miss(state, softLoadAlignedSlow) }
@c func softNativeStoreVectorMiss32(_ state: State, _ op: MicroOp) { return miss(state, softStoreVectorSlow32) }
@c func softNativeStoreVectorMiss64(_ state: State, _ op: MicroOp) { return miss(state, softStoreVectorSlow64) }
@c func softNativeStoreVectorMiss128(_ state: State, _ op: MicroOp) { return miss(state, softStoreVectorSlow128) }
@c func softNativeStoreAlignedMiss(_ state: State, _ op: MicroOp) { return miss(state, softStoreAlignedSlow) }
/// The segment does not permit the access.
@c func softNativeSegmentMiss(_ state: State, _ op: MicroOp) { return miss(state, softSegmentFault) }
