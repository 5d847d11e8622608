import LinuxSystem
import Logging
import MachineModel
import Sandbox
import Synchronization

/// The launcher's end of the device process.
final class DeviceProcessLink: Sendable {
  let channel: Channel
  let child: ChildProcess
  private let page: MachinePage
  private let sandbox: SandboxLevel
  private let log: Logger
  private let finished = Atomic(false)

  /// Whether the process has said that everything is written and closed.
  var hasFinished: Bool { finished.load(ordering: .relaxed) }

  /// The device process has this long to come up, and to finish.
  private static let patience: UInt64 = 30_000_000_000
  /// It has this long to hear that it is to finish.
  private static let hearing: UInt64 = 5_000_000_000

  /// Starts the device process and gives it everything it needs.
  init(
    _ spec: MachineSpec, _ memory: MachineMemory, _ resources: borrowing OpenedResources, terminal: TerminalMode?,
    log: Logger, timing: Timing?
  ) throws {
    self.log = log
    page = memory.page
    sandbox = spec.sandbox
    let (near, far) = try DatagramSocket.pair()
    channel = Channel(owning: Descriptor(owning: near))
    let theirs = Descriptor(owning: far)
    child = try DeviceProcess.spawn(
      arguments: ["vmrun", DeviceProcessMain.argument], descriptors: [theirs.raw], isolated: spec.sandbox != .off)
    if spec.sandbox == .strict, let missing = child.missingLayers.first {
      child.kill()
      throw Outcome.failed("--sandbox strict: \(missing)")
    }
    for layer in child.missingLayers { log.warning("sandbox: \(layer)") }
    var resolved = spec
    resolved.blocks = resources.blockSpecs
    let handoff = Handoff(
      spec: resolved, sandbox: spec.sandbox, spin: spinCycles(vcpus: spec.cpus),
      deviceMemory: UInt64(memory.device.count), blocks: resources.blocks, characters: resources.characters,
      networks: resources.networks, files: resources.files, boot: resources.boot, timing: timing?.start,
      terminal: terminal?.bytes)
    var descriptors = [memory.ramFile.raw, memory.pageFile.raw, memory.deviceFile.raw] + resources.descriptors
    if terminal != nil { descriptors.append(StandardStream.input.rawValue) }
    guard descriptors.count <= DatagramSocket.maximumDescriptors else {
      throw LaunchError("the machine has too many disks, networks and connections: \(resources.descriptors.count)")
    }
    do throws(SystemError) {
      try channel.send(.configure, handoff.wireBytes, descriptors: descriptors)
    } catch {
      throw error.errno == ErrorNumber.brokenPipe ? ending() : error
    }
  }

  /// What the device process has sent.
  struct Received: Sendable {
    let message: ChannelMessage
    let payload: [UInt8]
    /// The eventfds that came along, closed unless somebody keeps them.
    let events: [SharedEvent]
  }

  /// Waits until the devices are made and the sandbox is closed; `connect` gets what they want connected.
  func awaitReady(connect: (Received) throws -> Bool) throws {
    while let received = message(within: Self.patience) {
      let text = String(decoding: received.payload, as: UTF8.self)
      switch received.message {
      case .ready:
        for layer in text.split(separator: "\n") { log.warning("sandbox: \(layer)") }
        return
      case .failed: throw LaunchError(text)
      default:
        guard try connect(received) else {
          throw LaunchError("the device process sent message \(received.message.rawValue) before it was ready")
        }
      }
    }
    throw ending()
  }

  /// The next message within the time; nil when there is none, or the process has ended.
  func message(within nanoseconds: UInt64) -> Received? {
    var entries = [PollEntry(channel.raw, .readable)]
    waitForDescriptors(&entries, milliseconds: pollMilliseconds(nanoseconds))
    guard !entries[0].ready.isEmpty, let (message, payload, descriptors) = channel.receive() else { return nil }
    return Received(message: message, payload: payload, events: descriptors.map(SharedEvent.init(owning:)))
  }

  /// Lets disks look at their images again.
  func measureDisks() throws(SystemError) { try channel.send(.measureDisks) }

  /// Tells the devices how large the terminal is.
  func resize(_ size: (columns: UInt16, rows: UInt16)) throws(SystemError) {
    try channel.send(.windowSize, Int(size.columns).twoBytes + Int(size.rows).twoBytes)
  }

  /// What became of the process, as an outcome. Called once: it takes the process's status.
  func ending() -> Outcome {
    // The socket closes a moment before the process can be waited for; one that hangs is ended here.
    var entries = [PollEntry(child.pidfd.raw, .readable)]
    waitForDescriptors(&entries, milliseconds: 1000)
    if entries[0].ready.isEmpty { child.kill() }
    guard let status = try? child.status(violation: page.violation, wait: true) else {
      return .failed("the device process has ended")
    }
    switch status {
    case .exited(let code): return .failed("the device process ended with status \(code)")
    case .killed(let signal): return .failed("the device process was killed by signal \(signal)")
    case .sandboxViolation(let name): return .sandboxViolation(name)
    }
  }

  /// Lets the devices finish and waits for the process's end; the text screen, or nil where it did not answer. When
  /// another signal comes that ends vmrun, or where the process does not hear, it waits no longer.
  func finish(unless signals: borrowing SignalDescriptor) -> [UInt8]? {
    defer {
      child.kill()
      _ = try? child.status(wait: true)
    }
    guard (try? channel.send(.finish)) != nil else { return nil }
    let start = monotonicNanoseconds()
    var end = start + Self.hearing
    while true {
      let now = monotonicNanoseconds()
      guard now < end else { return nil }
      var entries = [PollEntry(channel.raw, .readable), PollEntry(signals.descriptor.raw, .readable)]
      waitForDescriptors(&entries, milliseconds: pollMilliseconds(end - now))
      while !entries[1].ready.isEmpty, let signal = signals.next() {
        if SignalNumber.endings.contains(signal) { return nil }
      }
      guard !entries[0].ready.isEmpty else { continue }
      guard let received = message(within: 0) else { return nil }
      if received.message == .finishing { end = start + Self.patience }
      if received.message == .finished {
        finished.store(true, ordering: .relaxed)
        return received.payload
      }
    }
  }
}

/// TSC cycles for which either side of a mailbox spins before it sleeps: some tens of microseconds where both can run
/// at once, nothing where one would keep the other from running.
func spinCycles(vcpus: Int) -> UInt64 {
  let processors = availableProcessors()
  if processors >= 2 * vcpus { return 100_000 }
  return processors > 1 ? 10_000 : 0
}
