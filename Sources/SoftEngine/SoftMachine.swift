import Buses
import Engines
import LinuxSystem
import Synchronization
import X86

/// A machine whose processors are software.
public final class SoftMachine: VirtualMachine {
  private struct Shared: Sendable {
    var slots: [(slot: Int, memory: MappedMemory)] = []
    var cpus: [SoftVCPU] = []
    var posted: PostedInterrupts?
  }

  /// Whether the sources of a level-triggered input are asserted, once that can be asked.
  private final class Levels: Sendable {
    let isAsserted = Mutex<(@Sendable (_ input: Int) -> Bool)?>(nil)
  }

  private let shared = Mutex(Shared())
  private let cpus: Peers
  private let events: EventThread
  private let levels = Levels()
  let doorbells = Doorbells()
  let controllers: InterruptControllers
  let clock: @Sendable () -> UInt64
  private let vcpus: Int
  private let model: CPUModel
  private let trace: Trace?
  private let hot: UInt8

  /// The guest's time-stamp counter counts nanoseconds of guest time, whatever the host's does: it is monotonic across
  /// processors and agrees with the clocks of all devices.
  public static let tscFrequency: UInt64 = 1_000_000_000

  /// A machine of up to `vcpus` processors of a model, whose time starts now.
  /// - Parameter hasLegacyChips: there are an 8259A pair and an 8254.
  public convenience init(
    vcpus: Int, model: CPUModel = .max, hasLegacyChips: Bool = true, trace: Trace? = nil
  ) throws(EngineFailure) {
    let start = monotonicNanoseconds()
    try self.init(vcpus: vcpus, model: model, hasLegacyChips: hasLegacyChips, trace: trace) {
      monotonicNanoseconds() &- start
    }
  }

  /// `clock` is guest time in nanoseconds, never set back. Blocks entered `hot` times are translated.
  init(
    vcpus: Int, model: CPUModel = .max, hasLegacyChips: Bool = true, trace: Trace? = nil,
    translateAfter hot: UInt8 = Block.hot, clock: @escaping @Sendable () -> UInt64
  ) throws(EngineFailure) {
    let cpus = Peers()
    let events: EventThread
    do throws(SystemError) { events = try EventThread() } catch { throw EngineFailure(reason: "\(error)") }
    controllers = InterruptControllers(
      vcpus: vcpus, tscFrequency: Self.tscFrequency,
      physicalAddressBits: CPUIdentity.physicalAddressBits, hasLegacyChips: hasLegacyChips, clock: clock,
      notifications: .init(
        kick: { cpus.attend($0, Attention.interrupt) }, rearm: { _ in events.rearm() },
        endOfInterrupt: { [levels] input in
          // A source that is asserted after this look triggers by itself.
          if levels.isAsserted.withLock({ $0?(input) == true }) { events.raise(input) }
        }))
    self.cpus = cpus
    self.events = events
    self.clock = clock
    self.vcpus = vcpus
    self.model = model
    self.trace = trace
    self.hot = hot
  }

  deinit { events.stop() }

  public func start(confine: @escaping @Sendable () -> Bool) throws(EngineFailure) {
    do throws(SystemError) {
      try events.start(controllers, confine: confine)
    } catch { throw EngineFailure(reason: "\(error)") }
  }

  public func map(slot: Int, _ mapping: HostMapping?) -> Bool {
    shared.withLock { shared in
      var memory: MappedMemory?
      if let mapping {
        guard mapping.size > 0, (mapping.size | mapping.guestAddress) & 4095 == 0,
          mapping.guestAddress <= 1 << 52, mapping.size <= 1 << 52
        else { return false }
        for other in shared.slots where other.slot != slot {
          let existing = other.memory.mapping
          if mapping.guestAddress < existing.guestAddress + existing.size,
            existing.guestAddress < mapping.guestAddress + mapping.size
          {
            return false
          }
        }
        memory = MappedMemory(mapping)
        if memory == nil { return false }
      }
      shared.slots.removeAll { $0.slot == slot }
      if let memory { shared.slots.append((slot, memory)) }
      let map = shared.slots.map(\.memory)
      for cpu in shared.cpus { cpu.show(map) }
      // What was there must not be used any more when this returns.
      for cpu in shared.cpus {
        while !cpu.hasTakenMap { yieldProcessor() }
      }
      return true
    }
  }

  public func makeVCPU(_ index: Int) throws(EngineFailure) -> SoftVCPU {
    let cpu = SoftVCPU(
      index: index, count: vcpus, controllers: controllers, doorbells: doorbells, model: model, trace: trace,
      peers: vcpus > 1 ? cpus : nil, events: events, posted: shared.withLock { $0.posted }, translateAfter: hot)
    shared.withLock { shared in
      cpu.show(shared.slots.map(\.memory))
      shared.cpus.append(cpu)
    }
    cpus.add(index, cpu)
    return cpu
  }

  public func connect(input: Int, edge event: borrowing EventDescriptor) throws(EngineFailure) {
    do throws(SystemError) {
      try events.connect(input, edge: event)
    } catch { throw EngineFailure(reason: "\(error)") }
  }

  public func connect(
    input: Int, trigger: borrowing EventDescriptor, resample: borrowing EventDescriptor
  ) throws(EngineFailure) {
    do throws(SystemError) {
      try events.connect(input, trigger: trigger)
    } catch { throw EngineFailure(reason: "\(error)") }
  }

  public func share(_ posted: PostedInterrupts, isAsserted: @escaping @Sendable (_ input: Int) -> Bool) {
    shared.withLock { $0.posted = posted }
    levels.isAsserted.withLock { $0 = isAsserted }
  }

  public func connect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure) {
    guard doorbells.connect(doorbell, event) else {
      throw EngineFailure(reason: "there is a doorbell at \(doorbell) already")
    }
  }

  public func disconnect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure) {
    doorbells.disconnect(doorbell)
  }

  public func connect(message index: Int, event: borrowing EventDescriptor) throws(EngineFailure) {
    do throws(SystemError) {
      try events.connect(message: index, event)
    } catch { throw EngineFailure(reason: "\(error)") }
  }

  public func route(_ changes: [MessageRoute]) throws(EngineFailure) { events.route(changes) }

  public var summary: String? { nil }

  public func resetInterruptControllers() throws(EngineFailure) {
    _ = shared.withLock { $0.posted }?.take(0)
    controllers.reset()
  }

  public func setLegacyReplacement(_ enabled: Bool) { controllers.setLegacyReplacement(enabled) }
}
