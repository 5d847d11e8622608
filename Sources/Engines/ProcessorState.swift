/// The architectural state of a processor between two instructions, for handing it from one engine to another.
public struct ProcessorState: Sendable {
  /// A segment register with what is hidden of it.
  public struct Segment: Sendable, Equatable {
    public var selector: UInt16
    public var base: UInt64
    /// In bytes, granularity applied.
    public var limit: UInt32
    /// Bits 23:8 of the descriptor's second doubleword, those of the limit zero; 0: not usable.
    public var attributes: UInt16

    public init(selector: UInt16 = 0, base: UInt64 = 0, limit: UInt32 = 0, attributes: UInt16 = 0) {
      self.selector = selector
      self.base = base
      self.limit = limit
      self.attributes = attributes
    }
  }

  /// GDTR or IDTR.
  public struct Table: Sendable, Equatable {
    public var base: UInt64
    public var limit: UInt16

    public init(base: UInt64 = 0, limit: UInt16 = 0) {
      self.base = base
      self.limit = limit
    }
  }

  /// What holds interrupts off for one instruction.
  public enum InterruptShadow: Sendable { case none, sti, movSS }

  /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
  public var general = InlineArray<16, UInt64>(repeating: 0)
  public var rip: UInt64 = 0
  public var rflags: UInt64 = 2
  /// ES, CS, SS, DS, FS, GS, LDTR, TR.
  public var segments = InlineArray<8, Segment>(repeating: Segment())
  /// Current privilege level, 0–3.
  public var cpl: UInt8 = 0
  public var gdtr = Table()
  public var idtr = Table()
  public var cr0: UInt64 = 0
  public var cr2: UInt64 = 0
  public var cr3: UInt64 = 0
  public var cr4: UInt64 = 0
  public var efer: UInt64 = 0
  public var xcr0: UInt64 = 1
  /// DR0 to DR3, DR6, DR7.
  public var debug = InlineArray<6, UInt64>(repeating: 0)
  public var msrs = Registers()
  /// x87, XMM and MXCSR as 64-bit FXSAVE writes them: 512 bytes.
  public var legacyArea = [UInt8](repeating: 0, count: 512)
  public var shadow = InterruptShadow.none
  public var isNMIBlocked = false
  /// HLT was executed.
  public var isHalted = false

  /// MSRs that instructions use; the rest stay with the engine that has them.
  public struct Registers: Sendable, Equatable {
    public var sysenterCS: UInt64 = 0
    public var sysenterESP: UInt64 = 0
    public var sysenterEIP: UInt64 = 0
    public var star: UInt64 = 0
    public var lstar: UInt64 = 0
    public var cstar: UInt64 = 0
    public var sfmask: UInt64 = 0
    public var kernelGSBase: UInt64 = 0
    public var tscAux: UInt64 = 0

    public init() {}
  }

  public init() {}
}

/// The processor that an instruction is interpreted for: what `ProcessorState` does not hold of it.
public protocol InterpretedProcessor {
  /// What CPUID answers; bits that follow CR4 and XCR0 are the interpreter's.
  func cpuid(leaf: UInt32, subleaf: UInt32) -> CPUIDRegisters
  /// Nil: there is no such register.
  func readMSR(_ number: UInt32) -> UInt64?
  /// False: there is none, or not with that value.
  func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool
}

/// CPUID's answer.
public struct CPUIDRegisters: Sendable, Equatable {
  public var eax: UInt32
  public var ebx: UInt32
  public var ecx: UInt32
  public var edx: UInt32

  public init(eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0, edx: UInt32 = 0) {
    (self.eax, self.ebx, self.ecx, self.edx) = (eax, ebx, ecx, edx)
  }
}

/// Executes single instructions on a processor's state, for an engine that has met one it cannot execute.
public protocol InstructionInterpreter: AnyObject {
  /// Begins the instruction at the state's RIP. Guest memory is as `memory` says. False: the interpreter does not know
  /// the instruction, or it concerns what only the other engine has.
  func begin(_ state: ProcessorState, memory: [HostMapping], of processor: any InterpretedProcessor) -> Bool
  /// Goes on until the instruction is done. After an access of a device its answer must be at the exit's data before
  /// the next call.
  func advance() -> Interpretation
}

/// How far an interpreter came.
public enum Interpretation {
  /// The instruction is done, or the exception that it raised has been delivered.
  case done(ProcessorState)
  /// A device must answer, or the processor shut down.
  case exit(Exit)
}
