import Buses
import Engines
import LinuxSystem
import MachineModel
import Sandbox

/// The engine's machine with its memory, interrupts and vCPU threads.
final class RunningMachine<Machine: VirtualMachine>: Sendable {
  let reports: VCPUReports
  let handled = HandledEvents()
  let violations: ThreadViolations
  private let machine: Machine
  private let memory: MachineMemory
  private let map: GuestMap<Machine>
  private let connections: Connections<Machine>
  private let gate: VCPUGate
  private let threads: [VCPUThread<Machine>]
  private let startPlace: StartPlace
  private let timing: Timing?
  /// What vCPU threads may ask of the kernel; nil without a sandbox.
  private let filter: SystemCallFilter?

  /// How long vCPUs may take to stop for a reset: they may be waiting for a device.
  static var patience: UInt64 { 10_000_000_000 }

  init(_ machine: Machine, spec: MachineSpec, memory: MachineMemory, timing: Timing?) throws {
    self.timing = timing
    self.machine = machine
    self.memory = memory
    reports = try VCPUReports()
    violations = try ThreadViolations()
    gate = VCPUGate(count: spec.cpus)
    map = GuestMap(
      machine, page: memory.page,
      sources: .init(ram: memory.ram.bytes, firmware: memory.firmware.bytes, device: memory.device.bytes))
    for (slot, mapping) in memory.fixedMappings.enumerated() { try map.add(fixed: slot, mapping) }
    let registers = RegisterAccess(memory.page)
    connections = Connections(machine, table: memory.page.connections, registers: registers)
    machine.share(memory.page.posted) { [page = memory.page] input in page.isAsserted(input) }
    let spin = spinCycles(vcpus: spec.cpus)
    let startPlace = StartPlace()
    self.startPlace = startPlace
    var threads: [VCPUThread<Machine>] = []
    for index in 0..<spec.cpus {
      threads.append(
        VCPUThread(
          index, try machine.makeVCPU(index), mailbox: MailboxClient(memory.page.mailboxes[index], spin: spin),
          page: memory.page, map: map, registers: registers, connections: connections, gate: gate, handled: handled,
          reports: reports, start: index == 0 ? startPlace : nil))
    }
    self.threads = threads
    // Made here and not at the start, which waits for the device process.
    filter = spec.sandbox == .off ? nil : try SystemCallFilter(try BuiltInPolicy.vcpu.policy())
  }

  /// Connects an eventfd of the device process's to the engine, which keeps it; false: the message asks for nothing
  /// that can be connected.
  func connect(_ received: DeviceProcessLink.Received) throws -> Bool {
    let (payload, events) = (received.payload, received.events)
    switch (received.message, payload.count, events.count) {
    case (.connectEdge, 1, 1) where payload[0] < InterruptFabric.inputCount:
      try machine.connect(input: Int(payload[0]), edge: events[0].event)
    case (.connectLevel, 1, 2) where payload[0] < InterruptFabric.inputCount:
      try machine.connect(input: Int(payload[0]), trigger: events[0].event, resample: events[1].event)
    case (.connectMessage, 2, 1):
      return try connections.add(message: Int(payload[0]) | Int(payload[1]) << 8, events[0])
    case (.connectDoorbell, 2, 1):
      return connections.add(doorbell: Int(payload[0]) | Int(payload[1]) << 8, events[0])
    case (.startState, _, 0):
      guard let state = StartState(encoded: payload) else { return false }
      startPlace.state = state
    default: return false
    }
    return true
  }

  /// Starts the guest.
  func start() throws {
    map.update()
    try connections.update()
    if filter != nil { try Violation.report(to: violations.word, notify: violations.event.raw) }
    try threads.first?.cpu.begin(at: startPlace.state)
    try machine.start { [self] in confine("the engine") }
    for (index, thread) in threads.enumerated() {
      try thread.start { [self] in
        guard confine("vCPU \(index)") else { return false }
        if index == 0 {
          timing?.step("the guest's first instruction is next")
          timing?.total("launcher")
        }
        return true
      }
    }
  }

  /// Puts the calling thread under the policy; false: the machine is told that it cannot be.
  private func confine(_ name: String) -> Bool {
    do throws(SandboxError) {
      try filter?.install(on: .thread)
      return true
    } catch {
      reports.post(.failure(EngineFailure(reason: "\(name): \(error)")))
      return false
    }
  }

  private func kick() {
    for thread in threads { thread.cpu.kick() }
    handled.wakeAll()
  }

  /// Stops all vCPUs; false when one does not stop within `patience` nanoseconds.
  func pause(patience: UInt64 = RunningMachine.patience) -> Bool {
    gate.issue(.pause, kick: kick)
    return gate.awaitAll(nanoseconds: patience)
  }

  /// Puts vCPUs and interrupt controllers into their power-on state and starts them; devices have been reset.
  func restart() throws -> Bool {
    map.update()
    try connections.update()
    gate.issue(.reset, kick: kick)
    guard gate.awaitAll(nanoseconds: Self.patience) else { return false }
    try machine.resetInterruptControllers()
    machine.setLegacyReplacement(false)
    handled.add()
    gate.issue(.run, kick: {})
    return true
  }

  var summary: String? { machine.summary }

  func setLegacyReplacement(_ enabled: Bool) { machine.setLegacyReplacement(enabled) }

  /// A failure with the bytes of its instruction.
  func complete(_ failure: EngineFailure) -> EngineFailure {
    guard failure.instruction.isEmpty, let address = failure.physicalAddress else { return failure }
    var failure = failure
    failure.instruction = memory.bytes(at: address, count: 15)
    return failure
  }
}
