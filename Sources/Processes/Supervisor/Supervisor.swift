import Boards
import DeviceKit
import Engines
import KVMEngine
import LinuxSystem
import Logging
import MachineModel
import Sandbox

/// Runs a machine from its description to its end.
public enum Supervisor {
  /// Runs the resolved machine and returns how it ended. Called once, on the main thread.
  public static func run(_ spec: MachineSpec, registry: Registry, logLevel: LogLevel) -> Outcome {
    let log = makeLogger(logLevel)
    ignore(SignalNumber.brokenPipe)
    ignore(SignalNumber.fileSizeExceeded)
    do {
      return try launch(spec, registry, log)
    } catch let outcome as Outcome {
      return outcome
    } catch {
      return .failed("\(error)")
    }
  }

  /// Which engine runs, and why, where the user left it open or will be surprised.
  private static func engineNotice(_ accelerator: Accelerator) -> Logger.Message? {
    if !Processor.hasHardwareVirtualisation {
      return """
        accel kvm: this host's processor shows no VT-x or AMD-V, so its KVM interprets kernel code and guests run slowly
        """
    }
    return accelerator == .auto ? "accel kvm: /dev/kvm works" : nil
  }

  private static func launch(_ spec: MachineSpec, _ registry: Registry, _ log: Logger) throws -> Outcome {
    guard spec.memory <= hostMemory() else {
      throw LaunchError(
        "--memory \(spec.memory >> 20)M is more than this host's \(hostMemory() >> 20)M of RAM; give less")
    }
    var resources = try OpenedResources(spec, registry: registry)
    let temporaryPaths = resources.temporaryPaths
    defer { for path in temporaryPaths { try? removeFile(path) } }
    for notice in resources.notices { log.notice("\(notice)") }
    let host = try KVMHost()
    let memory = try MachineMemory(spec, registry: registry)
    let terminal = resources.input == nil ? nil : TerminalMode(of: StandardStream.input.rawValue)

    let signals = try SignalDescriptor([
      SignalNumber.hangUp, SignalNumber.interrupt, SignalNumber.terminate, SignalNumber.continued,
    ])
    let pump = resources.takeInput().map { InputPump(pipe: Descriptor(owning: $0), isTerminal: terminal != nil) }
    let devices = try DeviceProcessLink(spec, memory, resources, terminal: terminal, log: log)

    let machine = try KVMMachine(host, vcpus: spec.cpus)
    let running = try RunningMachine(machine, spec: spec, memory: memory)
    try devices.awaitReady(connect: running.connect)
    if let notice = engineNotice(spec.accelerator) { log.notice("\(notice)") }
    _ = consume resources
    terminal?.enterRaw()
    defer { terminal?.restore() }
    var loop = ControlLoop(running, devices: devices, signals: signals, pump: pump, terminal: terminal, spec: spec)
    return try loop.run()
  }
}
