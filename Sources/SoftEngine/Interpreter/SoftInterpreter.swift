import Engines
import X86

/// The software CPU as interpreter of another engine's instructions. It keeps no code, and translations for one
/// instruction only.
public final class SoftInterpreter: InstructionInterpreter {
  private let cpu: SoftVCPU
  private var memory: [HostMapping] = []

  public init() { cpu = SoftVCPU(index: 0, controllers: nil, translateAfter: nil) }

  public func begin(_ state: ProcessorState, memory: [HostMapping], of processor: any InterpretedProcessor) -> Bool {
    if memory != self.memory {
      self.memory = memory
      cpu.show(memory.compactMap(MappedMemory.init))
    }
    cpu.begin(state, of: processor)
    guard let instruction = cpu.state.instruction() else { return false }
    switch instruction.operation {
    case .rdpmc: return false
    // State components that the interpreter does not have.
    case .xsave, .xsaveopt, .xsavec, .xsaves, .xrstor, .xrstors, .xsetbv:
      return state.xcr0 & ~(XCR0.x87 | XCR0.sse) == 0
    default: return true
    }
  }

  public func advance() -> Interpretation {
    if let exit = cpu.step() { return .exit(exit) }
    return .done(cpu.processorState)
  }
}
