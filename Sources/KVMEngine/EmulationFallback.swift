import Engines
import Synchronization

/// What the vCPUs of a machine need to have an instruction interpreted that KVM cannot emulate.
final class EmulationFallback: Sendable {
  /// Nil: there is no interpreter, and such an instruction is the end.
  let makeInterpreter: (@Sendable () -> any InstructionInterpreter)?
  private let slots = Mutex<[(slot: Int, mapping: HostMapping)]>([])
  private let interpreted = Atomic<UInt64>(0)

  init(_ makeInterpreter: (@Sendable () -> any InstructionInterpreter)?) { self.makeInterpreter = makeInterpreter }

  func map(_ slot: Int, _ mapping: HostMapping?) {
    slots.withLock { slots in
      slots.removeAll { $0.slot == slot }
      if let mapping { slots.append((slot, mapping)) }
    }
  }

  /// Guest memory by slot number.
  var memory: [HostMapping] { slots.withLock { slots in slots.sorted { $0.slot < $1.slot }.map(\.mapping) } }

  func countOne() { interpreted.add(1, ordering: .relaxed) }

  /// Instructions interpreted so far.
  var count: UInt64 { interpreted.load(ordering: .relaxed) }

  /// Whether an exit is an access of what the kernel emulates itself, which an interpreter cannot reach: the interrupt
  /// controllers' pages and ports, the 8254.
  static func isKernels(_ exit: Exit) -> Bool {
    switch exit {
    case .mmioRead(let address, _, _), .mmioWrite(let address, _, _): address >> 12 == 0xFEC00 || address >> 20 == 0xFEE
    case .portIn(let port, _, _, _), .portOut(let port, _, _, _):
      switch port {
      case 0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x40...0x43, 0x61: true
      default: false
      }
    default: false
    }
  }
}
