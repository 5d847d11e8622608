import FoundationEssentials
import LinuxSystem
import Logging
import MachineModel
import Sandbox
import Synchronization

/// The processes that hold the sockets of user networks, one for each. They end with this object.
final class NetworkProcesses: Sendable {
  /// One of them, from the launcher's side.
  private final class Member: Sendable {
    let spec: NetworkSpec
    let child: ChildProcess
    let channel: Channel
    let record: ViolationRecord
    let isRunning = Atomic(true)

    init(_ end: OpenedResources.UserNetworkEnd, forwards: [PortForward], sandbox: SandboxLevel) throws {
      spec = end.spec
      let (near, far) = try DatagramSocket.pair()
      channel = Channel(owning: Descriptor(owning: near))
      let theirs = Descriptor(owning: far)
      let file = try ViolationRecord.file()
      record = try ViolationRecord(sharing: file)
      child = try DeviceProcess.spawn(
        arguments: ["vmrun", NetworkProcessMain.argument], descriptors: [theirs.raw], isolated: sandbox != .off)
      let configuration = NetworkProcessMain.Configuration(forwards: forwards, sandbox: sandbox)
      try channel.send(
        .configure, [UInt8](try JSONEncoder().encode(configuration)), descriptors: [end.descriptor, file.raw])
    }

    /// Ends it, however far it is.
    func end() {
      guard isRunning.exchange(false, ordering: .acquiringAndReleasing) else { return }
      child.kill()
      _ = try? child.status(wait: true)
    }
  }

  private let members: [Member]
  private let sandbox: SandboxLevel
  private let log: Logger

  /// A process has this long to come up.
  private static let patience: UInt64 = 30_000_000_000

  /// Starts a process for each user network.
  init(_ ends: [OpenedResources.UserNetworkEnd], sandbox: SandboxLevel, log: Logger) throws {
    self.sandbox = sandbox
    self.log = log
    var members: [Member] = []
    do {
      for end in ends {
        guard case .user(let forwards) = end.spec.endpoint else { continue }
        members.append(try Member(end, forwards: forwards, sandbox: sandbox))
      }
    } catch {
      for member in members { member.end() }
      throw error
    }
    self.members = members
  }

  deinit { for member in members { member.end() } }

  /// Waits until every process listens on its ports and has entered its sandbox.
  func awaitReady() throws {
    for member in members {
      if sandbox == .strict, let missing = member.child.missingLayers.first {
        throw Outcome.failed("--sandbox strict: \(missing)")
      }
      var entries = [PollEntry(member.channel.raw, .readable)]
      waitForDescriptors(&entries, milliseconds: pollMilliseconds(Self.patience))
      guard !entries[0].ready.isEmpty, let (message, payload, _) = member.channel.receive() else {
        throw ending(of: member)
      }
      let text = String(decoding: payload, as: UTF8.self)
      switch message {
      case .ready:
        for layer in member.child.missingLayers { log.warning("sandbox of \(member.spec.id): \(layer)") }
        for layer in text.split(separator: "\n") { log.warning("sandbox of \(member.spec.id): \(layer)") }
      case .unavailable where member.spec.isDefault:
        log.notice("the guest's network card has no link: \(text)")
        member.end()
      default: throw LaunchError("\(member.spec.id): \(text)")
      }
    }
  }

  var count: Int { members.count }

  /// What becomes ready when a process ends, an entry for each.
  var interests: [PollEntry] {
    members.map { PollEntry($0.isRunning.load(ordering: .relaxed) ? $0.child.pidfd.raw : -1, .readable) }
  }

  /// Takes note of processes that have ended: the guest goes on without its link. An outcome ends the run.
  func check() -> Outcome? {
    for member in members where member.isRunning.load(ordering: .relaxed) {
      guard let status = try? member.child.status(violation: member.record.value) else { continue }
      member.isRunning.store(false, ordering: .relaxed)
      switch status {
      case .sandboxViolation(let call): return .sandboxViolation(call, by: "the process of \(member.spec.id)")
      case .exited(let code): tell(member, "ended with status \(code)")
      case .killed(let signal): tell(member, "was killed by signal \(signal)")
      }
    }
    return nil
  }

  private func tell(_ member: Member, _ what: String) {
    log.error("\(member.spec.id): its process \(what); the guest goes on without this link")
  }

  private func ending(of member: Member) -> Outcome {
    member.child.kill()
    let status = try? member.child.status(violation: member.record.value, wait: true)
    member.isRunning.store(false, ordering: .relaxed)
    switch status {
    case .sandboxViolation(let call): return .sandboxViolation(call, by: "the process of \(member.spec.id)")
    case .exited(let code): return .failed("\(member.spec.id): its process ended with status \(code)")
    default: return .failed("\(member.spec.id): its process did not come up")
    }
  }
}
