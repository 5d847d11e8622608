import CKVM
import Engines
import LinuxSystem
import Synchronization

/// One KVM vCPU. The thread that calls `run` must have `KVMVCPU.kickSignal` unblocked with a handler that does nothing.
// Safety: the kvm_run page is written by the kernel only while the owning thread is inside `run`; `kick` touches
// one byte of it, which the kernel reads.
public final class KVMVCPU: VCPU, @unchecked Sendable {
  private let fd: Descriptor
  private let mapping: Mapping
  private let run: UnsafeMutablePointer<kvm_run>
  private let powerOn: VCPUState
  /// The thread inside `run`; 0 while none is.
  private let thread = Atomic<CInt>(0)
  private let fallback: EmulationFallback
  private let cpuid: [kvm_cpuid_entry2]
  private var interpreter: (any InstructionInterpreter)?
  /// The instruction that is being interpreted, and what is said of it where that does not work.
  private var interpretation: (state: InterpretedState, failure: EngineFailure)?

  /// `cpuid` is what KVM was given to answer CPUID with.
  init(
    _ fd: consuming Descriptor, runSize: Int, msrs: [UInt32], cpuid: [kvm_cpuid_entry2], fallback: EmulationFallback
  ) throws(EngineFailure) {
    do throws(SystemError) {
      mapping = try Mapping(sharing: fd, count: runSize)
    } catch {
      throw EngineFailure(reason: "/dev/kvm: mapping a vCPU's run page: \(error)")
    }
    run = mapping.base.bindMemory(to: kvm_run.self, capacity: 1)
    powerOn = try VCPUState(vcpu: fd.raw, msrs: msrs)
    self.fallback = fallback
    self.cpuid = cpuid
    self.fd = fd
  }

  public func run(_ entry: Entry) -> Exit {
    if thread.load(ordering: .relaxed) == 0 { thread.store(currentThreadID(), ordering: .relaxed) }
    if interpretation != nil {
      // An answer waits at the interpreter until the guest goes on.
      if entry == .finish { return interrupted() }
      if let exit = interpret() { return exit }
    }
    while true {
      if let exit = enter(entry) { return exit }
    }
  }

  /// Runs the guest; nil: it can go on at once.
  private func enter(_ entry: Entry) -> Exit? {
    if entry == .finish { run.pointee.immediate_exit = 1 }
    let result = ckvm_run(fd.raw)
    if result < 0 {
      if result == -ErrorNumber.interrupted || result == -ErrorNumber.again {
        return interrupted()
      }
      return .failure(failure("KVM_RUN: \(SystemError("KVM_RUN", errno: -result).reason)"))
    }
    switch Int32(bitPattern: run.pointee.exit_reason) {
    case KVM_EXIT_IO:
      let io = ckvm_exit_io(run)
      guard let data = io.data else { return .failure(failure("KVM_EXIT_IO without data")) }
      if Int32(io.direction) == KVM_EXIT_IO_IN {
        return .portIn(port: io.port, width: Int(io.size), count: Int(io.count), data: data)
      }
      return .portOut(port: io.port, width: Int(io.size), count: Int(io.count), data: data)
    case KVM_EXIT_MMIO:
      let mmio = ckvm_exit_mmio(run)
      guard let data = mmio.data, mmio.length <= 8 else { return .failure(failure("KVM_EXIT_MMIO without data")) }
      if mmio.is_write != 0 { return .mmioWrite(address: mmio.address, width: Int(mmio.length), data: data) }
      return .mmioRead(address: mmio.address, width: Int(mmio.length), data: data)
    case KVM_EXIT_INTR: return interrupted()
    case KVM_EXIT_HLT: return .halt
    case KVM_EXIT_SHUTDOWN: return .tripleFault
    case KVM_EXIT_INTERNAL_ERROR:
      let error = ckvm_exit_internal_error(run)
      let bytes = withUnsafeBytes(of: error.instruction) { Array($0.prefix(Int(error.instruction_size))) }
      let failure = failure(Self.reason(suberror: error.suberror), bytes)
      guard Int32(bitPattern: error.suberror) == KVM_INTERNAL_ERROR_EMULATION else { return .failure(failure) }
      return beginInterpretation(failure)
    case KVM_EXIT_FAIL_ENTRY:
      let reason = String(ckvm_exit_hardware_reason(run), radix: 16)
      return .failure(failure("the processor refused to enter the guest (hardware reason 0x\(reason))"))
    case let reason: return .failure(failure("KVM stopped with exit reason \(reason)"))
    }
  }

  private func beginInterpretation(_ failure: EngineFailure) -> Exit? {
    guard let makeInterpreter = fallback.makeInterpreter else { return .failure(failure) }
    let interpreter = interpreter ?? makeInterpreter()
    self.interpreter = interpreter
    do throws(EngineFailure) {
      let state = try InterpretedState(vcpu: fd.raw)
      guard interpreter.begin(state.state, memory: fallback.memory, of: KVMProcessor(vcpu: fd.raw, cpuid: cpuid)) else {
        return .failure(failure)
      }
      interpretation = (state, failure)
    } catch { return .failure(error) }
    return interpret()
  }

  /// Goes on with an instruction; nil: it is done.
  private func interpret() -> Exit? {
    guard let interpreter, let (begun, failure) = interpretation else { return nil }
    switch interpreter.advance() {
    case .exit(let exit):
      guard !EmulationFallback.isKernels(exit) else { return .failure(failure) }
      return exit
    case .done(let new):
      interpretation = nil
      fallback.countOne()
      do throws(EngineFailure) {
        var state = begun
        try state.apply(new, to: fd.raw)
        return nil
      } catch { return .failure(error) }
    }
  }

  private func interrupted() -> Exit {
    run.pointee.immediate_exit = 0
    // Before the caller looks at what it was kicked for: a kick that comes after that look must stay.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return .interrupted
  }

  private static func reason(suberror: UInt32) -> String {
    switch Int32(bitPattern: suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: "KVM cannot emulate the guest's instruction"
    case KVM_INTERNAL_ERROR_SIMUL_EX: "KVM met an exception while it delivered another"
    case KVM_INTERNAL_ERROR_DELIVERY_EV: "KVM could not deliver an event to the guest"
    default: "KVM internal error, suberror \(suberror)"
    }
  }

  /// A failure with RIP and, where KVM did not give them, the instruction's physical address for the caller to read.
  private func failure(_ reason: String, _ bytes: [UInt8] = []) -> EngineFailure {
    var registers = kvm_regs()
    var system = kvm_sregs()
    guard ckvm_get_regs(fd.raw, &registers) == 0, ckvm_get_sregs(fd.raw, &system) == 0 else {
      return EngineFailure(reason: reason, instruction: bytes)
    }
    let linear = system.cs.base &+ registers.rip
    var translation = kvm_translation()
    translation.linear_address = linear
    let isMapped = ckvm_translate(fd.raw, &translation) == 0 && translation.valid != 0
    return EngineFailure(
      reason: reason, instructionPointer: registers.rip, instruction: bytes,
      physicalAddress: isMapped ? translation.physical_address : nil)
  }

  public func kick() {
    run.pointee.immediate_exit = 1
    let target = thread.load(ordering: .relaxed)
    if target != 0 { signalThread(target, Self.kickSignal) }
  }

  /// The signal that takes a vCPU thread out of KVM_RUN. Not a real-time one: those are queued, and sending fails while
  /// the user has as many waiting as RLIMIT_SIGPENDING allows.
  public static let kickSignal = SignalNumber.user1

  public func reset() throws(EngineFailure) {
    interpretation = nil
    try powerOn.restore(vcpu: fd.raw)
  }

  public func begin(at start: StartState) throws(EngineFailure) {
    guard start != .resetVector else { return }
    var registers = powerOn.registers
    var state = ProcessorState()
    registers.read(into: &state)
    let old = state
    state.begin(at: start)
    registers.change(from: old, to: state)
    try registers.write(vcpu: fd.raw)
  }
}
