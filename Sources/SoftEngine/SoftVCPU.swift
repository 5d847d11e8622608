import Buses
import CSoftCPU
import Engines
import LinuxSystem
import Synchronization
import X86

/// One processor in software.
// Safety: the state belongs to the thread that calls `run` and `reset`, but for `attention`, which is atomic; it is freed
// when nothing refers to the vCPU any more.
public final class SoftVCPU: VCPU, @unchecked Sendable {
  let state: State
  private let context: UnsafeMutablePointer<CPUContext>
  private let doorbells: Doorbells?
  /// The access the last exit reported.
  private var pending: UInt32?
  private var single: UnsafeMutablePointer<Block>?
  /// RFLAGS.TF was set as the single instruction began.
  private var steps = false
  private let tracesInstructions: Bool
  var idleWatch = IdleWatch()

  // What other threads ask for; `attend` tells of it.
  /// False: the vCPU executes nothing, and will look at `attention` before it does.
  private let isRunning = Atomic<Bool>(false)
  private let newMap = Mutex<[MappedMemory]?>(nil)
  private let changedPages = Mutex<[UInt64]>([])
  private let forbidRequests = Atomic<UInt32>(0)
  private let forbidsDone = Atomic<UInt32>(0)

  /// - Parameter hot: how often a block is entered before it is translated; nil: none is.
  init(
    index: Int, count: Int = 1, controllers: InterruptControllers?, doorbells: Doorbells? = nil,
    model: CPUModel = .max, trace: Trace? = nil, peers: Peers? = nil,
    events: EventThread? = nil, posted: PostedInterrupts? = nil, translateAfter hot: UInt8? = Block.hot
  ) {
    state = .allocate(capacity: 1)
    UnsafeMutableRawPointer(state).initializeMemory(as: UInt8.self, repeating: 0, count: MemoryLayout<soft_cpu>.size)
    context = .allocate(capacity: 1)
    context.initialize(
      to: CPUContext(index: index, count: count, model: model, clock: controllers?.clock ?? monotonicNanoseconds))
    context.pointee.controllers = controllers
    context.pointee.events = events
    context.pointee.posted = posted
    state.pointee.notice = posted?.notice(index) ?? soft_no_notice()
    context.pointee.trace = trace
    tracesInstructions = trace?.events.contains(.instructions) == true
    context.pointee.peers = peers
    state.pointee.owner = UnsafeMutableRawPointer(context)
    state.pointee.tlb = context.pointee.tlb
    state.pointee.jumps = context.pointee.jumps
    state.pointee.returns = context.pointee.returns
    state.pointee.tlb_generation = 1
    state.pointee.jump_tag = 1 << 48
    state.pointee.branch_epoch = BranchEpoch.first
    self.doorbells = doorbells
    if let hot {
      context.pointee.native = NativeCode()
      context.pointee.hot = hot
    }
    state.powerOn(isBootstrap: index == 0)
  }

  deinit {
    if let single { BlockCache.free(single) }
    context.pointee.blocks.deallocate(state)
    context.pointee.map.deallocate()
    soft_free_tlb(context.pointee.tlb, TLB.count * TLB.sets)
    context.pointee.globals.deallocate()
    soft_free_jumps(context.pointee.jumps, JumpCache.count * 2)
    context.pointee.returns.deallocate()
    context.pointee.codeTLB.deallocate()
    context.pointee.code.deallocate()
    context.pointee.transfer.deallocate()
    context.deinitialize(count: 1)
    context.deallocate()
    state.deallocate()
  }

  public func kick() { attend(Attention.kick) }

  private var attention: UnsafeMutablePointer<Atomic<UInt32>> {
    // Safety: a 32-bit word that is used with atomic operations only, which is what Atomic<UInt32> is.
    UnsafeMutableRawPointer(soft_attention_word(state)).assumingMemoryBound(to: Atomic<UInt32>.self)
  }

  /// Makes the vCPU look at what `bits` say, wherever it is. Any thread may call this.
  func attend(_ bits: UInt32) {
    let before = attention.pointee.bitwiseOr(bits, ordering: .sequentiallyConsistent).oldValue
    if before & Attention.asleep != 0 { Futex.wake(attention) }
  }

  public func reset() throws(EngineFailure) {
    pending = nil
    context.pointee.resumption = nil
    context.pointee.link = nil
    state.pointee.leave = LeaveReason.dispatch
    context.pointee.msr.reset()
    state.powerOn(isBootstrap: context.pointee.index == 0)
    TLB.flush(state)
  }

  public func begin(at start: StartState) throws(EngineFailure) {
    guard start != .resetVector else { return }
    var new = state.processorState
    new.begin(at: start)
    state.load(new)
  }

  /// The vCPU uses this memory from now on; `hasTakenMap` says when it no longer uses what it had. Any thread.
  func show(_ map: [MappedMemory]) {
    newMap.withLock { $0 = map }
    attend(Attention.map)
  }

  var hasTakenMap: Bool { isStopped || newMap.withLock { $0 == nil } }

  /// The code of a page has changed. Any thread.
  func dropCode(_ physical: UInt64) {
    changedPages.withLock { $0.append(physical) }
    attend(Attention.code)
  }

  /// Asks that no page can be written unnoticed; `hasForbiddenWrites` says when it is so. Any thread.
  func forbidWrites() -> UInt32 {
    let request = forbidRequests.add(1, ordering: .sequentiallyConsistent).newValue
    attend(Attention.writes)
    return request
  }

  func hasForbiddenWrites(_ request: UInt32) -> Bool {
    isStopped || Int32(bitPattern: forbidsDone.load(ordering: .acquiring) &- request) >= 0
  }

  /// What it is asked for will be done before it executes anything.
  var isStopped: Bool { !isRunning.load(ordering: .sequentiallyConsistent) }

  func serveForbidding() {
    let request = forbidRequests.load(ordering: .sequentiallyConsistent)
    TLB.forbidWrites(state, page: nil)
    forbidsDone.store(request, ordering: .releasing)
  }

  /// Does what cannot wait. Blocks that die here are freed later: an operation of theirs may still have to be resumed.
  private func serve(_ attention: UInt32) {
    if attention & Attention.map != 0 {
      newMap.withLock {
        guard let map = $0 else { return }
        context.pointee.blocks.removeAll(state)
        context.pointee.map.replace(map)
        TLB.flush(state)
        $0 = nil
      }
    }
    if attention & Attention.code != 0, context.pointee.peers != nil {
      let pages = changedPages.withLock {
        let pages = $0
        $0.removeAll(keepingCapacity: true)
        return pages
      }
      for page in pages { context.pointee.blocks.removePage(state, page) }
    }
    if attention & Attention.writes != 0 { serveForbidding() }
  }

  /// What is asked for, when no other processor is alone.
  private func takeAttention() -> UInt32 {
    var attention = soft_take_attention(state)
    while attention & Attention.pause != 0 {
      isRunning.store(false, ordering: .sequentiallyConsistent)
      context.pointee.peers?.standStill()
      isRunning.store(true, ordering: .sequentiallyConsistent)
      attention = attention & ~Attention.pause | soft_take_attention(state)
    }
    return attention
  }

  public func run(_ entry: Entry) -> Exit {
    if let reason = pending { finishAccess(reason) }
    if entry == .finish { return .interrupted }
    isRunning.store(true, ordering: .sequentiallyConsistent)
    context.pointee.msr.stealTime.hasPause = true
    context.pointee.posted?.setAwake(context.pointee.index, true)
    defer { isRunning.store(false, ordering: .sequentiallyConsistent) }
    defer { soft_x87_unload(state) }
    while true {
      let attention = takeAttention()
      if attention & Attention.urgent != 0 { serve(attention) }
      if context.pointee.resumption != nil {
        // The instruction is completed first.
        let later = attention & ~Attention.urgent
        if later != 0 { soft_request_attention(state, later) }
        if state.pointee.leave == LeaveReason.alone { resumeAlone() } else { resume() }
      } else {
        // A link may start in a block that died.
        if state.pointee.code_changed != 0 { context.pointee.link = nil }
        state.pointee.code_changed = 0
        if attention & Attention.kick != 0 { return .interrupted }
        if let exit = prepare() { return exit }
      }
      if let exit = left() { return exit }
    }
  }

  /// Takes over a state, to execute an instruction of it with `step`; the rest of the state stays with `processor`.
  func begin(_ new: ProcessorState, of processor: any InterpretedProcessor) {
    context.pointee.interpreted = processor
    pending = nil
    context.pointee.resumption = nil
    context.pointee.link = nil
    serve(soft_take_attention(state))
    state.load(new)
  }

  var processorState: ProcessorState { state.processorState }

  /// Executes one instruction; an exit that must be answered before the next call, or nil when it is done.
  func step() -> Exit? {
    if let reason = pending { finishAccess(reason) }
    isRunning.store(true, ordering: .sequentiallyConsistent)
    defer { isRunning.store(false, ordering: .sequentiallyConsistent) }
    defer { soft_x87_unload(state) }
    serve(soft_take_attention(state))
    var isBegun = context.pointee.resumption != nil
    while true {
      if context.pointee.resumption != nil {
        resume()
      } else if isBegun {
        return nil
      } else if let exit = prepare(onlyOne: true) {
        return exit
      }
      isBegun = true
      if let exit = left() { return exit }
    }
  }

  /// Executes the operation anew that waited for a device, and what follows it.
  private func resume() {
    guard let op = context.pointee.resumption else { return }
    context.pointee.resumption = nil
    state.pointee.leave = LeaveReason.dispatch
    state.pointee.device_next = 0
    // As `executeSingle` does it.
    if single != nil { soft_request_attention(state, Attention.code) }
    interpret(state, from: op)
    if single != nil { finishSingle() }
  }

  /// Executes the operation anew while the other processors stand still.
  private func resumeAlone() {
    guard let peers = context.pointee.peers else { return resume() }
    isRunning.store(false, ordering: .sequentiallyConsistent)
    peers.beginAlone(context.pointee.index)
    isRunning.store(true, ordering: .sequentiallyConsistent)
    // Since it was not running, nobody has waited for it to do this.
    let attention = soft_take_attention(state)
    if attention & Attention.urgent != 0 { serve(attention) }
    // Asked for anew, it keeps the next block from being entered.
    soft_request_attention(state, attention & ~(Attention.urgent | Attention.pause) | Attention.code)
    context.pointee.isAlone = true
    resume()
    context.pointee.isAlone = false
    peers.endAlone()
  }

  /// Takes events and executes a block; an exit if the guest does not run now.
  private func prepare(onlyOne: Bool = false) -> Exit? {
    if let native = context.pointee.native, native.isFull {
      context.pointee.link = nil
      context.pointee.blocks.removeAll(state)
      native.removeAll()
    }
    context.pointee.blocks.freeDead(state)
    if let single {
      BlockCache.free(single)
      self.single = nil
    }
    // Why it left is dealt with: INIT must not find the HLT that it ended.
    state.pointee.leave = LeaveReason.dispatch
    takeEvents()
    if state.pointee.leave == LeaveReason.tripleFault { return .tripleFault }
    if state.pointee.halted != 0 || state.pointee.waiting_for_sipi != 0 {
      return sleep()
    }
    let link = context.pointee.link
    context.pointee.link = nil
    let steps = state.pointee.system_flags & RFLAGS.tf != 0
    let resumes = state.pointee.system_flags & RFLAGS.rf != 0
    let isStackShadow = state.pointee.shadow == InterruptShadow.stackSegment
    // Where no interrupt waits, STI's shadow only keeps those that come from being taken before an instruction is done.
    let isShadowed = state.pointee.shadow != 0
    let isSingle =
      isStackShadow || isShadowed && state.pointee.events_waiting != 0 || steps || state.needsSingleSteps
      || tracesInstructions || onlyOne
    if tracesInstructions { context.pointee.trace?.instruction(state) }
    state.pointee.shadow = 0
    state.pointee.step_suppressed = 0
    state.pointee.system_flags &= ~RFLAGS.rf
    state.pointee.leave = LeaveReason.dispatch
    if !isStackShadow, state.meetsInstructionBreakpoint(resumes: resumes) { return nil }
    do throws(Fault) {
      let block = try state.block(single: isSingle)
      if isSingle {
        single = block
        // Nothing runs behind it: the jump at its end finds attention, or is not linked.
        self.steps = steps
        executeSingle(state, block)
        finishSingle()
        return nil
      }
      // Makes it easier to find the next time. Where a block died since `link` was set, which attention tells, there is
      // none by now; so the one it is in lives.
      if let link { SoftEngine.link(state, link, to: block) }
      JumpCache.insert(state, block)
      if isShadowed {
        state.pointee.block = UnsafePointer(block.operations)
        // Past `softBlock`.
        interpret(state, from: block.operations + 1)
      } else {
        interpret(state, from: block.operations)
      }
    } catch {
      record(state, error)
    }
    return nil
  }

  /// After the instruction of a single block, which may still wait for a device.
  private func finishSingle() {
    context.pointee.link = nil
    guard state.pointee.leave == LeaveReason.dispatch, state.pointee.shadow != InterruptShadow.stackSegment else {
      return
    }
    state.raiseDebugTraps(steps: steps)
  }

  /// Why the interpreter returned: an exit, or nil to go on.
  private func left() -> Exit? {
    let address = state.pointee.device_address
    let width = Int(state.pointee.device_width)
    let items = Int(state.pointee.device_items)
    let buffer = context.pointee.transfer
    switch state.pointee.leave {
    case LeaveReason.exception:
      context.pointee.resumption = nil
      context.pointee.link = nil
      state.forgetAnswers()
      context.pointee.trace?.exception(state)
      return state.deliverException() ? nil : .tripleFault
    case LeaveReason.deviceRead:
      pending = LeaveReason.deviceRead
      return .mmioRead(address: address, width: width, data: buffer)
    case LeaveReason.deviceWrite:
      if ring(.memory(address)) { return nil }
      if width == 4,
        ring(.register(address, value: UInt32(truncatingIfNeeded: state.pointee.device_data)))
      {
        return nil
      }
      pending = LeaveReason.deviceWrite
      buffer.storeBytes(of: state.pointee.device_data, as: UInt64.self)
      return .mmioWrite(address: address, width: width, data: buffer)
    case LeaveReason.portIn:
      pending = LeaveReason.portIn
      return .portIn(port: UInt16(truncatingIfNeeded: address), width: width, count: items, data: buffer)
    case LeaveReason.portOut:
      if ring(.port(UInt16(truncatingIfNeeded: address))) { return nil }
      pending = LeaveReason.portOut
      if items == 1 { buffer.storeBytes(of: state.pointee.device_data, as: UInt64.self) }
      return .portOut(port: UInt16(truncatingIfNeeded: address), width: width, count: items, data: buffer)
    case LeaveReason.halt:
      context.pointee.resumption = nil
      context.pointee.link = nil
      state.pointee.halted = 1
      return nil
    case LeaveReason.tripleFault: return .tripleFault
    default: return nil
    }
  }

  /// Whether the write was a doorbell's, and is done.
  private func ring(_ address: DoorbellAddress) -> Bool {
    guard doorbells?.ring(address) == true else { return false }
    finishAccess(state.pointee.leave)
    return true
  }

  private func finishAccess(_ reason: UInt32) {
    pending = nil
    var value: UInt64 = 0
    let isRead = reason == LeaveReason.deviceRead || reason == LeaveReason.portIn
    if isRead {
      let width = min(8, Int(state.pointee.device_width))
      for index in 0..<width {
        value |= UInt64(context.pointee.transfer.load(fromByteOffset: index, as: UInt8.self)) << UInt64(8 * index)
      }
    }
    context.pointee.trace?.access(
      state, reason, state.pointee.device_address, Int(state.pointee.device_width),
      isRead ? value : state.pointee.device_data, items: Int(state.pointee.device_items))
    let index = Int(state.pointee.device_done)
    guard index < 64 else { return }
    withUnsafeMutableBytes(of: &state.pointee.device_values) {
      $0.storeBytes(of: value, toByteOffset: index * 8, as: UInt64.self)
    }
    state.pointee.device_done &+= 1
  }

  private func takeEvents() {
    guard let controllers = context.pointee.controllers else { return }
    let index = context.pointee.index
    if soft_has_notice(state) != 0 { takePosted(controllers) }
    state.pointee.events_waiting = 0
    var events = controllers.events(of: index)
    guard !events.isEmpty else { return }
    // The guest asks how much was stolen when its timer interrupts.
    context.pointee.msr.stealTime.update(&context.pointee.map)
    if context.pointee.msr.sharedEOI.isOffered {
      state.settleEOI()
      events = controllers.events(of: index)
    }
    if events.contains(.initialize), controllers.takeINIT(of: index) {
      state.initialize(isBootstrap: index == 0)
      TLB.flush(state)
    }
    if events.contains(.startup), let vector = controllers.takeSIPI(of: index), state.pointee.waiting_for_sipi != 0 {
      state.pointee.waiting_for_sipi = 0
      state.setSegment(
        SegmentRegister.cs, selector: UInt16(vector) << 8, base: UInt64(vector) << 12, limit: 0xFFFF, attributes: 0x93)
      state.pointee.rip = 0
    }
    guard state.pointee.waiting_for_sipi == 0 else { return }
    if state.pointee.shadow != 0 {
      state.pointee.events_waiting = 1
    } else if events.contains(.nmi), state.pointee.nmi_blocked == 0, controllers.takeNMI(of: index) {
      state.pointee.halted = 0
      context.pointee.trace?.interrupt(state, Vector.nmi)
      state.deliverInterrupt(Vector.nmi)
    } else if events.contains(.interrupt), state.pointee.system_flags & RFLAGS.if != 0,
      let vector = state.acknowledgeInterrupt(controllers)
    {
      state.pointee.halted = 0
      context.pointee.trace?.interrupt(state, vector)
      state.deliverInterrupt(vector)
    }
    // What could not be taken now: whatever lets it through asks for attention.
    if !controllers.events(of: index).isEmpty { state.pointee.events_waiting = 1 }
  }

  /// Gives the controllers what devices have posted. False: that was nothing.
  @discardableResult
  private func takePosted(_ controllers: InterruptControllers) -> Bool {
    guard let posted = context.pointee.posted else { return false }
    let edges = posted.take(context.pointee.index)
    for input in 0..<32 where edges >> UInt32(input) & 1 != 0 { controllers.pulse(input) }
    return edges != 0
  }

  /// Sleeps in the host until something asks for attention. A request that came before is seen by the exchange.
  private func sleep() -> Exit? {
    guard let controllers = context.pointee.controllers else { return .halt }
    let now = monotonicNanoseconds()
    if idleWatch.becomesIdle(at: now, blocks: context.pointee.blocks.count) {
      releaseMemory()
      return nil
    }
    context.pointee.posted?.setAwake(context.pointee.index, false)
    defer { context.pointee.posted?.setAwake(context.pointee.index, true) }
    guard !takePosted(controllers) else { return nil }
    let (isAsleep, _) = attention.pointee.compareExchange(
      expected: 0, desired: Attention.asleep, ordering: .sequentiallyConsistent)
    if isAsleep {
      context.pointee.msr.stealTime.beginSleep(&context.pointee.map)
      isRunning.store(false, ordering: .sequentiallyConsistent)
      context.pointee.events?.beginSleep(controllers)
      Futex.wait(attention, while: Attention.asleep)
      context.pointee.events?.endSleep()
      isRunning.store(true, ordering: .sequentiallyConsistent)
      if context.pointee.msr.stealTime.endSleep(&context.pointee.map) { TLB.flush(state) }
      idleWatch.slept(monotonicNanoseconds() &- now)
    }
    return nil
  }

  /// Gives back the memory of everything that can be made again. Nothing is being executed.
  private func releaseMemory() {
    context.pointee.link = nil
    state.pointee.block = nil
    context.pointee.blocks.removeAll(state)
    context.pointee.native?.removeAll()
    context.pointee.native?.releaseMemory()
    TLB.flush(state)
    soft_discard_tlb(context.pointee.tlb, TLB.count * TLB.sets)
    soft_discard_jumps(context.pointee.jumps, JumpCache.count * 2)
    context.pointee.blocks.releaseMemory()
    returnFreedMemory()
  }
}

/// Executes a block of one instruction, without what follows it.
private func executeSingle(_ state: State, _ block: UnsafeMutablePointer<Block>) {
  state.pointee.leave = LeaveReason.dispatch
  // Its last jump, if it has one, is not linked and leaves; the next block finds attention.
  soft_request_attention(state, Attention.code)
  state.pointee.block = UnsafePointer(block.operations)
  interpret(state, from: block.operations + 1)
}
