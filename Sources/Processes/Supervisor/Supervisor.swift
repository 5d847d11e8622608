import Boards
import DeviceKit
import Engines
import KVMEngine
import LinuxSystem
import Logging
import MachineModel
import Sandbox
import SoftEngine

/// Runs a machine from its description to its end.
public enum Supervisor {
  /// Runs the resolved machine and returns how it ended. Called once, on the main thread.
  /// - Parameter start: when the program began, in nanoseconds of the monotonic clock.
  public static func run(_ spec: MachineSpec, registry: Registry, logLevel: LogLevel, start: UInt64) -> Outcome {
    let log = makeLogger(logLevel)
    let timing = spec.timing ? Timing(start: start) : nil
    timing?.begin()
    ignore(SignalNumber.brokenPipe)
    ignore(SignalNumber.fileSizeExceeded)
    do {
      return try launch(spec, registry, log, timing)
    } catch let outcome as Outcome {
      return outcome
    } catch {
      return .failed("\(error)")
    }
  }

  /// What the first disk's boot configuration can start, a line each.
  public static func listEntries(_ spec: MachineSpec) throws -> String {
    guard let disk = spec.blocks.first else { throw LaunchError("--list-entries: there is no disk") }
    ignore(SignalNumber.brokenPipe)
    return try EntryListing.text(of: disk, sandbox: spec.sandbox)
  }

  private static func launch(_ spec: MachineSpec, _ registry: Registry, _ log: Logger, _ timing: Timing?)
    throws -> Outcome
  {
    guard spec.memory <= hostMemory() else {
      throw LaunchError(
        "--memory \(spec.memory >> 20)M is more than this host's \(hostMemory() >> 20)M of RAM; give less")
    }
    var resources = try OpenedResources(spec, registry: registry)
    let temporaryPaths = resources.temporaryPaths
    defer { for path in temporaryPaths { try? removeFile(path) } }
    for notice in resources.notices { log.notice("\(notice)") }
    timing?.step("disks, networks and kernel opened")
    switch try EngineChoice(spec) {
    case .kvm(let host, let notice):
      if Processor.hasHardwareVirtualisation { resources.leaveUnpackingToKernel() }
      return try run(spec, registry, log, timing, resources, notice, host) { (host) throws(EngineFailure) in
        try KVMMachine(host, vcpus: spec.cpus, hasLegacyChips: spec.mode != .pv) { SoftInterpreter() }
      }
    case .soft(let notice):
      let trace = try spec.trace.map(Trace.init)
      return try run(spec, registry, log, timing, resources, notice, ()) { (_) throws(EngineFailure) in
        try SoftMachine(
          vcpus: spec.cpus, model: spec.cpu, hasLegacyChips: spec.mode != .pv, trace: trace)
      }
    }
  }

  /// Runs the machine that `make` makes of `host`, while the device process comes up.
  private static func run<Machine: VirtualMachine, Host: ~Copyable>(
    _ spec: MachineSpec, _ registry: Registry, _ log: Logger, _ timing: Timing?,
    _ resources: consuming OpenedResources,
    _ notice: String?, _ host: consuming Host, _ make: (consuming Host) throws(EngineFailure) -> Machine
  ) throws -> Outcome {
    let memory = try MachineMemory(spec, registry: registry)
    timing?.step("guest memory")
    let terminal = resources.input == nil ? nil : TerminalMode(of: StandardStream.input.rawValue)

    let signals = try SignalDescriptor(
      SignalNumber.endings + [SignalNumber.continued, SignalNumber.windowChanged, SignalNumber.user2])
    let pump = resources.takeInput().map { InputPump(pipe: Descriptor(owning: $0), isTerminal: terminal != nil) }
    let images = resources.images
    let networks = try NetworkProcesses(resources.takeUserNetworks(), sandbox: spec.sandbox, log: log)
    for connector in resources.connectors { try connector.start() }
    let devices = try DeviceProcessLink(spec, memory, resources, terminal: terminal, log: log, timing: timing)
    timing?.step("device process spawned")
    defer { if !devices.hasFinished { images.close(log) } }

    let running = try RunningMachine(make(host), spec: spec, memory: memory, timing: timing)
    timing?.step("engine")
    try devices.awaitReady(connect: running.connect)
    try networks.awaitReady()
    timing?.step("devices are ready")
    if let notice { log.notice("\(notice)") }
    _ = consume resources
    terminal?.enterRaw()
    if let size = terminal?.size { try devices.resize(size) }
    defer { terminal?.restore() }
    var loop = ControlLoop(
      running, devices: devices, networks: networks, signals: signals, pump: pump, terminal: terminal, spec: spec)
    defer { if let summary = running.summary { log.notice("\(summary)") } }
    return try loop.run()
  }
}
