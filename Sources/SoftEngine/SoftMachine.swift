import CSoftCPU
import Engines
import LinuxSystem
import Synchronization
import X86

/// A machine whose processors are software.
public final class SoftMachine: VirtualMachine {
  private struct Shared: Sendable {
    var slots: [Int: HostMapping] = [:]
    var cpus: [SoftVCPU] = []
  }

  private let shared = Mutex(Shared())
  public let controllers: InterruptControllers

  private let vcpus: Int
  private let model: CPUModel
  private let time: TimeReference
  private let clock: @Sendable () -> UInt64

  /// A machine of up to `vcpus` processors of a model. `clock` is guest time in nanoseconds.
  public init(vcpus: Int, model: CPUModel = .max, clock: @escaping @Sendable () -> UInt64) {
    self.vcpus = vcpus
    self.model = model
    self.clock = clock
    time = TimeReference(clock: clock)
    let cpus = WeakCPUs()
    controllers = InterruptControllers(
      vcpus: vcpus, tscFrequency: time.frequency, physicalAddressBits: CPUIdentity.physicalAddressBits, clock: clock,
      notifications: .init(
        kick: { cpus.attend($0) }, rearm: { _ in }, endOfInterrupt: { _ in }))
    self.cpus = cpus
  }

  private let cpus: WeakCPUs

  public func map(slot: Int, _ mapping: HostMapping?) -> Bool {
    shared.withLock { shared in
      if let mapping {
        guard mapping.size > 0, (mapping.size | mapping.guestAddress) & 4095 == 0,
          mapping.guestAddress <= 1 << 52, mapping.size <= 1 << 52
        else { return false }
        for (other, existing) in shared.slots where other != slot {
          if mapping.guestAddress < existing.guestAddress + existing.size,
            existing.guestAddress < mapping.guestAddress + mapping.size
          {
            return false
          }
        }
      }
      shared.slots[slot] = mapping
      let mappings = Array(shared.slots.values)
      for cpu in shared.cpus { cpu.setMap(mappings) }
      return true
    }
  }

  public func makeVCPU(_ index: Int) throws(EngineFailure) -> SoftVCPU {
    let cpu = SoftVCPU(
      index: index, count: vcpus, machine: self, controllers: controllers, model: model, time: time, guestTime: clock)
    shared.withLock { shared in
      cpu.setMap(Array(shared.slots.values))
      shared.cpus.append(cpu)
    }
    cpus.add(index, cpu)
    return cpu
  }

  public func connect(input: Int, edge event: borrowing EventDescriptor) throws(EngineFailure) {
    throw EngineFailure(reason: "the software engine does not take interrupts from descriptors yet")
  }

  public func connect(input: Int, trigger: borrowing EventDescriptor, resample: borrowing EventDescriptor)
    throws(EngineFailure)
  {
    throw EngineFailure(reason: "the software engine does not take interrupts from descriptors yet")
  }

  public func connect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure) {
    throw EngineFailure(reason: "the software engine has no doorbells yet")
  }

  public func resetInterruptControllers() throws(EngineFailure) { controllers.reset() }

  public func setLegacyReplacement(_ enabled: Bool) { controllers.setLegacyReplacement(enabled) }

  /// Lets the host do something else for a moment; due timers are served.
  func waitForWork() { _ = controllers.advance() }
}

/// The processors that interrupt controllers may attend to.
private final class WeakCPUs: Sendable {
  private struct Entry { weak var cpu: SoftVCPU? }
  private let entries = Mutex<[Int: Entry]>([:])

  func add(_ index: Int, _ cpu: SoftVCPU) { entries.withLock { $0[index] = Entry(cpu: cpu) } }

  func attend(_ index: Int) {
    guard let cpu = entries.withLock({ $0[index]?.cpu }) else { return }
    soft_request_attention(cpu.state, Attention.interrupt)
  }
}
