import LinuxSystem
import Logging
import MachineModel
import Sandbox
import UserNetwork

/// The processes that hold the sockets of user networks, one for each. They end with this object.
///
/// One that has to listen on ports starts with the machine, the others when the guest sends its first frame.
final class NetworkProcesses {
  /// One of them, from the launcher's side.
  private final class Process {
    let child: ChildProcess
    let channel: Channel
    let record: ViolationRecord
    var isReady = false
    var isRunning = true

    init(_ link: borrowing Descriptor, forwards: [PortForward], sandbox: SandboxLevel) throws {
      let (near, far) = try DatagramSocket.pair()
      channel = Channel(owning: Descriptor(owning: near))
      let theirs = Descriptor(owning: far)
      let file = try ViolationRecord.file()
      record = try ViolationRecord(sharing: file)
      child = try DeviceProcess.spawn(
        arguments: ["vmrun", NetworkProcessMain.argument], descriptors: [theirs.raw], isolated: sandbox != .off)
      let configuration = NetworkProcessMain.Configuration(forwards: forwards, sandbox: sandbox)
      try channel.send(
        .configure, configuration.wireBytes, descriptors: [link.raw, file.raw])
    }

    deinit { end() }

    /// Ends it, however far it is.
    func end() {
      guard isRunning else { return }
      isRunning = false
      child.kill()
      _ = try? child.status(wait: true)
    }
  }

  private final class Network {
    let spec: NetworkSpec
    /// The end of its socket that the process gets; nil once it is given away.
    private var link: Descriptor?
    private(set) var process: Process?
    private let forwards: [PortForward]

    init(_ end: OpenedResources.UserNetworkEnd) {
      spec = end.spec
      link = Descriptor(owning: end.descriptor)
      if case .user(let forwards) = end.spec.endpoint { self.forwards = forwards } else { forwards = [] }
    }

    /// What becomes readable when something is to be done; -1: nothing will.
    var interest: CInt {
      switch link {
      case .some(let link): return link.raw
      case nil:
        guard let process, process.isRunning else { return -1 }
        return process.isReady ? process.child.pidfd.raw : process.channel.raw
      }
    }

    /// Whether the guest must find the process there, or what keeps it from starting must be said before.
    func mustStart(_ sandbox: SandboxLevel) -> Bool {
      !forwards.isEmpty || sandbox == .strict || !UserNetworkStack.isInstalled
    }

    /// Starts the process. What it has got is open in it alone, so that the other end notices when it is gone.
    func start(_ sandbox: SandboxLevel) throws {
      guard let link = link.take() else { return }
      process = try Process(link, forwards: forwards, sandbox: sandbox)
    }
  }

  private let networks: [Network]
  private let sandbox: SandboxLevel
  private let log: Logger

  /// A process has this long to come up.
  private static let patience: UInt64 = 30_000_000_000

  /// Takes over the sockets' ends, and starts the processes that the guest must find there.
  init(_ ends: [OpenedResources.UserNetworkEnd], sandbox: SandboxLevel, log: Logger) throws {
    self.sandbox = sandbox
    self.log = log
    networks = ends.map(Network.init)
    for network in networks where network.mustStart(sandbox) { try network.start(sandbox) }
  }

  /// Waits until every process that was started listens on its ports and has entered its sandbox.
  func awaitReady() throws {
    for network in networks {
      guard let process = network.process else { continue }
      if sandbox == .strict, let missing = process.child.missingLayers.first {
        throw Outcome.failed("--sandbox strict: \(missing)")
      }
      var entries = [PollEntry(process.channel.raw, .readable)]
      waitForDescriptors(&entries, milliseconds: pollMilliseconds(Self.patience))
      switch entries[0].ready.isEmpty ? .failed("its process did not come up") : answer(of: process, network.spec) {
      case .ready: break
      case .unavailable(let text) where network.spec.isDefault: tellUnavailable(text)
      case .unavailable(let text), .failed(let text): throw LaunchError("\(network.spec.id): \(text)")
      case .ended(.sandboxViolation(let call)): throw violation(call, network.spec)
      case .ended(.exited(let code)):
        throw Outcome.failed("\(network.spec.id): its process ended with status \(code)")
      case .ended: throw Outcome.failed("\(network.spec.id): its process did not come up")
      }
    }
  }

  private enum Answer {
    case ready
    case unavailable(String)
    case failed(String)
    case ended(ChildStatus?)
  }

  /// What a process says of its start.
  private func answer(of process: Process, _ spec: NetworkSpec) -> Answer {
    guard let (message, payload, _) = process.channel.receive() else {
      process.isRunning = false
      process.child.kill()
      return .ended(try? process.child.status(violation: process.record.value, wait: true))
    }
    let text = String(decoding: payload, as: UTF8.self)
    guard message == .ready else {
      process.end()
      return message == .unavailable ? .unavailable(text) : .failed(text)
    }
    process.isReady = true
    for layer in process.child.missingLayers { log.warning("sandbox of \(spec.id): \(layer)") }
    for layer in text.split(separator: "\n") { log.warning("sandbox of \(spec.id): \(layer)") }
    return .ready
  }

  private func tellUnavailable(_ text: String) { log.notice("the guest's network card has no link: \(text)") }

  var count: Int { networks.count }

  /// What becomes ready when a process is to be started, has started or has ended, an entry for each network.
  var interests: [PollEntry] {
    networks.map { PollEntry($0.interest, .readable) }
  }

  /// Acts on what is ready of `interests`. A process that has ended or does not start leaves the guest without its link;
  /// an outcome ends the run.
  func act(on ready: ArraySlice<Bool>) -> Outcome? {
    for (network, isReady) in zip(networks, ready) where isReady {
      if let process = network.process {
        if let outcome = process.isReady ? check(process, network.spec) : greet(process, network.spec) {
          return outcome
        }
      } else {
        do { try network.start(sandbox) } catch { tell(network.spec, "cannot be started: \(error)") }
      }
    }
    return nil
  }

  private func greet(_ process: Process, _ spec: NetworkSpec) -> Outcome? {
    switch answer(of: process, spec) {
    case .ready: return nil
    case .unavailable(let text):
      tellUnavailable(text)
      return nil
    case .failed(let text):
      tell(spec, "did not start: \(text)")
      return nil
    case .ended(let status): return end(status, spec)
    }
  }

  private func check(_ process: Process, _ spec: NetworkSpec) -> Outcome? {
    guard let status = try? process.child.status(violation: process.record.value) else { return nil }
    process.isRunning = false
    return end(status, spec)
  }

  private func end(_ status: ChildStatus?, _ spec: NetworkSpec) -> Outcome? {
    switch status {
    case .sandboxViolation(let call): return violation(call, spec)
    case .exited(let code): tell(spec, "ended with status \(code)")
    case .killed(let signal): tell(spec, "was killed by signal \(signal)")
    case nil: tell(spec, "has ended")
    }
    return nil
  }

  private func violation(_ call: String, _ spec: NetworkSpec) -> Outcome {
    .sandboxViolation(call, by: "the process of \(spec.id)")
  }

  private func tell(_ spec: NetworkSpec, _ what: String) {
    log.error("\(spec.id): its process \(what); the guest goes on without this link")
  }
}
