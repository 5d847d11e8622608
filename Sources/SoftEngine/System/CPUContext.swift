import Buses
import CSoftCPU
import Engines
import X86

/// What a vCPU has beside its C state.
// Safety: lives as long as the state whose `owner` points to it; used by the vCPU's thread only.
struct CPUContext {
  var map = PhysicalMap()
  var blocks = BlockCache()
  var spaces = AddressSpaces()
  let tlb: UnsafeMutablePointer<soft_tlb_entry>
  /// A bit for each of its entries: clear where it is not global, so that what a new address space takes along is found.
  let globals: UnsafeMutablePointer<UInt64>
  let codeTLB: UnsafeMutablePointer<CodeTranslation>
  let jumps: UnsafeMutablePointer<soft_jump>
  /// The supervisor's and the user's.
  let returns: UnsafeMutablePointer<soft_returns>
  let decoder: Decoder
  /// The direct branch that left to be linked.
  var link: MicroOp?
  /// Where to go on when a device has answered.
  var resumption: MicroOp?
  /// The interrupt controllers, and this processor's number there; nil in tests without.
  var controllers: InterruptControllers?
  /// What brings interrupts from devices; nil: nothing does.
  var events: EventThread?
  /// Where devices post interrupts; nil: nowhere.
  var posted: PostedInterrupts?
  /// Where code is copied to be decoded; what it needs at most, with a second page's part.
  let code = UnsafeMutableRawPointer.allocate(byteCount: Block.maximum * 15 + 15, alignment: 16)
  /// What devices read and write.
  let transfer = UnsafeMutableRawPointer.allocate(byteCount: Self.transferSize, alignment: 16)
  static let transferSize = 4096
  let index: Int
  /// The other processors of the machine; nil: there are none.
  var peers: Peers?
  /// x87 exceptions that were pending before the instruction being executed, which IGNNE# lets ignore them.
  var ignoredExceptions: UInt16 = 0
  /// All others stand still.
  var isAlone = false
  /// Stands for this processor in `soft_code_page`.
  var bit: UInt64 { 1 << UInt64(index & 63) }
  /// The other engine's processor that instructions are executed for one by one; nil: there is none.
  var interpreted: (any InterpretedProcessor)?
  let model: CPUModel
  let identity: ProcessorIdentity
  /// What of CR4 can be set.
  let permittedCR4: UInt64
  /// Whether the host has RDRAND and RDSEED: bits 0 and 1.
  var hostRandom = soft_host_random()
  /// Pages of 1 GiB exist.
  let hasHugePages: Bool
  /// Where to write what happens; nil: nowhere.
  var trace: Trace?
  /// What the time-stamp counter counts.
  let clock: @Sendable () -> UInt64
  var msr = ModelSpecificState()
  /// Nil: nothing is translated.
  var native: NativeCode? {
    didSet { nativeBase = native?.base }
  }
  /// How often a block is entered before it is translated.
  var hot = Block.hot
  private(set) var nativeBase: UnsafeMutableRawPointer?

  init(index: Int, count: Int, model: CPUModel, clock: @escaping @Sendable () -> UInt64) {
    self.index = index
    let model = model.removing(HostInstructions.missing)
    self.model = model
    self.clock = clock
    identity = ProcessorIdentity(model, index: index, count: count, tscFrequency: SoftMachine.tscFrequency)
    permittedCR4 = CR4.permitted(by: model)
    hasHugePages = model.has(.pdpe1gb)
    tlb = soft_make_tlb(TLB.count * TLB.sets)
    globals = .allocate(capacity: TLB.words * TLB.sets)
    globals.initialize(repeating: 0, count: TLB.words * TLB.sets)
    codeTLB = .allocate(capacity: CodeTLB.count * 2)
    codeTLB.initialize(repeating: .none, count: CodeTLB.count * 2)
    jumps = soft_make_jumps(JumpCache.count * 2)
    returns = .allocate(capacity: 2)
    returns.initialize(repeating: soft_returns(), count: 2)
    decoder = Decoder(features: model.instructions)
  }
}
